//! `build --only`: one part of an image as a file: the kernel, the root file system, the initramfs. Only the steps that
//! the part needs run; they are cached as those of a whole build are, and the bytes are those that the image has.

use std::collections::BTreeSet;
use std::path::Path;

use super::resolve::Project;
use super::stamp::Watch;
use super::{Artifact, Built, Executor, Options, hash, in_parallel, sizes};
use crate::effects::fs::{AtomicFile, Context};
use crate::graph::{self, Execution, History, Input, Step};
use crate::kernel::ModuleIndex;
use crate::ops::{OpError, Session, Target};
use crate::plan::{self, Plan};
use crate::tree::{Content, Node};

/// A part of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum PartKind {
    /// The kernel: `NAME-VERSION-ARCH.vmlinuz`.
    Kernel,
    /// The root file system, SquashFS with its hash tree: `NAME-VERSION-ARCH.root.squashfs`.
    Rootfs,
    /// The initramfs: `NAME-VERSION-ARCH.initrd`.
    Initramfs,
}

impl PartKind {
    fn format(self) -> &'static str {
        match self {
            PartKind::Kernel => "kernel",
            PartKind::Rootfs => "rootfs",
            PartKind::Initramfs => "initramfs",
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            PartKind::Kernel => "vmlinuz",
            PartKind::Rootfs => "root.squashfs",
            PartKind::Initramfs => "initrd",
        }
    }
}

/// Builds parts of every target, side by side.
pub fn build(
    session: &Session,
    targets: &[Target],
    kinds: &[PartKind],
    options: &Options,
) -> Vec<Result<Built, OpError>> {
    if let Some(twice) = super::twice(targets) {
        return vec![Err(twice)];
    }
    let kinds: BTreeSet<PartKind> = kinds.iter().copied().collect();
    in_parallel(targets, |target| build_one(session, target, &kinds, options))
}

fn build_one(
    session: &Session,
    target: &Target,
    kinds: &BTreeSet<PartKind>,
    options: &Options,
) -> Result<Built, OpError> {
    let project = Project::open(session, target, options.lock, &mut Watch::new())?;
    let mut plan = project.plan();
    let broken = plan::check::check(&plan);
    if !broken.is_empty() {
        return Err(OpError::Plan { broken });
    }
    let wanted = kinds.iter().flat_map(|kind| steps_of(*kind, &plan, &project)).collect();
    plan.steps = needed(std::mem::take(&mut plan.steps), wanted);
    let execution = execute(session, &project, &plan, options)?;
    let mut artifacts = Vec::new();
    for kind in kinds {
        let mend = |error| session.mend(&execution.outputs, error);
        let content = content(*kind, session, &project, &plan, &execution).map_err(mend)?;
        let name = format!("{}-{}-{}.{}", plan.image.name, plan.image.version, plan.image.arch, kind.suffix());
        let path = session.environment.directory.join(&options.out).join(&name);
        write(&content, &path).map_err(mend)?;
        let sha256 = options.hash.then(|| hash(&path)).transpose()?;
        let (size, allocated) = sizes(&path)?;
        let (format, path) = (kind.format().to_owned(), options.out.join(name));
        artifacts.push(Artifact { format, path, size, allocated, sha256, files: Vec::new(), platforms: Vec::new() });
    }
    Ok(Built {
        name: plan.image.name.clone(),
        version: plan.image.version.clone(),
        arch: plan.image.arch,
        artifacts,
        fresh: false,
        ran: execution.decisions.iter().filter(|(_, reason)| reason.is_some()).count(),
        steps: plan.steps.len(),
        usage: Vec::new(),
        documents: Vec::new(),
        checksums: false,
        remote: None,
    })
}

/// Returns the names of the steps whose outputs a part is made from.
fn steps_of(kind: PartKind, plan: &Plan, project: &Project) -> Vec<String> {
    match kind {
        PartKind::Rootfs => vec!["root".to_owned()],
        PartKind::Initramfs => vec!["initramfs".to_owned()],
        PartKind::Kernel => {
            let inputs = plan.parts.get(&project.manifest().kernel.component).map(|(_, inputs)| inputs);
            let steps = inputs.into_iter().flatten().filter_map(|(_, input)| match input {
                Input::Output { step, .. } => Some(step.clone()),
                Input::Digest(_) => None,
            });
            steps.chain(["kernel".to_owned()]).collect()
        }
    }
}

