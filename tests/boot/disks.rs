//! Disks of guests: their partitions, the kernel command line on them, and a clone that is attached while the machine runs.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use ksos_tests::run;

/// Adds parameters to the kernel command line of a disk: its boot loader's script is edited.
pub fn add_parameters(disk: &Path, parameters: &str) {
    let esp = format!("{}@@{}", disk.display(), partition_offset(disk, 1));
    let script = "::/EFI/debian/grub.cfg";
    let text = run(Command::new("mtype").args(["-i", &esp, script])).expect_code(0).stdout;
    let slot = "\"ksos.slot=$1\"";
    assert!(text.contains(slot), "{text}");
    let path = disk.with_extension("cfg");
    fs::write(&path, text.replace(slot, &format!("{parameters} {slot}"))).expect("written");
    run(Command::new("mcopy").args(["-o", "-i", &esp]).arg(&path).arg(script)).expect_code(0);
}

/// Returns where a partition starts on a disk, in bytes.
pub fn partition_offset(disk: &Path, number: u32) -> u64 {
    let outcome = run(Command::new("sgdisk").args(["-i", &number.to_string()]).arg(disk)).expect_code(0);
    let line =
        outcome.stdout.lines().find(|line| line.starts_with("First sector:")).expect("sgdisk tells it").to_owned();
    line.split_whitespace().nth(2).and_then(|text| text.parse::<u64>().ok()).expect("a number") * 512
}

/// A bus to which a clone of the boot disk can be attached while the machine runs.
pub struct Hotplug {
    socket: PathBuf,
    small: PathBuf,
    image: PathBuf,
}

impl Hotplug {
    /// Returns the bus of a machine whose boot disk is made from `image`.
    pub fn new(image: &Path) -> Self {
        let small = image.with_extension("small");
        fs::File::create(&small).and_then(|file| file.set_len(1 << 20)).expect("made");
        Hotplug { socket: image.with_extension("qmp"), small, image: image.to_owned() }
    }

    /// A disk that is there from the start has the driver of disks loaded: later, modules are locked.
    pub fn arguments(&self) -> Vec<String> {
        let drive = |id: &str, path: &Path| format!("if=none,id={id},format=raw,readonly=on,file={}", path.display());
        let words = [
            ("-qmp", format!("unix:{},server=on,wait=off", self.socket.display())),
            ("-device", "virtio-scsi-pci,id=scsi".to_owned()),
            ("-drive", drive("small", &self.small)),
            ("-device", "scsi-hd,bus=scsi.0,drive=small".to_owned()),
            ("-drive", drive("twin", &self.image)),
        ];
        words.iter().flat_map(|(name, value)| [format!("--qemu-arg={name}"), format!("--qemu-arg={value}")]).collect()
    }

    /// Sends one command of QEMU's machine protocol.
    pub fn ask(&self, command: &str) {
        let mut stream = UnixStream::connect(&self.socket).expect("QEMU listens");
        let mut lines = BufReader::new(stream.try_clone().expect("a copy")).lines();
        let mut answer = move || lines.next().expect("QEMU answers").expect("text");
        answer();
        for command in [r#"{"execute": "qmp_capabilities"}"#, command] {
            writeln!(stream, "{command}").expect("sent");
            let said = std::iter::repeat_with(&mut answer).find(|line| !line.contains("\"event\"")).expect("an answer");
            assert!(said.contains("\"return\""), "{command}: {said}");
        }
    }
}
