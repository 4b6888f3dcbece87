//! What a build writes beside its artifacts: bills of materials, provenance, and the digests of everything.
//!
//! ```text
//! begin    the lines of this image leave SHA256SUMS: whatever happens next, it never lies
//! write    NAME.spdx.json, NAME.cdx.json, NAME.intoto.json: nothing in them depends on keys or on when they are made
//! finish   NAME.provenance.json (signed), SHA256SUMS, SHA256SUMS.sig, SHA256SUMS.sigstore.json
//! ```
//!
//! `finish` comes after releases are signed, and for builds that had nothing to do, too: a key may be new, and what
//! another build has written into the same directory stays listed.

mod bom;
mod provenance;

pub(in crate::ops::build) use bom::{licences, packs};
pub use provenance::{LIMIT as STATEMENT_LIMIT, PAYLOAD_TYPE, PREDICATE_TYPE, STATEMENT_TYPE, build_type};

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use ksos_formats::Digest;
use ksos_formats::update::Envelope;

use self::provenance::Statement;
use super::execute::Executor;
use super::resolve::Project;
use super::{Artifact, Built, Options};
use crate::effects::fs;
use crate::graph::Outputs;
use crate::manifest::OutputFormat;
use crate::ops::blob_key::BlobKey;
use crate::ops::sums::{self, Line};
use crate::ops::{OpError, Session};
use crate::plan::Plan;

/// [`Artifact::format`] of the plain statement.
pub const STATEMENT: &str = "in-toto";
/// [`Artifact::format`] of the signed statement.
pub const PROVENANCE: &str = "provenance";

/// Outputs of the steps of a build.
type StepOutputs = std::collections::BTreeMap<String, Outputs>;

/// Takes what `SHA256SUMS` in `directory` says of this image out of it, before its files change.
///
/// # Errors
/// When it cannot be read or written.
pub fn begin(session: &Session, plan: &Plan, directory: &Path) -> Result<(), OpError> {
    let _exclusive = session.cache.exclusive(&directory.join(sums::FILE))?;
    fs::remove_abandoned(directory);
    let joined = plan.artifacts.iter().any(|artifact| artifact.format == OutputFormat::OciImage).then(|| {
        // What several architectures are joined to is made of this, too.
        format!("{}-{}{}", plan.image.name, plan.image.version, OutputFormat::OciImage.suffix())
    });
    sums::withdraw(directory, &plan.stem(), joined.as_deref())
}

/// Writes the documents of a build into `directory`, which users know as `options.out`; lists them.
///
/// # Errors
/// When a package cannot be read, or a file not be written.
pub fn write(
    session: &Session,
    (project, plan, outputs): (&Project, &Plan, &StepOutputs),
    artifacts: &[Artifact],
    directory: &Path,
    options: &Options,
) -> Result<Vec<Artifact>, OpError> {
    let settings = &project.manifest().outputs;
    let stem = plan.stem();
    let mut documents = Vec::new();
    let mut add = |format: &str, name: String, bytes: &[u8]| -> Result<(), OpError> {
        put(&directory.join(&name), bytes)?;
        documents.push(Artifact {
            format: format.to_owned(),
            path: options.out.join(name),
            size: bytes.len() as u64,
            allocated: bytes.len() as u64,
            sha256: Some(Digest::of(bytes)),
            files: Vec::new(),
            platforms: Vec::new(),
        });
        Ok(())
    };
    let executor = Executor::new(session, project, plan, false);
    let bom = bom::collect(session, project, plan, outputs, &executor)?;
    for format in &settings.sbom {
        add(format.name(), format!("{stem}{}", format.suffix()), &format.document(&bom))?;
    }
    if settings.checksums {
        let statement = Statement { session, project, plan, bom: &bom, invocation: options.invocation_id.as_deref() };
        add(STATEMENT, format!("{stem}.intoto.json"), &statement.document(artifacts))?;
    }
    remove_stale(directory, &stem, &documents)?;
    Ok(documents)
}

/// Returns the names of the files of documents.
pub fn names(documents: &[Artifact]) -> impl Iterator<Item = &OsStr> {
    documents.iter().filter_map(|document| document.path.file_name())
}

/// Replaces the file at `path`, unless it has these bytes.
fn put(path: &Path, bytes: &[u8]) -> Result<(), OpError> {
    if fs::read(path, bytes.len() as u64).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    Ok(fs::write_atomic(path, bytes)?)
}

