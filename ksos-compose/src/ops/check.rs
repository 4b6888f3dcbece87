//! `check`: everything about a manifest that needs no download.

use std::path::PathBuf;

use serde_json::json;

use super::{Target, workloads};
use crate::boot::{GrubConfig, grub_config};
use crate::effects::fs;
use crate::kernel::Requirement;
use crate::manifest::{self, Errors, Loaded, Manifest, PartitionRole, Source};
use crate::proof::{self, Severity};
use crate::source::apt;

/// The largest keyring or option list read, in bytes.
const TEXT_LIMIT: u64 = 4 << 20;

/// What was found in one manifest.
#[derive(Debug)]
pub struct Checked {
    /// The manifest.
    pub manifest: PathBuf,
    /// Its errors, with warnings among them.
    pub errors: Option<Errors>,
    /// Faults of files that the manifest names.
    pub faults: Vec<String>,
    /// What is odd and not wrong.
    pub warnings: Vec<String>,
    /// What the manifest makes, when it is good.
    pub summary: String,
}

impl Checked {
    /// Tells whether anything is wrong.
    pub fn is_bad(&self) -> bool {
        self.errors.is_some() || !self.faults.is_empty()
    }

    /// Returns the object that `--json` prints.
    pub fn to_json(&self) -> serde_json::Value {
        json!({
            "manifest": self.manifest,
            "ok": !self.is_bad(),
            "diagnostics": self.errors.as_ref().map(Errors::to_json),
            "faults": self.faults,
            "warnings": self.warnings,
        })
    }
}

/// Checks every target.
pub fn check(targets: &[Target]) -> Vec<Checked> {
    targets.iter().map(check_one).collect()
}

fn check_one(target: &Target) -> Checked {
    let mut checked = Checked {
        manifest: target.manifest.clone(),
        errors: None,
        faults: Vec::new(),
        warnings: Vec::new(),
        summary: String::new(),
    };
    let files = manifest::DiskWithout { replaced: target.components.keys().cloned().collect(), all: false };
    match manifest::load(&target.manifest, target.arch, &files) {
        Err(errors) => checked.errors = Some(errors),
        Ok(loaded) => {
            let manifest = &loaded.manifest;
            checked.summary = format!(
                "{} {} {}: {} components, {} services",
                manifest.image.name,
                manifest.image.version,
                loaded.arch,
                manifest.components.len(),
                manifest.services.len()
            );
            checked.warnings = loaded.warnings.iter().map(ToString::to_string).collect();
            checked.warnings.extend(unsigned_kernel(manifest));
            checked.faults = faults(&loaded);
            check_workloads(&loaded, &mut checked);
        }
    }
    checked
}

/// Says that the image does not start under Secure Boot when its kernel is built here.
pub fn unsigned_kernel(manifest: &Manifest) -> Option<String> {
    let name = &manifest.kernel.component;
    let built = manifest.components.get(name).is_some_and(|component| matches!(component.source, Source::Kernel(_)));
    built.then(|| format!("component {name}: a kernel that is built here is not signed: Secure Boot refuses it"))
}

/// Checks the files that a good manifest names, and what derives from it.
fn faults(loaded: &Loaded) -> Vec<String> {
    let manifest = &loaded.manifest;
    let mut faults = Vec::new();
    for repository in manifest.apt.values() {
        let keyring = fs::read(repository.keyring.path(), TEXT_LIMIT).map_err(|error| error.to_string());
        let parsed = keyring
            .and_then(|bytes| apt::Keyring::parse(&repository.keyring.text, &bytes).map_err(|error| error.to_string()));
        faults.extend(parsed.err());
    }
    for path in &manifest.kernel.required_options_files {
        match fs::read_to_string(path.path(), TEXT_LIMIT) {
            Ok(text) => faults.extend(Requirement::parse_list(&path.text, &text).err().map(|error| error.to_string())),
            Err(error) => faults.push(error.to_string()),
        }
    }
    let mut order: Vec<_> = manifest.partitions.values().collect();
    order.sort_by_key(|partition| partition.order);
    let number = |role| order.iter().position(|partition| partition.role == role).map_or(0, |index| index as u32 + 1);
    let config = GrubConfig {
        name: &manifest.image.name,
        arch: loaded.arch,
        cmdline: &manifest.kernel.cmdline,
        slot_a: number(PartitionRole::SlotA),
        slot_b: number(PartitionRole::SlotB),
        timeout: manifest.boot.timeout,
    };
    let found = proof::cmdline::cmdline(loaded.arch, &manifest.kernel.cmdline);
    match found.is_empty() {
        true => faults.extend(grub_config(&config).err().map(|error| format!("boot loader: {error}"))),
        false => faults.extend(found.iter().map(ToString::to_string)),
    }
    faults
}

/// Checks that the container images which carried Kubernetes manifests name are carried, too.
fn check_workloads(loaded: &Loaded, checked: &mut Checked) {
    let found = workloads::overlays(&loaded.manifest).and_then(|overlays| {
        let trees = overlays.iter().map(|(name, tree)| (name.as_str(), tree));
        workloads::scan(&loaded.manifest, trees, None, &workloads::stated(loaded))
    });
    match found {
        Err(error) => checked.faults.push(error.to_string()),
        Ok(findings) => {
            for finding in findings {
                let list =
                    if finding.severity == Severity::Failure { &mut checked.faults } else { &mut checked.warnings };
                list.push(finding.to_string());
            }
        }
    }
}
