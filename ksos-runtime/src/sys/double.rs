//! A machine for tests: files below a temporary directory, everything else recorded in order.

#![expect(clippy::disallowed_methods, clippy::new_without_default, reason = "test code")]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use ksos_formats::Digest;
use ksos_formats::boot::Verity;

use super::files::Files;
use super::{
    Command, Disk, Down, Error, Exit, Feed, FileKind, Loaded, LoopFile, Mount, MountFlags, Pid, PlacedFile, Result,
    Signal, Space, Sys, Wake, Watchdog,
};

/// A disk in memory. Clones share the bytes.
#[derive(Debug, Clone)]
pub struct MemoryDisk {
    /// The bytes.
    pub bytes: Rc<RefCell<Vec<u8>>>,
    /// Logical sector size in bytes.
    pub sector: u64,
    /// Writes get lost, and nobody is told.
    pub deaf: Rc<Cell<bool>>,
    cut: Rc<Cell<Option<u32>>>,
    name: String,
    changes: Changes,
}

/// What changed on disks and in files since recording began, in order; `None` is not recording.
pub type Changes = Rc<RefCell<Option<Vec<Change>>>>;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A write to a disk, which may be in a cache.
    Write {
        /// Path of the disk.
        disk: String,
        /// Where, in bytes.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// What was written to a disk so far is durable.
    Flush {
        /// Path of the disk.
        disk: String,
    },
    /// A file has another content, or none any more.
    File {
        /// Its path.
        path: String,
        /// Its content.
        content: Option<Vec<u8>>,
    },
}

impl MemoryDisk {
    /// Returns a disk with these bytes and 512-byte sectors.
    pub fn new(bytes: Vec<u8>) -> Self {
        MemoryDisk {
            bytes: Rc::new(RefCell::new(bytes)),
            sector: 512,
            deaf: Rc::default(),
            cut: Rc::default(),
            name: String::new(),
            changes: Rc::default(),
        }
    }

    /// Direct input and output is of whole sectors (open(2), `O_DIRECT`).
    fn check_sectors(&self, offset: u64, length: usize) -> Result<()> {
        let whole = offset.is_multiple_of(self.sector) && (length as u64).is_multiple_of(self.sector);
        whole.then_some(()).ok_or_else(|| Error::new("use", "memory disk", std::io::Error::from_raw_os_error(22)))
    }

    fn changed(&self, change: impl FnOnce(String) -> Change) {
        if let Some(changes) = self.changes.borrow_mut().as_mut() {
            changes.push(change(self.name.clone()));
        }
    }
}

impl Disk for MemoryDisk {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let bytes = self.bytes.borrow();
        let end = (offset as usize).checked_add(buffer.len());
        let source = end.and_then(|end| bytes.get(offset as usize..end));
        let source = source.ok_or_else(|| Error::stated("read", "memory disk", "past the end"))?;
        buffer.copy_from_slice(source);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        use_power(&self.cut, "memory disk")?;
        let mut bytes = self.bytes.borrow_mut();
        let target = bytes.get_mut(offset as usize..offset as usize + data.len());
        let target = target.ok_or_else(|| Error::stated("write", "memory disk", "past the end"))?;
        if !self.deaf.get() {
            target.copy_from_slice(data);
        }
        self.changed(|disk| Change::Write { disk, offset, bytes: data.to_vec() });
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.changed(|disk| Change::Flush { disk });
        Ok(())
    }

    fn read_direct(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.check_sectors(offset, buffer.len())?;
        self.read_at(offset, buffer)
    }

    fn write_direct(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.check_sectors(offset, bytes.len())?;
        self.write_at(offset, bytes)?;
        self.flush()
    }

    fn size(&self) -> u64 {
        self.bytes.borrow().len() as u64
    }

    fn sector_size(&self) -> u64 {
        self.sector
    }
}

/// What the end of the power is to the code under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutEnds {
    /// This change and all later ones fail.
    Change,
    /// The call of the test, by a panic.
    Call,
    /// This process, by SIGKILL.
    Process,
}

