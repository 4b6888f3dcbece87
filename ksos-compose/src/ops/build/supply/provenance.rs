//! SLSA provenance, version 1 (slsa.dev/spec/v1.0/provenance), as an in-toto statement, version 1.
//!
//! Subjects are the artifacts with their digests, dependencies are everything that the lock pins and everything local
//! that was read. The build type is described in `docs/supply-chain.md`. No times and no machine's paths: the same build
//! gives the same statement, but for an invocation that the user names.

use std::path::Path;

use ksos_formats::Digest;
use ksos_formats::update::envelope::Envelope;
use serde_json::{Map, Value, json};

use crate::effects::fs;
use crate::ops::blob_key::BlobKey;
use crate::ops::build::Artifact;
use crate::ops::build::release;
use crate::ops::build::resolve::Project;
use crate::ops::{OpError, Session};
use crate::plan::{Plan, Resolved};
use crate::sbom::{Bom, Kind, PROJECT};

/// Media type of a statement in an envelope.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// Type of the statement.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// Type of the predicate.
pub const PREDICATE_TYPE: &str = "https://slsa.dev/provenance/v1";

/// The largest statement that is read, in bytes.
pub const LIMIT: u64 = 16 << 20;

/// Where the build type is described.
pub fn build_type() -> String {
    format!("{PROJECT}/blob/main/docs/supply-chain.md#build-type-image-v1")
}

/// What a statement is made from.
pub struct Statement<'a> {
    pub session: &'a Session,
    pub project: &'a Project,
    pub plan: &'a Plan,
    pub bom: &'a Bom,
    /// Names the run, when the user does.
    pub invocation: Option<&'a str>,
}

impl Statement<'_> {
    /// Returns the statement about `artifacts`.
    pub fn document(&self, artifacts: &[Artifact]) -> Vec<u8> {
        let mut run = json!({
            "builder": {
                "id": format!("{PROJECT}/ksos-compose"),
                "version": { "ksos-compose": env!("CARGO_PKG_VERSION") },
            },
        });
        if let Some(invocation) = self.invocation {
            run["metadata"] = json!({ "invocationId": invocation });
        }
        let document = json!({
            "_type": STATEMENT_TYPE,
            "subject": artifacts.iter().flat_map(subjects).collect::<Vec<_>>(),
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "buildDefinition": {
                    "buildType": build_type(),
                    "externalParameters": self.parameters(),
                    "internalParameters": { "epoch": self.plan.image.epoch },
                    "resolvedDependencies": self.dependencies(),
                },
                "runDetails": run,
            },
        });
        let mut text = serde_json::to_vec_pretty(&document).expect("a statement is JSON");
        text.push(b'\n');
        text
    }

    /// What whoever has started the build has chosen.
    fn parameters(&self) -> Value {
        let target = &self.project.target;
        let replaced: Map<String, Value> = target
            .components
            .keys()
            .map(|name| (name.clone(), self.local_digest(name).map_or(Value::Null, |digest| digest_set(&digest))))
            .collect();
        let mut parameters = json!({
            "manifest": { "path": shown(&target.manifest), "digest": { "sha256": hash(&self.project.loaded.path) } },
            "image": { "name": self.plan.image.name, "version": self.plan.image.version },
            "arch": self.plan.image.arch.name(),
            "components": replaced,
        });
        if let Some(epoch) = &self.session.environment.source_date_epoch {
            parameters["sourceDateEpoch"] = json!(epoch);
        }
        parameters
    }

    /// The digest of a component that is on this machine.
    fn local_digest(&self, name: &str) -> Option<Digest> {
        match &self.project.components.get(name)?.content {
            Resolved::File { digest, .. } => Some(*digest),
            Resolved::Directory(tree) => Some(tree.digest),
            _ => None,
        }
    }

    fn dependencies(&self) -> Vec<Value> {
        let mut list = Vec::new();
        let local = |name: String, digest: Digest| json!({ "name": name, "digest": digest_set(&digest) });
        let tree = |name: String, digest: &Digest| json!({ "name": name, "digest": { "ksosTree": digest.hex() } });
        for file in &self.project.loaded.files {
            // Names alone, as paths are the machine's.
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            list.extend(
                hash(file).map(|sha256| json!({ "name": format!("manifest {name}"), "digest": { "sha256": sha256 } })),
            );
        }
        for (file, text) in &self.project.required_options {
            list.push(local(format!("required options {}", shown(Path::new(file))), Digest::of(text.as_bytes())));
        }
        for (name, overlay) in &self.project.overlays {
            list.push(tree(format!("overlay {name}"), &overlay.digest));
        }
        for (name, component) in &self.project.components {
            match &component.content {
                Resolved::Directory(found) => list.push(tree(format!("component {name}"), &found.digest)),
                Resolved::Program(program) => list.push(tree(format!("component {name} sources"), &program.sources)),
                Resolved::Packages(_)
                | Resolved::Download(_)
                | Resolved::File { .. }
                | Resolved::Kernel(_)
                | Resolved::TinyCore(_) => {}
            }
        }
        for package in &self.bom.packages {
            let Some(sha256) = package.sha256 else { continue };
            let mut entry = json!({ "uri": package.purl, "name": package.name, "digest": digest_set(&sha256) });
            if let Some(download) = &package.download {
                entry["downloadLocation"] = json!(download);
            }
            if package.kind == Kind::ContainerImage {
                entry["mediaType"] = json!(crate::oci::document::MANIFEST);
            }
            list.push(entry);
        }
        list
    }
}

