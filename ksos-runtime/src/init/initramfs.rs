//! `/init` of the initramfs: from the kernel to the verified root file system.
//!
//! The boot disk is the one that the boot loader came from (`disk::find`); the slot's partition is taken by name on
//! that disk alone. In slot mode the root image is used in place: loop device, dm-verity over it, SquashFS on top; a
//! changed block is an I/O error when it is read. In RAM mode the file is copied to memory while it is hashed, and only
//! used when the digest is right. Run from a medium (`live`), its volume takes the place of the slot.

use std::cell::RefCell;

use ksos_formats::boot::{self, BootConfig, RootMode};
use ksos_formats::install::DIRECTORY;
use ksos_formats::layout;

use crate::cmdline::Cmdline;
use crate::console::say;
use crate::disk::find::{self, BootDisk, FindError};
use crate::disk::gpt::Guid;
use crate::install::{MEDIUM, live_volume};
use crate::modules::Loader;
use crate::sys::{LoopFile, Mount, MountFlags, Sys, Wake};

use super::handover::{Handover, KernelTime, SLOT_MOUNT, Said, Since, StageReport, read_document};
use super::table::{self, Failure, Run, Stage};
use super::{Error, kernel_cmdline, live};

/// Where the root is put together.
const ROOT: &str = "/sysroot";
/// Where the root image lies in RAM mode.
const RAM_MOUNT: &str = "/run/ksos/ram";
/// How long the boot disk may take to appear, in milliseconds.
pub(super) const DISK_TIMEOUT_MS: u64 = 20_000;
/// After how long it is said that the boot disk is awaited, in milliseconds.
const DISK_SLOW_MS: u64 = 3000;
/// Longest wait between two looks, should an announcement be lost, in milliseconds.
pub(super) const DISK_LOOK_MS: u64 = 1000;
/// Most lines that are kept for the boot log.
const SAID_LIMIT: usize = 200;
/// What the root needs whatever the configuration lists; names that the image does not have are built in.
const ROOT_MODULES: [&str; 5] = ["loop", "dm_mod", "dm_verity", "squashfs", "ext4"];

/// The boot as far as it is.
pub(super) struct Boot<'a> {
    sys: &'a dyn Sys,
    cmdline: Cmdline,
    config: BootConfig,
    loader: Option<Loader<'a>>,
    slot: char,
    esp: Option<Guid>,
    mode: RootMode,
    disk: Option<(BootDisk, String)>,
    /// Name of the volume to run from, instead of a slot.
    live: Option<String>,
    /// The device that holds it.
    medium: Option<String>,
    stages: Vec<StageReport>,
    kernel: KernelTime,
    /// What was said, for the boot log.
    said: RefCell<Vec<Said>>,
}

/// Runs all stages and the program of the real root. Returns why it could not.
pub(super) fn run(sys: &dyn Sys) -> Error {
    match prepare(sys).and_then(|mut boot| boot.go()) {
        Ok(()) => sys.exec(&[layout::RUNTIME_BINARY, "init"]).into(),
        Err(error) => error,
    }
}

/// Stage 00: kernel file systems, console, configuration.
fn prepare(sys: &dyn Sys) -> Result<Boot<'_>, Error> {
    let start = sys.uptime_ms();
    mount_kernel(sys)?;
    let kernel = KernelTime::begin(sys);
    sys.open_console();
    let cmdline = kernel_cmdline(sys);
    // The kernel asks `/sbin/modprobe` for what it misses; here that program is this one.
    let _ = sys.write("/proc/sys/kernel/modprobe", b"/init");
    let config: BootConfig = read_document(sys, layout::BOOT_CONFIG)?;
    if config.format != boot::FORMAT {
        let path = layout::BOOT_CONFIG.to_owned();
        return Err(Error::Format { path, found: config.format, supported: boot::FORMAT });
    }
    let live = live_volume(&cmdline).map_err(|value| {
        let expected = "the name of an image's volume";
        Error::Parameter { name: layout::PARAM_LIVE, value, expected }
    })?;
    let default = if live.is_some() { RootMode::Ram } else { config.root_mode };
    let (slot, esp, mode) = parameters(&cmdline, default)?;
    let slot = if live.is_some() { '-' } else { slot };
    let (loader, disk, medium, stages, said) = (None, None, None, Vec::new(), RefCell::default());
    let mut boot = Boot { sys, cmdline, config, loader, slot, esp, mode, disk, live, medium, stages, kernel, said };
    boot.report(table::by_number(0), start, &Ok(String::new()));
    Ok(boot)
}