thread_local! {
    /// What happens when the power is cut in this thread's machines.
    pub static CUT_ENDS: Cell<CutEnds> = const { Cell::new(CutEnds::Change) };
}

/// Counts one change; fails when the power is cut.
pub fn use_power(cut: &Cell<Option<u32>>, path: &str) -> Result<()> {
    match cut.get() {
        None => return Ok(()),
        Some(0) => {
            match CUT_ENDS.get() {
                CutEnds::Change => {}
                CutEnds::Call => std::panic::resume_unwind(Box::new(CutEnds::Call)),
                CutEnds::Process => {
                    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
                }
            }
            return Err(Error::stated("write", path, "the power is cut"));
        }
        Some(left) => cut.set(Some(left - 1)),
    }
    Ok(())
}

/// A watchdog that notes when it is fed.
#[derive(Debug)]
struct DoubleWatchdog {
    timeout_s: u32,
    feeds: Rc<RefCell<Vec<String>>>,
    now: Rc<Cell<u64>>,
}

impl Watchdog for DoubleWatchdog {
    fn identity(&self) -> &str {
        "double"
    }

    fn timeout_s(&self) -> u32 {
        self.timeout_s
    }

    fn feed(&self) -> Result<()> {
        self.feeds.borrow_mut().push(self.now.get().to_string());
        Ok(())
    }

    fn disarm(&self) -> Result<()> {
        self.feeds.borrow_mut().push("V".to_owned());
        Ok(())
    }
}

/// The machine. Every method that is not about files appends a line to `calls`.
#[derive(Debug)]
pub struct Double {
    _directory: Option<tempfile::TempDir>,
    root: PathBuf,
    files: Files,
    /// What was asked for, in order.
    pub calls: RefCell<Vec<String>>,
    /// Calls that fail: the beginning of the recorded line, and the reason.
    pub failures: RefCell<Vec<(String, String)>>,
    errnos: RefCell<Vec<(String, i32)>>,
    /// Results of [`Sys::run`] by program path, in order; a program without one ends with status 0.
    pub runs: RefCell<BTreeMap<String, VecDeque<(Exit, String)>>>,
    /// What [`Sys::wait`] returns, in order; when it is empty, time passes until the timeout.
    pub wakes: RefCell<VecDeque<Vec<Wake>>>,
    /// Children that have ended.
    pub exits: RefCell<VecDeque<(Pid, Exit)>>,
    /// Processes that end with SIGTERM when [`Signal::Term`] is sent to them.
    pub obedient: Cell<bool>,
    /// Block devices.
    pub disks: RefCell<BTreeMap<String, MemoryDisk>>,
    /// Milliseconds since boot.
    pub now: Rc<Cell<u64>>,
    /// Writes below `/data` fail for want of room as long as this file exists.
    pub full_while: RefCell<Option<String>>,
    /// How many more changes to files and disks succeed; after that, the power is cut.
    pub cut: Rc<Cell<Option<u32>>>,
    /// What changed, while it is recorded.
    pub changes: Changes,
    /// Room on every file system.
    pub room: Cell<Space>,
    /// Inodes of every file system, and how many are free.
    pub inodes: Cell<(u64, u64)>,
    /// The longest timeout in seconds that a watchdog can do.
    pub watchdog_limit: Cell<Option<u32>>,
    /// When the watchdog was fed, and `V` when it was disarmed.
    pub feeds: Rc<RefCell<Vec<String>>>,
    /// Lines on terminals.
    pub terminal: RefCell<String>,
    /// What was written to programs by [`Sys::run_fed`], in order.
    pub fed: RefCell<Vec<Vec<u8>>>,
    next_pid: Cell<Pid>,
}

