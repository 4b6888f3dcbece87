//! Runs the steps of a plan: each as soon as its inputs are there, network and processor steps in pools of their own.
//! The first failure stops what has not begun; what runs is waited for, and every failure is reported.
//!
//! A step's outputs can be known before they are here: another machine's record names them ([`Execute::elsewhere`]).
//! What is behind such a step is decided by their digests alone; their bytes are brought only for a step that runs, and
//! for what [`Options::needed`] names. What cannot be brought is made here. Should that give something else than the
//! record said, all that was decided by the record is void: [`GraphError::Diverged`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::{Description, History, Input, Outputs, Pool, Reason, Step, reason, record, recorded};
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

    /// Whether [`Execute::elsewhere`] may know something, and takes time.
    fn has_elsewhere(&self) -> bool {
        false
    }

    /// Returns what a step gives, as a trusted place knows it; the blobs need not be in the cache.
    fn elsewhere(&self, _step: &Step, _description: &Description) -> Option<Outputs> {
        None
    }

    /// Brings outputs into the cache that [`Execute::elsewhere`] has named. `false`: they cannot be had.
    fn bring(&self, _step: &Step, _description: &Description, _outputs: &Outputs) -> bool {
        false
    }

    /// Is told what a step gave that ran.
    fn made(&self, _step: &Step, _description: &Description, _outputs: &Outputs) {}

    /// Is told about each step as it is decided on and as it ends.
    fn report(&self, _step: &Step, _report: &Report<'_>) {}
}

/// What happens to a step.
#[derive(Debug)]
pub enum Report<'a> {
    /// Its outputs are in the cache.
    Fresh,
    /// Its outputs are known, and elsewhere.
    Elsewhere,
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
    /// Steps whose outputs must be in the cache at the end. A dry run with any brings those of them that are known, and
    /// what stale steps need.
    pub needed: BTreeSet<String>,
}

/// The result of running a plan.
#[derive(Debug)]
pub struct Execution {
    /// Outputs of each step. Blobs of a step in `elsewhere` may be missing in the cache.
    pub outputs: BTreeMap<String, Outputs>,
    /// What was decided for each step, in plan order: `None` when it did not have to run.
    pub decisions: Vec<(String, Option<Reason>)>,
    /// Steps that did not run because their outputs were known elsewhere.
    pub elsewhere: BTreeSet<String>,
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
    /// A step gave something else than was known of it elsewhere. Its own result is recorded: run the plan again.
    Diverged {
        /// The step.
        step: String,
    },
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The outputs of its inputs are not known.
    Waiting,
    /// It is being decided on.
    Deciding,
    /// It has to run, once its inputs are here.
    Stale,
    /// It runs.
    Running,
    /// Its outputs are known and not here.
    Away,
    /// They are being brought.
    Bringing,
    /// Its outputs are here.
    Done,
    /// A dry run leaves it open.
    Open,
}

struct Progress {
    phase: Phase,
    /// Its outputs are needed here.
    wanted: bool,
    description: Option<Description>,
    decision: Option<Reason>,
}

struct State<E> {
    steps: Vec<Progress>,
    /// A step panicked, or gave something else than was known of it.
    aborted: bool,
    diverged: Option<String>,
    outputs: BTreeMap<String, Outputs>,
    elsewhere: BTreeSet<String>,
    failures: Vec<(String, E)>,
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
    let waiting = |step: &Step| Progress {
        phase: Phase::Waiting,
        wanted: options.needed.contains(&step.name),
        description: None,
        decision: None,
    };
    let state = Mutex::new(State {
        steps: steps.iter().map(waiting).collect(),
        aborted: false,
        diverged: None,
        outputs: BTreeMap::new(),
        elsewhere: BTreeSet::new(),
        failures: Vec::new(),
    });
    let changed = Condvar::new();
    let numbers = steps.iter().enumerate().map(|(number, step)| (step.name.as_str(), number)).collect();
    let asks = executor.has_elsewhere();
    let runner = Runner { cache, steps, numbers, last, executor, options, asks, state: &state, changed: &changed };
    std::thread::scope(|scope| {
        for (pool, count) in [(Pool::Network, options.downloads), (Pool::Processor, options.jobs)] {
            let useful = steps.iter().filter(|step| step.pool == pool || (asks && pool == Pool::Network)).count();
            for _ in 0..count.max(1).min(useful) {
                let runner = &runner;
                scope.spawn(move || runner.work(pool));
            }
        }
    });
    finished(steps, state.into_inner().expect("no worker panicked"))
}