fn mount_kernel(sys: &dyn Sys) -> Result<(), Error> {
    let strict = MountFlags { no_suid: true, no_dev: true, no_exec: true, ..MountFlags::default() };
    let devices = MountFlags { no_suid: true, no_exec: true, ..MountFlags::default() };
    let memory = MountFlags { no_suid: true, no_dev: true, ..MountFlags::default() };
    for (source, target, flags, options) in [
        ("proc", "/proc", strict, ""),
        ("sysfs", "/sys", strict, ""),
        ("devtmpfs", "/dev", devices, "mode=0755"),
        ("tmpfs", "/run", memory, "mode=0755"),
    ] {
        sys.make_directory(target, 0o755)?;
        sys.mount(&Mount { source, target, kind: source, flags, options })?;
    }
    sys.make_directory("/run/ksos", 0o755)?;
    Ok(sys.make_directory(ROOT, 0o755)?)
}

/// Reads slot, EFI system partition and root mode from the command line.
fn parameters(cmdline: &Cmdline, default: RootMode) -> Result<(char, Option<Guid>, RootMode), Error> {
    let wrong = |name, value: &str, expected| Error::Parameter { name, value: value.to_owned(), expected };
    let slot = match cmdline.value(layout::PARAM_SLOT) {
        None | Some("a") => 'a',
        Some("b") => 'b',
        Some(other) => return Err(wrong(layout::PARAM_SLOT, other, "a or b")),
    };
    let esp = match cmdline.value(layout::PARAM_ESP).filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => Some(Guid::parse(text).ok_or_else(|| wrong(layout::PARAM_ESP, text, "a partition GUID"))?),
    };
    let mode = match cmdline.value(layout::PARAM_ROOT) {
        None => default,
        Some("slot") => RootMode::Slot,
        Some("ram") => RootMode::Ram,
        Some(other) => return Err(wrong(layout::PARAM_ROOT, other, "slot or ram")),
    };
    Ok((slot, esp, mode))
}

impl<'a> Boot<'a> {
    fn go(&mut self) -> Result<(), Error> {
        for stage in &table::STAGES {
            let Run::Initramfs(run) = stage.run else { continue };
            let start = self.sys.uptime_ms();
            let result = run(self);
            self.report(stage, start, &result);
            if !matches!(stage.failure, Failure::Degraded(_)) {
                result?;
            }
        }
        self.hand_over()
    }

    fn report(&mut self, stage: &Stage, start_ms: u64, result: &Result<String, Error>) {
        let report = StageReport::new(self.sys, stage, start_ms, self.kernel, result);
        self.say(&report.line());
        self.stages.push(report);
    }

    /// Says a line on the consoles, and keeps it for the boot log.
    fn say(&self, line: &str) {
        say(self.sys, line);
        let mut said = self.said.borrow_mut();
        if said.len() < SAID_LIMIT {
            said.push(Said { ms: self.sys.uptime_ms(), line: line.to_owned() });
        }
    }

    /// Loads what the configuration lists. A module whose device this machine does not have is said and no failure.
    pub(super) fn load_modules(&mut self) -> Result<String, Error> {
        let loader = match Loader::open(self.sys, &self.cmdline) {
            Ok(loader) => loader,
            // A kernel with everything built in.
            Err(_) if self.config.modules.is_empty() => return Ok("no modules".to_owned()),
            Err(error) => return Err(Error::Several(vec![error.to_string()])),
        };
        let (release, expected) = (self.sys.kernel_release(), &self.config.kernel_release);
        if release != *expected {
            self.say(&format!("this is kernel {release}, the initramfs was made for {expected}"));
        }
        let (mut count, mut failures) = (0, Vec::new());
        for name in &self.config.modules {
            match loader.load(name) {
                Ok(paths) => count += paths.len(),
                Err(error) if error.is_no_device() => self.say(&format!("module {name}: {error}")),
                Err(error) => failures.push(format!("module {name}: {error}")),
            }
        }
        // Not in the image means built in, or missed later by name.
        count += ROOT_MODULES.iter().filter_map(|name| loader.load(name).ok()).map(|paths| paths.len()).sum::<usize>();
        self.loader = Some(loader);
        Error::unless_empty(failures)?;
        Ok(format!("{count} loaded"))
    }

