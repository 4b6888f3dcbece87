//! Loading modules by name, by alias, and for the hardware that is present.

use std::cell::RefCell;
use std::collections::BTreeSet;

use crate::cmdline::Cmdline;
use crate::sys::{self, FileKind, Sys, read_line};

use super::index::{Index, canonical_name};

/// Where module directories are, in order.
const ROOTS: [&str; 2] = ["/lib/modules", "/usr/lib/modules"];
/// Deepest soft-dependency chain that is followed.
const SOFT_DEPTH: u32 = 8;
/// Where the drivers of watchdogs are below a module directory (kernel `drivers/watchdog/`).
const WATCHDOGS: &str = "/drivers/watchdog/";
/// Each round looks at devices that the round before made appear; a bus deeper than this does not exist.
const ROUNDS: u32 = 8;

/// A module that could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a module nor an alias of that name.
    #[error("no module or alias {0:?} in {1}")]
    Unknown(String, String),
    /// The index or a module file.
    #[error(transparent)]
    Sys(#[from] sys::Error),
}

impl Error {
    /// Whether the module is fine and this machine does not have what it is for (init_module(2), `ENODEV`).
    pub fn is_no_device(&self) -> bool {
        matches!(self, Error::Sys(error) if error.source.raw_os_error() == Some(libc::ENODEV))
    }
}

/// Loads modules of the running kernel.
pub struct Loader<'a> {
    sys: &'a dyn Sys,
    index: Index,
    directory: String,
    cmdline: Cmdline,
    blacklist: BTreeSet<String>,
    loaded: RefCell<BTreeSet<String>>,
    dry: bool,
    options: String,
}

/// Returns the directory of the modules of `release`, if there is one with an index.
pub fn directory(sys: &dyn Sys, release: &str) -> Option<String> {
    let mut candidates = ROOTS.iter().map(|root| format!("{root}/{release}"));
    candidates.find(|path| sys.kind(&format!("{path}/modules.dep")) == Some(FileKind::File))
}

impl<'a> Loader<'a> {
    /// Reads the index of the running kernel's modules.
    pub fn open(sys: &'a dyn Sys, cmdline: &Cmdline) -> Result<Self, Error> {
        Self::for_release(sys, cmdline, &sys.kernel_release())
    }

    /// Reads the index of the modules of `release`.
    pub fn for_release(sys: &'a dyn Sys, cmdline: &Cmdline, release: &str) -> Result<Self, Error> {
        let directory = directory(sys, release).unwrap_or_else(|| format!("{}/{release}", ROOTS[0]));
        Ok(Loader {
            sys,
            index: Index::read(sys, &directory)?,
            directory,
            cmdline: cmdline.clone(),
            blacklist: cmdline.blacklist().into_iter().collect(),
            loaded: RefCell::default(),
            dry: false,
            options: String::new(),
        })
    }

    /// Makes the loader return what it would load instead of loading it.
    pub fn dry(mut self) -> Self {
        self.dry = true;
        self
    }

    /// Adds options for the modules that are asked for by name, after those of the kernel command line.
    pub fn with_options(mut self, options: String) -> Self {
        self.options = options;
        self
    }

    /// Loads a module by name, else all modules by alias. Returns the files that were loaded, in order.
    pub fn load(&self, name: &str) -> Result<Vec<String>, Error> {
        let mut done = Vec::new();
        if self.index.module(name).is_some() {
            self.load_module(name, 0, &mut done)?;
            return Ok(done);
        }
        if self.index.is_builtin(name) {
            return Ok(done);
        }
        let names = self.index.by_alias(name);
        if names.is_empty() {
            return Err(Error::Unknown(name.to_owned(), self.directory.clone()));
        }
        self.load_all(&names, &mut done)?;
        Ok(done)
    }

    /// Loads what matches a device alias; no match is no error, blacklisted modules are left out.
    pub fn load_alias(&self, alias: &str) -> Result<Vec<String>, Error> {
        let mut done = Vec::new();
        self.load_all(&self.index.by_alias(alias), &mut done)?;
        Ok(done)
    }

    /// Tries all; returns the first failure, after the others had their turn.
    fn load_all(&self, names: &[&str], done: &mut Vec<String>) -> Result<(), Error> {
        let allowed = names.iter().filter(|name| !self.blacklist.contains(**name));
        let failures = allowed.filter_map(|name| self.load_module(name, 0, done).err());
        failures.collect::<Vec<_>>().into_iter().next().map_or(Ok(()), Err)
    }

