//! The GRUB script under the real, signed GRUB, with Secure Boot enforced.
//!
//! Needs QEMU, firmware, `mtools`, `sgdisk`, `mke2fs`, and a directory `KSOS_TEST_BOOT` with `shim.efi`, `grub.efi` and
//! `vmlinuz` from a distribution's packages for `KSOS_TEST_ARCH` (default x86_64). The kernel finds no init and panics,
//! having printed the command line that GRUB gave it. About 15 s for each case without KVM.
#![expect(clippy::disallowed_methods, reason = "makes a disk with foreign tools")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ksos_formats::bootstate::Slot;

use super::*;
use crate::ops::run::{Outcome, RunOptions, run, set_up};

const ESP_GUID: &str = "11111111-2222-3333-4444-55555555aaaa";
const MIB: u64 = 1 << 20;

fn tool(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

struct Bench {
    source: PathBuf,
    work: tempfile::TempDir,
    arch: Arch,
}

impl Bench {
    fn new() -> Option<Self> {
        let Some(source) = std::env::var_os("KSOS_TEST_BOOT") else {
            println!("skipped: KSOS_TEST_BOOT does not name a directory with shim.efi, grub.efi and vmlinuz");
            return None;
        };
        let arch = std::env::var("KSOS_TEST_ARCH").unwrap_or("x86_64".to_owned()).parse().unwrap();
        Some(Bench { source: source.into(), work: tempfile::tempdir().unwrap(), arch })
    }

    fn path(&self, name: &str) -> String {
        self.work.path().join(name).to_str().unwrap().to_owned()
    }

    fn source(&self, name: &str) -> String {
        self.source.join(name).to_str().unwrap().to_owned()
    }

    /// Makes a slot's file system with these files: name and content.
    fn slot(&self, files: &[(&str, Vec<u8>)]) -> String {
        let directory = tempfile::tempdir_in(self.work.path()).unwrap();
        for (name, content) in files {
            std::fs::write(directory.path().join(name), content).unwrap();
        }
        let image = self.path("slot.img");
        std::fs::write(&image, b"").unwrap();
        std::fs::File::options().write(true).open(&image).unwrap().set_len(64 * MIB).unwrap();
        tool("mke2fs", &["-q", "-F", "-t", "ext4", "-d", directory.path().to_str().unwrap(), &image]);
        image
    }

    /// Makes the disk with these copies of the boot state, marks and slots.
    fn disk(
        &self,
        copies: [Option<&[u8]>; 2],
        marks: [bool; 2],
        slots: [&[(&str, Vec<u8>)]; 2],
        timeout: u32,
    ) -> String {
        let (disk, esp) = (self.path("disk.img"), self.path("esp.img"));
        let console = match self.arch {
            Arch::X86_64 => "console=ttyS0,115200",
            Arch::Arm64 => "console=ttyAMA0",
        };
        let cmdline = [console.to_owned()];
        let config =
            GrubConfig { name: "kubesolo-os", arch: self.arch, cmdline: &cmdline, slot_a: 2, slot_b: 3, timeout };
        let mut files = esp_files(&config).unwrap();
        for (path, copy) in COPIES.into_iter().zip(copies) {
            match copy {
                Some(bytes) => drop(files.insert(path, bytes.to_vec())),
                None => drop(files.remove(path)),
            }
        }
        for (path, confirmed) in MARKS.into_iter().zip(marks) {
            files.insert(path, Mark { confirmed }.encode().to_vec());
        }
        for name in [&disk, &esp] {
            let _ = std::fs::remove_file(name);
        }
        std::fs::File::create(&esp).unwrap().set_len(64 * MIB).unwrap();
        tool("mkfs.vfat", &["-F", "32", &esp]);
        for directory in
            ["", "/BOOT", "/debian", "/ksos", "/ksos/state1", "/ksos/state2", "/ksos/slot-a", "/ksos/slot-b"]
        {
            tool("mmd", &["-i", &esp, &format!("::EFI{directory}")]);
        }
        let (boot, grub) =
            (self.arch.efi_boot_file(), self.arch.efi_boot_file().to_lowercase().replace("boot", "grub"));
        tool("mcopy", &["-i", &esp, &self.source("shim.efi"), &format!("::EFI/BOOT/{boot}")]);
        tool("mcopy", &["-i", &esp, &self.source("grub.efi"), &format!("::EFI/BOOT/{grub}")]);
        for (path, bytes) in &files {
            let file = self.path("file");
            std::fs::write(&file, bytes).unwrap();
            tool("mcopy", &["-i", &esp, &file, &format!("::{path}")]);
        }
        std::fs::File::create(&disk).unwrap().set_len(200 * MIB).unwrap();
        let partitions = ["-n", "1:2048:+64M", "-t", "1:ef00", "-n", "2:0:+64M", "-n", "3:0:+64M"];
        tool("sgdisk", &[&partitions[..], &["-u", &format!("1:{ESP_GUID}"), &disk]].concat());
        self.place(&esp, &disk, 1);
        self.place(&self.slot(slots[0]), &disk, 65);
        self.place(&self.slot(slots[1]), &disk, 129);
        disk
    }

    fn place(&self, part: &str, disk: &str, mebibyte: u64) {
        let (input, output, seek) = (format!("if={part}"), format!("of={disk}"), format!("seek={mebibyte}"));
        tool("dd", &[&input, &output, "bs=1M", &seek, "conv=notrunc,sparse", "status=none"]);
    }

    /// Boots the disk; returns what happened and the serial output.
    fn boot(&self, disk: &str) -> (Outcome, String) {
        let mut options = RunOptions::new(self.arch, std::env::var_os("PATH").unwrap());
        options.secure_boot = true;
        options.until = crate::ops::run::Until::Ready;
        options.persist = true;
        options.memory = 512 * MIB;
        options.disk_size = 0;
        options.timeout = Some(Duration::from_secs(240));
        let setup = set_up(&options).unwrap();
        let mut serial = Vec::new();
        let outcome = run(Path::new(disk), &options, &setup, &mut serial).unwrap();
        (outcome, String::from_utf8_lossy(&serial).into_owned())
    }

    fn state(&self, disk: &str) -> [Option<BootState>; 2] {
        let esp = self.path("after.img");
        tool("dd", &[&format!("if={disk}"), &format!("of={esp}"), "bs=1M", "skip=1", "count=64", "status=none"]);
        COPIES.map(|path| {
            let output = Command::new("mtype").args(["-i", &esp, &format!("::{path}")]).output().unwrap();
            BootState::decode(&output.stdout).ok()
        })
    }
}

/// The slot that the kernel says it was started from.
fn started(serial: &str) -> Option<Slot> {
    let line = serial.lines().find(|line| line.contains("Command line:") || line.contains("command line:"))?;
    assert!(line.contains(&format!("ksos.esp={ESP_GUID}")), "{line}");
    let name = line.split("ksos.slot=").nth(1)?.split_whitespace().next()?;
    Slot::from_name(name)
}

#[test]
fn the_signed_grub_follows_the_boot_state() {
    let Some(bench) = Bench::new() else { return };
    let kernel = std::fs::read(bench.source("vmlinuz")).unwrap();
    let initramfs = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, b"07070100000000000000000000000000000000000000010000000000000000000000000000000000000000000000000000000B00000000TRAILER!!!\0\0\0\0").unwrap();
        encoder.finish().unwrap()
    };
    let mut damaged = kernel.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    let whole = [("vmlinuz", kernel.clone()), ("kubesolo-os.gz", initramfs.clone())];
    let corrupt = [("vmlinuz", damaged), ("kubesolo-os.gz", initramfs)];
    let no_initramfs = [("vmlinuz", kernel)];
    let state = |generation, active, trial| BootState { generation, active, trial };
    let block = |generation, active, trial| state(generation, active, trial).encode();
    let (a, b) = (Slot::A, Slot::B);
    let junk = [0xffu8; 512];
    let mut torn = block(4, b, None);
    let end = torn.windows(5).position(|window| window == b"end=4").unwrap();
    torn[end + 4] = b'3';
    let hostile = *b"# GRUB Environment Block\ngen=1\nact=b; reboot\ntry=-\nleft=0\nend=1\n";
    let mut hostile_block = [b'#'; 512];
    hostile_block[..hostile.len()].copy_from_slice(&hostile);
    let (fresh, act_b) = (BootState::initial(), state(2, b, None));
    type Case<'a> =
        (&'a str, [Option<&'a [u8]>; 2], [&'a [(&'a str, Vec<u8>)]; 2], Option<Slot>, [Option<BootState>; 2]);
    let blocks = [fresh.encode(), act_b.encode(), block(3, a, Some(3)), block(3, a, Some(1)), block(3, a, Some(0))];
    let [fresh_block, act_b_block, trial, last_trial, exhausted] = blocks.each_ref().map(|block| Some(&block[..]));
    let cases: [Case<'_>; 13] = [
        ("fresh", [fresh_block; 2], [&whole, &whole], Some(a), [Some(fresh); 2]),
        ("active b", [act_b_block; 2], [&whole, &whole], Some(b), [Some(act_b); 2]),
        ("trial", [trial; 2], [&whole, &whole], Some(b), [Some(state(3, a, Some(2))); 2]),
        ("last trial", [last_trial; 2], [&whole, &whole], Some(b), [Some(state(3, a, Some(0))); 2]),
        ("exhausted", [exhausted; 2], [&whole, &whole], Some(a), [Some(state(3, a, Some(0))); 2]),
        ("copy 1 junk", [Some(&junk), trial], [&whole, &whole], Some(b), [None, Some(state(3, a, Some(2)))]),
        ("copy 1 torn", [Some(&torn), fresh_block], [&whole, &whole], Some(a), [None, Some(fresh)]),
        ("both junk", [Some(&junk), Some(&junk)], [&whole, &whole], Some(a), [None, None]),
        ("both missing", [None, None], [&[], &whole], Some(b), [None, None]),
        ("hostile", [Some(&hostile_block); 2], [&whole, &whole], Some(a), [None, None]),
        ("trial of an empty slot", [trial; 2], [&whole, &[]], Some(a), [Some(state(3, a, Some(2))); 2]),
        ("kernel altered", [act_b_block; 2], [&whole, &corrupt], Some(a), [Some(act_b); 2]),
        ("no slot", [fresh_block; 2], [&[], &no_initramfs], None, [Some(fresh); 2]),
    ];
    for (name, copies, slots, slot, after) in cases {
        let (start, marks) = (std::time::Instant::now(), [false; 2]);
        let disk = bench.disk(copies, marks, slots, 0);
        let (outcome, serial) = bench.boot(&disk);
        match slot {
            Some(_) => {
                assert!(matches!(outcome, Outcome::Panic { .. }), "{name}: {outcome}\n{serial}");
                assert!(serial.contains("secureboot: Secure boot enabled"), "{name}:\n{serial}");
            }
            None => assert!(matches!(outcome, Outcome::NoBoot { .. }), "{name}: {outcome}\n{serial}"),
        }
        assert_eq!(started(&serial), slot, "{name}:\n{serial}");
        assert_eq!(bench.state(&disk), after, "{name}");
        println!("{name}: {:?}", start.elapsed());
    }
    for (marks, slot) in [([false, true], b), ([true, false], a), ([true, true], a)] {
        let disk = bench.disk([Some(&junk), None], marks, [&whole, &whole], 0);
        assert_eq!(started(&bench.boot(&disk).1), Some(slot), "no state, marks {marks:?}");
    }
    let disk = bench.disk([act_b_block; 2], [false; 2], [&whole, &whole], 2);
    assert_eq!(started(&bench.boot(&disk).1), Some(b), "menu");
}
