//! Factory reset: what is kept on the data partition is removed at stage 30, before anything uses it.
//!
//! `kubesolo-os factory-reset` writes a request to the data partition and restarts; `ksos.factory-reset=data|all` on the
//! kernel command line asks for the same in that boot. `data` removes everything but what is to be kept, by default the
//! configuration, and always the machine-id and the boot count. `all` formats the partition.
//!
//! A power cut at any point is made good at the next boot: the request is removed last, and a partition that is being
//! formatted is marked so in the partition table (`disk::grow`).

use std::collections::BTreeSet;
use std::io::Write;

use ksos_formats::layout;
use serde::{Deserialize, Serialize};

use crate::cmdline::Cmdline;
use crate::sys::{Signal, Sys, TEXT_LIMIT};

use super::node::Node;
use super::{Error, data, reserve, status};

/// The current value of [`Request::format`].
const FORMAT: u32 = 1;
/// What can be kept.
const KEEPABLE: [&str; 2] = ["configuration", "logs"];
/// What is kept when nothing is said.
const KEPT: &str = "configuration";
/// What is kept in `ksos/` on the data partition that survives: who the node is, and a time that is surely past.
const IDENTITY: [&str; 3] = ["machine-id", "boot-count", "clock"];
/// What it keeps there that goes with the containers.
const CONTAINERS: [&str; 1] = ["imported.json"];

/// How much is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Scope {
    /// Everything but what is kept.
    Data,
    /// The whole partition.
    All,
}

/// The request on the data partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Request {
    format: u32,
    scope: Scope,
    keep: BTreeSet<String>,
}

fn request_path(data: &str) -> String {
    format!("{data}/ksos/factory-reset.json")
}

/// Returns what the kernel command line asks for.
pub(super) fn from_cmdline(cmdline: &Cmdline) -> Result<Option<Scope>, Error> {
    match cmdline.value(layout::PARAM_FACTORY_RESET) {
        None => Ok(None),
        Some("data") => Ok(Some(Scope::Data)),
        Some("all") => Ok(Some(Scope::All)),
        Some(other) => Err(Error::Parameter {
            name: layout::PARAM_FACTORY_RESET,
            value: other.to_owned(),
            expected: "data or all",
        }),
    }
}

/// Does what was asked for (and notes it if the partition is no longer mounted after that), by the request on the mounted partition or by the command line. `All` of the command line was
/// done before the partition was mounted. Returns what was done.
pub(super) fn carry_out(node: &mut Node<'_>, wanted: Option<Scope>) -> Result<Vec<String>, Error> {
    let sys = node.sys;
    let path = request_path(&node.data.path);
    let pending = match sys.read(&path, TEXT_LIMIT) {
        Ok(text) => Some(parse(&path, &text)?),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error.into()),
    };
    let request = match (pending, wanted) {
        (Some(request), _) => request,
        (None, Some(Scope::Data)) => {
            let request = Request { format: FORMAT, scope: Scope::Data, keep: [KEPT.to_owned()].into() };
            sys.make_directory(&format!("{}/ksos", node.data.path), 0o755)?;
            write(sys, &node.data.path, &request)?;
            request
        }
        (None, Some(Scope::All)) => return Ok(vec!["factory reset".to_owned()]),
        (None, None) => return Ok(Vec::new()),
    };
    match request.scope {
        Scope::All => {
            sys.unmount(&node.data.path)?;
            // The request goes with everything else, once the partition is marked.
            let done = data::mount_partition(node, true);
            node.data.persistent = done.is_ok();
            let done = done?;
            Ok(["factory reset".to_owned()].into_iter().chain(done.into_iter().skip(1)).collect())
        }
        Scope::Data => erase_data(node, &request, &path),
    }
}

fn parse(path: &str, text: &[u8]) -> Result<Request, Error> {
    let request: Request =
        serde_json::from_slice(text).map_err(|source| Error::Document { path: path.to_owned(), source })?;
    if request.format != FORMAT {
        return Err(Error::Format { path: path.to_owned(), found: request.format, supported: FORMAT });
    }
    Ok(request)
}

fn write(sys: &dyn Sys, data: &str, request: &Request) -> Result<(), Error> {
    let path = request_path(data);
    let text = serde_json::to_vec(request).map_err(|source| Error::Document { path: path.clone(), source })?;
    Ok(reserve::replace(sys, data, &path, &text, 0o600)?)
}

fn erase_data(node: &Node<'_>, request: &Request, path: &str) -> Result<Vec<String>, Error> {
    let (sys, data) = (node.sys, &node.data.path);
    let mut removed = Vec::new();
    let result = erase(sys, data, &kept_paths(node, request), &mut removed);
    sys.sync();
    result?;
    crate::config::state::write_again(sys, data)?;
    sys.remove(path)?;
    sys.sync();
    let names: Vec<&str> = removed.iter().map(|path| path.strip_prefix(data.as_str()).unwrap_or(path)).collect();
    let kept: Vec<&str> = request.keep.iter().map(String::as_str).chain(["machine-id"]).collect();
    let removed = if names.is_empty() { "nothing".to_owned() } else { names.join(" ") };
    Ok(vec![format!("factory reset: removed {removed}; kept {}", kept.join(", "))])
}

