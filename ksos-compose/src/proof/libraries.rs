//! Dynamic linking, tried at build time: what `ld.so` would look for, where, and whether it is there.
//!
//! For glibc the search is that of ld.so(8): `DT_RPATH` of the object and of those that loaded it (unless the object
//! has a `DT_RUNPATH`), `DT_RUNPATH`, the directories of `/etc/ld.so.conf` (only where `/etc/ld.so.cache` is in the
//! image, since without it they are not looked at), then the built-in directories. musl looks at `DT_RPATH` and
//! `DT_RUNPATH` alike, then at `/lib`, `/usr/local/lib`, `/usr/lib`, and is its own libc, libm, libpthread and so on.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use ksos_formats::Arch;

use super::elf::{ElfInfo, ElfKind};
use super::facts::FileFacts;
use super::paths::{self, Lead, follow};
use super::{Finding, Place, ProofError, Rule, failure};
use crate::tree::{Node, Tree, parent};

/// A family of C libraries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Libc {
    Glibc,
    Musl,
}

/// Applies the ELF rules and the one-libc rule to a tree.
///
/// # Errors
/// [`ProofError::Read`] for the linker's own configuration files.
pub fn libraries(
    place: Place,
    tree: &Tree,
    arch: Arch,
    facts: &BTreeMap<String, FileFacts>,
) -> Result<Vec<Finding>, ProofError> {
    let mut linker = Linker {
        place,
        tree,
        arch,
        facts,
        configured: configured_directories(tree)?,
        directories: RefCell::default(),
        found: BTreeSet::new(),
    };
    let mut loaded = BTreeSet::new();
    let mut rest = Vec::new();
    for (path, fact) in facts {
        match fact {
            FileFacts::BadElf(reason) => {
                let fix = "take the file from a sound package, or exclude it";
                linker.report(Rule::ElfMachine, path, format!("cannot be read as an ELF file: {reason}"), fix);
            }
            FileFacts::Elf(info) if info.kind == ElfKind::Loadable => {
                if info.machine != arch.elf_machine() {
                    let message =
                        format!("is for ELF machine {}, the image for {arch} ({})", info.machine, arch.elf_machine());
                    linker.report(Rule::ElfMachine, path, message, format!("take it from a component for {arch}"));
                } else if let Some(interpreter) = &info.interpreter {
                    let libc = linker.interpreter(path, interpreter);
                    linker.load(path, libc, &mut loaded);
                } else {
                    rest.push(path);
                }
            }
            _ => {}
        }
    }
    // What no executable loads may still be loaded by name (plugins): it must be able to stand alone.
    for path in rest {
        if !loaded.contains(path) {
            let libc = linker.guess(path);
            linker.load(path, libc, &mut loaded);
        }
    }
    linker.one_libc();
    Ok(linker.found.into_iter().collect())
}

struct Linker<'a> {
    place: Place,
    tree: &'a Tree,
    arch: Arch,
    facts: &'a BTreeMap<String, FileFacts>,
    configured: Vec<String>,
    /// Directories by name, links followed; `None` when they are not there.
    directories: RefCell<HashMap<String, Option<String>>>,
    found: BTreeSet<Finding>,
}

/// One object of a process that is being put together.
struct Object {
    path: String,
    /// `DT_RPATH` of those that loaded it, nearest first.
    inherited: Vec<String>,
}

impl<'a> Linker<'a> {
    fn report(&mut self, rule: Rule, path: &str, message: String, fix: impl Into<String>) {
        self.found.insert(failure(rule, self.place, path, message, fix));
    }

