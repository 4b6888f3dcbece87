//! Runs the steps of a plan: each as soon as its inputs are there, network and processor steps in pools of their own.
//! The first failure stops what has not begun; what runs is waited for, and every failure is reported.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex};

use super::{Description, Freshness, History, Input, Outputs, Pool, Reason, Step, reason, record, recorded};
use crate::cache::Cache;

/// Runs one step. Implemented by the build.
pub trait Execute: Sync {
    /// What a failed step gives.
    type Error: Send;

    /// Runs `step`; `inputs` has the outputs of the steps that it names.
    ///
    /// # Errors
    /// The executor's own.
    fn run(
        &self,
        step: &Step,
        description: &Description,
        inputs: &BTreeMap<String, Outputs>,
    ) -> Result<Outputs, Self::Error>;

    /// Tells whether a step's outputs are in the cache even though no record says so (a pinned download).
    fn already_there(&self, _step: &Step) -> Option<Outputs> {
        None
    }

    /// Is told about each step as it is decided on and as it ends.
    fn report(&self, _step: &Step, _report: &Report<'_>) {}
}

/// What happens to a step.
#[derive(Debug)]
pub enum Report<'a> {
    /// Its outputs are in the cache.
    Fresh,
    /// It starts, for this reason.
    Starts(&'a Reason),
    /// It ended well.
    Done,
    /// It failed.
    Failed,
}

/// How to run a plan.
#[derive(Debug, Clone)]
pub struct Options {
    /// Processor steps at once.
    pub jobs: usize,
    /// Network steps at once.
    pub downloads: usize,
    /// Run every processor step whatever the cache has.
    pub fresh: bool,
    /// Only decide, and run nothing: the result of stale steps, and of those behind them, stays open.
    pub dry_run: bool,
}

/// The result of running a plan.
#[derive(Debug)]
pub struct Execution {
    /// Outputs of each step.
    pub outputs: BTreeMap<String, Outputs>,
    /// What was decided for each step, in plan order: `None` for fresh.
    pub decisions: Vec<(String, Option<Reason>)>,
    /// Descriptions for the next build's explanations.
    pub history: History,
}

/// A plan could not be run.
#[derive(Debug)]
pub enum GraphError<E> {
    /// Steps failed: name and error of each.
    Steps(Vec<(String, E)>),
    /// The plan is not one: two steps with one name, an input that no step gives, or a cycle.
    Plan(String),
}

struct State<E> {
    waiting: Vec<usize>,
    /// A step panicked.
    aborted: bool,
    outputs: BTreeMap<String, Outputs>,
    decisions: BTreeMap<usize, Option<Reason>>,
    history: History,
    failures: Vec<(String, E)>,
    /// Steps that a dry run cannot decide, because an input of theirs is stale.
    open: BTreeSet<String>,
}

/// Runs `steps`.
///
/// # Errors
/// [`GraphError`].
pub fn execute<X: Execute>(
    cache: &Cache,
    steps: &[Step],
    last: &History,
    executor: &X,
    options: &Options,
) -> Result<Execution, GraphError<X::Error>> {
    check(steps).map_err(GraphError::Plan)?;
    let state = Mutex::new(State {
        waiting: (0..steps.len()).collect(),
        aborted: false,
        outputs: BTreeMap::new(),
        decisions: BTreeMap::new(),
        history: History::default(),
        failures: Vec::new(),
        open: BTreeSet::new(),
    });
    let changed = Condvar::new();
    let runner = Runner { cache, steps, last, executor, options, state: &state, changed: &changed };
    std::thread::scope(|scope| {
        for (pool, count) in [(Pool::Network, options.downloads), (Pool::Processor, options.jobs)] {
            let useful = steps.iter().filter(|step| step.pool == pool).count();
            for _ in 0..count.max(1).min(useful) {
                let runner = &runner;
                scope.spawn(move || runner.work(pool));
            }
        }
    });
    let state = state.into_inner().expect("no worker panicked");
    if !state.failures.is_empty() {
        return Err(GraphError::Steps(state.failures));
    }
    let decisions = state.decisions.into_iter().map(|(index, decision)| (steps[index].name.clone(), decision));
    Ok(Execution { outputs: state.outputs, decisions: decisions.collect(), history: state.history })
}

/// Checks that names are unique, inputs exist and there is no cycle: inputs name earlier steps only.
fn check(steps: &[Step]) -> Result<(), String> {
    let mut known = BTreeSet::new();
    for step in steps {
        for (name, input) in &step.inputs {
            if let Input::Output { step: from, .. } = input
                && !known.contains(from.as_str())
            {
                return Err(format!(
                    "step {:?}: input {name:?} comes from {from:?}, which is no earlier step",
                    step.name
                ));
            }
        }
        if !known.insert(step.name.as_str()) {
            return Err(format!("two steps are named {:?}", step.name));
        }
    }
    Ok(())
}

struct Runner<'a, X: Execute> {
    cache: &'a Cache,
    steps: &'a [Step],
    last: &'a History,
    executor: &'a X,
    options: &'a Options,
    state: &'a Mutex<State<X::Error>>,
    changed: &'a Condvar,
}

/// Wakes the other workers when a step panics, so that the panic ends the build instead of hanging it.
struct Abort<'a, 'b, X: Execute> {
    runner: &'a Runner<'b, X>,
    armed: bool,
}