    pub(super) fn load_drivers(&mut self) -> Result<String, Error> {
        // Before the look at what is there, so that nothing appears unseen in between.
        self.sys.listen()?;
        let since = Since::now(self.sys);
        let Some(loader) = &self.loader else { return Ok("no modules".to_owned()) };
        let (count, failures) = loader.load_for_hardware();
        // A module is loaded when its driver has looked for its devices, which takes SATA a third of a second.
        self.kernel.count_all(self.sys, since);
        failures.iter().for_each(|error| self.say(&format!("driver: {error}")));
        Ok(format!("{count} loaded"))
    }

    /// Waits for the boot disk and its slot partition, loading drivers for what appears meanwhile.
    pub(super) fn find_disk(&mut self) -> Result<String, Error> {
        let start = self.sys.uptime_ms();
        let mut said = false;
        loop {
            let waited = self.sys.uptime_ms().saturating_sub(start);
            let found = match &self.live {
                Some(volume) => live::find_medium(self.sys, volume).map(Ok),
                None => find::boot_disk(self.sys, self.esp).map(Err),
            };
            let problem = match found {
                Ok(Ok(medium)) => return Ok(self.take_medium(medium)),
                Ok(Err(disk)) => return self.take_disk(disk),
                Err(error @ FindError::NotFound { .. }) if waited < DISK_TIMEOUT_MS => error,
                Err(error) => return Err(error.into()),
            };
            if waited >= DISK_SLOW_MS && !std::mem::replace(&mut said, true) {
                self.say(&format!("waiting for the boot disk: {problem}"));
            }
            let since = Since::now(self.sys);
            let wakes = self.sys.wait(Some(DISK_LOOK_MS.min(DISK_TIMEOUT_MS - waited)));
            self.kernel.count_all(self.sys, since);
            wakes.iter().for_each(|wake| self.load_for(wake));
        }
    }

    fn take_medium(&mut self, medium: String) -> String {
        live::settle(self, self.sys);
        // Built in, or missed by name when it is mounted.
        let _ = self.loader.as_ref().map(|loader| loader.load("isofs"));
        let detail = format!("live from {medium}");
        self.medium = Some(medium);
        detail
    }

    pub(super) fn load_for(&self, wake: &Wake) {
        let (Some(loader), Wake::Uevent(event)) = (&self.loader, wake) else { return };
        if let Some(alias) = event.field("MODALIAS").filter(|_| event.action == "add")
            && let Err(error) = loader.load_alias(alias)
        {
            self.say(&format!("driver: {error}"));
        }
    }

    fn take_disk(&mut self, disk: BootDisk) -> Result<String, Error> {
        let name = if self.slot == 'b' { &self.config.slots.b } else { &self.config.slots.a };
        let partition = disk.table.by_name(name);
        let missing = || Error::NoPartition { disk: disk.path(), name: name.to_owned() };
        let path = disk.partition_path(self.sys, partition.ok_or_else(missing)?)?;
        let detail = format!("{}, slot {} on {path}", disk.path(), self.slot);
        self.disk = Some((disk, path));
        Ok(detail)
    }

    fn slot_partition(&self) -> String {
        self.disk.as_ref().map(|(_, path)| path.clone()).unwrap_or_default()
    }

    pub(super) fn mount_slot(&mut self) -> Result<String, Error> {
        if let Some(medium) = &self.medium {
            live::mount_medium(self.sys, medium)?;
        } else {
            let source = self.slot_partition();
            self.sys.make_directory(SLOT_MOUNT, 0o755)?;
            let flags =
                MountFlags { read_only: true, no_suid: true, no_dev: true, no_exec: true, ..MountFlags::default() };
            self.sys.mount(&Mount { source: &source, target: SLOT_MOUNT, kind: "ext4", flags, options: "" })?;
        }
        let path = self.image_path();
        let (found, expected) = (self.sys.file_size(&path)?, self.config.root.size);
        if found != expected {
            return Err(Error::ImageSize { path, found, expected });
        }
        Ok(String::new())
    }

    fn image_path(&self) -> String {
        match self.medium {
            Some(_) => format!("{MEDIUM}/{DIRECTORY}/{}", self.config.root.file),
            None => format!("{SLOT_MOUNT}/{}", self.config.root.file),
        }
    }

    pub(super) fn mount_root(&mut self) -> Result<String, Error> {
        match self.mode {
            RootMode::Slot => self.verified_device().and_then(|device| self.mount_squashfs(&device))?,
            RootMode::Ram => {
                let device = self.device_in_memory()?;
                self.mount_squashfs(&device)?;
                self.sys.unmount(if self.medium.is_some() { MEDIUM } else { SLOT_MOUNT })?;
            }
        }
        Ok(match self.mode {
            RootMode::Slot if self.medium.is_some() => "medium, dm-verity".to_owned(),
            RootMode::Slot => "slot, dm-verity".to_owned(),
            RootMode::Ram => format!("ram, {} KiB", self.config.root.size / 1024),
        })
    }

