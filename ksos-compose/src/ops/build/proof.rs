//! Build-time proof: what would fail at boot fails the build.

use std::collections::BTreeMap;

use ksos_formats::Digest;
use ksos_formats::boot::RootMode;
use ksos_formats::runtime::ServiceConfig;
use serde::{Deserialize, Serialize};

use super::root::service_config;
use crate::cache::Cache;
use crate::effects::fs;
use crate::kernel::{KernelConfig, KernelFiles, ModuleIndex, Requirement};
use crate::manifest::{Manifest, ModulePattern};
use crate::ops::{OpError, workloads};
use crate::plan::{LocalTree, Plan};
use crate::proof::workloads::{Preloaded, importer};
use crate::proof::{self, Budgets, FileFacts, Finding, Input, MemoryFactCache, Severity};
use crate::tree::{Node, Tree};

/// The largest kernel configuration or store of facts read, in bytes.
const LIMIT: u64 = 64 << 20;

/// What is proved.
pub struct Subject<'a> {
    /// The manifest.
    pub manifest: &'a Manifest,
    /// The plan.
    pub plan: &'a Plan,
    /// The root file system.
    pub root: &'a Tree,
    /// The initramfs.
    pub initramfs: &'a Tree,
    /// The kernel's component.
    pub kernel: &'a Tree,
    /// The modules that the kernel has.
    pub modules: &'a ModuleIndex,
    /// Required kernel options: file and text.
    pub required_options: &'a [(String, String)],
    /// Directories of modules that no image may have.
    pub denied_modules: Vec<String>,
    /// Overlays by name.
    pub overlays: &'a BTreeMap<String, LocalTree>,
    /// Container images that are carried.
    pub preloaded: &'a [Preloaded],
}

/// Proves root and initramfs; returns the notes.
///
/// # Errors
/// [`OpError::Proof`] with every failure.
pub fn check(subject: &Subject<'_>, cache: &Cache) -> Result<Vec<Finding>, OpError> {
    let Subject { manifest, plan, root, initramfs, kernel, .. } = subject;
    let files = KernelFiles::find(kernel)?;
    let config = kernel_config(kernel, &files)?;
    let requirements = requirements(manifest, subject.required_options)?;
    let services: BTreeMap<String, ServiceConfig> =
        manifest.services.iter().map(|(name, service)| (name.clone(), service_config(service))).collect();
    let asked = |lists: &[&[ModulePattern]]| -> Vec<String> {
        lists.iter().flat_map(|list| super::execute::names(list, subject.modules)).collect()
    };
    let input = Input {
        arch: plan.image.arch,
        root,
        initramfs,
        kernel_release: &files.release,
        kernel_config: &config,
        requirements: &requirements,
        root_modules: &asked(&[&manifest.kernel.modules]),
        initramfs_modules: &asked(&[&manifest.kernel.initramfs_modules, &manifest.kernel.initramfs_drivers]),
        denied_modules: &subject.denied_modules,
        services: &services,
        cmdline: &plan.cmdline,
        // Sizes are known once everything is compressed: `disk` checks them.
        budgets: unlimited(),
        runtime_paths: &proof::RUNTIME_PATHS.map(str::to_owned),
        absent: &absent(manifest),
        exempt: &[],
    };
    let facts = load_facts(cache);
    let mut findings = proof::prove(&input, &facts)?;
    findings.extend(importer(root, subject.preloaded.len()));
    let overlays = subject.overlays.iter().map(|(name, local)| (name.as_str(), &local.tree));
    findings.extend(workloads::scan(manifest, overlays, Some(root), subject.preloaded)?);
    save_facts(cache, facts, &[root, initramfs]);
    refuse(findings)
}

