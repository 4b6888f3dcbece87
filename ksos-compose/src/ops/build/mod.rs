//! `build`, `plan`, `explain` and `fetch`: from a manifest to artifacts.
//!
//! ```text
//! stamp     nothing changed since the last build: done            (stat only)
//! resolve   manifest + lock -> pinned components, local trees     (may use the network, may write the lock)
//! plan      pure
//! execute   the steps of the graph: cached by content
//! disk      GPT, ESP and slot A straight into the artifact; temporary file, fsync, rename
//! outputs   every other format from the finished disk image or root file system, side by side
//! ```

mod bios;
mod compile;
pub mod disk;
mod execute;
mod images;
mod initramfs;
mod local;
mod outputs;
pub mod part;
mod proof;
pub mod release;
pub mod remote;
mod resolve;
pub mod root;
mod sources;
mod stamp;
pub mod supply;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ksos_formats::{Arch, Digest};
use serde::{Deserialize, Serialize};

use super::{LockMode, OpError, Session, Target};
use crate::effects::fs;
use crate::graph::{self, Execution, History, Reason};
use crate::ops::blob_key::BlobKey;
use crate::plan::{self, Plan};
use crate::remote::RemoteUse;
use crate::sign::{KeySource, Signer, Surroundings};
use execute::Executor;
pub use remote::{Moved, pull_cache, push_cache};
pub use resolve::Project;
use stamp::{Stamp, Watch};

/// How often damage in the cache is mended in one build. More than that is a failing disk or memory.
const MENDINGS: u32 = 3;

/// How to build.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory for the artifacts.
    pub out: PathBuf,
    /// Redo every step; downloads are kept.
    pub fresh: bool,
    /// Compute the SHA-256 of the artifacts.
    pub hash: bool,
    /// Lock mode.
    pub lock: LockMode,
    /// What signs releases, provenance and the list of digests.
    pub sign: SignOptions,
    /// What the provenance calls the run.
    pub invocation_id: Option<String>,
}

/// What signs releases.
#[derive(Debug, Clone, Default)]
pub struct SignOptions {
    /// Where the private keys are.
    pub keys: Vec<KeySource>,
    /// Files with the public keys of those that a command signs with.
    pub public_keys: Vec<PathBuf>,
}

/// One finished artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Format, e.g. `disk`.
    pub format: String,
    /// Where it is.
    pub path: PathBuf,
    /// Size in bytes.
    pub size: u64,
    /// Bytes that it takes on the disk of this machine: the file is sparse.
    pub allocated: u64,
    /// SHA-256, when it was asked for; of a release, that of its document, by which channels name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
    /// Its files, when it is a directory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<ArtifactFile>,
    /// Architectures, when it is for several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<Arch>,
}

/// A file of an artifact that is a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactFile {
    /// Name.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256.
    pub sha256: Digest,
}

/// A finished build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Built {
    /// Image name.
    pub name: String,
    /// Image version.
    pub version: String,
    /// Architecture.
    pub arch: Arch,
    /// Artifacts.
    pub artifacts: Vec<Artifact>,
    /// What is written about them: bills of materials, provenance.
    #[serde(default)]
    pub documents: Vec<Artifact>,
    /// Whether `SHA256SUMS` lists them.
    #[serde(default)]
    pub checksums: bool,
    /// Nothing had to be done.
    pub fresh: bool,
    /// Steps that ran.
    pub ran: usize,
    /// Steps in all.
    pub steps: usize,
    /// How full the slot and the ESP are.
    pub usage: Vec<disk::Usage>,
    /// What the remote cache did, when there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<RemoteUse>,
}

impl Built {
    /// Returns the disk image.
    ///
    /// # Errors
    /// When the manifest's `outputs.formats` has no `disk`.
    pub fn disk(&self) -> Result<PathBuf, OpError> {
        let disk = self.artifacts.iter().find(|artifact| artifact.format == "disk");
        disk.map(|artifact| artifact.path.clone()).ok_or(OpError::NoDisk { name: self.name.clone() })
    }

    /// Returns where the release is.
    ///
    /// # Errors
    /// When the manifest has no `update.keys`.
    pub fn release(&self) -> Result<PathBuf, OpError> {
        let release = self.artifacts.iter().find(|artifact| artifact.format == "update");
        release.map(|artifact| artifact.path.clone()).ok_or(OpError::NoUpdateKeys { name: self.name.clone() })
    }
}