    /// Returns the dm-verity device over the image in the slot.
    fn verified_device(&self) -> Result<String, Error> {
        let path = self.image_path();
        // Direct I/O keeps each block in memory once; file systems that cannot do it refuse.
        let attached = self.sys.attach_loop(&LoopFile { path: &path, direct: true });
        let device = attached.or_else(|_| self.sys.attach_loop(&LoopFile { path: &path, direct: false }))?;
        Ok(self.sys.create_verity("ksos-root", &device, &self.config.root.verity)?)
    }

    /// Copies the image to memory while it is hashed; returns a loop device over the copy.
    fn device_in_memory(&self) -> Result<String, Error> {
        let path = self.image_path();
        self.sys.make_directory(RAM_MOUNT, 0o700)?;
        let options =
            format!("mode=0700,nr_inodes=16,size={}", self.config.root.size.next_multiple_of(4096) + (1 << 20));
        let flags = MountFlags { no_suid: true, no_dev: true, no_exec: true, ..MountFlags::default() };
        self.sys.mount(&Mount { source: "tmpfs", target: RAM_MOUNT, kind: "tmpfs", flags, options: &options })?;
        let copy = format!("{RAM_MOUNT}/{}", layout::SLOT_ROOT);
        let (found, expected) = (self.sys.copy_hashed(&path, &copy)?, self.config.root.sha256);
        if found != expected {
            return Err(Error::ImageDigest { path, found, expected });
        }
        Ok(self.sys.attach_loop(&LoopFile { path: &copy, direct: false })?)
    }

    fn mount_squashfs(&self, device: &str) -> Result<(), Error> {
        let flags = MountFlags { read_only: true, no_dev: true, ..MountFlags::default() };
        let mounted = self.sys.mount(&Mount { source: device, target: ROOT, kind: "squashfs", flags, options: "" });
        mounted.map_err(|source| match source.source.raw_os_error() {
            Some(libc::EIO) if self.mode == RootMode::Slot => Error::DamagedImage { path: self.image_path(), source },
            _ => source.into(),
        })
    }

    /// Stage 06: tells the next PID 1 what it needs to know and makes the root the root.
    fn hand_over(&mut self) -> Result<(), Error> {
        let start = self.sys.uptime_ms();
        self.report(table::by_number(6), start, &Ok(String::new()));
        let handover = Handover {
            slot: self.slot,
            disk: self.disk.as_ref().map(|(disk, _)| disk.path()).unwrap_or_default(),
            slot_partition: self.slot_partition(),
            medium: self.medium.clone(),
            root_mode: self.mode,
            root_sha256: self.config.root.sha256,
            stages: std::mem::take(&mut self.stages),
            kernel: self.kernel,
            said: self.said.take(),
        };
        handover.write(self.sys)?;
        for directory in ["/proc", "/sys", "/dev", "/run"] {
            self.sys.move_mount(directory, &format!("{ROOT}{directory}"))?;
        }
        self.sys.delete_initramfs()?;
        Ok(self.sys.switch_root(ROOT)?)
    }
}

#[cfg(test)]
mod tests {
    use ksos_formats::boot::{ImageId, RootImage, Verity};
    use ksos_formats::{Arch, Digest};

    use super::*;
    use crate::disk::gpt::tests::image;
    use crate::sys::double::Double;

    fn machine(cmdline: &str) -> Double {
        let sys = Double::new();
        let config = BootConfig {
            format: boot::FORMAT,
            image: ImageId { name: "x".to_owned(), version: "1.0.0".to_owned(), arch: Arch::X86_64, epoch: 1 },
            kernel_release: "6.12.0-test".to_owned(),
            modules: vec!["virtio_blk".to_owned()],
            root_mode: RootMode::Slot,
            root: RootImage {
                file: layout::SLOT_ROOT.to_owned(),
                size: 8,
                sha256: Digest::of(b"squashfs"),
                verity: Verity { data_blocks: 1, root_hash: Digest([1; 32]), salt: Digest([2; 32]) },
            },
            slots: Default::default(),
        };
        sys.put("/ksos/boot.json", serde_json::to_vec(&config).expect("JSON"));
        sys.put("/proc/cmdline", cmdline);
        sys.put("/lib/modules/6.12.0-test/modules.dep", "k/virtio_blk.ko:\nk/dm-verity.ko:\n");
        sys.put("/sys/block/vda/vda2/partition", "2\n");
        sys.disks.borrow_mut().insert("/dev/vda".to_owned(), image(8, 1));
        sys.put("/run/ksos/slot/root.squashfs", "squashfs");
        sys
    }

