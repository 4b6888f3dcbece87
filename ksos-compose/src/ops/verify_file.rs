//! `verify` of a file: its digest in `SHA256SUMS` and in the provenance beside it, their signatures, and, of a disk image
//! or an ISO, whether what is inside belongs together as a boot checks it.
//!
//! What is wrong is a finding; that something cannot be read is an error. A file vouches for another when it has its digest
//! and is signed. What is not beside the file is told; it is wrong where a key was given and nothing signed by it vouches
//! for the file, or where nothing at all says what the file should be. Of `SHA256SUMS` itself every file in it is verified.

use std::collections::BTreeSet;
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
/// The most signatures of a file that are looked at: as many keys as anybody signs with.
const MOST_SIGNATURES: usize = 16;

/// Whose signatures count.
#[derive(Debug, Clone, Copy, Default)]
pub struct Keys<'a> {
    /// Each of these must have signed.
    pub all: &'a [Key],
    /// One of these must have signed, when there are any.
    pub any: &'a [Key],
}

impl Keys<'_> {
    fn is_empty(&self) -> bool {
        self.all.is_empty() && self.any.is_empty()
    }

    /// Returns the keys that have signed, by their numbers: from 1, those of `all` first.
    fn which(&self, has_signed: impl Fn(&Key) -> bool) -> Signers {
        let keys = self.all.iter().chain(self.any).enumerate();
        keys.filter(|(_, key)| has_signed(key)).map(|(number, _)| number + 1).collect()
    }

    /// Says what is missing when only `signers` have signed.
    fn missing(&self, signers: &Signers) -> Option<String> {
        let missing: Vec<usize> = (1..=self.all.len()).filter(|number| !signers.contains(number)).collect();
        let any = self.any.is_empty() || signers.iter().any(|number| *number > self.all.len());
        match (missing.is_empty(), any) {
            (true, true) => None,
            (false, _) => Some(format!("nothing that is signed by {} vouches for it", named(&missing))),
            (true, false) => Some("nothing that is signed by one of the keys vouches for it".to_owned()),
        }
    }
}

/// Keys by their numbers.
type Signers = BTreeSet<usize>;

fn named<'a>(numbers: impl IntoIterator<Item = &'a usize>) -> String {
    numbers.into_iter().map(|number| format!("key {number}")).collect::<Vec<_>>().join(" and ")
}