/// Removes documents of an earlier build that this one does not write: they are about something else.
fn remove_stale(directory: &Path, stem: &str, documents: &[Artifact]) -> Result<(), OpError> {
    for suffix in [".spdx.json", ".cdx.json", ".intoto.json"] {
        let name = format!("{stem}{suffix}");
        if !documents.iter().any(|document| document.path.file_name().is_some_and(|other| *other == *name)) {
            fs::remove_file(&directory.join(name))?;
        }
    }
    Ok(())
}

/// Signs the provenance with `keys`, and writes `SHA256SUMS` with its signatures.
///
/// # Errors
/// When a file cannot be read or written, or a key does not sign.
pub fn finish(session: &Session, mut built: Built, keys: &[BlobKey], options: &Options) -> Result<Built, OpError> {
    let directory = session.environment.directory.join(&options.out);
    let stem = format!("{}-{}-{}", built.name, built.version, built.arch);
    let sealed = PathBuf::from(format!("{stem}.provenance.json"));
    let statement = built.documents.iter().find(|document| document.format == STATEMENT);
    match statement {
        Some(statement) => {
            let statement = directory.join(statement.path.file_name().unwrap_or_default());
            let path = directory.join(&sealed);
            if let Some(bytes) = provenance::seal(&statement, &path, keys)? {
                put(&path, &bytes)?;
                built.documents.push(Artifact {
                    format: PROVENANCE.to_owned(),
                    path: options.out.join(&sealed),
                    size: bytes.len() as u64,
                    allocated: bytes.len() as u64,
                    sha256: Some(Digest::of(&bytes)),
                    files: Vec::new(),
                    platforms: Vec::new(),
                });
            }
        }
        None => fs::remove_file(&directory.join(&sealed))?,
    }
    if !built.checksums {
        return Ok(built);
    }
    for artifact in &mut built.artifacts {
        if artifact.sha256.is_none() && artifact.files.is_empty() {
            artifact.sha256 = Some(super::hash(&session.environment.directory.join(&artifact.path))?);
        }
    }
    let _exclusive = session.cache.exclusive(&directory.join(sums::FILE))?;
    let lines = built.artifacts.iter().chain(&built.documents).flat_map(lines_of);
    sums::merge(&directory, &stem, lines.collect())?;
    for path in sums::sign(&directory, keys)? {
        session.reporter.note(&format!("{} is signed", options.out.join(path).display()));
    }
    Ok(built)
}

/// Returns where the signed form of the plain statement at `path` is; none when that is no statement by its name.
pub fn sealed_name(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?.strip_suffix(".intoto.json")?;
    Some(path.with_file_name(format!("{name}.provenance.json")))
}

/// Signs the plain statement at `statement` into the envelope at `path`; returns what was written.
///
/// # Errors
/// When a file cannot be used, or a key does not sign.
pub fn seal_to(statement: &Path, path: &Path, keys: &[BlobKey]) -> Result<Vec<PathBuf>, OpError> {
    match provenance::seal(statement, path, keys)? {
        Some(bytes) => written(path, &bytes),
        None => Ok(Vec::new()),
    }
}

/// Adds signatures to the statement in `envelope`, which is at `path`; returns what was written.
///
/// # Errors
/// As [`seal_to`].
pub fn add_signatures(path: &Path, envelope: Envelope, keys: &[BlobKey]) -> Result<Vec<PathBuf>, OpError> {
    written(path, &provenance::sign(envelope, keys)?.to_json())
}

fn written(path: &Path, bytes: &[u8]) -> Result<Vec<PathBuf>, OpError> {
    if fs::read(path, bytes.len() as u64).is_ok_and(|old| old == bytes) {
        return Ok(Vec::new());
    }
    fs::write_atomic(path, bytes)?;
    if let (Some(directory), Some(name)) = (path.parent(), path.file_name()) {
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        sums::refresh(directory, &name.to_string_lossy(), Digest::of(bytes))?;
    }
    Ok(vec![path.to_owned()])
}

/// Returns the lines of an artifact: one, or one for each of its files.
fn lines_of(artifact: &Artifact) -> Vec<Line> {
    let name = artifact.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if artifact.files.is_empty() {
        return artifact.sha256.map(|sha256| Line { sha256, name }).into_iter().collect();
    }
    let line = |file: &super::ArtifactFile| Line { sha256: file.sha256, name: format!("{name}/{}", file.name) };
    artifact.files.iter().map(line).collect()
}
