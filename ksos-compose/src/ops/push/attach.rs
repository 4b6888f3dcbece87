//! What goes with an artifact: files beside it that are about it (SBOM, provenance), and others that are named. Each becomes
//! an artifact of its own that refers to the manifest (OCI image specification 1.1, `subject`).

use std::path::{Path, PathBuf};

use super::PushError;
use crate::effects::fs;
use crate::registry::manifest::Descriptor;
use crate::registry::push::{Artifact, Layer, push};
use crate::registry::{Registry, name};

/// Largest file that is attached, in bytes.
const LIMIT: u64 = 256 << 20;
const IN_TOTO: &str = "application/vnd.in-toto+json";
/// Ends of file names beside an artifact, the `artifactType` that each has, and the media type of the file. Of several with
/// one type, the first that is there: provenance that is signed has the statement in it.
const BESIDE: [(&str, &str, &str); 4] = [
    (".spdx.json", "application/spdx+json", "application/spdx+json"),
    (".cdx.json", "application/vnd.cyclonedx+json", "application/vnd.cyclonedx+json"),
    (".provenance.json", IN_TOTO, "application/vnd.dsse.envelope.v1+json"),
    (".intoto.json", IN_TOTO, IN_TOTO),
];

/// A file that is about an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The file.
    pub path: PathBuf,
    /// `artifactType` of its manifest.
    pub artifact_type: String,
    /// Media type of the file.
    pub media_type: String,
}

impl Attachment {
    /// Reads `FILE:TYPE`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "expected FILE:TYPE with a media type, such as notes.txt:text/plain".to_owned();
        let (path, media_type) = text.rsplit_once(':').filter(|(path, _)| !path.is_empty()).ok_or_else(wrong)?;
        let token = |text: &str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
            (1..=127).contains(&text.len()) && text.bytes().all(fits)
        };
        // RFC 6838, section 4.2.
        media_type.split_once('/').filter(|(kind, name)| token(kind) && token(name)).ok_or_else(wrong)?;
        let media_type = media_type.to_owned();
        Ok(Attachment { path: path.into(), artifact_type: media_type.clone(), media_type })
    }

    /// Finds those beside an artifact, by name: `NAME-VERSION-ARCH.spdx.json` beside `NAME-VERSION-ARCH.img`. `suffix`
    /// comes behind the name of the artifact.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn beside(artifact: &Path, suffix: &str) -> Result<Vec<Self>, PushError> {
        let Some(file_name) = artifact.file_name().and_then(|name| name.to_str()) else { return Ok(Vec::new()) };
        let stem = name::stem(file_name);
        let mut found: Vec<Attachment> = Vec::new();
        for (end, artifact_type, media_type) in BESIDE {
            let path = artifact.with_file_name(format!("{stem}{suffix}{end}"));
            if found.iter().any(|found| found.artifact_type == artifact_type) {
                continue;
            }
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() => found.push(Attachment {
                    path,
                    artifact_type: artifact_type.to_owned(),
                    media_type: media_type.to_owned(),
                }),
                Ok(_) => {}
                Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(found)
    }
}

/// A file that was attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The file.
    pub path: PathBuf,
    /// `artifactType`.
    pub artifact_type: String,
    /// Digest of what it is about, with its algorithm.
    pub subject: String,
    /// Digest of its manifest.
    pub digest: ksos_formats::Digest,
    /// Bytes that were sent.
    pub sent: u64,
}

/// Attaches files to a manifest.
///
/// # Errors
/// [`PushError`].
pub fn attach(
    registry: &Registry<'_>,
    subject: &Descriptor,
    attachments: &[Attachment],
) -> Result<Vec<Attached>, PushError> {
    let mut attached = Vec::new();
    for Attachment { path, artifact_type, media_type } in attachments {
        let bytes = fs::read(path, LIMIT)?;
        let title = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let mut artifact = Artifact::new(artifact_type, vec![Layer::bytes(media_type, title.as_deref(), bytes)]);
        let Descriptor { media_type, digest, size, .. } = subject;
        let (media_type, digest) = (media_type.clone(), digest.clone());
        artifact.subject = Some(Descriptor { media_type, digest, size: *size, ..Descriptor::default() });
        let pushed = push(registry, &artifact, None)?;
        attached.push(Attached {
            path: path.clone(),
            artifact_type: artifact_type.clone(),
            subject: subject.digest.clone(),
            digest: pushed.digest,
            sent: pushed.sent,
        });
    }
    Ok(attached)
}
