use std::sync::Mutex;

use super::*;

fn step(name: &str, parameters: &[(&str, &str)], inputs: &[(&str, Input)]) -> Step {
    Step {
        name: name.into(),
        kind: "test",
        version: 1,
        pool: Pool::Processor,
        parameters: parameters.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        inputs: inputs.iter().map(|(name, input)| (name.to_string(), input.clone())).collect(),
    }
}

fn output(step: &str) -> Input {
    Input::Output { step: step.into(), output: "out".into() }
}

/// Joins the parameters and inputs of a step into its output, and notes which steps ran.
struct Joiner<'a> {
    cache: &'a Cache,
    ran: Mutex<Vec<String>>,
}

impl Execute for Joiner<'_> {
    type Error = String;

    fn run(
        &self,
        step: &Step,
        description: &Description,
        inputs: &BTreeMap<String, Outputs>,
    ) -> Result<Outputs, String> {
        self.ran.lock().unwrap().push(step.name.clone());
        if step.parameters.contains_key("fail") {
            return Err("asked to".into());
        }
        let mut text = description.parameters.values().cloned().collect::<String>();
        for outputs in inputs.values() {
            text += &fs::read_to_string(&outputs["out"].path, 1000).unwrap();
        }
        Ok([("out".to_owned(), self.cache.insert(text.as_bytes()).unwrap())].into())
    }
}

fn run(cache: &Cache, steps: &[Step], last: &History, fresh: bool) -> (Execution, Vec<String>) {
    let joiner = Joiner { cache, ran: Mutex::default() };
    let options = Options { jobs: 3, downloads: 1, fresh, dry_run: false, needed: Default::default() };
    let execution = execute(cache, steps, last, &joiner, &options).unwrap();
    let mut ran = joiner.ran.into_inner().unwrap();
    ran.sort();
    (execution, ran)
}

fn diamond(left: &str) -> Vec<Step> {
    vec![
        step("top", &[("text", "t")], &[]),
        step("left", &[("text", left)], &[("a", output("top"))]),
        step("right", &[("text", "r")], &[("a", output("top"))]),
        step("bottom", &[], &[("a", output("left")), ("b", output("right"))]),
    ]
}

#[test]
fn only_what_changed_runs_again_and_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path()).unwrap();
    let (first, ran) = run(&cache, &diamond("l"), &History::default(), false);
    assert_eq!(ran, ["bottom", "left", "right", "top"]);
    assert!(first.decisions.iter().all(|(_, reason)| *reason == Some(Reason::New)));

    let (second, ran) = run(&cache, &diamond("l"), &first.history, false);
    assert!(ran.is_empty());
    assert_eq!(second.outputs, first.outputs);

    let (third, ran) = run(&cache, &diamond("L"), &second.history, false);
    assert_eq!(ran, ["bottom", "left"]);
    let reasons: BTreeMap<_, _> = third.decisions.into_iter().collect();
    assert!(matches!(&reasons["left"], Some(Reason::Parameter { name, .. }) if name == "text"));
    assert!(matches!(&reasons["bottom"], Some(Reason::Input { name, .. }) if name == "a"));
    assert_eq!(reasons["right"], None);

    let (_, ran) = run(&cache, &diamond("l"), &third.history, true);
    assert_eq!(ran.len(), 4, "--fresh runs everything");
}

#[test]
fn a_lost_or_damaged_output_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path()).unwrap();
    let (first, _) = run(&cache, &diamond("l"), &History::default(), false);
    let blob = &first.outputs["left"]["out"];
    crate::effects::fs::write_atomic(&blob.path, b"damaged!").unwrap();
    let (second, ran) = run(&cache, &diamond("l"), &first.history, false);
    assert_eq!(ran, ["left"], "the same content again, so nothing behind it runs");
    assert_eq!(second.decisions[1], ("left".to_owned(), Some(Reason::OutputMissing)));
    assert_eq!(fs::read_to_string(&blob.path, 100).unwrap(), "lt");
}