/// Builds every target, side by side.
pub fn build(session: &Session, targets: &[Target], options: &Options) -> Vec<Result<Built, OpError>> {
    if let Some(twice) = twice(targets) {
        return vec![Err(twice)];
    }
    let surroundings =
        Surroundings { variables: &session.environment.variables, directory: &session.environment.directory };
    let keys = match BlobKey::open(&options.sign.keys, &options.sign.public_keys, surroundings) {
        Ok(keys) => keys,
        Err(error) => return vec![Err(error.into())],
    };
    keys.iter().filter_map(BlobKey::warning).for_each(|warning| session.reporter.note(warning));
    let results = in_parallel(targets, |target| match build_one(session, target, options) {
        Err(OpError::RemoteLost { step }) => {
            // It had the record of the step and lost its blobs since.
            session.reporter.note(&format!("warning: the remote cache lost {step}; building without it"));
            build_one(&session.without_remote(), target, options)
        }
        Err(error @ OpError::Damaged { .. }) => {
            session.reporter.note(&format!("warning: {error}; made or fetched again"));
            build_one(session, target, options)
        }
        result => result,
    });
    let mut results = results.into_iter().map(|built| signed(session, built?, &keys)).collect::<Vec<_>>();
    if let Err(error) = outputs::image_layout::join(session, &mut results, options) {
        results.push(Err(error));
    }
    results.into_iter().map(|built| supply::finish(session, built?, &keys, options)).collect()
}

/// Signs the release of a build.
fn signed(session: &Session, mut built: Built, keys: &[BlobKey]) -> Result<Built, OpError> {
    let signers: Vec<&dyn Signer> = keys.iter().filter_map(BlobKey::release_signer).collect();
    if signers.is_empty() {
        return Ok(built);
    }
    for artifact in built.artifacts.iter_mut().filter(|artifact| artifact.format == release::ARTIFACT) {
        let path = session.environment.directory.join(&artifact.path);
        release::sign(&path, &signers)?;
        *artifact = release::listed(&path, &artifact.path)?;
    }
    Ok(built)
}

/// Finds two targets that would write one file: both would be built, and the last rename would win. Targets whose
/// manifests are not valid are left to the build, which says what is wrong.
fn twice(targets: &[Target]) -> Option<OpError> {
    let mut names: std::collections::BTreeMap<String, &Path> = std::collections::BTreeMap::new();
    if targets.len() < 2 {
        return None;
    }
    for target in targets {
        let files = crate::manifest::DiskWithout { replaced: target.components.keys().cloned().collect(), all: false };
        let Ok(loaded) = crate::manifest::load(&target.manifest, target.arch, &files) else { continue };
        let name = format!("{}-{}-{}", loaded.manifest.image.name, loaded.manifest.image.version, loaded.arch);
        if let Some(first) = names.insert(name.clone(), &target.manifest) {
            let (first, second) = (first.to_owned(), target.manifest.clone());
            return Some(OpError::SameImage { name, first, second });
        }
    }
    None
}