fn digest_set(sha256: &Digest) -> Value {
    json!({ "sha256": sha256.hex() })
}

fn hash(path: &Path) -> Option<String> {
    super::super::hash(path).ok().map(|digest| digest.hex())
}

/// A path as the user has given it; of an absolute one the name.
fn shown(path: &Path) -> String {
    let relative = path.is_relative().then_some(path).or_else(|| path.file_name().map(Path::new));
    relative.unwrap_or(path).to_string_lossy().into_owned()
}

/// The document of a release has signatures of its own, which come later; it is known by its payload.
fn subjects(artifact: &Artifact) -> Vec<Value> {
    let name = artifact.path.file_name().unwrap_or_default().to_string_lossy();
    let subject = |name: String, sha256: &Digest| json!({ "name": name, "digest": digest_set(sha256) });
    if artifact.files.is_empty() {
        return artifact.sha256.iter().map(|sha256| subject(name.to_string(), sha256)).collect();
    }
    let signed = |file: &str| artifact.format == release::ARTIFACT && file == ksos_formats::update::RELEASE_FILE;
    let files = artifact.files.iter().filter(|file| !signed(&file.name));
    files.map(|file| subject(format!("{name}/{}", file.name), &file.sha256)).collect()
}

/// Returns the statement in the file `statement` in an envelope with signatures by `keys`. Without keys: the envelope at
/// `path`, when it is about this statement and stays; one about another goes.
///
/// # Errors
/// When a file cannot be read, or a key does not sign.
pub fn seal(statement: &Path, path: &Path, keys: &[BlobKey]) -> Result<Option<Vec<u8>>, OpError> {
    let payload = fs::read(statement, LIMIT)?;
    let old = fs::read(path, 2 * LIMIT).ok().and_then(|bytes| Envelope::parse(&bytes).ok());
    let old = old.filter(|old| old.payload == payload && old.payload_type == PAYLOAD_TYPE);
    if keys.is_empty() && old.is_none() {
        fs::remove_file(path)?;
        return Ok(None);
    }
    let fresh = || Envelope { payload_type: PAYLOAD_TYPE.to_owned(), payload, signatures: Vec::new() };
    Ok(Some(sign(old.unwrap_or_else(fresh), keys)?.to_json()))
}

/// Adds the signatures of `keys` that the envelope does not have.
///
/// # Errors
/// When a key does not sign.
pub fn sign(mut envelope: Envelope, keys: &[BlobKey]) -> Result<Envelope, OpError> {
    let message = envelope.message();
    for key in keys {
        if !envelope.signatures.iter().any(|signature| key.has_signed(&message, &signature.bytes)) {
            let bytes = key.sign(&message)?;
            envelope.signatures.retain(|other| other.key_id != key.id());
            envelope.signatures.push(ksos_formats::update::envelope::Signature { key_id: key.id(), bytes });
        }
    }
    Ok(envelope)
}