    fn load_module(&self, name: &str, depth: u32, done: &mut Vec<String>) -> Result<(), Error> {
        let Some(module) = self.index.module(name) else { return Ok(()) };
        if self.loaded.borrow().contains(&module.path) {
            return Ok(());
        }
        let soft = self.index.soft(name).filter(|_| depth < SOFT_DEPTH);
        for before in soft.map_or(&[][..], |soft| &soft.before) {
            // A soft dependency that fails is no failure of the module (modprobe.d(5)).
            let _ = self.load_module(before, depth + 1, done);
        }
        for path in module.dependencies.iter().rev() {
            self.insert(path, "", done)?;
        }
        self.insert(&module.path, if depth == 0 { &self.options } else { "" }, done)?;
        for after in soft.map_or(&[][..], |soft| &soft.after) {
            let _ = self.load_module(after, depth + 1, done);
        }
        Ok(())
    }

    fn insert(&self, path: &str, options: &str, done: &mut Vec<String>) -> Result<(), Error> {
        if self.loaded.borrow().contains(path) {
            return Ok(());
        }
        let name = canonical_name(path);
        if !self.dry && self.sys.kind(&format!("/sys/module/{name}/initstate")).is_none() {
            let options = format!("{} {options}", self.cmdline.module_options(&name));
            self.sys.load_module(path, options.trim())?;
        }
        self.loaded.borrow_mut().insert(path.to_owned());
        done.push(path.to_owned());
        Ok(())
    }

    /// Loads the drivers of watchdogs for the devices there are now. One behind a bus whose driver is not loaded yet is
    /// found by [`Self::load_for_hardware`].
    pub fn load_watchdogs(&self) {
        let mut aliases = BTreeSet::new();
        collect_aliases(self.sys, &mut aliases);
        self.load_of(&aliases, &[WATCHDOGS]);
    }

    /// Loads drivers for all devices there are, and again for those that appear by that, as far as they are in one of
    /// `places` below the module directory.
    pub fn load_below(&self, places: &[&str]) {
        let mut seen = BTreeSet::new();
        for _ in 0..ROUNDS {
            let mut aliases = BTreeSet::new();
            collect_aliases(self.sys, &mut aliases);
            if aliases == seen {
                break;
            }
            self.load_of(&aliases, places);
            seen = aliases;
        }
    }

    /// Loads the drivers of `aliases` that are in one of `places`. One that fails is left out: there is nothing else to
    /// try.
    fn load_of(&self, aliases: &BTreeSet<String>, places: &[&str]) {
        for name in aliases.iter().flat_map(|alias| self.index.by_alias(alias)) {
            let path = self.index.module(name).map(|module| module.path.as_str()).unwrap_or_default();
            if places.iter().any(|place| path.contains(place)) && !self.blacklist.contains(name) {
                let _ = self.load_module(name, 0, &mut Vec::new());
            }
        }
    }

    /// Removes a module, and the modules it needed that nothing else uses.
    pub fn unload(&self, name: &str) -> Result<(), Error> {
        let unknown = || Error::Unknown(name.to_owned(), self.directory.clone());
        let module = self.index.module(name).ok_or_else(unknown)?;
        self.sys.unload_module(&canonical_name(&module.path))?;
        for path in &module.dependencies {
            // Still in use by others: stays.
            let _ = self.sys.unload_module(&canonical_name(path));
        }
        Ok(())
    }

    /// Loads modules for all devices there are, and again for those that appear by that. Returns how many
    /// module files were loaded and the failures.
    pub fn load_for_hardware(&self) -> (usize, Vec<Error>) {
        let (mut count, mut failures, mut seen) = (0, Vec::new(), BTreeSet::new());
        for _ in 0..ROUNDS {
            let mut aliases = BTreeSet::new();
            collect_aliases(self.sys, &mut aliases);
            let fresh: Vec<&String> = aliases.difference(&seen).collect();
            if fresh.is_empty() {
                break;
            }
            for alias in fresh {
                match self.load_alias(alias) {
                    Ok(paths) => count += paths.len(),
                    Err(error) => failures.push(error),
                }
            }
            seen = aliases;
        }
        (count, failures)
    }
}

