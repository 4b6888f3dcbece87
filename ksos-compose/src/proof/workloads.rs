//! Air gap: every container image that the carried Kubernetes manifests name is in the image.
//!
//! Manifests are YAML or JSON files whose documents have `apiVersion` and `kind`. Looked at
//! are pods, what makes pods, and lists of them; other kinds are not. A file that is no YAML (a template) is said and
//! skipped, except where the image's manifest calls it one.

use std::fmt;

use globset::GlobSet;
use ksos_formats::Digest;
use serde::Deserialize;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::paths::entry;
use super::{Finding, Place, Rule, Severity, failure};
use crate::oci::reference::Reference;
use crate::tree::{Node, Tree};

/// The largest manifest that is read, in bytes.
pub const MAX_SIZE: u64 = 4 << 20;

/// Where the runtime looks for programs.
const PROGRAM_DIRECTORIES: [&str; 4] = ["usr/sbin", "sbin", "usr/bin", "bin"];

/// An image that the image carries.
#[derive(Debug, Clone)]
pub struct Preloaded {
    /// Its reference, written out.
    pub reference: Reference,
    /// Digests by which it may be named; none when they are not known yet.
    pub digests: Option<Vec<Digest>>,
}

/// A file that may be a Kubernetes manifest.
#[derive(Debug, Clone)]
pub struct File<'a> {
    /// Where it is in the image, without a leading slash.
    pub path: &'a str,
    /// What to call it: the file on the build host, or the key of the image's manifest.
    pub shown: String,
    /// Its content.
    pub bytes: &'a [u8],
}

/// What manifests may name.
#[derive(Debug)]
pub struct Workloads<'a> {
    /// Images that are carried.
    pub preloaded: &'a [Preloaded],
    /// Globs of manifests; empty: by extension and content.
    pub manifests: GlobSet,
    /// Globs of references that may be pulled.
    pub allow_pull: GlobSet,
}

impl Workloads<'_> {
    /// Says whether the file at `path` in the image is to be looked at.
    pub fn wants(&self, path: &str) -> bool {
        if self.manifests.is_empty() {
            return [".yaml", ".yml", ".json"].iter().any(|extension| path.ends_with(extension));
        }
        self.manifests.is_match(path)
    }

    /// Looks at one file.
    pub fn check(&self, file: &File<'_>) -> Vec<Finding> {
        let stated = !self.manifests.is_empty();
        let Ok(text) = std::str::from_utf8(file.bytes) else { return self.unread(file, stated, "it is not UTF-8") };
        if !stated && !text.contains("apiVersion") {
            return Vec::new();
        }
        let options = serde_saphyr::options! { budget: serde_saphyr::budget! { max_depth: 64 } };
        match serde_saphyr::from_multiple_with_options::<Spanned<Yaml>>(text, options) {
            Ok(documents) => {
                let mut uses = Vec::new();
                documents.iter().for_each(|document| object(&document.value, None, &mut uses));
                uses.iter().filter_map(|image| self.judge(file, image)).collect()
            }
            Err(_) if text.contains("{{") => self.unread(file, false, "it is a template, not YAML"),
            Err(error) => {
                let reason = error.to_string();
                self.unread(file, stated, reason.lines().next().unwrap_or_default())
            }
        }
    }

    fn unread(&self, file: &File<'_>, is_failure: bool, why: &str) -> Vec<Finding> {
        let message = format!("{}: not checked for container images: {why}", file.shown);
        let fix = if is_failure { "make it YAML, or leave it out of workloads.manifests" } else { "" };
        let finding = failure(Rule::Workload, Place::Root, file.path, message, fix);
        let severity = if is_failure { Severity::Failure } else { Severity::Note };
        vec![Finding { severity, ..finding }]
    }

    fn judge(&self, file: &File<'_>, image: &Use<'_>) -> Option<Finding> {
        let at = format!("{}:{}", file.shown, image.line);
        let failed = |message: String, fix: String| Some(failure(Rule::Workload, Place::Root, file.path, message, fix));
        let reference = match image.text.parse::<Reference>() {
            Ok(reference) => reference.or_latest(),
            Err(error) => {
                return failed(format!("{at}: {error}"), "write a reference with registry and tag".to_owned());
            }
        };
        if self.allow_pull.is_match(reference.to_string()) {
            return None;
        }
        if !self.preloaded.iter().any(|preloaded| is_same(&reference, preloaded)) {
            let message = format!("{at}: container image {reference} is not preloaded");
            return failed(message, self.way_out(&reference));
        }
        let key = image.key;
        let latest = reference.digest.is_none() && reference.tag.as_deref() == Some("latest");
        match image.pull_policy {
            Some("Always") => {
                let message = format!("{at}: container image {reference} has {key} Always, which asks its registry");
                failed(message, format!("{key}: IfNotPresent takes the preloaded image"))
            }
            // Kubernetes, "Images", "Default image pull policy".
            None if latest => {
                let message =
                    format!("{at}: container image {reference} has no {key}, which means Always for the tag latest");
                failed(message, format!("{key}: IfNotPresent takes the preloaded image"))
            }
            _ => None,
        }
    }

    /// Names the preloaded image that is most like what was asked for.
    fn way_out(&self, reference: &Reference) -> String {
        // What differs by mistake is the tag, the registry, or a letter of the last component.
        let tail = |reference: &Reference| {
            let text = reference.to_string();
            text.rsplit('/').next().unwrap_or_default().to_owned()
        };
        let text = tail(reference);
        let distance = |preloaded: &&Preloaded| {
            let other = usize::from(preloaded.reference.name() != reference.name());
            (other, strsim::levenshtein(&text, &tail(&preloaded.reference)))
        };
        let nearest = self.preloaded.iter().min_by_key(distance).filter(|nearest| {
            let (other, distance) = distance(nearest);
            other == 0 || distance * 3 <= text.len()
        });
        let allow =
            format!("add a [container-images] entry, or \"{}\" to workloads.allow-pull", reference.name() + "*");
        match nearest {
            Some(nearest) => format!("{} is preloaded; otherwise {allow}", nearest.reference),
            None => allow,
        }
    }
}