/// Verifies the file at `path`, which the user calls `target`.
///
/// # Errors
/// What cannot be read.
pub fn verify(session: &Session, path: &Path, target: &str, keys: Keys<'_>) -> Result<Findings, OpError> {
    let mut findings = Findings::default();
    let sha256 = build::hash(path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let file = File { path, directory, name: &name, sha256 };
    let (mut known, mut signers) = (false, Signers::new());
    if name == sums::FILE {
        known = true;
        file.listed(&mut findings)?;
    } else {
        for (found, by) in [file.list(&mut findings, keys)?, file.provenance(&mut findings, keys)?] {
            known |= found;
            signers.extend(by);
        }
    }
    signers.extend(file.signature(&mut findings, keys)?);
    known |= inside(&mut findings, &session.cache, path)?;
    match (keys.is_empty(), keys.missing(&signers)) {
        (true, _) if !known => fail(&mut findings, target, format!("nothing says what it should be; sha256 {sha256}")),
        (true, _) => note(&mut findings, target, format!("sha256 {sha256}; no key was given, no signature looked at")),
        (false, None) => note(&mut findings, target, format!("sha256 {sha256}, vouched for by {}", named(&signers))),
        (false, Some(missing)) => fail(&mut findings, target, missing),
    }
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
    /// Looks into `SHA256SUMS`; says whether it is there, and who has signed it when it has the digest.
    fn list(&self, findings: &mut Findings, keys: Keys<'_>) -> Result<(bool, Signers), OpError> {
        let path = self.directory.join(sums::FILE);
        let text = match fs::read_to_string(&path, sums::LIMIT) {
            Ok(text) => text,
            Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => {
                note(findings, sums::FILE, "there is none".to_owned());
                return Ok((false, Signers::new()));
            }
            Err(error) => return Err(error.into()),
        };
        let told = sums::parse(&text).and_then(|lines| match lines.iter().find(|line| line.name == self.name) {
            Some(line) if line.sha256 == self.sha256 => Ok(((), format!("lists {} with its digest", self.name))),
            Some(line) => Err(format!("lists {} with SHA-256 {}; it has {}", self.name, line.sha256, self.sha256)),
            None => Err(format!("does not list {}", self.name)),
        });
        let listed = findings.add(sums::FILE, told).is_some();
        let signers = signed(findings, &path, sums::FILE, keys)?;
        Ok((true, if listed { signers } else { Signers::new() }))
    }

    /// Verifies every file of the list that this file is.
    fn listed(&self, findings: &mut Findings) -> Result<(), OpError> {
        let text = fs::read_to_string(self.path, sums::LIMIT)?;
        let lines = match sums::parse(&text) {
            Ok(lines) => lines,
            Err(reason) => {
                fail(findings, sums::FILE, reason);
                return Ok(());
            }
        };
        for line in lines {
            let path = self.directory.join(&line.name);
            let told = match fs::metadata(&path) {
                Ok(found) if found.is_file() => match build::hash(&path)? {
                    sha256 if sha256 == line.sha256 => Ok(((), "has its digest".to_owned())),
                    sha256 => Err(format!("has SHA-256 {sha256}; {} lists {}", sums::FILE, line.sha256)),
                },
                Ok(_) => Err("is no file".to_owned()),
                Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => Err("is missing".to_owned()),
                Err(error) => return Err(error.into()),
            };
            findings.add(&line.name, told);
        }
        Ok(())
    }

    /// Looks for a signature of the file itself; says whose it is.
    fn signature(&self, findings: &mut Findings, keys: Keys<'_>) -> Result<Signers, OpError> {
        let there = sums::signature_paths(self.path, 0).iter().any(|path| fs::metadata(path).is_ok());
        if there { signed(findings, self.path, self.name, keys) } else { Ok(Signers::new()) }
    }

    /// Looks for provenance about the file; says whether there is some, and who has signed what has its digest.
    fn provenance(&self, findings: &mut Findings, keys: Keys<'_>) -> Result<(bool, Signers), OpError> {
        let (mut known, mut vouching) = (false, Signers::new());
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
            known = true;
            let same = subject.digest.sha256.as_deref() == Some(&self.sha256.hex());
            let told = match same {
                true => Ok(((), format!("is about {} with its digest", self.name))),
                false => Err(format!("is about {} with {}; it has {}", self.name, subject.digest, self.sha256)),
            };
            let about = findings.add(&name, told).is_some();
            let Some(envelope) = envelope.filter(|_| !keys.is_empty()) else { continue };
            let message = envelope.message();
            let by = |key: &Key| envelope.signatures.iter().any(|one| has_signed(key, &message, &one.bytes));
            let signers = keys.which(by);
            findings.add(&name, told_of(&signers, envelope.signatures.len()));
            vouching.extend(signers.into_iter().filter(|_| about));
        }
        Ok((known, vouching))
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

/// Verifies the signatures beside `path`, whether plain or in a bundle; says whose they are.
fn signed(findings: &mut Findings, path: &Path, name: &str, keys: Keys<'_>) -> Result<Signers, OpError> {
    if keys.is_empty() {
        return Ok(Signers::new());
    }
    let message = sums::read_signed(path)?;
    let (mut looked_at, mut signers) = (0, Signers::new());
    for number in 0..MOST_SIGNATURES {
        let paths = sums::signature_paths(path, number);
        let signatures: Vec<Vec<u8>> = paths.iter().filter_map(|path| signature(path)).collect();
        if !paths.iter().any(|path| fs::metadata(path).is_ok()) {
            break;
        }
        looked_at += 1;
        signers.extend(keys.which(|key| signatures.iter().any(|signature| has_signed(key, &message, signature))));
    }
    if looked_at == 0 {
        note(findings, name, "is not signed itself".to_owned());
        return Ok(signers);
    }
    findings.add(name, told_of(&signers, looked_at));
    Ok(signers)
}

fn told_of(signers: &Signers, looked_at: usize) -> Result<((), String), String> {
    match (signers.is_empty(), looked_at) {
        (false, _) => Ok(((), format!("signed by {}", named(signers)))),
        (true, 0) => Err("is not signed".to_owned()),
        (true, 1) => Err("its signature is not by a key that was given, or is wrong".to_owned()),
        (true, count) => Err(format!("none of its {count} signatures is by a key that was given and right")),
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

/// Checks that what is in an image belongs together; says whether it is an image.
fn inside(findings: &mut Findings, cache: &Cache, path: &Path) -> Result<bool, OpError> {
    let mut is_image = true;
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
        Ok(Opened::Other) => {
            is_image = false;
            Ok(())
        }
        Err(error) => damage::<()>(findings, "image", Err(error)).map(|_| ()),
    };
    checked?;
    Ok(is_image)
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
