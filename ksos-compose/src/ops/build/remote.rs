//! The remote cache of a project: what manifest and command line say of it, and what the executor asks it.

use std::collections::BTreeSet;
use std::sync::Arc;

use ksos_formats::update::keys::KeySet;

use super::execute::Executor;
use super::resolve::Project;
use super::stamp::Watch;
use crate::cache::Blob;
use crate::effects::fs;
use crate::effects::net::ProxyVariables;
use crate::graph::{self, Description, Input, Outputs, Step};
use crate::manifest::keys::{KEY_FILE_LIMIT, KeyFile, KeyFileError, key_set};
use crate::manifest::{CacheMode, CacheSettings};
use crate::ops::session::{NO_REMOTE, RemoteOptions};
use crate::ops::{LockMode, OpError, Session, Target};
use crate::plan::{Plan, SYSTEM_IMAGE, Task};
use crate::registry::{Location, RegistryError};
use crate::remote::{Remote, RemoteUse, Settings, Surroundings, Upload};
use crate::sign::{self, KeySource};
use crate::source::oci::Registries;

/// The remote cache of a project that has one.
#[derive(Debug)]
pub(super) struct Shared {
    /// It; none when it does not answer, or must not be asked. What a step gave is known from earlier builds then, and
    /// made again only when something needs it.
    remote: Option<Arc<Remote>>,
}

/// Opens the remote cache of a project, when it has one. One that does not answer is told; under `--offline` none is
/// asked.
///
/// # Errors
/// When what is said of it cannot be used.
fn open(session: &Session, project: &Project) -> Result<Option<Shared>, OpError> {
    let Some(settings) = settings(session, &project.manifest().cache)? else { return Ok(None) };
    if project.offline {
        return Ok(Some(Shared { remote: None }));
    }
    let name = format!("{}/{}", settings.place.registry, settings.place.repository);
    match Remote::open(settings, surroundings(session)) {
        Ok(remote) => {
            tell(session, &remote);
            Ok(Some(Shared { remote: Some(remote) }))
        }
        Err(error) => {
            let text = error.to_string().replace('\n', " ");
            session.reporter.note(&format!("warning: remote cache {name} is not used: {text}"));
            Ok(Some(Shared { remote: None }))
        }
    }
}

/// Opens the remote cache of a project, to write to it.
///
/// # Errors
/// When there is none, or it does not answer.
pub fn open_to_write(session: &Session, project: &Project) -> Result<Arc<Remote>, OpError> {
    let settings = settings(session, &project.manifest().cache)?.ok_or(OpError::NoRemoteCache)?;
    let settings = Settings { mode: CacheMode::ReadWrite, ..settings };
    let remote = Remote::open(settings, surroundings(session))?;
    tell(session, &remote);
    Ok(remote)
}

/// Says of a remote cache that answers what a user may not expect.
fn tell(session: &Session, remote: &Remote) {
    let keys = (!remote.trusts()).then_some("no key is trusted; only downloads whose digest the lock has come from it");
    let unsigned = (remote.writes() && !remote.signs()).then_some("nothing signs; only downloads are written to it");
    for remark in keys.into_iter().chain(unsigned) {
        session.reporter.note(&format!("remote cache {}: {remark}", remote.name()));
    }
}

fn surroundings(session: &Session) -> Surroundings {
    let lookup = |name: &str| session.environment.variable(name).map(str::to_owned);
    let reporter = session.reporter.clone();
    Surroundings {
        cache: session.cache.clone(),
        proxy: ProxyVariables::from_lookup(lookup),
        registries: Registries::new(lookup),
        progress: session.progress.clone(),
        tell: Arc::new(move |text| reporter.note(text)),
    }
}

/// Puts together what the command line and the manifest say; the command line wins.
fn settings(session: &Session, manifest: &CacheSettings) -> Result<Option<Settings>, OpError> {
    let RemoteOptions { remote, mode, keys, sign_key } = &session.remote;
    let Some(text) = remote.as_ref().or(manifest.remote.as_ref()).filter(|text| *text != NO_REMOTE) else {
        return Ok(None);
    };
    let wrong = |reason: &str| RegistryError::Place { text: text.clone(), reason: reason.to_owned() };
    let location = Location::parse(text).ok_or_else(|| wrong("it does not begin with oci://"))??;
    if location.reference().is_some() {
        return Err(wrong("a remote cache has no tag and no digest").into());
    }
    let directory = &session.environment.directory;
    let files: Vec<_> = match keys.is_empty() {
        true => manifest.keys.iter().map(|path| path.path().to_owned()).collect(),
        false => keys.iter().map(|path| directory.join(path)).collect(),
    };
    let mut read = Vec::new();
    for path in &files {
        let wrong = |source: KeyFileError| OpError::UpdateKey { path: path.clone(), source };
        read.push(KeyFile::parse(&fs::read(path, KEY_FILE_LIMIT)?).map_err(wrong)?);
    }
    let mut trusted = Vec::new();
    if let Some(path) = files.first() {
        let wrong = |source: KeyFileError| OpError::UpdateKey { path: path.clone(), source };
        trusted.push(key_set(read, None).map_err(|source| wrong(source.into()))?);
    }
    let surroundings = sign::Surroundings { variables: &session.environment.variables, directory };
    // The command of a key service does not say its public key: the first of those that are trusted is it.
    let public_keys = match sign_key {
        Some(KeySource::Command(_)) => &files[..files.len().min(1)],
        _ => &[],
    };
    let opened = sign::open(sign_key.as_slice(), public_keys, surroundings)?.pop();
    if let Some(opened) = &opened {
        opened.warning.iter().for_each(|warning| session.reporter.note(warning));
        // Whoever signs believes itself.
        trusted.extend(KeySet::new(vec![*opened.signer.public_key()], 1));
    }
    Ok(Some(Settings {
        place: location.place,
        mode: mode.unwrap_or(manifest.mode),
        trusted,
        signer: opened.map(|opened| opened.signer),
        valid_for: manifest.valid_for.map(|time| time.milliseconds / 1000),
    }))
}

