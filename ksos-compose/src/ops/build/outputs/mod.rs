//! What a build writes: every format of the plan, each by one function from the finished disk image or from what the
//! steps gave.
//!
//! A file that is there as an earlier build left it ([`record`]), from the same image, is not written again. The others
//! are made side by side in a directory of their own beside the artifacts, `.NAME-VERSION-ARCH.tmp`, and renamed when
//! they are whole: a killed build leaves that directory, which the next one removes, and no half artifact. One build at
//! a time writes an image into a directory.
//!
//! To add a format: [`make`], and what it is made from in [`needs_disk`].

mod record;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Artifact, Options, Project, disk, hash, release, sizes};
use crate::effects::fs;
use crate::graph;
use crate::manifest::OutputFormat;
use crate::ops::{OpError, Session};
use crate::plan::{Plan, PlannedArtifact};
use record::Record;

/// Version of the writers, part of what an earlier build's files are known by: raised when one writes other bytes.
const VERSION: u32 = 1;

/// What an output is made from.
pub struct Source<'a> {
    /// The session.
    pub session: &'a Session,
    /// The project.
    pub project: &'a Project,
    /// The plan.
    pub plan: &'a Plan,
    /// What the steps gave, by step and output.
    pub steps: &'a BTreeMap<String, graph::Outputs>,
    /// The raw disk image, finished, and what is in it; `None` when no output [`needs_disk`].
    pub disk: Option<(&'a Path, &'a disk::Written)>,
}

impl Source<'_> {
    /// Returns the raw disk image.
    fn disk(&self) -> (&Path, &disk::Written) {
        self.disk.expect("it is made when an output needs it")
    }
}

/// What the outputs are.
pub struct Made {
    /// Every artifact of the plan.
    pub artifacts: Vec<Artifact>,
    /// How full slot and ESP are; empty when no disk was asked for.
    pub usage: Vec<disk::Usage>,
}

/// Whether `format` is made from the raw disk image.
fn needs_disk(format: OutputFormat) -> bool {
    match format {
        OutputFormat::OciImage => false,
        OutputFormat::Disk
        | OutputFormat::DiskZst
        | OutputFormat::Iso
        | OutputFormat::OciArtifact
        | OutputFormat::Qcow2
        | OutputFormat::Vmdk
        | OutputFormat::Vhd
        | OutputFormat::Update => true,
    }
}

/// Makes one output as the new file `path`.
fn make(source: &Source<'_>, planned: &PlannedArtifact, path: &Path) -> Result<(), OpError> {
    let PlannedArtifact { format, file_name } = planned;
    let _ = (source.disk(), path);
    let none = |reason| Err(OpError::NoWriter { file_name: file_name.clone(), format: *format, reason });
    match format {
        // Written before the others, which are made from it.
        OutputFormat::Disk => Ok(()),
        // Written as a directory, by `release`.
        OutputFormat::Update => Ok(()),
        // The place of the ISO writer.
        OutputFormat::Iso => none("there is no writer for it"),
        OutputFormat::DiskZst
        | OutputFormat::OciImage
        | OutputFormat::OciArtifact
        | OutputFormat::Qcow2
        | OutputFormat::Vmdk
        | OutputFormat::Vhd => none("there is no writer for it yet"),
    }
}

/// Writes every output of `plan` that is not there as it should be, and lists them all.
///
/// # Errors
/// When one cannot be made; those that were finished before it stay.
pub fn write(
    session: &Session,
    project: &Project,
    (plan, steps): (&Plan, &BTreeMap<String, graph::Outputs>),
    options: &Options,
) -> Result<Made, OpError> {
    let directory = session.environment.directory.join(&options.out);
    let stem = plan.stem();
    let _exclusive = session.cache.exclusive(&directory.join(&stem))?;
    let key = record::key(session, project, plan, steps)?;
    let mut record = Record::load(&session.cache, &directory, &stem).filter(|record| record.key == key);
    if options.fresh {
        record = None;
    }
    let mut record = record.unwrap_or_else(|| Record::new(key));
    let job = Job { session, project, plan, steps, directory: &directory };
    let made = job.stale(&record);
    if !made.is_empty() {
        let result = job.run(&made, &mut record);
        // What was finished is known to the next build, whatever became of the rest.
        let _ = record.save(&session.cache, &directory, &stem);
        result?;
    }
    let mut artifacts = Vec::new();
    for planned in &plan.artifacts {
        artifacts.push(listed(&directory, planned, options)?);
    }
    if let Some(planned) = &plan.release {
        let name = &planned.directory_name;
        artifacts.push(release::listed(&directory.join(name), &options.out.join(name))?);
    }
    let usage = record.written.map(|written| written.usage).unwrap_or_default();
    Ok(Made { artifacts, usage })
}

