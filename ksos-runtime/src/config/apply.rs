//! Doing what a configuration means. Every effect has its turn; failures are collected.
//!
//! What is in memory (`/run`, bind mounts, the kernel's host name) is made at every boot. Files on the data partition
//! are each replaced as a whole. KubeSolo's file is derived at every boot and written when it differs.

use ksos_formats::config::{NodeConfig, kubesolo_file};
use ksos_formats::layout;

use crate::sys::{self, FileKind, PlacedFile, Sys, TEXT_LIMIT, read_text};

use super::plan::{Authorities, FileEffect, Plan};

/// The image's bundle of certificate authorities.
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// What stands in its place.
const RUN_BUNDLE: &str = "/run/ksos/ca-certificates.crt";
/// Public keys for the SSH server.
const SSH_DIRECTORY: &str = "/run/ksos/ssh";
/// KubeSolo's configuration.
const KUBESOLO: &str = "/etc/kubesolo/config.yaml";
/// First line of a file that was written here: only such a file is changed or removed.
const MARK: &str = "# Written by KubeSolo OS from the node's configuration. Changes to this file are lost.\n";
/// Names of the machine itself, if the image says nothing.
const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n";

/// What could not be done, and what is odd.
#[derive(Debug, Default)]
pub struct Notes {
    /// Failures.
    pub errors: Vec<String>,
    /// What the site should know.
    pub warnings: Vec<String>,
}

impl Notes {
    fn take(&mut self, result: sys::Result<()>) {
        self.errors.extend(result.err().map(|error| error.to_string()));
    }
}

/// Does what is done at every boot, in memory. The document for the other processes comes first: it is what they need
/// most.
pub fn in_memory(sys: &dyn Sys, config: &NodeConfig, host_name: &str, plan: &Plan, notes: &mut Notes) {
    notes.take(sys.make_directory("/run/ksos", 0o755));
    notes.take(write_node_config(sys, config));
    notes.take(set_host_name(sys, host_name));
    if let Some(authorities) = &plan.authorities {
        let result = set_authorities(sys, authorities, &mut notes.warnings);
        notes.take(result);
    }
    notes.take(write_keys(sys, &plan.keys));
    plan.memory.iter().for_each(|file| notes.take(write_file(sys, file)));
}

fn write_node_config(sys: &dyn Sys, config: &NodeConfig) -> sys::Result<()> {
    let text = serde_json::to_vec(config);
    let text = text.map_err(|error| sys::Error::stated("write", layout::NODE_CONFIG, error.to_string()))?;
    sys.replace(layout::NODE_CONFIG, &text, 0o600)
}

/// Sets the host name, and shows it in `/etc/hostname` and `/etc/hosts` (hosts(5), hostname(5)). 127.0.1.1 is where
/// Debian puts a name without an address of its own; the kubelet passes loopback addresses over.
fn set_host_name(sys: &dyn Sys, name: &str) -> sys::Result<()> {
    sys.set_hostname(name)?;
    let hosts = read_text(sys, "/etc/hosts").ok().filter(|text| !text.trim().is_empty());
    let mut hosts = hosts.unwrap_or_else(|| HOSTS.to_owned());
    let short = name.split('.').next().unwrap_or(name);
    let known = hosts.lines().any(|line| line.split_whitespace().skip(1).any(|word| word == name));
    if !known {
        let newline = if hosts.ends_with('\n') { "" } else { "\n" };
        let short = if short == name { String::new() } else { format!(" {short}") };
        hosts.push_str(&format!("{newline}127.0.1.1 {name}{short}\n"));
    }
    show(sys, "/run/ksos/hosts", "/etc/hosts", &hosts)?;
    show(sys, "/run/ksos/hostname", "/etc/hostname", &format!("{name}\n"))
}

/// Writes a file to memory and binds it over the image's, if the image has a file of its own there. A link is the
/// image's way to say where it wants it.
fn show(sys: &dyn Sys, path: &str, target: &str, text: &str) -> sys::Result<()> {
    sys.replace(path, text.as_bytes(), 0o644)?;
    if sys.kind(target) == Some(FileKind::File) && !sys.is_link(target) {
        sys.bind(path, target)?;
    }
    Ok(())
}

