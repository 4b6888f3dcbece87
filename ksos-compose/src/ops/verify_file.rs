//! `verify` of a file: its digest in `SHA256SUMS` and in the provenance beside it, their signatures, and, of a disk image
//! or an ISO, whether what is inside belongs together as a boot checks it.
//!
//! What is wrong is a finding; that something cannot be read is an error. What is not beside the file is told, and wrong
//! only where a key was given and nothing signed by it vouches for the file.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ksos_formats::update::Envelope;
use ksos_formats::update::cosign::Key;
use ksos_formats::{Digest, layout};
use serde::Deserialize;

use super::blob_key::has_signed;
use super::build::supply::{PAYLOAD_TYPE, PREDICATE_TYPE, STATEMENT_LIMIT, STATEMENT_TYPE};
use super::verify_artifact::Findings;
use super::{OpError, Session, build, sums};
use crate::cache::Cache;
use crate::effects::fs;
use crate::image::open::{Opened, open};
use crate::image::{ImageError, SLOT_FILES, System};

/// The largest signature that is read, in bytes.
const SIGNATURE_LIMIT: u64 = 1 << 20;
/// The most documents of provenance that are looked at.
const MOST_DOCUMENTS: usize = 256;

/// Verifies the file at `path`, which the user calls `target`. Signatures count when they are by one of `keys`.
///
/// # Errors
/// What cannot be read.
pub fn verify(session: &Session, path: &Path, target: &str, keys: &[Key]) -> Result<Findings, OpError> {
    let mut findings = Findings::default();
    let sha256 = build::hash(path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let file = File { path, directory, name: &name, sha256 };
    let by_list = file.list(&mut findings, keys)?;
    let by_provenance = file.provenance(&mut findings, keys)?;
    let by_itself = file.signature(&mut findings, keys)?;
    let vouched = by_list || by_provenance || by_itself;
    match (keys.is_empty(), vouched) {
        (true, _) => {
            note(&mut findings, target, format!("sha256 {sha256}; without --key nobody's signature is checked"))
        }
        (false, true) => note(&mut findings, target, format!("sha256 {sha256}, vouched for by a signature")),
        (false, false) => fail(&mut findings, target, "nothing that is signed by the key vouches for it".to_owned()),
    }
    inside(&mut findings, &session.cache, path)?;
    Ok(findings)
}

fn note(findings: &mut Findings, what: &str, text: String) {
    findings.add(what, Ok(((), text)));
}

fn fail(findings: &mut Findings, what: &str, reason: String) {
    findings.add::<()>(what, Err(reason));
}

struct File<'a> {
    path: &'a Path,
    directory: &'a Path,
    name: &'a str,
    sha256: Digest,
}

impl File<'_> {
    /// Looks into `SHA256SUMS`; says whether it has the digest and is signed.
    fn list(&self, findings: &mut Findings, keys: &[Key]) -> Result<bool, OpError> {
        let path = self.directory.join(sums::FILE);
        let text = match fs::read_to_string(&path, sums::LIMIT) {
            Ok(text) => text,
            Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => {
                note(findings, sums::FILE, "there is none".to_owned());
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        };
        let told = sums::parse(&text).and_then(|lines| match lines.iter().find(|line| line.name == self.name) {
            Some(line) if line.sha256 == self.sha256 => Ok(((), format!("lists {} with its digest", self.name))),
            Some(line) => Err(format!("lists {} with SHA-256 {}; it has {}", self.name, line.sha256, self.sha256)),
            None => Err(format!("does not list {}", self.name)),
        });
        let listed = findings.add(sums::FILE, told).is_some();
        Ok(signed(findings, &path, sums::FILE, keys)? && listed)
    }

    /// Looks for a signature of the file itself.
    fn signature(&self, findings: &mut Findings, keys: &[Key]) -> Result<bool, OpError> {
        let there = sums::signature_paths(self.path, 0).iter().any(|path| fs::metadata(path).is_ok());
        if there { signed(findings, self.path, self.name, keys) } else { Ok(false) }
    }

    /// Looks for provenance about the file; says whether one has its digest and is signed.
    fn provenance(&self, findings: &mut Findings, keys: &[Key]) -> Result<bool, OpError> {
        let mut vouched = false;
        for document in self.documents()? {
            let name = document.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let bytes = fs::read(&document, 2 * STATEMENT_LIMIT)?;
            let envelope = Envelope::parse(&bytes).ok().filter(|envelope| envelope.payload_type == PAYLOAD_TYPE);
            let payload = envelope.as_ref().map_or(&bytes, |envelope| &envelope.payload);
            let statement = match Statement::parse(payload) {
                Ok(statement) => statement,
                Err(reason) => {
                    fail(findings, &name, reason);
                    continue;
                }
            };
            let Some(subject) = statement.subject.iter().find(|subject| subject.name == self.name) else { continue };
            let same = subject.digest.sha256.as_deref() == Some(&self.sha256.hex());
            let told = match same {
                true => Ok(((), format!("is about {} with its digest", self.name))),
                false => Err(format!("is about another {}: {}", self.name, subject.digest)),
            };
            let about = findings.add(&name, told).is_some();
            let Some(envelope) = envelope.filter(|_| !keys.is_empty()) else { continue };
            let message = envelope.message();
            let by = |key: &Key| envelope.signatures.iter().any(|one| has_signed(key, &message, &one.bytes));
            let told = told_of(keys.iter().position(by), envelope.signatures.len());
            vouched |= findings.add(&name, told).is_some() && about;
        }
        Ok(vouched)
    }

    /// Returns the documents of provenance in the directory, those that have the name of the file first.
    fn documents(&self) -> Result<Vec<PathBuf>, OpError> {
        let names = fs::list(self.directory)?.into_iter().map(|name| name.to_string_lossy().into_owned());
        let kind = |name: &String| name.ends_with(".provenance.json") || name.ends_with(".intoto.json");
        let mut names: Vec<String> = names.filter(kind).collect();
        let stem = |name: &str| name.trim_end_matches(".provenance.json").trim_end_matches(".intoto.json").to_owned();
        names.sort_by_key(|name| !self.name.starts_with(&stem(name)));
        names.truncate(MOST_DOCUMENTS);
        Ok(names.into_iter().map(|name| self.directory.join(name)).collect())
    }
}