impl Double {
    /// Returns a machine without files.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let double = Self::at(directory.path());
        Double { _directory: Some(directory), ..double }
    }

    /// Returns a machine whose files are below `root`, and stay there.
    pub fn at(root: &Path) -> Self {
        Double {
            files: Files::below(root),
            _directory: None,
            root: root.to_owned(),
            calls: RefCell::default(),
            failures: RefCell::default(),
            errnos: RefCell::default(),
            runs: RefCell::default(),
            wakes: RefCell::default(),
            exits: RefCell::default(),
            obedient: Cell::new(true),
            disks: RefCell::default(),
            inodes: Cell::new((1 << 19, 1 << 18)),
            now: Rc::new(Cell::new(1000)),
            full_while: RefCell::default(),
            cut: Rc::default(),
            changes: Rc::default(),
            room: Cell::new(Space { total: 8 << 30, available: 4 << 30, free: 5 << 30 }),
            watchdog_limit: Cell::default(),
            feeds: Rc::default(),
            terminal: RefCell::default(),
            fed: RefCell::default(),
            next_pid: Cell::new(100),
        }
    }

    /// Creates a file and its directories.
    pub fn put(&self, path: &str, text: impl AsRef<[u8]>) {
        let host = self.root.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(host.parent().expect("a parent")).expect("created");
        std::fs::write(host, text).expect("written");
    }

    /// Creates a symbolic link and its directories.
    pub fn link(&self, target: &str, path: &str) {
        let host = self.root.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(host.parent().expect("a parent")).expect("created");
        std::os::unix::fs::symlink(target, host).expect("linked");
    }

    /// Permission bits of a file.
    pub fn mode(&self, path: &str) -> u32 {
        use std::os::unix::fs::PermissionsExt;
        self.files.metadata(path).expect("there").permissions().mode() & 0o7777
    }

    /// Reads a file back.
    pub fn text(&self, path: &str) -> String {
        String::from_utf8(self.files.read(path, 1 << 20).expect("readable")).expect("text")
    }

    /// Makes calls that begin with `call` fail.
    pub fn fail(&self, call: &str, reason: &str) {
        self.failures.borrow_mut().push((call.to_owned(), reason.to_owned()));
    }

    /// Makes calls that begin with `call` fail with a number of the kernel.
    pub fn fail_with(&self, call: &str, errno: i32) {
        self.errnos.borrow_mut().push((call.to_owned(), errno));
    }

    /// Returns the recorded calls that begin with `prefix`.
    pub fn calls_of(&self, prefix: &str) -> Vec<String> {
        self.calls.borrow().iter().filter(|call| call.starts_with(prefix)).cloned().collect()
    }

    /// Fails for want of power or room.
    fn change(&self, path: &str) -> Result<()> {
        use_power(&self.cut, path)?;
        let full = self.full_while.borrow().as_ref().is_some_and(|reserve| self.files.kind(reserve).is_some());
        if full && path.starts_with("/data/") {
            return Err(Error::new("write", path, std::io::Error::from_raw_os_error(libc::ENOSPC)));
        }
        Ok(())
    }

    /// mke2fs leaves the beginning of an ext4 file system, and none of the files below `/data`.
    fn formats(&self, arguments: &[&str]) {
        let (Some(program), Some(path)) = (arguments.first(), arguments.last()) else { return };
        let disks = self.disks.borrow();
        let fails = self.runs.borrow().get(*program).and_then(VecDeque::front).is_some_and(|(exit, _)| !exit.success());
        if program.ends_with("/mke2fs")
            && !fails
            && let Some(disk) = disks.get(*path)
        {
            let mut bytes = disk.bytes.borrow_mut();
            bytes.fill(0);
            bytes[1024 + 56..1024 + 58].copy_from_slice(&[0x53, 0xef]);
            bytes[1024 + 24] = 2;
            let blocks = (bytes.len() / 4096) as u32;
            bytes[1024 + 4..1024 + 8].copy_from_slice(&blocks.to_le_bytes());
            let _ = std::fs::remove_dir_all(self.files.host("/data"));
            std::fs::create_dir_all(self.files.host("/data")).expect("created");
        }
    }

    /// Records what a file has now.
    fn noted(&self, path: &str) {
        if let Some(changes) = self.changes.borrow_mut().as_mut() {
            changes.push(Change::File { path: path.to_owned(), content: self.files.read(path, 16 << 20).ok() });
        }
    }

    fn record(&self, call: String) -> Result<()> {
        let failures = self.failures.borrow();
        let failure = failures.iter().find(|(prefix, _)| call.starts_with(prefix.as_str()));
        self.calls.borrow_mut().push(call.clone());
        if let Some((_, errno)) = self.errnos.borrow().iter().find(|(prefix, _)| call.starts_with(prefix.as_str())) {
            return Err(Error::new("perform", call, std::io::Error::from_raw_os_error(*errno)));
        }
        failure.map_or(Ok(()), |(_, reason)| Err(Error::stated("perform", call, reason.clone())))
    }
}