#[test]
fn a_failure_names_its_step_and_keeps_what_was_done() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path()).unwrap();
    let mut steps = diamond("l");
    steps[1].parameters.insert("fail".into(), String::new());
    let joiner = Joiner { cache: &cache, ran: Mutex::default() };
    let options = Options { jobs: 1, downloads: 1, fresh: false, dry_run: false, needed: Default::default() };
    let Err(GraphError::Steps(failures)) = execute(&cache, &steps, &History::default(), &joiner, &options) else {
        panic!("the step must fail")
    };
    assert_eq!(failures, [("left".to_owned(), "asked to".to_owned())]);
    let (_, ran) = run(&cache, &diamond("l"), &History::default(), false);
    assert!(!ran.contains(&"top".to_owned()));
}

#[test]
fn a_dry_run_decides_and_runs_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path()).unwrap();
    let (first, _) = run(&cache, &diamond("l"), &History::default(), false);
    let joiner = Joiner { cache: &cache, ran: Mutex::default() };
    let options = Options { jobs: 2, downloads: 1, fresh: false, dry_run: true, needed: Default::default() };
    let dry = execute(&cache, &diamond("L"), &first.history, &joiner, &options).unwrap();
    assert!(joiner.ran.into_inner().unwrap().is_empty());
    let stale: Vec<_> = dry.decisions.iter().filter(|(_, reason)| reason.is_some()).map(|(name, _)| name).collect();
    assert_eq!(stale, ["left", "bottom"]);
}

#[test]
fn a_dry_run_ends_whatever_is_stale_and_however_many_workers_there_are() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path()).unwrap();
    for round in 0..60 {
        let joiner = Joiner { cache: &cache, ran: Mutex::default() };
        let options =
            Options { jobs: 1 + round % 3, downloads: 2, fresh: false, dry_run: true, needed: Default::default() };
        let dry = execute(&cache, &diamond("new"), &History::default(), &joiner, &options).unwrap();
        assert_eq!(dry.decisions.len(), 4);
    }
}

#[test]
#[should_panic(expected = "a scoped thread panicked")]
fn a_step_that_panics_ends_the_run() {
    struct Panics;
    impl Execute for Panics {
        type Error = String;
        fn run(&self, _: &Step, _: &Description, _: &BTreeMap<String, Outputs>) -> Result<Outputs, String> {
            panic!("on purpose")
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path()).unwrap();
    let options = Options { jobs: 3, downloads: 1, fresh: false, dry_run: false, needed: Default::default() };
    let _ = execute(&cache, &diamond("l"), &History::default(), &Panics, &options);
}

#[test]
fn a_plan_that_is_none_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path()).unwrap();
    let joiner = Joiner { cache: &cache, ran: Mutex::default() };
    let options = Options { jobs: 2, downloads: 1, fresh: false, dry_run: false, needed: Default::default() };
    for steps in [
        vec![step("a", &[], &[]), step("a", &[], &[])],
        vec![step("a", &[], &[("x", output("b"))]), step("b", &[], &[("x", output("a"))])],
    ] {
        let result = execute(&cache, &steps, &History::default(), &joiner, &options);
        assert!(matches!(result, Err(GraphError::Plan(_))));
    }
}

#[test]
fn keys_are_stable_and_framed() {
    let description = |name: &str, value: &str| Description {
        kind: "k".into(),
        version: 1,
        parameters: [(name.to_owned(), value.to_owned())].into(),
        inputs: BTreeMap::new(),
    };
    assert_ne!(description("ab", "c").key(), description("a", "bc").key());
    assert_eq!(description("a", "b").key(), description("a", "b").key());
}

/// Knows what steps give from somewhere else: a cache that another machine has filled.
struct Sharer<'a> {
    joiner: Joiner<'a>,
    /// The other machine's cache.
    other: &'a Cache,
    /// Steps whose blobs cannot be had.
    lost: &'a [&'a str],
    /// Steps that are said to give something else than they do.
    lies: &'a [&'a str],
    brought: Mutex<Vec<String>>,
}