fn listed(directory: &Path, planned: &PlannedArtifact, options: &Options) -> Result<Artifact, OpError> {
    let path = directory.join(&planned.file_name);
    let (size, allocated) = sizes(&path)?;
    Ok(Artifact {
        format: planned.format.name().to_owned(),
        // The path as the user would write it.
        path: options.out.join(&planned.file_name),
        size,
        allocated,
        sha256: options.hash.then(|| hash(&path)).transpose()?,
        files: Vec::new(),
    })
}

/// The outputs of one image.
struct Job<'a> {
    session: &'a Session,
    project: &'a Project,
    plan: &'a Plan,
    steps: &'a BTreeMap<String, graph::Outputs>,
    directory: &'a Path,
}

impl Job<'_> {
    /// Returns what must be written; the release, too.
    fn stale(&self, record: &Record) -> Vec<PlannedArtifact> {
        let Plan { artifacts, release, .. } = self.plan;
        let release = release
            .iter()
            .map(|release| PlannedArtifact { format: OutputFormat::Update, file_name: release.directory_name.clone() });
        let all = artifacts.iter().cloned().chain(release);
        all.filter(|planned| !record.is_current(self.directory, &planned.file_name)).collect()
    }

    /// Writes `wanted`, and keeps in `record` what is done.
    fn run(&self, wanted: &[PlannedArtifact], record: &mut Record) -> Result<(), OpError> {
        let work = Work::create(self.directory, &self.plan.stem())?;
        let disk = match wanted.iter().any(|planned| needs_disk(planned.format)) {
            true => Some(self.disk(wanted, record, &work)?),
            false => None,
        };
        let written = record.written.clone();
        let source = Source {
            session: self.session,
            project: self.project,
            plan: self.plan,
            steps: self.steps,
            disk: disk.as_deref().zip(written.as_ref()),
        };
        let others: Vec<&PlannedArtifact> =
            wanted.iter().filter(|planned| planned.format != OutputFormat::Disk).collect();
        let results = side_by_side(&others, |planned| self.output(&source, planned, &work));
        let mut failure = Ok(());
        for (planned, result) in others.into_iter().zip(results) {
            match result {
                Ok(()) => record.wrote(self.directory, &planned.file_name),
                Err(error) => failure = failure.and(Err(error)),
            }
        }
        failure
    }

    /// Returns where the raw disk image is: the artifact when it is one, or a file that goes when the others are made.
    fn disk(&self, wanted: &[PlannedArtifact], record: &mut Record, work: &Work) -> Result<PathBuf, OpError> {
        let planned = self.plan.artifacts.iter().find(|planned| planned.format == OutputFormat::Disk);
        if let Some(planned) = planned
            && record.written.is_some()
            && !wanted.contains(planned)
        {
            return Ok(self.directory.join(&planned.file_name));
        }
        let temporary = work.path.join("disk");
        record.written = Some(disk::write(self.session, self.project, self.plan, self.steps, &temporary)?);
        let Some(planned) = planned else { return Ok(temporary) };
        let path = self.directory.join(&planned.file_name);
        fs::publish(&temporary, &path)?;
        record.wrote(self.directory, &planned.file_name);
        Ok(path)
    }

    fn output(&self, source: &Source<'_>, planned: &PlannedArtifact, work: &Work) -> Result<(), OpError> {
        let path = self.directory.join(&planned.file_name);
        if let (OutputFormat::Update, Some(release)) = (planned.format, &self.plan.release) {
            let (image, written) = source.disk();
            let slot = release::Source { image, slot: written.slot, kernel_release: &written.kernel_release };
            return release::write(self.session, (self.plan, release), &slot, &path);
        }
        let temporary = work.path.join(&planned.file_name);
        make(source, planned, &temporary)?;
        Ok(fs::publish(&temporary, &path)?)
    }
}

/// Runs `work` on every item, each in a thread of its own; results in the order of the items.
fn side_by_side<I: Sync, R: Send>(items: &[I], work: impl Fn(&I) -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = items.iter().map(|item| scope.spawn(|| work(item))).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

/// The directory in which outputs are made. Removed when it is dropped.
struct Work {
    path: PathBuf,
}

impl Work {
    fn create(directory: &Path, stem: &str) -> Result<Self, OpError> {
        let path = directory.join(format!(".{stem}.tmp"));
        fs::remove_tree(&path)?;
        fs::create_dir_all(&path)?;
        Ok(Work { path })
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // The next build removes what stays.
        let _ = fs::remove_tree(&self.path);
    }
}