impl Sys for Double {
    fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        self.files.read(path, limit)
    }
    fn write(&self, path: &str, bytes: &[u8]) -> Result<()> {
        self.record(format!("write {path} {}", String::from_utf8_lossy(bytes)))?;
        self.files.write(path, bytes)
    }
    fn replace(&self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        self.change(path)?;
        self.files.replace(path, bytes, mode)?;
        self.noted(path);
        Ok(())
    }
    fn replace_soon(&self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        self.replace(path, bytes, mode)
    }
    fn append(&self, path: &str, bytes: &[u8]) -> Result<u64> {
        self.change(path)?;
        let size = self.files.append(path, bytes)?;
        self.noted(path);
        Ok(size)
    }
    fn rename(&self, from: &str, to: &str) -> Result<()> {
        use_power(&self.cut, from)?;
        self.files.rename(from, to)?;
        self.noted(to);
        self.noted(from);
        Ok(())
    }
    fn remove(&self, path: &str) -> Result<()> {
        use_power(&self.cut, path)?;
        self.files.remove(path)?;
        self.noted(path);
        Ok(())
    }
    fn list(&self, path: &str) -> Result<Vec<String>> {
        self.files.list(path)
    }
    fn make_directory(&self, path: &str, mode: u32) -> Result<()> {
        self.record(format!("mkdir {path} {mode:o}"))?;
        self.files.make_directory(path, mode)
    }
    fn set_mode(&self, path: &str, mode: u32) -> Result<()> {
        self.files.set_mode(path, mode)
    }
    fn symlink(&self, target: &str, path: &str) -> Result<()> {
        self.record(format!("symlink {path} -> {target}"))
    }
    fn kind(&self, path: &str) -> Option<FileKind> {
        self.files.kind(path)
    }
    fn is_link(&self, path: &str) -> bool {
        self.files.is_link(path)
    }
    fn file_size(&self, path: &str) -> Result<u64> {
        Ok(self.files.metadata(path)?.len())
    }
    fn copy_tree(&self, from: &str, to: &str) -> Result<()> {
        use_power(&self.cut, from)?;
        self.files.copy_tree(from, to)
    }
    fn remove_tree(&self, path: &str) -> Result<()> {
        use_power(&self.cut, path)?;
        self.files.remove_tree(path)
    }
    fn copy_hashed(&self, from: &str, to: &str) -> Result<Digest> {
        self.files.copy_hashed(from, to)
    }
    fn read_below(&self, tree: &str, path: &str, limit: u64) -> Result<Vec<u8>> {
        self.files.read_below(tree, path, limit)
    }
    fn place(&self, file: &PlacedFile<'_>) -> Result<()> {
        self.change(file.path)?;
        self.record(format!("place {} {:o} {:?}", file.path, file.mode, file.owner))?;
        // Tests need not be root.
        self.files.place(&PlacedFile { owner: None, ..*file })
    }
    fn delete_initramfs(&self) -> Result<()> {
        self.record("delete initramfs".to_owned())
    }
    fn mount(&self, mount: &Mount<'_>) -> Result<()> {
        let mode = if mount.flags.read_only { "ro" } else { "rw" };
        self.record(format!("mount {} {} {} {mode} {}", mount.source, mount.target, mount.kind, mount.options))
    }
    fn bind(&self, source: &str, target: &str) -> Result<()> {
        self.record(format!("bind {source} {target}"))
    }
    fn move_mount(&self, source: &str, target: &str) -> Result<()> {
        self.record(format!("move {source} {target}"))
    }
    fn make_shared(&self, path: &str) -> Result<()> {
        self.record(format!("share {path}"))
    }
    fn unmount(&self, path: &str) -> Result<()> {
        self.record(format!("unmount {path}"))
    }
    fn remount_read_only(&self, path: &str) -> Result<()> {
        self.record(format!("remount-ro {path}"))
    }
    fn set_mount_flags(&self, path: &str, flags: MountFlags) -> Result<()> {
        let MountFlags { read_only, no_suid, no_dev, no_exec, no_atime } = flags;
        let names =
            [(read_only, "ro"), (no_suid, "nosuid"), (no_dev, "nodev"), (no_exec, "noexec"), (no_atime, "noatime")];
        let set: Vec<&str> = names.into_iter().filter(|(set, _)| *set).map(|(_, name)| name).collect();
        self.record(format!("mount-flags {path} {}", set.join(",")))
    }
    fn space(&self, _path: &str) -> Result<Space> {
        Ok(self.room.get())
    }
    fn switch_root(&self, path: &str) -> Result<()> {
        self.record(format!("switch_root {path}"))
    }
    fn sync(&self) {
        self.calls.borrow_mut().push("sync".to_owned());
    }
    fn inodes(&self, path: &str) -> Result<(u64, u64)> {
        self.record(format!("inodes {path}")).map(|()| self.inodes.get())
    }
    fn open_disk(&self, path: &str, _writable: bool) -> Result<Box<dyn Disk>> {
        let disks = self.disks.borrow();
        let disk = disks.get(path).ok_or_else(|| Error::new("open", path, std::io::Error::from_raw_os_error(2)))?;
        let (cut, changes) = (Rc::clone(&self.cut), Rc::clone(&self.changes));
        Ok(Box::new(MemoryDisk { cut, changes, name: path.to_owned(), ..disk.clone() }))
    }
    fn add_partition(&self, disk: &str, number: u32, start: u64, length: u64) -> Result<()> {
        self.record(format!("add-partition {disk} {number} {start} {length}"))
    }
    fn resize_partition(&self, disk: &str, number: u32, start: u64, length: u64) -> Result<()> {
        self.record(format!("resize-partition {disk} {number} {start} {length}"))
    }
    fn attach_loop(&self, file: &LoopFile<'_>) -> Result<String> {
        self.record(format!("loop {} direct={}", file.path, file.direct)).map(|()| "/dev/loop0".to_owned())
    }
    fn create_verity(&self, name: &str, device: &str, verity: &Verity) -> Result<String> {
        self.record(format!("verity {name} {device} {}", verity.data_blocks)).map(|()| "/dev/dm-0".to_owned())
    }
    fn resize_ext4(&self, path: &str, blocks: u64) -> Result<()> {
        self.record(format!("resize-ext4 {path} {blocks}"))
    }
    fn load_module(&self, path: &str, parameters: &str) -> Result<Loaded> {
        self.record(format!("load {path} {parameters}").trim_end().to_owned()).map(|()| Loaded::New)
    }
    fn unload_module(&self, name: &str) -> Result<()> {
        self.record(format!("unload {name}"))
    }
    fn kernel_release(&self) -> String {
        "6.12.0-test".to_owned()
    }
    fn set_hostname(&self, name: &str) -> Result<()> {
        self.record(format!("hostname {name}"))
    }
    fn loopback_up(&self) -> Result<()> {
        self.record("loopback up".to_owned())
    }
    fn uptime_ms(&self) -> u64 {
        self.now.get()
    }
    fn wall_clock(&self) -> u64 {
        self.now.get() / 1000
    }
    fn set_wall_clock(&self, seconds: u64) -> Result<()> {
        self.record(format!("clock {seconds}"))
    }
    fn wall_clock_ns(&self) -> i128 {
        i128::from(self.now.get()) * 1_000_000
    }
    fn step_clock(&self, offset_ns: i128) -> Result<()> {
        self.record(format!("step clock {offset_ns}"))
    }
    fn slew_clock(&self, offset_us: i64, error_us: i64) -> Result<()> {
        self.record(format!("slew clock {offset_us} {error_us}"))
    }
    fn random(&self, bytes: &mut [u8]) -> Result<()> {
        bytes.fill(0x5a);
        Ok(())
    }
    fn disable_ctrl_alt_del(&self) -> Result<()> {
        self.record("cad off".to_owned())
    }
    fn open_watchdog(&self, path: &str, seconds: u32) -> Result<Box<dyn Watchdog>> {
        self.record(format!("watchdog {path} {seconds}"))?;
        let timeout_s = self.watchdog_limit.get().map_or(seconds, |limit| limit.min(seconds));
        Ok(Box::new(DoubleWatchdog { timeout_s, feeds: Rc::clone(&self.feeds), now: Rc::clone(&self.now) }))
    }
    fn set_console_level(&self, level: u8) -> Result<()> {
        self.record(format!("console level {level}"))
    }
    fn go_down(&self, down: Down) -> Error {
        let _ = self.record(format!("down {down}"));
        Error::stated("take down", "the machine", "this is a test")
    }
    fn spawn(&self, command: &Command) -> Result<Pid> {
        self.record(format!("spawn {}", command.arguments.join(" ")))?;
        self.next_pid.set(self.next_pid.get() + 1);
        Ok(self.next_pid.get())
    }
    fn run(&self, arguments: &[&str]) -> Result<(Exit, String)> {
        use_power(&self.cut, "run")?;
        self.record(format!("run {}", arguments.join(" ")))?;
        self.formats(arguments);
        let mut runs = self.runs.borrow_mut();
        let result = arguments.first().and_then(|name| runs.get_mut(*name)).and_then(VecDeque::pop_front);
        Ok(result.unwrap_or((Exit::Code(0), String::new())))
    }
    fn run_fed(&self, arguments: &[&str], feed: &mut Feed<'_>) -> Result<(Exit, String)> {
        let mut input = Vec::new();
        feed(&mut input).map_err(|source| Error::new("run", arguments.join(" "), source))?;
        self.fed.borrow_mut().push(input);
        self.run(arguments)
    }
    fn open_read(&self, path: &str) -> Result<Box<dyn std::io::Read>> {
        Ok(Box::new(std::io::Cursor::new(self.read(path, 1 << 40)?)))
    }
    fn reap(&self) -> Option<(Pid, Exit)> {
        self.exits.borrow_mut().pop_front()
    }
    fn signal(&self, pid: Pid, signal: Signal) -> Result<()> {
        self.record(format!("signal {pid} {signal:?}"))?;
        if self.obedient.get() || signal == Signal::Kill {
            let number = if signal == Signal::Kill { 9 } else { 15 };
            self.exits.borrow_mut().push_back((pid, Exit::Signal(number)));
            self.wakes.borrow_mut().push_back(vec![Wake::Child]);
        }
        Ok(())
    }
    fn signal_all(&self, signal: Signal) -> Result<()> {
        self.record(format!("signal all {signal:?}"))
    }
    fn exec(&self, arguments: &[&str]) -> Error {
        let _ = self.record(format!("exec {}", arguments.join(" ")));
        Error::stated("execute", arguments.join(" "), "this is a test")
    }
    fn connect_socket(&self, path: &str) -> bool {
        self.record(format!("connect {path}")).is_ok()
    }
    fn connect_tcp(&self, port: u16) -> bool {
        self.record(format!("connect {port}")).is_ok()
    }
    fn open_console(&self) {}
    fn write_terminal(&self, _path: &str, bytes: &[u8]) -> Result<()> {
        self.terminal.borrow_mut().push_str(&String::from_utf8_lossy(bytes));
        Ok(())
    }
    fn listen(&self) -> Result<()> {
        Ok(())
    }
    fn watch_power_buttons(&self) {}
    fn wait(&self, timeout_ms: Option<u64>) -> Vec<Wake> {
        if let Some(wakes) = self.wakes.borrow_mut().pop_front() {
            return wakes;
        }
        let timeout = timeout_ms.expect("the test's machine has nothing left to report, and no timer is set");
        self.now.set(self.now.get() + timeout);
        Vec::new()
    }
    fn sleep_ms(&self, milliseconds: u64) {
        self.now.set(self.now.get() + milliseconds);
    }
}