impl Execute for Sharer<'_> {
    type Error = String;

    fn run(&self, step: &Step, now: &Description, inputs: &BTreeMap<String, Outputs>) -> Result<Outputs, String> {
        self.joiner.run(step, now, inputs)
    }

    fn has_elsewhere(&self) -> bool {
        true
    }

    fn elsewhere(&self, step: &Step, description: &Description) -> Option<Outputs> {
        let mut outputs = known(self.other, &description.key())?;
        for blob in outputs.values_mut() {
            if self.lies.contains(&step.name.as_str()) {
                blob.digest = Digest::of(b"something else");
            }
            blob.path = self.joiner.cache.blob_path(&blob.digest);
        }
        Some(outputs)
    }

    fn bring(&self, step: &Step, _: &Description, outputs: &Outputs) -> bool {
        if self.lost.contains(&step.name.as_str()) || self.lies.contains(&step.name.as_str()) {
            return false;
        }
        self.brought.lock().unwrap().push(step.name.clone());
        for blob in outputs.values() {
            let text = fs::read(&self.other.blob_path(&blob.digest), 1000).unwrap();
            self.joiner.cache.insert(&text).unwrap();
        }
        true
    }
}

/// What a run with another machine's cache ran, brought, and ended with.
fn share(
    steps: &[Step],
    needed: &[&str],
    (lost, lies): (&[&str], &[&str]),
) -> (Result<Execution, GraphError<String>>, Vec<String>, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let other = Cache::open(&directory.path().join("other")).unwrap();
    run(&other, &diamond("l"), &History::default(), false);
    let cache = Cache::open(&directory.path().join("own")).unwrap();
    let joiner = Joiner { cache: &cache, ran: Mutex::default() };
    let sharer = Sharer { joiner, other: &other, lost, lies, brought: Mutex::default() };
    let needed = needed.iter().map(|name| (*name).to_owned()).collect();
    let options = Options { jobs: 2, downloads: 2, fresh: false, dry_run: false, needed };
    let mut result = execute(&cache, steps, &History::default(), &sharer, &options);
    if let Err(GraphError::Diverged { .. }) = result {
        result = execute(&cache, steps, &History::default(), &sharer, &options);
    }
    let (mut ran, mut brought) = (sharer.joiner.ran.into_inner().unwrap(), sharer.brought.into_inner().unwrap());
    ran.sort();
    brought.sort();
    (result, ran, brought)
}

#[test]
fn what_is_known_elsewhere_is_brought_only_when_it_is_needed() {
    let (result, ran, brought) = share(&diamond("l"), &["bottom"], (&[], &[]));
    assert_eq!((ran.len(), brought), (0, vec!["bottom".to_owned()]));
    let execution = result.unwrap();
    assert_eq!(execution.elsewhere.len(), 4);
    assert!(execution.decisions.iter().all(|(_, reason)| reason.is_none()));

    // What changed is made from what did not: the inputs are brought, and nothing else.
    let (result, ran, brought) = share(&diamond("L"), &["bottom"], (&[], &[]));
    assert_eq!((ran, brought), (vec!["bottom".into(), "left".into()], vec!["right".to_owned(), "top".to_owned()]));
    assert_eq!(result.unwrap().elsewhere, ["right".to_owned(), "top".to_owned()].into());
}

#[test]
fn what_cannot_be_brought_is_made_here() {
    let (result, ran, brought) = share(&diamond("l"), &["bottom"], (&["bottom", "left"], &[]));
    assert_eq!((ran, brought), (vec!["bottom".into(), "left".into()], vec!["right".to_owned(), "top".to_owned()]));
    assert_eq!(result.unwrap().elsewhere, ["right".to_owned(), "top".to_owned()].into());
}

#[test]
fn a_record_that_is_wrong_voids_what_was_decided_by_it() {
    let (honest, ..) = share(&diamond("l"), &["bottom"], (&[], &[]));
    let (result, ran, _) = share(&diamond("l"), &["bottom"], (&[], &["left"]));
    // With a wrong digest of `left`, `bottom` has another key: both are made here, and `bottom` from the right content.
    assert!(ran.contains(&"left".to_owned()) && !ran.contains(&"top".to_owned()), "{ran:?}");
    let digest = |result: Result<Execution, GraphError<String>>| result.unwrap().outputs["bottom"]["out"].digest;
    assert_eq!(digest(result), digest(honest));
}