/// Verifies the signatures beside `path`, whether plain or in a bundle.
fn signed(findings: &mut Findings, path: &Path, name: &str, keys: &[Key]) -> Result<bool, OpError> {
    if keys.is_empty() {
        return Ok(false);
    }
    let message = sums::read_signed(path)?;
    let mut looked_at = 0;
    let mut found = None;
    // As many keys as anybody signs with.
    for number in 0..16 {
        let paths = sums::signature_paths(path, number);
        let signatures: Vec<Vec<u8>> = paths.iter().filter_map(|path| signature(path)).collect();
        if signatures.is_empty() {
            break;
        }
        looked_at += 1;
        let by = |key: &Key| signatures.iter().any(|signature| has_signed(key, &message, signature));
        found = found.or_else(|| keys.iter().position(by));
    }
    if looked_at == 0 && found.is_none() {
        note(findings, name, "is not signed itself".to_owned());
        return Ok(false);
    }
    Ok(findings.add(name, told_of(found, looked_at)).is_some())
}

fn told_of(found: Option<usize>, looked_at: usize) -> Result<((), String), String> {
    match found {
        Some(key) => Ok(((), format!("signed by key {}", key + 1))),
        None if looked_at == 0 => Err("is not signed".to_owned()),
        None => Err(format!("of {looked_at} signatures none is by the key, or it is wrong")),
    }
}

/// Reads a signature: base64, or a bundle.
fn signature(path: &Path) -> Option<Vec<u8>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Bundle {
        message_signature: MessageSignature,
    }
    #[derive(Deserialize)]
    struct MessageSignature {
        signature: String,
    }
    let text = fs::read_to_string(path, SIGNATURE_LIMIT).ok()?;
    let bundle = serde_json::from_str::<Bundle>(&text).ok();
    let base64 = bundle.map_or(text, |bundle| bundle.message_signature.signature);
    STANDARD.decode(base64.trim()).ok()
}

/// A statement, as far as it says what it is about and how to build that again.
#[derive(Debug, Deserialize)]
pub struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    /// What it is about.
    pub subject: Vec<Subject>,
    predicate: serde_json::Value,
}

/// What a statement is about.
#[derive(Debug, Deserialize)]
pub struct Subject {
    /// Path below the directory of the artifacts.
    pub name: String,
    /// Its digest.
    pub digest: DigestSet,
}

/// Digests of something.
#[derive(Debug, Deserialize)]
pub struct DigestSet {
    /// SHA-256.
    pub sha256: Option<String>,
}

impl std::fmt::Display for DigestSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SHA-256 {:.80?}", self.sha256.as_deref().unwrap_or("none"))
    }
}