    fn elf(&self, path: &str) -> Option<&'a ElfInfo> {
        let path = match &self.tree.get(path)?.node {
            Node::HardLink(target) => target.as_str(),
            _ => path,
        };
        match self.facts.get(path)? {
            FileFacts::Elf(info) => Some(info),
            _ => None,
        }
    }

    /// Checks the interpreter of an executable and returns its family.
    fn interpreter(&mut self, path: &str, interpreter: &str) -> Libc {
        let libc = if file_name(interpreter).starts_with("ld-musl") { Libc::Musl } else { Libc::Glibc };
        let fix = "add the package of that C library to a component, or use a static build";
        match follow(self.tree, interpreter) {
            Lead::Found(target) => match self.elf(&target) {
                Some(info) if info.machine == self.arch.elf_machine() => {}
                _ => {
                    let message = format!("its interpreter {interpreter} is not an ELF file for {}", self.arch);
                    self.report(Rule::ElfInterpreter, path, message, fix);
                }
            },
            Lead::Missing(_) | Lead::Loop => {
                let message = format!("its interpreter {interpreter} is not in the image");
                self.report(Rule::ElfInterpreter, path, message, fix);
            }
        }
        libc
    }

    /// Guesses which C library an object without interpreter was built for.
    fn guess(&self, path: &str) -> Libc {
        let musl = |name: &String| name.starts_with("libc.musl-") || name == "libc.so";
        let needs = self.elf(path).is_some_and(|info| info.needed.iter().any(musl));
        if needs { Libc::Musl } else { Libc::Glibc }
    }

    /// Loads an object and everything it needs, breadth first like `ld.so`.
    fn load(&mut self, path: &str, libc: Libc, all: &mut BTreeSet<String>) {
        let mut names: BTreeSet<String> = BTreeSet::new();
        let mut loaded: BTreeSet<String> = BTreeSet::from([path.to_owned()]);
        let mut pending = VecDeque::from([Object { path: path.to_owned(), inherited: Vec::new() }]);
        let standard = self.standard_directories(path, libc);
        while let Some(object) = pending.pop_front() {
            all.insert(object.path.clone());
            let Some(info) = self.elf(&object.path) else { continue };
            let rpaths = self.rpaths(&object, info, libc);
            for name in &info.needed {
                if names.contains(name) || libc == Libc::Musl && part_of_musl(name) {
                    continue;
                }
                let Some(target) = self.find(&object, info, name, &rpaths, &standard) else {
                    self.missing_library(&object.path, name);
                    continue;
                };
                names.insert(name.clone());
                names.extend(self.elf(&target).and_then(|info| info.soname.clone()));
                self.check_versions(&object.path, info, name, &target);
                if loaded.insert(target.clone()) {
                    pending.push_back(Object { path: target, inherited: rpaths.clone() });
                }
            }
        }
    }

    /// Returns the `DT_RPATH` directories that count for what this object needs, and that it hands on.
    fn rpaths(&self, object: &Object, info: &ElfInfo, libc: Libc) -> Vec<String> {
        let own = if libc == Libc::Glibc && !info.runpath.is_empty() { &[][..] } else { &info.rpath };
        let own = own.iter().map(|path| self.expand(path, &object.path));
        own.chain(object.inherited.iter().cloned()).collect()
    }

    /// Finds a needed library: the path of the file, links followed.
    fn find(
        &self,
        object: &Object,
        info: &ElfInfo,
        name: &str,
        rpaths: &[String],
        standard: &[String],
    ) -> Option<String> {
        // "If a shared object dependency contains a slash, it is loaded from that pathname" (ld.so(8)).
        if name.contains('/') {
            return self.candidate(&self.expand(name, &object.path));
        }
        let runpath: Vec<String> = info.runpath.iter().map(|path| self.expand(path, &object.path)).collect();
        let inherited: &[String] = if info.runpath.is_empty() { rpaths } else { &[] };
        let directories = inherited.iter().chain(&runpath).chain(standard);
        directories
            .filter_map(|directory| self.directory(directory))
            .find_map(|directory| self.candidate(&format!("{directory}/{name}")))
    }

    /// Returns the file at `path` if it is an object that `ld.so` would take; others it passes over.
    fn candidate(&self, path: &str) -> Option<String> {
        let Lead::Found(target) = follow(self.tree, path) else { return None };
        let info = self.elf(&target)?;
        let fits = info.machine == self.arch.elf_machine() && info.kind == ElfKind::Loadable;
        fits.then_some(target)
    }

    fn directory(&self, path: &str) -> Option<String> {
        if let Some(known) = self.directories.borrow().get(path) {
            return known.clone();
        }
        let found = match follow(self.tree, path) {
            Lead::Found(found) => Some(found),
            Lead::Missing(_) | Lead::Loop => None,
        };
        self.directories.borrow_mut().insert(path.to_owned(), found.clone());
        found
    }

    /// Replaces `$ORIGIN` and `$LIB` (ld.so(8), "Dynamic string tokens").
    fn expand(&self, path: &str, object: &str) -> String {
        let origin = format!("/{}", parent(object).unwrap_or(""));
        let library = format!("lib/{}-linux-gnu", self.arch.machine());
        let mut text = path.to_owned();
        for (name, value) in [("ORIGIN", &origin), ("LIB", &library)] {
            text = text.replace(&format!("${{{name}}}"), value).replace(&format!("${name}"), value);
        }
        text
    }

    /// Returns the directories that are always looked at, in order. That of the dynamic linker itself is among them:
    /// it is where its distribution puts libraries.
    fn standard_directories(&self, path: &str, libc: Libc) -> Vec<String> {
        if libc == Libc::Musl {
            return ["/lib", "/usr/local/lib", "/usr/lib"].map(str::to_owned).to_vec();
        }
        let triplet = format!("{}-linux-gnu", self.arch.machine());
        let mut directories = self.configured.clone();
        let interpreter = self.elf(path).and_then(|info| info.interpreter.clone());
        if let Some(Lead::Found(linker)) = interpreter.map(|interpreter| follow(self.tree, &interpreter)) {
            directories.extend(parent(&linker).map(|directory| format!("/{directory}")));
        }
        directories.extend([format!("/lib/{triplet}"), format!("/usr/lib/{triplet}")]);
        directories.extend(["/lib".to_owned(), "/usr/lib".to_owned()]);
        directories
    }

    fn missing_library(&mut self, path: &str, name: &str) {
        let elsewhere = self.facts.keys().find(|path| file_name(path) == name);
        let (message, fix) = match elsewhere {
            Some(other) => (
                format!("needs {name}, which the dynamic linker does not find; /{other} is not where it looks"),
                "put the library into a standard directory, or give the file a run path".to_owned(),
            ),
            None => (
                format!("needs {name}, which is not in the image"),
                format!("add the package that has {name} to a component, or exclude this file"),
            ),
        };
        self.report(Rule::ElfLibrary, path, message, fix);
    }

    fn check_versions(&mut self, path: &str, info: &ElfInfo, name: &str, target: &str) {
        let Some(library) = self.elf(target) else { return };
        // A library without any version satisfies every one (`ld.so` only warns).
        if library.versions_defined.is_empty() {
            return;
        }
        for (_, version) in info.versions_needed.iter().filter(|(library, _)| library == name) {
            if !library.versions_defined.contains(version) {
                let message = format!("needs version {version} of {name}, which /{target} does not have");
                let fix = "take both from the same release of the distribution";
                self.report(Rule::ElfVersion, path, message, fix);
            }
        }
    }

    /// Reports a second C library: another family, or another copy of the same.
    fn one_libc(&mut self) {
        let mut seen: BTreeMap<Libc, BTreeSet<&str>> = BTreeMap::new();
        let mut copies: BTreeSet<&str> = BTreeSet::new();
        for (path, fact) in self.facts {
            let FileFacts::Elf(info) = fact else { continue };
            if self.tree.get(path).is_some_and(|entry| matches!(entry.node, Node::HardLink(_))) {
                continue;
            }
            let soname = info.soname.as_deref().unwrap_or_default();
            let name = file_name(path);
            let interpreter = info.interpreter.as_deref().map(file_name).unwrap_or_default();
            if soname == "libc.so.6" {
                copies.insert(path);
            }
            if soname == "libc.so.6" || interpreter.starts_with("ld-linux") {
                seen.entry(Libc::Glibc).or_default().insert(path);
            }
            if interpreter.starts_with("ld-musl") || name.starts_with("ld-musl-") || soname.starts_with("libc.musl-") {
                seen.entry(Libc::Musl).or_default().insert(path);
            }
        }
        if let (Some(glibc), Some(musl)) = (seen.get(&Libc::Glibc), seen.get(&Libc::Musl)) {
            let (some, other) = (glibc.first().copied().unwrap_or(""), musl.first().copied().unwrap_or(""));
            let message =
                format!("two C libraries: {} files use glibc (/{some}), {} use musl", glibc.len(), musl.len());
            let fix = "use the static build of one side, or take everything from one distribution";
            self.report(Rule::OneLibc, other, message, fix);
        }
        let mut copies = copies.into_iter();
        if let Some(first) = copies.next() {
            for second in copies {
                let message = format!("a second copy of the C library; the first is /{first}");
                self.report(Rule::OneLibc, second, message, "exclude one of them");
            }
        }
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Tells whether musl's dynamic linker answers to this name itself (musl `ldso/dynlink.c`, reserved names).
fn part_of_musl(name: &str) -> bool {
    name.strip_prefix("lib").is_some_and(|rest| {
        ["c.", "pthread.", "rt.", "m.", "dl.", "util.", "xnet."].iter().any(|reserved| rest.starts_with(reserved))
    })
}

/// Returns the directories of `/etc/ld.so.conf` and what it includes, where the image has the cache made of them.
fn configured_directories(tree: &Tree) -> Result<Vec<String>, ProofError> {
    let mut directories = Vec::new();
    if tree.get("etc/ld.so.cache").is_none() {
        return Ok(directories);
    }
    let mut pending = vec!["etc/ld.so.conf".to_owned()];
    let mut seen = BTreeSet::new();
    while let Some(path) = pending.pop() {
        if !seen.insert(path.clone()) || seen.len() > 1000 {
            continue;
        }
        let Some(entry) = paths::entry(tree, &path) else { continue };
        let Node::File(content) = &entry.node else { continue };
        let bytes = content.read(1 << 20).map_err(|source| ProofError::Read { path, source })?;
        for line in String::from_utf8_lossy(&bytes).lines() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if let Some(pattern) = line.strip_prefix("include ") {
                let pattern = pattern.trim().trim_start_matches('/');
                let pattern = if pattern.starts_with("etc/") { pattern.to_owned() } else { format!("etc/{pattern}") };
                let globs = super::globs([pattern.as_str()])?;
                pending.extend(tree.iter().filter(|(path, _)| globs.is_match(path)).map(|(path, _)| path.to_owned()));
            } else if line.starts_with('/') {
                directories.push(line.to_owned());
            }
        }
    }
    Ok(directories)
}