/// Returns the steps in `wanted` and those that they need, in their order.
fn needed(steps: Vec<Step>, mut wanted: BTreeSet<String>) -> Vec<Step> {
    let mut kept: Vec<Step> = Vec::new();
    // Inputs name earlier steps only.
    for step in steps.into_iter().rev() {
        if wanted.contains(&step.name) {
            let from = step.inputs.values().filter_map(|input| match input {
                Input::Output { step, .. } => Some(step.clone()),
                Input::Digest(_) => None,
            });
            wanted.extend(from);
            kept.push(step);
        }
    }
    kept.reverse();
    kept
}

/// Runs the steps of `plan`. What the last build did is read for the reasons, and stays as it is.
fn execute(session: &Session, project: &Project, plan: &Plan, options: &Options) -> Result<Execution, OpError> {
    let last = History::load(&session.cache, &project.history_scope());
    let executor = Executor::new(session, project, plan, options.fresh);
    let needed = plan.steps.iter().map(|step| step.name.clone()).collect();
    let limits = graph::Options { jobs: session.jobs, downloads: 8, fresh: options.fresh, dry_run: false, needed };
    super::run_steps(session, &executor, &plan.steps, &last, &limits)
}

fn content(
    kind: PartKind,
    session: &Session,
    project: &Project,
    plan: &Plan,
    execution: &Execution,
) -> Result<Content, OpError> {
    let outputs = &execution.outputs;
    let blob = |step: &str, output: &str| {
        let blob = &outputs[step][output];
        Content::host_file(blob.path.clone(), blob.digest, blob.size)
    };
    match kind {
        PartKind::Rootfs => Ok(blob("root", "image")),
        PartKind::Initramfs => Ok(blob("initramfs", "initramfs")),
        PartKind::Kernel => {
            let executor = Executor::new(session, project, plan, false);
            let component = &project.manifest().kernel.component;
            let index: ModuleIndex = executor.json(&outputs["kernel"]["modules"])?;
            let path = format!("boot/vmlinuz-{}", index.release);
            let tree = executor.component_tree(component, outputs)?;
            let found = tree.canonicalize(&path).and_then(|path| tree.get(&path).cloned());
            match found.map(|entry| entry.node) {
                Some(Node::File(content)) => Ok(content),
                _ => Err(OpError::NoFile { component: component.clone(), path }),
            }
        }
    }
}

fn write(content: &Content, path: &Path) -> Result<(), OpError> {
    let mut file = AtomicFile::create(path)?;
    let mut reader = content.open().context("read", path)?;
    std::io::copy(&mut reader, file.file()).context("write", path)?;
    Ok(file.commit(0o644)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::graph::Pool;

    fn step(name: &str, from: &[&str]) -> Step {
        let input = |from: &&str| {
            let input = Input::Output { step: (*from).to_owned(), output: "blob".to_owned() };
            ((*from).to_owned(), input)
        };
        Step {
            name: name.to_owned(),
            kind: "test",
            version: 1,
            pool: Pool::Processor,
            parameters: BTreeMap::new(),
            inputs: from.iter().map(input).collect(),
        }
    }

    #[test]
    fn only_the_steps_that_a_part_needs_are_kept() {
        let steps = || {
            vec![
                step("fetch kernel", &[]),
                step("fetch tool", &[]),
                step("unpack kernel", &["fetch kernel"]),
                step("kernel", &["unpack kernel"]),
                step("root", &["kernel", "fetch tool"]),
                step("initramfs", &["root"]),
            ]
        };
        let kept = |wanted: &[&str]| -> Vec<String> {
            let wanted = wanted.iter().map(|name| (*name).to_owned()).collect();
            needed(steps(), wanted).into_iter().map(|step| step.name).collect()
        };
        assert_eq!(kept(&["kernel"]), ["fetch kernel", "unpack kernel", "kernel"]);
        assert_eq!(kept(&["root"]), ["fetch kernel", "fetch tool", "unpack kernel", "kernel", "root"]);
        assert_eq!(kept(&["initramfs"]).len(), 6);
        assert!(kept(&["nothing"]).is_empty());
    }
}