fn set_authorities(sys: &dyn Sys, authorities: &Authorities, warnings: &mut Vec<String>) -> sys::Result<()> {
    let has_bundle = sys.kind(BUNDLE) == Some(FileKind::File);
    let mut text = match authorities.remove_defaults {
        false if has_bundle => read_text(sys, BUNDLE)?,
        _ => String::new(),
    };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&authorities.pem);
    sys.replace(RUN_BUNDLE, text.as_bytes(), 0o644)?;
    if !has_bundle {
        warnings.push(format!("ca_certs: the image has no {BUNDLE}; the certificates are in {RUN_BUNDLE} only"));
        return Ok(());
    }
    sys.bind(RUN_BUNDLE, BUNDLE)
}

/// Writes the keys; without any, an empty file, so that those of an earlier run of the stage are gone.
fn write_keys(sys: &dyn Sys, keys: &[String]) -> sys::Result<()> {
    sys.make_directory(SSH_DIRECTORY, 0o700)?;
    let text: String = keys.iter().map(|key| format!("{key}\n")).collect();
    sys.replace(&format!("{SSH_DIRECTORY}/authorized_keys"), text.as_bytes(), 0o600)
}

/// Writes the files on the data partition. Returns whether all of them are written.
pub fn persistent_files(sys: &dyn Sys, plan: &Plan, notes: &mut Notes) -> bool {
    let before = notes.errors.len();
    plan.persistent.iter().for_each(|file| notes.take(write_file(sys, file)));
    notes.errors.len() == before
}

/// Writes one file. Text that is to be appended and already ends the file was appended before a power cut.
fn write_file(sys: &dyn Sys, file: &FileEffect) -> sys::Result<()> {
    let FileEffect { tree, path, content, append, mode, owner } = file;
    let mut bytes = Vec::new();
    if *append {
        match sys.read_below(tree, path, TEXT_LIMIT) {
            Ok(before) if before.ends_with(content) => return Ok(()),
            Ok(before) => bytes = before,
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    bytes.extend_from_slice(content);
    sys.place(&PlacedFile { tree, path, bytes: &bytes, mode: *mode, owner: Some(*owner) })
}

/// Writes KubeSolo's configuration file if it is to be and differs. A file that somebody else wrote is kept while the
/// configuration has no flags; else it is saved once as `config.yaml.orig`.
pub fn kubesolo(sys: &dyn Sys, config: &NodeConfig, notes: &mut Notes) {
    let result = write_kubesolo(sys, config, &mut notes.warnings);
    notes.take(result);
}

fn write_kubesolo(sys: &dyn Sys, config: &NodeConfig, warnings: &mut Vec<String>) -> sys::Result<()> {
    let wanted = !config.kubesolo.flags.is_empty();
    let present = match sys.read(KUBESOLO, TEXT_LIMIT) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error),
    };
    let ours = present.as_ref().is_some_and(|bytes| bytes.starts_with(MARK.as_bytes()));
    match (wanted, present) {
        (false, None) => Ok(()),
        // Flags of an earlier configuration, perhaps a key among them, must not stay.
        (false, Some(_)) if ours => sys.remove(KUBESOLO),
        (false, Some(_)) => {
            warnings.push(format!("{KUBESOLO} was not written by KubeSolo OS; it is kept as it is"));
            Ok(())
        }
        (true, present) => {
            let text = format!("{MARK}{}", kubesolo_file(&config.kubesolo));
            if present.as_deref() == Some(text.as_bytes()) {
                return Ok(());
            }
            if let Some(foreign) = present.filter(|_| !ours) {
                save_original(sys, &foreign, warnings)?;
            }
            sys.replace(KUBESOLO, text.as_bytes(), 0o600)
        }
    }
}

fn save_original(sys: &dyn Sys, foreign: &[u8], warnings: &mut Vec<String>) -> sys::Result<()> {
    let saved = format!("{KUBESOLO}.orig");
    if sys.kind(&saved).is_some() {
        warnings.push(format!("{KUBESOLO} was changed by others and is replaced; {saved} is from before"));
        return Ok(());
    }
    warnings.push(format!("{KUBESOLO} was not written by KubeSolo OS; it is replaced and saved as {saved}"));
    sys.replace(&saved, foreign, 0o600)
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