impl<X: Execute> Drop for Abort<'_, '_, X> {
    fn drop(&mut self) {
        if self.armed {
            self.runner.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).aborted = true;
            self.runner.changed.notify_all();
        }
    }
}

struct Job<'a> {
    index: usize,
    step: &'a Step,
    description: Description,
    inputs: BTreeMap<String, Outputs>,
}

impl<X: Execute> Runner<'_, X> {
    fn work(&self, pool: Pool) {
        while let Some(job) = self.next(pool) {
            let mut guard = Abort { runner: self, armed: true };
            self.perform(job);
            guard.armed = false;
            drop(guard);
            self.changed.notify_all();
        }
    }

    /// Waits for a step of `pool` whose inputs are there; `None` when there will be none.
    fn next(&self, pool: Pool) -> Option<Job<'_>> {
        let mut state = self.state.lock().expect("no worker panicked");
        loop {
            if !state.failures.is_empty() || state.aborted {
                state.waiting.clear();
            }
            if !state.waiting.iter().any(|index| self.steps[*index].pool == pool) {
                return None;
            }
            let before = state.waiting.len();
            self.settle_open(&mut state);
            if state.waiting.len() != before {
                // What was settled may have been the last step that another worker waited for.
                self.changed.notify_all();
                continue;
            }
            let found = state.waiting.iter().position(|index| {
                let step = &self.steps[*index];
                step.pool == pool && self.has_inputs(step, &state.outputs)
            });
            if let Some(position) = found {
                let index = state.waiting.remove(position);
                return Some(self.job(index, &state.outputs));
            }
            state = self.changed.wait(state).expect("no worker panicked");
        }
    }

    /// In a dry run: steps behind a stale step cannot be decided.
    fn settle_open(&self, state: &mut State<X::Error>) {
        if !self.options.dry_run {
            return;
        }
        let State { waiting, open, decisions, .. } = state;
        waiting.retain(|index| {
            let step = &self.steps[*index];
            let behind = step.inputs.iter().find_map(|(name, input)| match input {
                Input::Output { step, .. } if open.contains(step) => Some(name.clone()),
                _ => None,
            });
            if let Some(name) = behind {
                open.insert(step.name.clone());
                decisions.insert(*index, Some(Reason::Input { name, old: None, new: None }));
                return false;
            }
            true
        });
    }

    fn has_inputs(&self, step: &Step, outputs: &BTreeMap<String, Outputs>) -> bool {
        step.inputs.values().all(|input| match input {
            Input::Digest(_) => true,
            Input::Output { step, .. } => outputs.contains_key(step),
        })
    }

    fn job(&self, index: usize, outputs: &BTreeMap<String, Outputs>) -> Job<'_> {
        let step = &self.steps[index];
        let mut inputs = BTreeMap::new();
        let mut digests = BTreeMap::new();
        for (name, input) in &step.inputs {
            let digest = match input {
                Input::Digest(digest) => *digest,
                Input::Output { step: from, output } => {
                    inputs.insert(from.clone(), outputs[from].clone());
                    outputs[from].get(output).map_or(ksos_formats::Digest([0; 32]), |blob| blob.digest)
                }
            };
            digests.insert(name.clone(), digest);
        }
        let description = Description {
            kind: step.kind.to_owned(),
            version: step.version,
            parameters: step.parameters.clone(),
            inputs: digests,
        };
        Job { index, step, description, inputs }
    }

    fn freshness(&self, job: &Job<'_>) -> Freshness {
        if let Some(outputs) = self.executor.already_there(job.step) {
            return Freshness::Fresh(outputs);
        }
        let forced = self.options.fresh && job.step.pool == Pool::Processor;
        if forced {
            return Freshness::Stale(Reason::Forced);
        }
        match recorded(self.cache, &job.description.key()) {
            Some(outputs) => Freshness::Fresh(outputs),
            None => Freshness::Stale(reason(&job.description, self.last.steps.get(&job.step.name))),
        }
    }

    fn perform(&self, job: Job<'_>) {
        let (decision, result) = match self.freshness(&job) {
            Freshness::Fresh(outputs) => {
                self.executor.report(job.step, &Report::Fresh);
                (None, Ok(Some(outputs)))
            }
            Freshness::Stale(reason) if self.options.dry_run => (Some(reason), Ok(None)),
            Freshness::Stale(reason) => {
                self.executor.report(job.step, &Report::Starts(&reason));
                let result = self.executor.run(job.step, &job.description, &job.inputs);
                self.executor.report(job.step, if result.is_ok() { &Report::Done } else { &Report::Failed });
                if let Ok(outputs) = &result {
                    // A record that cannot be written costs a rebuild, not this build.
                    let _ = record(self.cache, &job.description.key(), job.step.kind, outputs);
                }
                (Some(reason), result.map(Some))
            }
        };
        let mut state = self.state.lock().expect("no worker panicked");
        state.decisions.insert(job.index, decision);
        match result {
            Ok(Some(outputs)) => {
                state.history.steps.insert(job.step.name.clone(), job.description);
                state.outputs.insert(job.step.name.clone(), outputs);
            }
            Ok(None) => {
                state.open.insert(job.step.name.clone());
            }
            Err(error) => state.failures.push((job.step.name.clone(), error)),
        }
    }
}