/// Collects the aliases of all devices: those on a bus, those of the two classes that have aliases of their own (kernel
/// `drivers/firmware/dmi-id.c`, `drivers/input/input.c`), and that of the processor (`drivers/base/cpu.c`). Walking `/sys/devices` finds the same and costs twenty
/// times as much, for the attributes that it has to look at.
fn collect_aliases(sys: &dyn Sys, aliases: &mut BTreeSet<String>) {
    let buses = sys.list("/sys/bus").unwrap_or_default().into_iter().map(|bus| format!("/sys/bus/{bus}/devices"));
    let classes = ["dmi", "input"].map(|class| format!("/sys/class/{class}"));
    let mut take = |path: &str| aliases.extend(read_line(sys, path).filter(|alias| !alias.is_empty()));
    take("/sys/devices/system/cpu/modalias");
    for directory in buses.chain(classes) {
        for device in sys.list(&directory).unwrap_or_default() {
            take(&format!("{directory}/{device}/modalias"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::double::Double;

    const DIRECTORY: &str = "/lib/modules/6.12.0-test";

    fn machine() -> Double {
        let sys = Double::new();
        let dep =
            "k/net.ko: k/mid.ko k/low.ko\nk/mid.ko: k/low.ko\nk/low.ko:\nk/pre.ko:\nk/post.ko:\nk/nvme-core.ko:\n";
        sys.put(&format!("{DIRECTORY}/modules.dep"), dep);
        sys.put(&format!("{DIRECTORY}/modules.alias"), "alias virtio:d00000001v* net\nalias pci:v* nvme_core\n");
        sys.put(
            &format!("{DIRECTORY}/modules.softdep"),
            "softdep net pre: pre absent post: post\nsoftdep pre pre: net\n",
        );
        sys.put(&format!("{DIRECTORY}/modules.builtin"), "kernel/fs/ext4/ext4.ko\n");
        sys
    }

    fn loads(sys: &Double) -> Vec<String> {
        sys.calls_of("load ").iter().map(|call| call.replace(&format!("load {DIRECTORY}/k/"), "")).collect()
    }

    #[test]
    fn dependencies_soft_dependencies_and_options_in_order() {
        let sys = machine();
        let loader = Loader::open(&sys, &Cmdline::parse("mid.debug=1")).expect("index");
        loader.load("net").expect("loads");
        assert_eq!(loads(&sys), ["low.ko", "mid.ko debug=1", "net.ko", "pre.ko", "post.ko"]);
        loader.load("net").expect("again");
        assert_eq!(loads(&sys).len(), 5, "nothing twice");
    }

    #[test]
    fn dashes_builtins_aliases_and_unknown_names() {
        let sys = machine();
        let loader = Loader::open(&sys, &Cmdline::default()).expect("index");
        loader.load("nvme_core").expect("by the other spelling");
        loader.load("ext4").expect("built in");
        loader.load("virtio:d00000001v00001AF4").expect("by alias");
        let error = loader.load("nonsense").expect_err("unknown");
        assert_eq!(error.to_string(), format!("no module or alias \"nonsense\" in {DIRECTORY}"));
        assert!(loader.load_alias("usb:v1").expect("nothing matches").is_empty());
    }

    #[test]
    fn blacklist_holds_for_aliases_not_for_names() {
        let sys = machine();
        let loader = Loader::open(&sys, &Cmdline::parse("modprobe.blacklist=nvme-core")).expect("index");
        assert!(loader.load_alias("pci:v0001").expect("left out").is_empty());
        assert_eq!(loader.load("nvme-core").expect("asked for by name").len(), 1);
    }

    #[test]
    fn hardware_is_found_by_its_aliases_and_failures_do_not_stop_the_rest() {
        let sys = machine();
        sys.put("/sys/bus/pci/devices/0000:00:01.0/modalias", "pci:v0001\n");
        sys.put("/sys/bus/virtio/devices/virtio0/modalias", "virtio:d00000001v1\n");
        sys.fail(&format!("load {DIRECTORY}/k/nvme-core.ko"), "Exec format error");
        let loader = Loader::open(&sys, &Cmdline::default()).expect("index");
        let (count, failures) = loader.load_for_hardware();
        assert_eq!((count, failures.len()), (5, 1));
        assert!(failures[0].to_string().contains("nvme-core.ko"), "{}", failures[0]);
    }

    #[test]
    fn only_watchdogs_are_loaded_when_a_watchdog_is_wanted() {
        let sys = machine();
        let watchdogs = "kernel/drivers/watchdog/i6300esb.ko: k/low.ko\nkernel/drivers/watchdog/softdog.ko:\nk/net.ko:\nk/low.ko:\n";
        sys.put(&format!("{DIRECTORY}/modules.dep"), watchdogs);
        sys.put(&format!("{DIRECTORY}/modules.alias"), "alias pci:v00008086d000025AB* i6300esb\nalias pci:v* net\n");
        sys.put("/sys/bus/pci/devices/0000:00:01.0/modalias", "pci:v00008086d000025ABsv0\n");
        let loader = |cmdline| Loader::open(&sys, &Cmdline::parse(cmdline)).expect("index");
        loader("modprobe.blacklist=i6300esb").load_watchdogs();
        assert!(loads(&sys).is_empty());
        loader("").load_watchdogs();
        let driver = format!("load {DIRECTORY}/kernel/drivers/watchdog/i6300esb.ko");
        assert_eq!(loads(&sys), ["low.ko", driver.as_str()]);
    }

    #[test]
    fn a_module_that_is_loaded_already_is_not_loaded_again() {
        let sys = machine();
        sys.put("/sys/module/low/initstate", "live\n");
        Loader::open(&sys, &Cmdline::default()).expect("index").load("mid").expect("loads");
        assert_eq!(loads(&sys), ["mid.ko"]);
    }
}