fn finished<E>(steps: &[Step], state: State<E>) -> Result<Execution, GraphError<E>> {
    let State { steps: progress, diverged, outputs, elsewhere, failures, .. } = state;
    if !failures.is_empty() {
        return Err(GraphError::Steps(failures));
    }
    if let Some(step) = diverged {
        return Err(GraphError::Diverged { step });
    }
    let (mut decisions, mut history) = (Vec::new(), History::default());
    for (step, progress) in steps.iter().zip(progress) {
        decisions.push((step.name.clone(), progress.decision));
        let description = progress.description.filter(|_| outputs.contains_key(&step.name));
        history.steps.extend(description.map(|description| (step.name.clone(), description)));
    }
    Ok(Execution { outputs, decisions, elsewhere, history })
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
    /// Where each step is in `steps`.
    numbers: BTreeMap<&'a str, usize>,
    last: &'a History,
    executor: &'a X,
    options: &'a Options,
    /// Whether deciding asks elsewhere, and is work of the network pool.
    asks: bool,
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
            self.runner.state.lock().unwrap_or_else(PoisonError::into_inner).aborted = true;
            self.runner.changed.notify_all();
        }
    }
}

/// What a worker does next with a step.
enum Job {
    Decide(usize, Description),
    Bring(usize, Description, Outputs),
    Run(usize, Description, Reason, BTreeMap<String, Outputs>),
}

/// What was decided on a step.
enum Decision {
    /// Its outputs are in the cache.
    Fresh(Outputs),
    /// Its outputs are known and may be missing in the cache.
    Elsewhere(Outputs),
    /// It has to run.
    Stale(Reason),
}