/// Says whether containerd finds the preloaded image under the reference: by digest when there is one, else by tag.
fn is_same(reference: &Reference, preloaded: &Preloaded) -> bool {
    let carried = &preloaded.reference;
    if carried.name() != reference.name() {
        return false;
    }
    match reference.digest {
        Some(digest) => {
            let known = |digests: &Vec<Digest>| digests.contains(&digest);
            carried.digest == Some(digest) || preloaded.digests.as_ref().is_none_or(known)
        }
        None => carried.tag == reference.tag,
    }
}

/// An image that a container names.
struct Use<'a> {
    text: &'a str,
    line: u64,
    /// What the key of the policy is called there.
    key: &'static str,
    pull_policy: Option<&'a str>,
}

/// A YAML value with places.
#[derive(Debug)]
enum Yaml {
    Other,
    Text(String),
    Sequence(Vec<Spanned<Yaml>>),
    Mapping(Vec<(String, Spanned<Yaml>)>),
}

impl Yaml {
    fn get(&self, key: &str) -> Option<&Spanned<Yaml>> {
        let Yaml::Mapping(pairs) = self else { return None };
        pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    fn at(&self, keys: &[&str]) -> Option<&Yaml> {
        keys.iter().try_fold(self, |node, key| node.get(key).map(|inner| &inner.value))
    }

    fn text(&self) -> Option<&str> {
        if let Yaml::Text(text) = self { Some(text) } else { None }
    }

    fn items(&self) -> &[Spanned<Yaml>] {
        if let Yaml::Sequence(items) = self { items } else { &[] }
    }
}

/// Collects the images of a Kubernetes object; `listed` is what an item of a typed list is.
fn object<'a>(value: &'a Yaml, listed: Option<&'a str>, uses: &mut Vec<Use<'a>>) {
    let text = |key: &str| value.at(&[key]).and_then(Yaml::text);
    let kind = match (text("apiVersion"), text("kind"), listed) {
        (Some(_), Some(kind), _) | (_, None, Some(kind)) => kind,
        _ => return,
    };
    let pod: &[&str] = match kind {
        "Pod" => &["spec"],
        "Deployment" | "DaemonSet" | "StatefulSet" | "ReplicaSet" | "ReplicationController" | "Job" => {
            &["spec", "template", "spec"]
        }
        "CronJob" => &["spec", "jobTemplate", "spec", "template", "spec"],
        "PodTemplate" => &["template", "spec"],
        kind => {
            // Items of a `PodList` need not say that they are pods.
            let Some(of) = kind.strip_suffix("List") else { return };
            let listed = Some(of).filter(|of| !of.is_empty());
            let items = value.at(&["items"]).map(Yaml::items).unwrap_or_default();
            return items.iter().for_each(|item| object(&item.value, listed, uses));
        }
    };
    let Some(pod) = value.at(pod) else { return };
    // Kubernetes, "Use an Image Volume With a Pod".
    for volume in pod.at(&["volumes"]).map(Yaml::items).unwrap_or_default() {
        let Some(image) = volume.value.get("image") else { continue };
        take(image, "reference", "pullPolicy", uses);
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in pod.at(&[list]).map(Yaml::items).unwrap_or_default() {
            take(container, "image", "imagePullPolicy", uses);
        }
    }
}