/// Returns the steps whose outputs the artifacts are written from; whoever else reads outputs asks
/// [`Executor::component_tree`], or for a step by [`Executor::here`].
pub fn needed(plan: &Plan, project: &Project) -> BTreeSet<String> {
    let manifest = project.manifest();
    let boot = &manifest.boot;
    let loaders = [Some(&boot.shim), Some(&boot.grub), boot.bios.as_ref()].into_iter().flatten();
    let loaders = loaders.map(|file| &file.component);
    let parts = loaders.chain([&manifest.kernel.component]).chain(&boot.files);
    let inputs = parts.filter_map(|name| plan.parts.get(name)).flat_map(|(_, inputs)| inputs.values());
    let steps = inputs.filter_map(|input| match input {
        Input::Output { step, .. } => Some(step.clone()),
        Input::Digest(_) => None,
    });
    let written = ["kernel", "root", "initramfs-base", "initramfs", SYSTEM_IMAGE].map(str::to_owned);
    steps.chain(written).collect()
}

/// Returns the steps that the bills of materials are written from, beside [`needed`]: packages state their licences. A
/// build asks for them when it does not know what they state; who is to build without the network has them before.
fn described(plan: &Plan, project: &Project) -> Vec<String> {
    if project.manifest().outputs.sbom.is_empty() && !project.manifest().outputs.checksums {
        return Vec::new();
    }
    let inputs = plan.parts.values().flat_map(|(_, inputs)| inputs.values());
    let steps = inputs.filter_map(|input| match input {
        Input::Output { step, .. } => Some(step.clone()),
        Input::Digest(_) => None,
    });
    steps.collect()
}

/// What was moved between a cache and a remote one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Image name.
    pub name: String,
    /// Steps of its build.
    pub steps: usize,
    /// Of these, the ones that neither cache has.
    pub missing: usize,
    /// What was done.
    pub remote: RemoteUse,
}

/// Writes what the cache has of every target's build to the remote cache.
///
/// # Errors
/// When there is none, it does not answer, or something could not be written.
pub fn push_cache(session: &Session, targets: &[Target], lock: LockMode) -> Result<Vec<Moved>, OpError> {
    each(session, targets, lock, |project, plan| {
        let remote = open_to_write(session, project)?;
        let local = decide(session, project, plan, BTreeSet::new())?;
        let executor = Executor::new(session, project, plan, false);
        for step in &plan.steps {
            if let (Some(description), Some(outputs)) =
                (local.history.steps.get(&step.name), local.outputs.get(&step.name))
            {
                remote.write(executor.upload(step, description, outputs));
            }
        }
        let done = remote.finish();
        match done.unwritten {
            0 => Ok((local, done)),
            steps => Err(OpError::Unwritten { steps, place: done.place }),
        }
    })
}

/// Brings what every target's build would take from the remote cache into the cache.
///
/// # Errors
/// When there is none, or it does not answer.
pub fn pull_cache(session: &Session, targets: &[Target], lock: LockMode) -> Result<Vec<Moved>, OpError> {
    each(session, targets, lock, |project, plan| {
        // A build goes on without it; this has nothing else to do.
        let settings = settings(session, &project.manifest().cache)?.ok_or(OpError::NoRemoteCache)?;
        let remote = Remote::open(settings, surroundings(session))?;
        tell(session, &remote);
        let _ = project.remote.set(Some(Shared { remote: Some(remote) }));
        let Some(remote) = project.remote() else { return Err(OpError::NoRemoteCache) };
        let mut wanted = needed(plan, project);
        wanted.extend(described(plan, project));
        let found = decide(session, project, plan, wanted)?;
        Ok((found, remote.finish()))
    })
}