/// Runs `work` on every target, each in a thread of its own; results in the order of the targets.
fn in_parallel<R: Send>(targets: &[Target], work: impl Fn(&Target) -> R + Sync) -> Vec<R> {
    if let [target] = targets {
        return vec![work(target)];
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = targets.iter().map(|target| scope.spawn(|| work(target))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// What names a build: two builds with one scope share history and stamp.
fn scope(session: &Session, target: &Target, options: &Options) -> String {
    let directory = &session.environment.directory;
    format!(
        "{}\0{:?}\0{:?}\0{}",
        directory.join(&target.manifest).display(),
        target.arch,
        target.formats,
        directory.join(&options.out).display()
    )
}

/// Everything outside of files that decides a build's result.
fn settings(session: &Session, target: &Target, options: &Options) -> String {
    let environment = &session.environment;
    // What picks the compiler of programs that are built from source.
    let compiler = ["PATH", "RUSTUP_TOOLCHAIN", "RUSTUP_HOME", "CARGO_HOME"].map(|name| environment.variable(name));
    format!(
        "{}\0{:?}\0{:?}\0{compiler:?}\0{:?}",
        env!("CARGO_PKG_VERSION"),
        environment.source_date_epoch,
        target.components,
        options.invocation_id
    )
}

fn build_one(session: &Session, target: &Target, options: &Options) -> Result<Built, OpError> {
    let scope = scope(session, target, options);
    let settings = settings(session, target, options);
    if !options.fresh
        && let Some(stamp) = Stamp::if_current(&session.cache, &scope, &settings)
        && let Some(built) = from_stamp(session, stamp, &scope, options)
    {
        return Ok(built);
    }
    let mut watch = Watch::new();
    if let Some(executable) = &session.environment.executable {
        watch.path(executable);
    }
    let project = Project::open(session, target, options.lock, &mut watch)?;
    let result = build_project(session, &project, options, watch, (&scope, settings));
    // What was finished is of use to others, even when something else failed.
    let remote = project.finish_remote();
    Ok(Built { remote, ..result? })
}

/// Runs the steps of an open project and writes its artifacts.
fn build_project(
    session: &Session,
    project: &Project,
    options: &Options,
    mut watch: Watch,
    (scope, settings): (&str, String),
) -> Result<Built, OpError> {
    let (plan, execution) = execute_plan(session, project, options.fresh, false)?;
    let directory = session.environment.directory.join(&options.out);
    supply::begin(session, &plan, &directory)?;
    let made = outputs::write(session, project, (&plan, &execution.outputs), options)
        .map_err(|error| session.mend(&execution.outputs, error))?;
    plan.artifacts.iter().for_each(|artifact| watch.output(&directory.join(&artifact.file_name)));
    plan.release.iter().for_each(|release| watch.release(&directory.join(&release.directory_name)));
    note_missing_release(session, project, &plan);
    let inputs = (project, &plan, &execution.outputs);
    let documents = supply::write(session, inputs, &made.artifacts, &directory, options)?;
    supply::names(&documents).for_each(|name| watch.output(&directory.join(name)));
    let ran = execution.decisions.iter().filter(|(_, reason)| reason.is_some()).count();
    let built = Built {
        name: plan.image.name.clone(),
        version: plan.image.version.clone(),
        arch: plan.image.arch,
        artifacts: made.artifacts,
        documents,
        checksums: project.manifest().outputs.checksums,
        fresh: false,
        ran,
        steps: plan.steps.len(),
        usage: made.usage,
        remote: None,
    };
    if let Some(stamp) = watch.finish(settings, built.clone()) {
        // Without a stamp the next build looks closer.
        let _ = stamp.save(&session.cache, scope);
    }
    Ok(built)
}

/// Says why there is no release, unless the formats were stated.
fn note_missing_release(session: &Session, project: &Project, plan: &Plan) {
    let name = &plan.image.name;
    match (&plan.release, project.manifest().update.is_enabled()) {
        (None, false) if project.manifest().outputs.formats.is_empty() => session
            .reporter
            .note(&format!("{name}: no `update.keys`: the node takes no updates, and no release is written")),
        _ => {}
    }
}

fn from_stamp(session: &Session, mut stamp: Stamp, scope: &str, options: &Options) -> Option<Built> {
    let mut hashed = false;
    for artifact in &mut stamp.built.artifacts {
        // The path as this user would write it: another directory may have been the working directory then.
        artifact.path = options.out.join(artifact.path.file_name().unwrap_or_default());
        let path = session.environment.directory.join(&artifact.path);
        if !artifact.files.is_empty() {
            // It may have been signed since.
            *artifact = release::listed(&path, &artifact.path).ok()?;
            continue;
        }
        if options.hash && artifact.sha256.is_none() {
            artifact.sha256 = Some(hash(&path).ok()?);
            hashed = true;
        }
    }
    if hashed {
        let _ = stamp.save(&session.cache, scope);
    }
    let mut built = stamp.built;
    for document in &mut built.documents {
        document.path = options.out.join(document.path.file_name().unwrap_or_default());
    }
    if !(options.hash || built.checksums) {
        let files = built.artifacts.iter_mut().filter(|artifact| artifact.files.is_empty());
        files.for_each(|artifact| artifact.sha256 = None);
    }
    Some(Built { fresh: true, ran: 0, ..built })
}

/// Returns the SHA-256 of the file at `path`.
pub(in crate::ops) fn hash(path: &Path) -> Result<Digest, OpError> {
    use std::io::Write as _;

    use crate::effects::fs::Context;
    let mut hasher = ksos_formats::digest::Hasher::new();
    let file = fs::open(path)?;
    let size = file.metadata().context("stat", path)?.len();
    crate::artifact::sparse::bytes(&file, size, &mut |bytes| hasher.write_all(bytes)).context("read", path)?;
    Ok(hasher.finish())
}

fn sizes(path: &Path) -> Result<(u64, u64), OpError> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.size(), metadata.blocks() * 512))
}

fn execute_plan(
    session: &Session,
    project: &Project,
    fresh: bool,
    dry_run: bool,
) -> Result<(Plan, Execution), OpError> {
    let plan = project.plan();
    let broken = plan::check::check(&plan);
    if !broken.is_empty() {
        return Err(OpError::Plan { broken });
    }
    project.open_remote(session)?;
    let last = History::load(&session.cache, &project.history_scope());
    let executor = Executor::new(session, project, &plan, fresh);
    let needed = if dry_run { BTreeSet::new() } else { remote::needed(&plan, project) };
    let options = graph::Options { jobs: session.jobs, downloads: 8, fresh, dry_run, needed };
    let execution = run_steps(session, &executor, &plan.steps, &last, &options)?;
    let _ = project.from_remote.set(execution.elsewhere.iter().cloned().collect());
    if !dry_run {
        let _ = execution.history.save(&session.cache, &project.history_scope());
    }
    Ok((plan, execution))
}