    #[test]
    fn slot_mode_ends_in_the_real_root() {
        let sys = machine("ksos.slot=a");
        let end = run(&sys);
        assert!(end.to_string().contains("execute"), "{end}");
        let calls = sys.calls.borrow().join("\n");
        for expected in [
            "load /lib/modules/6.12.0-test/k/virtio_blk.ko",
            "mount /dev/vda2 /run/ksos/slot ext4 ro",
            "loop /run/ksos/slot/root.squashfs direct=true\nverity ksos-root /dev/loop0 1\nmount /dev/dm-0 /sysroot squashfs ro",
            "move /dev /sysroot/dev\nmove /run /sysroot/run\ndelete initramfs\nswitch_root /sysroot\n\
             exec /usr/lib/ksos/ksos-runtime init",
        ] {
            assert!(calls.contains(expected), "{expected}\n--- in\n{calls}");
        }
        let handover = Handover::read(&sys).expect("written");
        assert_eq!((handover.slot, handover.disk.as_str(), handover.stages.len()), ('a', "/dev/vda", 7));
        assert!(sys.terminal.borrow().contains("ksos: stage 05 root: ok 0 ms (slot, dm-verity)\n"));
    }

    #[test]
    fn modules_that_fail_make_the_node_degraded_and_what_was_said_is_handed_over() {
        let sys = machine("");
        sys.fail_with("load /lib/modules/6.12.0-test/k/virtio_blk.ko", libc::ENOEXEC);
        assert!(run(&sys).to_string().contains("execute"), "the boot goes on");
        let handover = Handover::read(&sys).expect("written");
        assert_eq!(handover.stages[1].outcome, "degraded");
        let failed = "stage 01 modules: failed 0 ms: module virtio_blk: ";
        assert!(handover.said.iter().any(|said| said.line.starts_with(failed)), "{:?}", handover.said);
        let said: String = handover.said.iter().map(|said| format!("ksos: {}\n", said.line)).collect();
        assert_eq!(said, *sys.terminal.borrow(), "all of it, in order");
        let sys = machine("");
        sys.fail_with("load /lib/modules/6.12.0-test/k/virtio_blk.ko", libc::ENODEV);
        run(&sys);
        let handover = Handover::read(&sys).expect("written");
        assert!(handover.stages[1].ok, "this machine has no such device");
        assert!(handover.said[1].line.starts_with("module virtio_blk: "), "{:?}", handover.said);
        let sys = machine("");
        sys.remove("/lib/modules/6.12.0-test/modules.dep").expect("removed");
        run(&sys);
        assert!(!Handover::read(&sys).expect("written").stages[1].ok, "modules are listed, and there are none");
    }

    #[test]
    fn a_medium_takes_the_place_of_the_slot_and_its_root_is_copied_to_memory() {
        let volume = "KSOS_0123456789ABCDEF01234567";
        let sys = machine(&format!("ksos.live={volume}"));
        sys.put("/sys/block/sr0/size", "100\n");
        sys.disks.borrow_mut().insert("/dev/sr0".to_owned(), crate::config::label::tests::iso(volume));
        sys.put("/run/ksos/medium/ksos/root.squashfs", "squashfs");
        sys.put("/lib/modules/6.12.0-test/modules.dep", "k/isofs.ko:\n");
        run(&sys);
        let calls = sys.calls.borrow().join("\n");
        for expected in [
            "load /lib/modules/6.12.0-test/k/isofs.ko",
            "mount /dev/sr0 /run/ksos/medium iso9660 ro",
            "loop /run/ksos/ram/root.squashfs direct=false\nmount /dev/loop0 /sysroot squashfs ro",
            "unmount /run/ksos/medium",
        ] {
            assert!(calls.contains(expected), "{expected}\n--- in\n{calls}");
        }
        let handover = Handover::read(&sys).expect("written");
        assert_eq!((handover.slot, handover.disk.as_str(), handover.medium.as_deref()), ('-', "", Some("/dev/sr0")));
        assert!(sys.terminal.borrow().contains("stage 03 disk: ok 1000 ms (live from /dev/sr0)"));
        let in_place = machine(&format!("ksos.live={volume} ksos.root=slot"));
        in_place.put("/sys/block/sr0/size", "100\n");
        in_place.disks.borrow_mut().insert("/dev/sr0".to_owned(), crate::config::label::tests::iso(volume));
        in_place.put("/run/ksos/medium/ksos/root.squashfs", "squashfs");
        run(&in_place);
        assert!(in_place.calls_of("loop")[0].starts_with("loop /run/ksos/medium/ksos/root.squashfs"));
        assert!(in_place.calls_of("unmount").is_empty());
    }

