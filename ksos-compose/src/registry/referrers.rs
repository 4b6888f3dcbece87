//! What refers to a manifest (OCI distribution specification 1.1, "Listing Referrers"): registries that know of it keep the
//! list; for the others an index under a tag made of the digest is the list, and who pushes keeps it.

use serde_json::{Value, json};

use super::manifest::{Descriptor, INDEX, MANIFEST};
use super::push::Artifact;
use super::{Registry, RegistryError};
use crate::effects::net::retry_pause;

/// How often the list is written when another writer's list takes its place at the same moment.
const ROUNDS: u32 = 6;

impl Registry<'_> {
    /// Lists an artifact that is about another where the registry does not list it.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub(super) fn ensure_listed(&self, artifact: &Artifact<'_>, manifest: &[u8]) -> Result<(), RegistryError> {
        let Some(subject) = artifact.subject.as_ref().and_then(|subject| subject.blob().ok()) else { return Ok(()) };
        if self.referrers(&subject.sha256, artifact.artifact_type.as_deref().unwrap_or_default())?.is_some() {
            return Ok(());
        }
        self.list_referrer(artifact, manifest)
    }

    /// Adds an artifact that is about another to the list under the tag. There is no way to replace a tag only if it is
    /// what it was: the list is read again afterwards, and written again when a writer at the same time has won.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub(super) fn list_referrer(&self, artifact: &Artifact<'_>, manifest: &[u8]) -> Result<(), RegistryError> {
        let Some(subject) = &artifact.subject else { return Ok(()) };
        // "If the registry does not set the OCI-Subject header [...] the client MUST: pull the current referrers list
        // using the referrers tag schema, [...] push the modified or created image index" (distribution specification
        // 1.1, "Pushing Manifests with Subject").
        let tag = subject.digest.replacen(':', "-", 1);
        let mut entry = Descriptor::of(MANIFEST, manifest);
        entry.artifact_type = artifact.artifact_type.clone();
        entry.annotations = artifact.annotations.clone();
        for round in 0..ROUNDS {
            let found = self.manifest(&tag)?;
            let malformed = |reason| RegistryError::Document { url: self.manifest_url(&tag), reason };
            let known = found.as_ref().map(|found| found.bytes.as_slice());
            let Some(merged) = merge(known, &entry).map_err(malformed)? else { return Ok(()) };
            if round > 0 {
                retry_pause(round);
            }
            self.put(&merged, &tag, INDEX)?;
        }
        let reason = format!("{ROUNDS} times another list came in the place of the one with {}", entry.digest);
        Err(RegistryError::Document { url: self.manifest_url(&tag), reason })
    }
}

/// Returns the list with an entry, everything else as it was; none when it has the entry.
fn merge(known: Option<&[u8]>, entry: &Descriptor) -> Result<Option<Vec<u8>>, String> {
    let empty = || json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] });
    let mut index: Value = match known {
        Some(bytes) => serde_json::from_slice(bytes).map_err(|error| format!("not an image index: {error}"))?,
        None => empty(),
    };
    let manifests = index.get_mut("manifests").and_then(Value::as_array_mut);
    let manifests = manifests.ok_or("not an image index: it has no list of manifests")?;
    if manifests.iter().any(|known| known.get("digest").and_then(Value::as_str) == Some(&entry.digest)) {
        return Ok(None);
    }
    manifests.push(serde_json::to_value(entry).expect("a descriptor has string keys only"));
    Ok(Some(index.to_string().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_keeps_what_others_wrote() {
        let entry = Descriptor::of(MANIFEST, b"mine");
        let theirs = br#"{"schemaVersion":2,"x":{"y":1},"manifests":[{"digest":"sha256:00","size":1,"platform":{"os":"linux"},"data":"e30="}]}"#;
        let merged = merge(Some(theirs), &entry).unwrap().unwrap();
        let read: Value = serde_json::from_slice(&merged).unwrap();
        assert_eq!((&read["x"]["y"], &read["manifests"][0]["platform"]["os"]), (&json!(1), &json!("linux")));
        assert_eq!(
            (&read["manifests"][0]["data"], &read["manifests"][1]["digest"]),
            (&json!("e30="), &json!(entry.digest))
        );
        assert_eq!(merge(Some(&merged), &entry).unwrap(), None);
        let first: Value = serde_json::from_slice(&merge(None, &entry).unwrap().unwrap()).unwrap();
        assert_eq!((&first["mediaType"], first["manifests"].as_array().unwrap().len()), (&json!(INDEX), 1));
        for bad in [&b"{"[..], b"[]", br#"{"manifests":{}}"#] {
            assert!(merge(Some(bad), &entry).is_err());
        }
    }
}