/// Collects the image that a container or a volume names.
fn take<'a>(holder: &'a Spanned<Yaml>, reference: &str, pull_policy: &'static str, uses: &mut Vec<Use<'a>>) {
    let Some(image) = holder.value.get(reference) else { return };
    let Some(text) = image.value.text() else { return };
    let policy = holder.value.at(&[pull_policy]).and_then(Yaml::text);
    uses.push(Use { text, line: image.referenced.line(), key: pull_policy, pull_policy: policy });
}

impl<'de> Deserialize<'de> for Yaml {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(YamlVisitor)
    }
}

struct YamlVisitor;

impl<'de> Visitor<'de> for YamlVisitor {
    type Value = Yaml;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Yaml, E> {
        Ok(Yaml::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Yaml, E> {
        Ok(Yaml::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Yaml, E> {
        Ok(Yaml::Other)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Yaml, E> {
        Ok(Yaml::Other)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Yaml, E> {
        Ok(Yaml::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Yaml, E> {
        Ok(Yaml::Other)
    }

    fn visit_str<E>(self, text: &str) -> Result<Yaml, E> {
        Ok(Yaml::Text(text.to_owned()))
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Yaml, E> {
        Ok(Yaml::Other)
    }

    fn visit_unit<E>(self) -> Result<Yaml, E> {
        Ok(Yaml::Other)
    }

    fn visit_none<E>(self) -> Result<Yaml, E> {
        Ok(Yaml::Other)
    }

    fn visit_some<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Yaml, D::Error> {
        Yaml::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Yaml, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Yaml::Sequence(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Yaml, A::Error> {
        let mut map = Vec::new();
        while let Some((key, value)) = pairs.next_entry::<Yaml, Spanned<Yaml>>()? {
            // Keys of Kubernetes objects are strings.
            if let Yaml::Text(key) = key {
                map.push((key, value));
            }
        }
        Ok(Yaml::Mapping(map))
    }
}

/// Images are imported with `ctr`: an image that carries some must have it.
pub fn importer(root: &Tree, images: usize) -> Option<Finding> {
    let is_there = |directory: &str| {
        let path = format!("{directory}/ctr");
        entry(root, &path).is_some_and(|entry| matches!(entry.node, Node::File(_)) && entry.meta.mode & 0o111 != 0)
    };
    if images == 0 || PROGRAM_DIRECTORIES.iter().any(|directory| is_there(directory)) {
        return None;
    }
    let message = "the image carries container images, and ctr, which imports them, is not in it".to_owned();
    let fix = "add the package containerd (its /usr/bin/ctr) to a component, or drop the container images";
    Some(failure(Rule::Workload, Place::Root, "usr/bin/ctr", message, fix))
}

#[cfg(test)]
#[path = "workloads_tests.rs"]
mod tests;