    #[test]
    fn ram_mode_hashes_before_it_mounts() {
        let sys = machine("ksos.root=ram");
        // The double has no tmpfs: the directory that would be its mount point is enough.
        run(&sys);
        let calls = sys.calls.borrow().join("\n");
        assert!(
            calls.contains("loop /run/ksos/ram/root.squashfs direct=false\nmount /dev/loop0 /sysroot squashfs ro"),
            "{calls}"
        );
        assert!(calls.contains("unmount /run/ksos/slot"));
        let sys = machine("ksos.root=ram");
        sys.put("/run/ksos/slot/root.squashfs", "squashfX");
        let error = run(&sys);
        assert!(matches!(error, Error::ImageDigest { .. }), "{error}");
        assert!(sys.calls_of("loop").is_empty(), "a wrong image is never used");
    }

    #[test]
    fn failures_name_what_and_why() {
        type Break = fn(&Double);
        let cases: [(&str, &str, Break); 9] = [
            (
                "ksos.live=CDROM",
                "ksos.live=CDROM on the kernel command line: expected the name of an image's volume",
                |_| {},
            ),
            (
                "ksos.live=KSOS_0123456789ABCDEF01234567",
                "no disk has the volume KSOS_0123456789ABCDEF01234567; disks: vda",
                |_| {},
            ),
            ("", "/run/ksos/slot/root.squashfs has 3 bytes, expected 8", |sys| {
                sys.put("/run/ksos/slot/root.squashfs", "abc")
            }),
            ("ksos.slot=c", "ksos.slot=c on the kernel command line: expected a or b", |_| {}),
            ("ksos.esp=zz", "ksos.esp=zz on the kernel command line: expected a partition GUID", |_| {}),
            ("", "Input/output error", |sys| sys.fail("mount /dev/dm-0", "Input/output error")),
            ("", "/ksos/boot.json: expected", |sys| sys.put("/ksos/boot.json", "no JSON")),
            ("ksos.esp=00000000-0000-0000-0000-000000000001", "no disk has the partition with GUID", |_| {}),
            ("", "several disks have a partition named KSOSEFI: vda, vdb", |sys| {
                sys.put("/sys/block/vdb/size", "1");
                sys.disks.borrow_mut().insert("/dev/vdb".to_owned(), image(8, 9));
            }),
        ];
        for (cmdline, expected, break_it) in cases {
            let sys = machine(cmdline);
            break_it(&sys);
            let text = run(&sys).to_string();
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn a_late_disk_is_awaited_and_its_driver_loaded() {
        let sys = machine("");
        let disk = sys.disks.borrow_mut().remove("/dev/vda").expect("there");
        sys.put("/lib/modules/6.12.0-test/modules.alias", "alias pci:v1* virtio_blk\n");
        let error = run(&sys);
        assert!(error.to_string().starts_with("no disk has a partition named KSOSEFI"), "{error}");
        assert!((20_000..23_000).contains(&sys.now.get()), "bounded");
        assert!(sys.terminal.borrow().contains("ksos: waiting for the boot disk"));
        sys.disks.borrow_mut().insert("/dev/vda".to_owned(), disk);
        assert!(run(&sys).to_string().contains("execute"));
    }

    #[test]
    fn a_damaged_image_is_called_that() {
        let sys = machine("");
        sys.fail_with("mount /dev/dm-0", libc::EIO);
        let text = run(&sys).to_string();
        let expected = "/run/ksos/slot/root.squashfs is damaged, dm-verity refuses to read it: ";
        assert!(text.starts_with(expected), "{text}");
    }

    #[test]
    fn loop_without_direct_io_is_tried_when_refused() {
        let sys = machine("");
        sys.fail("loop /run/ksos/slot/root.squashfs direct=true", "Invalid argument");
        run(&sys);
        assert_eq!(sys.calls_of("loop").len(), 2);
        assert_eq!(sys.calls_of("verity").len(), 1);
    }
}