/// Returns what must not be in the image. One in which root can log in has chosen to have an SSH server.
fn absent(manifest: &Manifest) -> Vec<(String, String)> {
    let chosen = |reason: &str| reason == proof::SSH_SERVER && manifest.node.root_shell.is_some();
    let absent = proof::ABSENT.iter().filter(|(_, reason)| !chosen(reason));
    absent.map(|(pattern, reason)| ((*pattern).to_owned(), (*reason).to_owned())).collect()
}

/// Returns the notes among `findings`.
///
/// # Errors
/// [`OpError::Proof`] with the failures among them.
pub fn refuse(findings: Vec<Finding>) -> Result<Vec<Finding>, OpError> {
    let (failures, notes): (Vec<_>, Vec<_>) =
        findings.into_iter().partition(|finding| finding.severity == Severity::Failure);
    if failures.is_empty() { Ok(notes) } else { Err(OpError::Proof { findings: failures }) }
}

fn unlimited() -> Budgets {
    Budgets {
        slot_size: u64::MAX,
        slot_used: 0,
        esp_size: u64::MAX,
        esp_used: 0,
        data_size: u64::MAX,
        headroom: 0,
        memory: u64::MAX,
        root_mode: RootMode::Slot,
        root_image: 0,
        initramfs: 0,
        initramfs_unpacked: 0,
        services: 0,
    }
}

fn kernel_config(kernel: &Tree, files: &KernelFiles) -> Result<KernelConfig, OpError> {
    let path = &files.config.clone().unwrap_or_else(|| format!("boot/config-{}", files.release));
    let Some(Node::File(content)) = kernel.get(path).map(|entry| &entry.node) else {
        return Err(OpError::NoFile { component: "kernel".to_owned(), path: path.clone() });
    };
    let bytes =
        content.read(LIMIT).map_err(|source| crate::assemble::AssembleError::Read { path: path.clone(), source })?;
    Ok(KernelConfig::parse(path, &String::from_utf8_lossy(&bytes))?)
}

/// Returns what the manifest and its files (`files`: name and text) require of the kernel's configuration.
///
/// # Errors
/// When one cannot be parsed.
pub fn requirements(manifest: &Manifest, files: &[(String, String)]) -> Result<Vec<Requirement>, OpError> {
    let mut requirements = Vec::new();
    for (path, text) in files {
        requirements.extend(Requirement::parse_list(path, text)?);
    }
    for option in &manifest.kernel.required_options {
        requirements.push(Requirement::parse("kernel.required-options", &option.to_string())?);
    }
    Ok(requirements)
}

/// Facts about files by digest, kept between builds. Losing them costs reading the files again.
#[derive(Default, Serialize, Deserialize)]
struct StoredFacts {
    format: u32,
    facts: BTreeMap<Digest, FileFacts>,
}

fn facts_path(cache: &Cache) -> std::path::PathBuf {
    cache.bucket("stat").join("file-facts.json")
}

fn load_facts(cache: &Cache) -> MemoryFactCache {
    let bytes = fs::read(&facts_path(cache), LIMIT).unwrap_or_default();
    let stored: StoredFacts = serde_json::from_slice(&bytes).unwrap_or_default();
    let current = stored.format == proof::facts::FORMAT;
    MemoryFactCache::new(if current { stored.facts } else { BTreeMap::new() })
}

fn save_facts(cache: &Cache, facts: MemoryFactCache, trees: &[&Tree]) {
    let mut facts = facts.into_map();
    // Only what this build used stays, so that the file does not grow for ever.
    let used: std::collections::BTreeSet<Digest> = trees
        .iter()
        .flat_map(|tree| tree.iter())
        .filter_map(|(_, entry)| match &entry.node {
            Node::File(content) => Some(content.digest),
            _ => None,
        })
        .collect();
    facts.retain(|digest, _| used.contains(digest));
    let stored = StoredFacts { format: proof::facts::FORMAT, facts };
    if let Ok(text) = serde_json::to_vec(&stored) {
        let _ = fs::write_atomic(&facts_path(cache), &text);
    }
}