impl<X: Execute> Runner<'_, X> {
    fn work(&self, pool: Pool) {
        while let Some(job) = self.next(pool) {
            let mut guard = Abort { runner: self, armed: true };
            match job {
                Job::Decide(number, description) => self.decide(number, description),
                Job::Bring(number, description, outputs) => self.bring(number, &description, &outputs),
                Job::Run(number, description, reason, inputs) => self.run(number, &description, &reason, &inputs),
            }
            guard.armed = false;
            drop(guard);
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<X::Error>> {
        self.state.lock().expect("no worker panicked")
    }

    /// Waits for something to do for `pool`; `None` when there will be nothing.
    fn next(&self, pool: Pool) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.aborted || state.diverged.is_some() || !state.failures.is_empty() {
                return None;
            }
            self.settle_open(&mut state);
            if let Some(job) = self.job(&mut state, pool) {
                return Some(job);
            }
            if self.is_finished(&state) {
                self.changed.notify_all();
                return None;
            }
            state = self.changed.wait(state).expect("no worker panicked");
        }
    }

    fn is_finished(&self, state: &State<X::Error>) -> bool {
        state.steps.iter().all(|progress| match progress.phase {
            Phase::Done | Phase::Open => true,
            Phase::Away => !progress.wanted,
            Phase::Waiting | Phase::Deciding | Phase::Stale | Phase::Running | Phase::Bringing => false,
        })
    }

    /// Takes the first thing that a worker of `pool` can do.
    fn job(&self, state: &mut State<X::Error>, pool: Pool) -> Option<Job> {
        let decides = |step: &Step| if self.asks { pool == Pool::Network } else { step.pool == pool };
        let known = |state: &State<X::Error>, step: &Step, phases: &[Phase]| {
            self.inputs(step).all(|input| phases.contains(&state.steps[input].phase))
        };
        for (number, step) in self.steps.iter().enumerate() {
            let Progress { phase, wanted, .. } = state.steps[number];
            match phase {
                Phase::Waiting if decides(step) && known(state, step, &[Phase::Done, Phase::Away]) => {
                    state.steps[number].phase = Phase::Deciding;
                    return Some(Job::Decide(number, describe(step, &state.outputs)));
                }
                Phase::Away if wanted && pool == Pool::Network => {
                    state.steps[number].phase = Phase::Bringing;
                    let description = state.steps[number].description.clone()?;
                    return Some(Job::Bring(number, description, state.outputs[&step.name].clone()));
                }
                Phase::Stale if step.pool == pool && known(state, step, &[Phase::Done]) => {
                    let progress = &mut state.steps[number];
                    progress.phase = Phase::Running;
                    let (description, reason) = (progress.description.clone()?, progress.decision.clone()?);
                    return Some(Job::Run(number, description, reason, self.outputs_of_inputs(step, state)));
                }
                _ => {}
            }
        }
        None
    }

    /// Returns the steps that give inputs of `step`.
    fn inputs<'s>(&'s self, step: &'s Step) -> impl Iterator<Item = usize> + 's {
        step.inputs.values().filter_map(|input| match input {
            Input::Digest(_) => None,
            Input::Output { step, .. } => Some(self.numbers[step.as_str()]),
        })
    }

    fn outputs_of_inputs(&self, step: &Step, state: &State<X::Error>) -> BTreeMap<String, Outputs> {
        let names = self.inputs(step).map(|number| self.steps[number].name.clone());
        names.map(|name| (name.clone(), state.outputs[&name].clone())).collect()
    }

    /// In a dry run: steps behind a stale step cannot be decided.
    fn settle_open(&self, state: &mut State<X::Error>) {
        // Inputs come from earlier steps, so one pass is enough.
        for (number, step) in self.steps.iter().enumerate().filter(|_| self.options.dry_run) {
            let open = |input: &Input| match input {
                Input::Output { step, .. } => state.steps[self.numbers[step.as_str()]].phase == Phase::Open,
                Input::Digest(_) => false,
            };
            let behind = step.inputs.iter().find(|(_, input)| open(input)).map(|(name, _)| name.clone());
            if let (Some(name), Phase::Waiting) = (behind, state.steps[number].phase) {
                state.steps[number].phase = Phase::Open;
                state.steps[number].decision = Some(Reason::Input { name, old: None, new: None });
            }
        }
    }

    fn freshness(&self, step: &Step, description: &Description) -> Decision {
        if let Some(outputs) = self.executor.already_there(step) {
            return Decision::Fresh(outputs);
        }
        let forced = self.options.fresh && step.pool == Pool::Processor;
        if forced {
            return Decision::Stale(Reason::Forced);
        }
        if let Some(outputs) = recorded(self.cache, &description.key()) {
            return Decision::Fresh(outputs);
        }
        match self.executor.elsewhere(step, description) {
            Some(outputs) => Decision::Elsewhere(outputs),
            None => Decision::Stale(self.reason(step, description)),
        }
    }

    fn reason(&self, step: &Step, description: &Description) -> Reason {
        reason(description, self.last.steps.get(&step.name))
    }

    fn decide(&self, number: usize, description: Description) {
        let step = &self.steps[number];
        let decision = self.freshness(step, &description);
        match &decision {
            Decision::Fresh(_) => self.executor.report(step, &Report::Fresh),
            Decision::Elsewhere(_) => self.executor.report(step, &Report::Elsewhere),
            Decision::Stale(_) => {}
        }
        let mut state = self.lock();
        state.steps[number].description = Some(description);
        match decision {
            Decision::Fresh(outputs) => {
                state.steps[number].phase = Phase::Done;
                state.outputs.insert(step.name.clone(), outputs);
            }
            Decision::Elsewhere(outputs) => {
                state.steps[number].phase = Phase::Away;
                state.elsewhere.insert(step.name.clone());
                state.outputs.insert(step.name.clone(), outputs);
            }
            Decision::Stale(reason) => self.stale(&mut state, number, reason),
        }
    }

    /// Takes down that a step has to run, and asks for its inputs.
    fn stale(&self, state: &mut State<X::Error>, number: usize, reason: Reason) {
        state.steps[number].decision = Some(reason);
        state.steps[number].phase = if self.options.dry_run { Phase::Open } else { Phase::Stale };
        if !self.options.dry_run || !self.options.needed.is_empty() {
            self.inputs(&self.steps[number]).for_each(|input| state.steps[input].wanted = true);
        }
    }

    fn bring(&self, number: usize, description: &Description, outputs: &Outputs) {
        let step = &self.steps[number];
        let is_here = self.executor.bring(step, description, outputs);
        let mut state = self.lock();
        if is_here {
            state.steps[number].phase = Phase::Done;
        } else {
            state.elsewhere.remove(&step.name);
            self.stale(&mut state, number, self.reason(step, description));
        }
    }

    fn run(&self, number: usize, description: &Description, reason: &Reason, inputs: &BTreeMap<String, Outputs>) {
        let step = &self.steps[number];
        self.executor.report(step, &Report::Starts(reason));
        let result = self.executor.run(step, description, inputs);
        self.executor.report(step, if result.is_ok() { &Report::Done } else { &Report::Failed });
        if let Ok(outputs) = &result {
            // A record that cannot be written costs a rebuild, not this build.
            let _ = record(self.cache, &description.key(), step.kind, outputs);
            self.executor.made(step, description, outputs);
        }
        let mut state = self.lock();
        match result {
            Ok(outputs) => {
                state.steps[number].phase = Phase::Done;
                if let Some(promised) = state.outputs.insert(step.name.clone(), outputs)
                    && promised != state.outputs[&step.name]
                {
                    state.diverged = Some(step.name.clone());
                }
            }
            Err(error) => state.failures.push((step.name.clone(), error)),
        }
    }
}

/// Describes a step whose inputs are known.
fn describe(step: &Step, outputs: &BTreeMap<String, Outputs>) -> Description {
    let digest = |input: &Input| match input {
        Input::Digest(digest) => *digest,
        Input::Output { step, output } => {
            outputs[step].get(output).map_or(ksos_formats::Digest([0; 32]), |blob| blob.digest)
        }
    };
    Description {
        kind: step.kind.to_owned(),
        version: step.version,
        parameters: step.parameters.clone(),
        inputs: step.inputs.iter().map(|(name, input)| (name.clone(), digest(input))).collect(),
    }
}
