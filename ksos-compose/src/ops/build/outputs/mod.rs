//! What a build writes: every format of the plan, each by one function from the finished disk image or from what the
//! steps gave.
//!
//! A file that is there as an earlier build left it ([`record`]), from the same image, is not written again. The others
//! are made side by side in a directory of their own beside the artifacts, `.NAME-VERSION-ARCH.tmp`, and renamed when
//! they are whole: a killed build leaves that directory, which the next one removes, and no half artifact. One build at
//! a time writes an image into a directory.
//!
//! To add a format: [`make`], and what it is made from in [`needs_disk`].

pub mod image_layout;
mod iso;
mod record;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ksos_formats::update::Blob;

use super::{Artifact, Options, Project, disk, hash, release, sizes};
use crate::artifact::{qcow2, vhd, vmdk, zst};
use crate::effects::fs::{self, Context};
use crate::graph::{self, Reason};
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
    /// The disk image compressed, as soon as one output needed it.
    compressed: Mutex<Option<Blob>>,
    /// A directory for files that go when every output is made.
    work: &'a Path,
}

impl Source<'_> {
    /// Returns the raw disk image.
    fn disk(&self) -> (&Path, &disk::Written) {
        self.disk.expect("it is made when an output needs it")
    }

    /// Opens the raw disk image, and returns its size in bytes, too.
    fn open_disk(&self) -> Result<(File, u64), OpError> {
        let (path, _) = self.disk();
        let file = fs::open(path)?;
        let size = file.metadata().context("stat", path)?.len();
        Ok((file, size))
    }

    /// Compresses the disk image, unless it was; one that asks meanwhile waits.
    fn compressed(&self) -> Result<(PathBuf, Blob), OpError> {
        let path = self.work.join("disk.zst");
        let mut compressed = self.compressed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(blob) = *compressed {
            return Ok((path, blob));
        }
        let (disk, size) = self.open_disk()?;
        let mut target = fs::create_new(&path)?;
        zst::write(&disk, size, &mut target, self.session.jobs).context("write", &path)?;
        let blob = Blob { size: target.metadata().context("stat", &path)?.len(), sha256: hash(&path)? };
        *compressed = Some(blob);
        Ok((path, blob))
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
    let id = *source.plan.disk.guid.as_bytes();
    let disk = || source.open_disk();
    match format {
        // Written before the others, which are made from it.
        OutputFormat::Disk => Ok(()),
        // Written as a directory, by `release`.
        OutputFormat::Update => Ok(()),
        OutputFormat::Iso => iso::write(source, path),
        OutputFormat::DiskZst => Ok(fs::link(&source.compressed()?.0, path)?),
        OutputFormat::OciImage => image_layout::write_image(source, path),
        OutputFormat::OciArtifact => image_layout::write_artifact(source, path),
        OutputFormat::Qcow2 => {
            let (disk, size) = disk()?;
            Ok(qcow2::write(&disk, size, &fs::create_new(path)?).context("write", path)?)
        }
        OutputFormat::Vhd => {
            let (disk, size) = disk()?;
            let identity = vhd::Identity { id, epoch: source.plan.image.epoch };
            Ok(vhd::write(&disk, size, identity, &fs::create_new(path)?).context("write", path)?)
        }
        OutputFormat::Vmdk => {
            let (disk, size) = disk()?;
            let content_id = u32::from_be_bytes([id[0], id[1], id[2], id[3]]);
            let identity = vmdk::Identity { file_name, content_id };
            let mut target = BufWriter::with_capacity(1 << 20, fs::create_new(path)?);
            vmdk::write(&disk, size, &identity, &mut target, source.session.jobs).context("write", path)?;
            Ok(target.flush().context("write", path)?)
        }
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
    let hashed = options.hash || project.manifest().outputs.checksums;
    let listed = side_by_side(&plan.artifacts, |planned| listed(&directory, planned, options, hashed));
    let mut artifacts = listed.into_iter().collect::<Result<Vec<_>, _>>()?;
    if let Some(planned) = &plan.release {
        let name = &planned.directory_name;
        artifacts.push(release::listed(&directory.join(name), &options.out.join(name))?);
    }
    let usage = record.written.map(|written| written.usage).unwrap_or_default();
    Ok(Made { artifacts, usage })
}

/// Says why each output of `plan` would be written to `directory`. A stale step is one that would run before.
///
/// # Errors
/// When the program cannot be read.
pub fn explain(
    session: &Session,
    project: &Project,
    (plan, steps, stale_step): (&Plan, &BTreeMap<String, graph::Outputs>, Option<&str>),
    directory: &Path,
) -> Result<Vec<(String, Option<Reason>)>, OpError> {
    let record = Record::load(&session.cache, directory, &plan.stem());
    let whole = match (&record, stale_step) {
        (None, _) => Some(Reason::New),
        // What it gives is not known yet.
        (Some(_), Some(step)) => Some(Reason::Input { name: step.to_owned(), old: None, new: None }),
        (Some(record), None) => {
            let key = record::key(session, project, plan, steps)?;
            let changed = Reason::Input { name: "image".to_owned(), old: Some(record.key), new: Some(key) };
            (record.key != key).then_some(changed)
        }
    };
    let reason = |planned: &PlannedArtifact| match (&whole, &record) {
        (None, Some(record)) if !record.has(&planned.file_name) => Some(Reason::New),
        (None, Some(record)) if !record.is_current(directory, &planned.file_name) => Some(Reason::FileChanged),
        _ => whole.clone(),
    };
    Ok(all(plan).map(|planned| (format!("write {}", planned.file_name), reason(&planned))).collect())
}

/// Returns every output; the release, too.
fn all(plan: &Plan) -> impl Iterator<Item = PlannedArtifact> {
    let release = plan
        .release
        .iter()
        .map(|release| PlannedArtifact { format: OutputFormat::Update, file_name: release.directory_name.clone() });
    plan.artifacts.iter().cloned().chain(release)
}

fn listed(directory: &Path, planned: &PlannedArtifact, options: &Options, hashed: bool) -> Result<Artifact, OpError> {
    let path = directory.join(&planned.file_name);
    let (size, allocated) = sizes(&path)?;
    Ok(Artifact {
        format: planned.format.name().to_owned(),
        // The path as the user would write it.
        path: options.out.join(&planned.file_name),
        size,
        allocated,
        sha256: hashed.then(|| hash(&path)).transpose()?,
        files: Vec::new(),
        platforms: Vec::new(),
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
    /// Returns what must be written.
    fn stale(&self, record: &Record) -> Vec<PlannedArtifact> {
        all(self.plan).filter(|planned| !record.is_current(self.directory, &planned.file_name)).collect()
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
            compressed: Mutex::new(None),
            work: &work.path,
        };
        let others: Vec<&PlannedArtifact> =
            wanted.iter().filter(|planned| planned.format != OutputFormat::Disk).collect();
        let results = side_by_side(&others, |planned| self.output(&source, planned, &work));
        // A file that loses its second name has other stat data.
        drop(work);
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