fn each(
    session: &Session,
    targets: &[Target],
    lock: LockMode,
    work: impl Fn(&Project, &Plan) -> Result<(graph::Execution, RemoteUse), OpError>,
) -> Result<Vec<Moved>, OpError> {
    let mut moved = Vec::new();
    for target in targets {
        let project = Project::open(session, target, lock, &mut Watch::new())?;
        let plan = project.plan();
        let (found, mut remote) = work(&project, &plan)?;
        remote.steps = found.elsewhere.into_iter().collect();
        let missing = found.decisions.iter().filter(|(_, reason)| reason.is_some()).count();
        moved.push(Moved { name: plan.image.name, steps: plan.steps.len(), missing, remote });
    }
    Ok(moved)
}

/// Decides on every step and runs none.
fn decide(
    session: &Session,
    project: &Project,
    plan: &Plan,
    needed: BTreeSet<String>,
) -> Result<graph::Execution, OpError> {
    let last = graph::History::load(&session.cache, &project.history_scope());
    let executor = Executor::new(session, project, plan, false);
    let options = graph::Options { jobs: session.jobs, downloads: 8, fresh: false, dry_run: true, needed };
    Ok(graph::execute(&session.cache, &plan.steps, &last, &executor, &options)?)
}

impl Project {
    /// Returns the remote cache, when there is one that answers.
    pub(super) fn remote(&self) -> Option<&Arc<Remote>> {
        self.remote.get()?.as_ref()?.remote.as_ref()
    }

    /// Whether outputs may be known without being here.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self.remote.get(), Some(Some(_)))
    }

    /// Opens the remote cache, unless that was done.
    pub(super) fn open_remote(&self, session: &Session) -> Result<(), OpError> {
        if self.remote.get().is_none() {
            let _ = self.remote.set(open(session, self)?);
        }
        Ok(())
    }

    /// Waits until all is written to the remote cache; says what it did.
    pub(super) fn finish_remote(&self) -> Option<RemoteUse> {
        let mut done = self.remote()?.finish();
        done.steps = self.from_remote.get().cloned().unwrap_or_default();
        Some(done)
    }
}

impl Executor<'_> {
    /// What the lock says of a download.
    fn locked_download(&self, step: &Step) -> Option<(ksos_formats::Digest, u64)> {
        match self.plan.tasks.get(&step.name)? {
            Task::Fetch(download) => Some((download.sha256, download.size?)),
            Task::FetchImageBlob { blob, .. } => Some((blob.digest, blob.size)),
            _ => None,
        }
    }

    /// See [`graph::Execute::elsewhere`]. A download is known by the lock: it is asked for only when a step needs it.
    pub(super) fn known_elsewhere(&self, step: &Step, description: &Description) -> Option<Outputs> {
        if !self.project.is_shared() {
            return None;
        }
        if let Some((digest, size)) = self.locked_download(step) {
            let blob = Blob { digest, size, path: self.cache.blob_path(&digest) };
            return Some([("blob".to_owned(), blob)].into());
        }
        let known = graph::known(self.cache, &description.key());
        match self.project.remote() {
            Some(remote) => remote.look_up(&step.name, description, known),
            None => known,
        }
    }

    /// See [`graph::Execute::bring`].
    pub(super) fn bring_here(&self, step: &Step, description: &Description, outputs: &Outputs) -> bool {
        let Some(remote) = self.project.remote() else { return false };
        match self.locked_download(step) {
            Some((digest, size)) => remote.bring_known(&step.name, digest, size),
            None => remote.bring(&step.name, description, outputs),
        }
    }

    /// See [`graph::Execute::made`].
    pub(super) fn write_elsewhere(&self, step: &Step, description: &Description, outputs: &Outputs) {
        if let Some(remote) = self.project.remote() {
            remote.write(self.upload(step, description, outputs));
        }
    }

    /// Returns what is written of a step.
    pub(super) fn upload(&self, step: &Step, description: &Description, outputs: &Outputs) -> Upload {
        Upload {
            step: step.name.clone(),
            description: description.clone(),
            outputs: outputs.clone(),
            download: self.locked_download(step).is_some(),
        }
    }

    /// Makes sure that the outputs of a finished step are in the cache: they may have stayed in the remote one.
    ///
    /// # Errors
    /// [`OpError::RemoteLost`].
    pub fn here(&self, step: &str, outputs: &Outputs) -> Result<(), OpError> {
        if outputs.values().all(|blob| self.cache.blob(&blob.digest, Some(blob.size)).is_some()) {
            return Ok(());
        }
        let lost = || OpError::RemoteLost { step: step.to_owned() };
        let planned = self.plan.steps.iter().find(|planned| planned.name == step).ok_or_else(lost)?;
        let brought = match (self.project.remote(), self.locked_download(planned)) {
            (Some(remote), Some((digest, size))) => remote.bring_known(step, digest, size),
            (Some(remote), None) => remote.bring_again(step, outputs),
            (None, _) => false,
        };
        if brought { Ok(()) } else { Err(lost()) }
    }
}
