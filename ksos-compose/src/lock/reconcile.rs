//! What of the lock still holds for the manifest as it is now.

use std::collections::{BTreeMap, BTreeSet};

use ksos_formats::{Arch, Digest};

use super::{Component, Lock, image_key, title};

/// How strictly the lock is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// Resolves what the lock lacks.
    #[default]
    Default,
    /// `--locked`: the lock may not change.
    Locked,
    /// `--offline`: no network.
    Offline,
    /// `--frozen`: both.
    Frozen,
}

impl Mode {
    /// Returns the mode of two flags.
    pub fn new(locked: bool, offline: bool) -> Self {
        match (locked, offline) {
            (false, false) => Mode::Default,
            (true, false) => Mode::Locked,
            (false, true) => Mode::Offline,
            (true, true) => Mode::Frozen,
        }
    }

    /// May the network be used?
    pub fn network(self) -> bool {
        matches!(self, Mode::Default | Mode::Locked)
    }

    /// May the lock change?
    pub fn may_change(self) -> bool {
        matches!(self, Mode::Default | Mode::Offline)
    }
}

/// Which components are to be resolved anew although the lock has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Update {
    /// None: a build.
    #[default]
    Nothing,
    /// Every one: `update`.
    All,
    /// These: `update COMPONENT`.
    Only(BTreeSet<String>),
}

impl Update {
    /// Returns what `update` with these arguments means: without any, everything.
    pub fn of(components: impl IntoIterator<Item = String>) -> Self {
        let components: BTreeSet<_> = components.into_iter().collect();
        if components.is_empty() { Update::All } else { Update::Only(components) }
    }

    /// Says whether an entry of the lock is resolved anew.
    pub fn takes(&self, component: &str) -> bool {
        match self {
            Update::Nothing => false,
            Update::All => true,
            Update::Only(components) => components.iter().any(|name| names(name, component)),
        }
    }
}

/// Says whether `name`, as a user states it, is the entry `key` of the lock: a component or container image of that
/// name, or a container image alone as `container-images.NAME`.
fn names(name: &str, key: &str) -> bool {
    let explicit = name.strip_prefix("container-images.");
    name == key || image_key(name) == key || explicit.is_some_and(|name| image_key(name) == key)
}

/// A component that the manifest asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub component: String,
    /// Digest of what it asks for; none when it is replaced by a local file (`--component NAME=PATH`): such a
    /// component is not resolved, and what the lock has of it stays.
    pub request: Option<Digest>,
}

/// Why a component is resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The lock does not have it.
    Missing,
    /// The manifest asks for something else than when it was locked.
    Changed,
    /// The user asked for newer versions.
    Updated,
}

/// What to do about a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision<'a> {
    /// Take what the lock has.
    Keep(&'a Component),
    /// Resolve it.
    Resolve(Reason),
}

/// What holds and what does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reconciled<'a> {
    /// For each component that is not replaced.
    pub decisions: BTreeMap<String, Decision<'a>>,
    /// Components of this architecture that the lock has and the manifest does not: they are dropped.
    pub unused: Vec<String>,
}

/// A difference that a mode forbids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WouldChange {
    /// A component would be resolved.
    Resolve(String, Reason),
    /// A component would be dropped.
    Drop(String),
}

impl std::fmt::Display for WouldChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            WouldChange::Resolve(name, Reason::Missing) => write!(f, "{} is not in it", title(name)),
            WouldChange::Resolve(name, Reason::Changed) => {
                write!(f, "{} is not what the manifest asks for now", title(name))
            }
            WouldChange::Resolve(name, Reason::Updated) => write!(f, "{} would be updated", title(name)),
            WouldChange::Drop(name) => write!(f, "{} is no longer in the manifest", title(name)),
        }
    }
}

/// The lock cannot be used as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReconcileError {
    /// It would change, which `--locked` forbids.
    #[error("the lock file would change for {arch}, which is not allowed:{}", changes.iter().map(|change| format!("\n  {change}")).collect::<String>())]
    WouldChange {
        /// The architecture.
        arch: Arch,
        /// Every difference.
        changes: Vec<WouldChange>,
    },
    /// An update names a component that there is not.
    #[error("there is no component {name} to update; there are {}", known.join(", "))]
    Unknown {
        /// The name.
        name: String,
        /// The components that are resolved.
        known: Vec<String>,
    },
}

/// Holds `lock` against the `wanted` components of `arch`.
///
/// # Errors
/// [`ReconcileError`].
pub fn reconcile<'a>(
    arch: Arch,
    wanted: &[Wanted],
    lock: &'a Lock,
    mode: Mode,
    update: &Update,
) -> Result<Reconciled<'a>, ReconcileError> {
    check_names(wanted, update)?;
    let mut decisions = BTreeMap::new();
    for Wanted { component, request } in wanted {
        let Some(request) = request else { continue };
        let decision = match lock.get(arch, component) {
            None => Decision::Resolve(Reason::Missing),
            Some(locked) if locked.request != *request => Decision::Resolve(Reason::Changed),
            Some(_) if update.takes(component) => Decision::Resolve(Reason::Updated),
            Some(locked) => Decision::Keep(locked),
        };
        decisions.insert(component.clone(), decision);
    }
    let names: BTreeSet<_> = wanted.iter().map(|wanted| wanted.component.as_str()).collect();
    let locked = lock.arches.get(&arch).into_iter().flatten().map(|(name, _)| name);
    let unused: Vec<_> = locked.filter(|name| !names.contains(name.as_str())).cloned().collect();
    let reconciled = Reconciled { decisions, unused };
    let changes = reconciled.changes();
    if !mode.may_change() && !changes.is_empty() {
        return Err(ReconcileError::WouldChange { arch, changes });
    }
    Ok(reconciled)
}

impl Reconciled<'_> {
    /// Returns how the lock would change. An update may find that nothing is newer.
    pub fn changes(&self) -> Vec<WouldChange> {
        let resolved = self.decisions.iter().filter_map(|(name, decision)| match decision {
            Decision::Resolve(reason) => Some(WouldChange::Resolve(name.clone(), *reason)),
            Decision::Keep(_) => None,
        });
        resolved.chain(self.unused.iter().cloned().map(WouldChange::Drop)).collect()
    }
}

fn check_names(wanted: &[Wanted], update: &Update) -> Result<(), ReconcileError> {
    let Update::Only(names) = update else { return Ok(()) };
    let known: Vec<_> =
        wanted.iter().filter(|wanted| wanted.request.is_some()).map(|wanted| wanted.component.clone()).collect();
    match names.iter().find(|name| !known.iter().any(|key| self::names(name, key))) {
        Some(name) => {
            let known = known.iter().map(|key| super::image_name(key).unwrap_or(key).to_owned()).collect();
            Err(ReconcileError::Unknown { name: name.clone(), known })
        }
        None => Ok(()),
    }
}