/// Runs steps, again where what stood in the way is gone.
fn run_steps(
    session: &Session,
    executor: &Executor<'_>,
    steps: &[graph::Step],
    last: &History,
    options: &graph::Options,
) -> Result<Execution, OpError> {
    let mut mended = 0;
    loop {
        match graph::execute(&session.cache, steps, last, executor, options) {
            // The step's own result is recorded now, so that this ends.
            Err(graph::GraphError::Diverged { step }) => {
                session.reporter.note(&format!("warning: {step} gives something else here than in the remote cache"));
            }
            // What was damaged is gone: it is made or fetched again.
            Err(graph::GraphError::Steps(failures)) if mended < MENDINGS && note_damage(session, &failures) => {
                mended += 1;
            }
            result => return Ok(result?),
        }
    }
}

/// Says that steps failed because of damage in the cache, if they did.
fn note_damage(session: &Session, failures: &[(String, OpError)]) -> bool {
    let Some((_, error)) = failures.iter().find(|(_, error)| matches!(error, OpError::Damaged { .. })) else {
        return false;
    };
    session.reporter.note(&format!("warning: {error}; made or fetched again"));
    true
}

/// Returns the plan of every target.
///
/// # Errors
/// [`OpError`].
pub fn plan(session: &Session, targets: &[Target], lock: LockMode) -> Result<Vec<Plan>, OpError> {
    let mut plans = Vec::new();
    for target in targets {
        plans.push(Project::open(session, target, lock, &mut Watch::new())?.plan());
    }
    Ok(plans)
}

/// Why each step of a build would run.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// Image name.
    pub name: String,
    /// Architecture.
    pub arch: Arch,
    /// Step, and reason; no reason for what would not run.
    pub steps: Vec<(String, Option<Reason>)>,
    /// Output, and reason; no reason for what would not be written.
    pub outputs: Vec<(String, Option<Reason>)>,
    /// The steps that would not run because what they give is known: it is in the remote cache, or is not
    /// needed.
    pub remote: BTreeSet<String>,
}

/// Says for every target why its steps would run.
///
/// # Errors
/// [`OpError`].
pub fn explain(session: &Session, targets: &[Target], lock: LockMode, out: &Path) -> Result<Vec<Explanation>, OpError> {
    let mut explanations = Vec::new();
    for target in targets {
        let project = Project::open(session, target, lock, &mut Watch::new())?;
        let (plan, execution) = execute_plan(session, &project, false, true)?;
        let Execution { decisions, elsewhere, outputs, .. } = execution;
        let stale = decisions.iter().find(|(_, reason)| reason.is_some()).map(|(name, _)| name.clone());
        let made = (&plan, &outputs, stale.as_deref());
        let outputs = outputs::explain(session, &project, made, &session.environment.directory.join(out))?;
        let (name, arch) = (plan.image.name, plan.image.arch);
        explanations.push(Explanation { name, arch, steps: decisions, outputs, remote: elsewhere });
    }
    Ok(explanations)
}

/// What a fetch brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fetched {
    /// Image name.
    pub name: String,
    /// Downloads in all.
    pub downloads: usize,
    /// Of these, the ones that the cache had.
    pub cached: usize,
    /// Bytes of all downloads.
    pub bytes: u64,
}

/// Downloads every component of every target.
///
/// # Errors
/// [`OpError`].
pub fn fetch(session: &Session, targets: &[Target], lock: LockMode) -> Result<Vec<Fetched>, OpError> {
    let mut results = Vec::new();
    for target in targets {
        let project = Project::open(session, target, lock, &mut Watch::new())?;
        let mut plan = project.plan();
        plan.steps.retain(|step| step.pool == graph::Pool::Network);
        project.open_remote(session)?;
        let executor = Executor::new(session, &project, &plan, false);
        let needed = plan.steps.iter().map(|step| step.name.clone()).collect();
        let options = graph::Options { jobs: session.jobs, downloads: 8, fresh: false, dry_run: false, needed };
        let execution = run_steps(session, &executor, &plan.steps, &History::default(), &options)?;
        for component in project.components.values() {
            if let plan::Resolved::Program(program) = &component.content {
                executor.prefetch(program)?;
            }
        }
        project.finish_remote();
        results.push(Fetched {
            name: plan.image.name.clone(),
            downloads: execution.outputs.len(),
            cached: execution.decisions.iter().filter(|(_, reason)| reason.is_none()).count()
                - execution.elsewhere.len(),
            bytes: execution.outputs.values().flat_map(|outputs| outputs.values()).map(|blob| blob.size).sum(),
        });
    }
    Ok(results)
}