/// Returns the paths on the mounted data partition that stay.
fn kept_paths(node: &Node<'_>, request: &Request) -> Vec<String> {
    let data = &node.data.path;
    let below = |path: &str, parent: &str| path == parent || path.starts_with(&format!("{parent}/"));
    let stays = |path: &&String| {
        (request.keep.contains("configuration") && below(path, "/etc"))
            || (request.keep.contains("logs") && below(path, "/var/log"))
    };
    let persist =
        node.config.data.persist.iter().filter(stays).map(|path| format!("{data}{}", path.trim_end_matches('/')));
    let mut own: Vec<String> = IDENTITY.map(str::to_owned).to_vec();
    own.push("factory-reset.json".to_owned());
    if request.keep.contains("configuration") {
        // What the stage of the configuration has noted goes with it; what belongs to the containers does not.
        let names = node.sys.list(&format!("{data}/ksos")).unwrap_or_default();
        let known =
            |name: &String| !CONTAINERS.contains(&name.as_str()) && !name.starts_with("staging-") && !is_log(name);
        own.extend(names.into_iter().filter(known));
    }
    if request.keep.contains("logs") {
        own.extend(node.sys.list(&format!("{data}/ksos")).unwrap_or_default().into_iter().filter(|name| is_log(name)));
    }
    let own = own.into_iter().map(|name| format!("{data}/ksos/{name}"));
    persist.chain(own).chain([format!("{data}/lost+found")]).collect()
}

fn is_log(name: &str) -> bool {
    name.starts_with(super::journal::NAME)
}

/// Removes all below `directory` but `keep` and the directories that lead there. Goes on after a failure.
fn erase(sys: &dyn Sys, directory: &str, keep: &[String], removed: &mut Vec<String>) -> Result<(), Error> {
    let mut failures = Vec::new();
    for name in sys.list(directory)? {
        let path = format!("{directory}/{name}");
        if keep.contains(&path) {
            continue;
        }
        let leads = keep.iter().any(|kept| kept.starts_with(&format!("{path}/")));
        let result = if leads && !sys.is_link(&path) {
            erase(sys, &path, keep, removed)
        } else {
            sys.remove_tree(&path).map(|()| removed.push(path)).map_err(Error::from)
        };
        failures.extend(result.err().map(|error| error.to_string()));
    }
    Error::unless_empty(failures)
}

/// What the applet is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    request: Request,
    yes: bool,
    reboot: bool,
}

fn parse_options(arguments: &[String]) -> Result<Options, String> {
    let (mut scope, mut keep, mut yes, mut reboot) = (Scope::Data, None, false, true);
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let (name, value) = word.split_once('=').map_or((word.as_str(), None), |(name, value)| (name, Some(value)));
        match (name, value) {
            ("--all", None) => scope = Scope::All,
            ("--yes", None) => yes = true,
            ("--no-reboot", None) => reboot = false,
            ("--keep", Some(list)) => keep = Some(parse_keep(list)?),
            ("--keep", None) => {
                keep = Some(parse_keep(words.next().ok_or_else(|| "--keep needs a list".to_owned())?)?);
            }
            _ => return Err(format!("unknown argument {word}")),
        }
    }
    if scope == Scope::All && keep.is_some() {
        return Err("--all keeps nothing: it cannot be used with --keep".to_owned());
    }
    let default = if scope == Scope::All { BTreeSet::new() } else { [KEPT.to_owned()].into() };
    Ok(Options { request: Request { format: FORMAT, scope, keep: keep.unwrap_or(default) }, yes, reboot })
}

fn parse_keep(list: &str) -> Result<BTreeSet<String>, String> {
    let names: BTreeSet<String> =
        list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    match names.iter().find(|name| !KEEPABLE.contains(&name.as_str())) {
        Some(unknown) => Err(format!("{unknown} cannot be kept by name; what can be: {}", KEEPABLE.join(", "))),
        None => Ok(names),
    }
}

/// The applet `factory-reset [--keep LIST] [--all] [--yes] [--no-reboot]`. Returns its exit status: 0 the request is
/// written, 1 it is not, 2 usage, or `--yes` is missing.
pub fn applet(sys: &dyn Sys, arguments: &[String], out: &mut dyn Write, errors: &mut dyn Write) -> i32 {
    let options = match parse_options(arguments) {
        Ok(options) => options,
        Err(message) => {
            let _ = writeln!(errors, "factory-reset: {message}");
            return 2;
        }
    };
    let node = match status::read(sys) {
        Ok(node) => node,
        Err(message) => {
            let _ = writeln!(errors, "factory-reset: {message}");
            return 1;
        }
    };
    if !node.persistent {
        let _ = writeln!(errors, "factory-reset: data is in memory only and ends with the next restart");
        return 1;
    }
    let _ = writeln!(out, "{}", describe(&options.request));
    if !options.yes {
        let _ = writeln!(errors, "factory-reset: nothing was done\nhint: --yes does it");
        return 2;
    }
    let written = write(sys, &node.data, &options.request).map_err(|error| error.to_string());
    let asked = written.and_then(|()| match options.reboot {
        true => sys.signal(1, Signal::Term).map_err(|error| error.to_string()),
        false => Ok(()),
    });
    if let Err(message) = asked {
        let _ = writeln!(errors, "factory-reset: {message}");
        return 1;
    }
    0
}

fn describe(request: &Request) -> String {
    match request.scope {
        Scope::All => "at the next boot the data partition is formatted; nothing is kept".to_owned(),
        Scope::Data => {
            let kept: Vec<&str> = request.keep.iter().map(String::as_str).chain(["machine-id"]).collect();
            format!("at the next boot Kubernetes, containers and all other data are removed; kept: {}", kept.join(", "))
        }
    }
}

#[cfg(test)]
#[path = "reset_tests.rs"]
mod tests;
