//! A published tree for one release: what `publish` makes for a fleet, for one guest, and gone with the test.

use std::io::{self, Write};
use std::path::Path;

use ksos_formats::Digest;
use ksos_formats::update::{
    self, CHUNKS_FILE, Channel, ChannelRelease, ENVELOPE_LIMIT, Envelope, INDEX_FILE, Payload, RELEASE_FILE,
    RELEASE_SUFFIX, Release,
};
use tempfile::TempDir;

use super::TestError;
use crate::effects::fs::{self, AtomicFile, Context};
use crate::ops::OpError;
use crate::sign::{OpenedKey, sign_envelope};

/// The channel of the tree.
pub(super) const CHANNEL: &str = "test";

/// Makes a tree with the release in directory `release`. Release and channel are signed by all of `keys`; signatures that
/// the release has are kept.
///
/// # Errors
/// The release cannot be read or signed, or the tree not be written.
pub(super) fn make(release: &Path, keys: &[OpenedKey]) -> Result<TempDir, OpError> {
    let document_path = release.join(RELEASE_FILE);
    let wrong = |reason: String| TestError::Document { path: document_path.clone(), reason };
    let mut envelope =
        Envelope::parse(&fs::read(&document_path, ENVELOPE_LIMIT)?).map_err(|error| wrong(error.to_string()))?;
    if envelope.payload_type != Release::TYPE {
        return Err(wrong(format!("it is {:?}, not a release", envelope.payload_type)).into());
    }
    let document: Release = serde_json::from_slice(&envelope.payload).map_err(|error| wrong(error.to_string()))?;
    let tree = tempfile::Builder::new().prefix("ksos-test-tree-").tempdir();
    let tree = tree.context("create", Path::new("a temporary directory"))?;
    let mut channel = Envelope::new(&channel(&document, Digest::of(&envelope.payload)));
    for key in keys {
        sign_envelope(&mut envelope, key.signer.as_ref())?;
        sign_envelope(&mut channel, key.signer.as_ref())?;
    }
    let name = update::release_name(&document.name, &document.version, document.arch) + RELEASE_SUFFIX;
    for file in [CHUNKS_FILE, INDEX_FILE] {
        copy(&release.join(file), &tree.path().join(&name).join(file))?;
    }
    fs::write_atomic(&tree.path().join(&name).join(RELEASE_FILE), &envelope.to_json())?;
    let path = update::channel_path(CHANNEL, &document.name, document.arch);
    fs::write_atomic(&tree.path().join(path), &channel.to_json())?;
    Ok(tree)
}

/// Returns a channel with one release.
fn channel(release: &Release, digest: Digest) -> Channel {
    Channel {
        format: update::FORMAT,
        name: release.name.clone(),
        arch: release.arch,
        board: release.board.clone(),
        channel: CHANNEL.to_owned(),
        sequence: 1,
        created: release.created,
        expires: None,
        releases: vec![ChannelRelease {
            version: release.version.clone(),
            minimum_version: release.minimum_version.clone(),
            release: digest,
        }],
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), OpError> {
    let mut source = fs::open(from)?;
    let mut target = AtomicFile::create(to)?;
    io::copy(&mut source, target.file()).context("copy to", to)?;
    target.flush().context("write", to)?;
    Ok(target.commit(0o644)?)
}

#[cfg(test)]
pub(super) mod tests {
    use ksos_formats::Arch;
    use ksos_formats::update::{Blob, KeySet};

    use super::*;
    use crate::sign::Signer;
    use crate::sign::tests::signer;

    pub(in crate::ops::test) fn release(directory: &Path, version: &str) -> Release {
        let blob = |bytes: &[u8]| Blob { size: bytes.len() as u64, sha256: Digest::of(bytes) };
        let release = Release {
            format: update::FORMAT,
            name: "os".to_owned(),
            version: version.parse().unwrap(),
            arch: Arch::X86_64,
            board: "generic".to_owned(),
            minimum_version: None,
            created: 1_800_000_000,
            expires: None,
            kernel_release: "6.12".to_owned(),
            slot: blob(b"slot"),
            index: blob(b"index"),
            chunks: blob(b"chunks"),
        };
        fs::write_atomic(&directory.join(RELEASE_FILE), &Envelope::new(&release).to_json()).unwrap();
        fs::write_atomic(&directory.join(INDEX_FILE), b"index").unwrap();
        fs::write_atomic(&directory.join(CHUNKS_FILE), b"chunks").unwrap();
        release
    }

    pub(in crate::ops::test) fn key(byte: u8) -> OpenedKey {
        OpenedKey { signer: Box::new(signer(byte)), warning: None }
    }

    #[test]
    fn the_tree_is_what_a_node_with_these_keys_takes() {
        let directory = tempfile::tempdir().unwrap();
        let release = release(directory.path(), "1.1.0+b");
        let tree = make(directory.path(), &[key(1), key(2)]).unwrap();
        let read = |path: &str| fs::read(&tree.path().join(path), ENVELOPE_LIMIT).unwrap();
        let keys = KeySet::new(vec![*signer(1).public_key(), *signer(2).public_key()], 2).unwrap();
        let found =
            Envelope::parse(&read("os-1.1.0+b-x86_64.update/release.json")).unwrap().verify::<Release>(&keys).unwrap();
        assert_eq!(found.value(), &release);
        let channel = Envelope::parse(&read("channels/test/os-x86_64.json")).unwrap().verify::<Channel>(&keys).unwrap();
        assert_eq!(channel.value().releases[0].release, found.digest());
        assert_eq!(read("os-1.1.0+b-x86_64.update/slot.chunks"), b"chunks");
        // Without a key nobody takes it.
        let tree = make(directory.path(), &[]).unwrap();
        let bytes = fs::read(&tree.path().join("channels/test/os-x86_64.json"), ENVELOPE_LIMIT).unwrap();
        assert!(Envelope::parse(&bytes).unwrap().verify::<Channel>(&keys).is_err());
    }

    #[test]
    fn what_is_no_release_is_refused_with_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(RELEASE_FILE);
        let error = |directory: &Path| make(directory, &[]).unwrap_err().to_string();
        assert!(error(directory.path()).contains("release.json"));
        fs::write_atomic(&path, b"{}").unwrap();
        assert!(error(directory.path()).starts_with(&format!("{}: ", path.display())));
        let keys = KeySet::new(vec![*signer(1).public_key()], 1).unwrap();
        fs::write_atomic(&path, &Envelope::new(&keys).to_json()).unwrap();
        assert!(error(directory.path()).contains("not a release"));
        release(directory.path(), "1.1.0");
        fs::remove_file(&directory.path().join(CHUNKS_FILE)).unwrap();
        assert!(error(directory.path()).contains("slot.chunks"));
    }
}