impl Statement {
    /// Reads a statement of provenance.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let statement: Statement =
            serde_json::from_slice(bytes).map_err(|error| format!("not an in-toto statement: {error}"))?;
        if statement.kind != STATEMENT_TYPE || statement.predicate_type != PREDICATE_TYPE {
            return Err(format!("is {:.80?} about {:.80?}, no provenance", statement.kind, statement.predicate_type));
        }
        Ok(statement)
    }

    /// Returns the manifest that it names, as whoever built has given it.
    pub fn manifest(&self) -> Option<&str> {
        self.predicate.pointer("/buildDefinition/externalParameters/manifest/path")?.as_str()
    }

    /// Returns the architecture that it names.
    pub fn arch(&self) -> Option<ksos_formats::Arch> {
        self.predicate.pointer("/buildDefinition/externalParameters/arch")?.as_str()?.parse().ok()
    }
}

/// Returns the statement beside the file at `path` that is about it.
///
/// # Errors
/// What cannot be read.
pub fn statement_about(path: &Path) -> Result<Option<Statement>, OpError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let file = File { path, directory, name: &name, sha256: Digest([0; 32]) };
    for document in file.documents()? {
        let bytes = fs::read(&document, 2 * STATEMENT_LIMIT)?;
        let payload = Envelope::parse(&bytes).map_or(bytes, |envelope| envelope.payload);
        if let Ok(statement) = Statement::parse(&payload)
            && statement.subject.iter().any(|subject| subject.name == name)
        {
            return Ok(Some(statement));
        }
    }
    Ok(None)
}

/// Checks that what is in an image belongs together.
fn inside(findings: &mut Findings, cache: &Cache, path: &Path) -> Result<(), OpError> {
    let checked = match open(cache, path) {
        Ok(Opened::Disk { disk, .. }) => {
            note(findings, "partition table", format!("{} partitions, disk {}", disk.partitions.len(), disk.guid));
            disk.partitions.iter().try_for_each(|partition| {
                let what = format!("partition {} {}", partition.number, partition.label.escape_debug());
                damage(findings, &what, System::of_slot(&disk, partition))
                    .and_then(|found| found.flatten().map_or(Ok(()), |system| check(findings, &system, &what)))
            })
        }
        Ok(Opened::Iso { iso, file, size }) => {
            let (volume, files) = (iso.volume.escape_debug(), iso.files.len());
            note(findings, "ISO 9660", format!("volume {volume}, {files} files, boots {}", iso.platforms()));
            damage(findings, "ISO 9660", System::of_iso(&iso, &file, size, path))
                .and_then(|found| found.flatten().map_or(Ok(()), |system| check(findings, &system, "ISO 9660")))
        }
        Ok(Opened::Other) => Ok(()),
        Err(error) => damage::<()>(findings, "image", Err(error)).map(|_| ()),
    };
    Ok(checked?)
}

/// An image that is damaged is a finding; one that cannot be read is an error.
fn damage<T>(findings: &mut Findings, what: &str, result: Result<T, ImageError>) -> Result<Option<T>, ImageError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error @ (ImageError::Fs(_) | ImageError::Cache(_))) => Err(error),
        Err(error) => {
            fail(findings, what, error.to_string());
            Ok(None)
        }
    }
}

/// Checks a system: every file has the digest that `image.json` says, and the root file system the root hash.
fn check(findings: &mut Findings, system: &System<'_>, what: &str) -> Result<(), ImageError> {
    let metadata = &system.metadata;
    for name in SLOT_FILES.into_iter().filter(|name| *name != layout::SLOT_METADATA) {
        let expected = match name {
            layout::SLOT_KERNEL => metadata.kernel_sha256,
            layout::SLOT_ROOT => metadata.root.sha256,
            _ => metadata.initramfs_sha256,
        };
        let what = format!("{what}: {name}");
        let Some(found) = damage(findings, &what, system.digest(name))? else { continue };
        let told = match found {
            None => Err("is missing".to_owned()),
            Some(file) if file.sha256 == expected => Ok(((), "has the digest that image.json says".to_owned())),
            Some(file) => Err(format!("has SHA-256 {}; image.json says {expected}", file.sha256)),
        };
        findings.add(&what, told);
    }
    let what = format!("{what}: dm-verity");
    if let Some(Some(checked)) = damage(findings, &what, system.verity())? {
        let told = checked.map(|()| ((), format!("root hash {} holds", metadata.root.verity.root_hash)));
        findings.add(&what, told.map_err(|fault| fault.to_string()));
    }
    Ok(())
}
