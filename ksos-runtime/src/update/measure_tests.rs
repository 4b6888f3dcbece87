//! How long an installation of a real release takes, and how much memory, on real block devices, against writing the same
//! image as plainly as can be and hashing it back. Not run by default: `tests/bench-update` does, as root, where there are
//! loop devices.

#![expect(clippy::disallowed_methods, reason = "a measurement that sets up devices")]

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use ksos_formats::Digest;
use ksos_formats::bootstate::Slot;
use ksos_formats::digest::Hasher;
use ksos_formats::update::fetch::Range;
use ksos_formats::update::{Blob, ChunkIndex};

use super::install::{self, Amounts, Job};
use super::source::{ChannelName, Served, Sink, Source, SourceError, Stop};
use super::testing::cut;
use super::writer;
use crate::sys::linux::Linux;
use crate::sys::{Disk, Sys};

/// Reads a slot image; zeros behind its last whole MiB make it one more.
fn image(name: &str) -> Vec<u8> {
    let directory =
        std::env::var_os("KSOS_BENCH_SLOTS").expect("KSOS_BENCH_SLOTS: a directory with old.ext4 and new.ext4");
    let mut bytes = std::fs::read(Path::new(&directory).join(name)).expect(name);
    bytes.resize(bytes.len().next_multiple_of(1 << 20), 0);
    bytes
}

struct FileSource(File);

impl Source for FileSource {
    fn channel(&mut self, _name: &ChannelName) -> Result<Vec<u8>, SourceError> {
        Err(SourceError::NotOpen)
    }
    fn keys(&mut self, _version: u64) -> Result<Option<Vec<u8>>, SourceError> {
        Ok(None)
    }
    fn open_release(&mut self, _name: &str) -> Result<Vec<u8>, SourceError> {
        Err(SourceError::NotOpen)
    }
    fn index(&mut self, _blob: &Blob) -> Result<Vec<u8>, SourceError> {
        Err(SourceError::NotOpen)
    }
    fn chunks(&mut self, _blob: &Blob, range: Range, sink: &mut Sink<'_>) -> Result<Served, SourceError> {
        let mut piece = vec![0; 16 << 10];
        let mut at = range.start;
        while at < range.end {
            let part = (range.end - at).min(piece.len() as u64) as usize;
            self.0.read_exact_at(&mut piece[..part], at).expect("readable");
            sink(at, &piece[..part]).map_err(|Stop| SourceError::Stopped)?;
            at += part as u64;
        }
        Ok(Served::Range)
    }
}

/// A loop device over a file.
struct Loop(String);

impl Loop {
    fn new(path: &Path) -> Self {
        let mut command = Command::new("losetup");
        let output = command.args(["--direct-io=on", "-f", "--show"]).arg(path).output().expect("losetup runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Loop(String::from_utf8(output.stdout).expect("text").trim().to_owned())
    }

    fn open(&self) -> Box<dyn Disk> {
        Linux::new().open_disk(&self.0, true).expect("open")
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

/// Peak of resident memory in KiB since the last call (proc(5), `clear_refs`).
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("readable");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
    let peak = line.trim().trim_end_matches(" kB").parse().expect("a number");
    File::options().write(true).open("/proc/self/clear_refs").expect("open").write_all(b"5").expect("written");
    peak
}

/// Writes the image as plainly as can be, makes it durable, and hashes it as it is on the medium.
fn raw(disk: &dyn Disk, image: &[u8]) -> Digest {
    for (number, piece) in image.chunks(1 << 20).enumerate() {
        disk.write_at((number as u64) << 20, piece).expect("written");
    }
    disk.flush().expect("flushed");
    disk.forget(0, image.len() as u64).expect("dropped");
    let mut hasher = Hasher::new();
    let mut piece = vec![0; 1 << 20];
    for number in 0..image.len() as u64 >> 20 {
        disk.read_at(number << 20, &mut piece).expect("read");
        hasher.update(&piece);
    }
    hasher.finish()
}

fn blob(bytes: &[u8]) -> Blob {
    Blob { size: bytes.len() as u64, sha256: Digest::of(bytes) }
}

#[test]
#[ignore = "a measurement: needs root and loop devices"]
fn measure_an_installation() {
    let directory = tempfile::tempdir_in(".").expect("a directory on a disk");
    let file = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        File::open(&path).expect("open").sync_all().expect("flushed");
        path
    };
    let (old, new) = (image("old.ext4"), image("new.ext4"));
    let size = old.len().max(new.len());
    let other = vec![0xa5; size];
    let active = Loop::new(&file("active", &old));
    let empty = Loop::new(&file("empty", &other));
    let target = Loop::new(&file("target", &other));
    drop(old);
    for (name, active) in [("one package changed", &active), ("nothing in common", &empty)] {
        let new = new.clone();
        let began = Instant::now();
        assert_eq!(raw(target.open().as_ref(), &new), Digest::of(&new));
        let plain = began.elapsed();
        let (index, chunks) = cut(&new);
        let (slot, stored) = (blob(&new), blob(&chunks));
        let chunks = File::open(file("chunks", &chunks)).expect("open");
        assert_eq!(raw(target.open().as_ref(), &other), Digest::of(&other));
        drop(new);
        peak_kib();
        let before = peak_kib();
        let (times, amounts) = install(active, &target, &index, (slot, stored), FileSource(chunks));
        let peak = peak_kib();
        println!(
            "{name}: {} MiB; write and hash {:.2} s; installed in {:.2} s (cut, written {:.2} s, hashed {:.2} s); \
             ratio {:.2} (goal: 1.10 or less); {amounts:?}; resident {} KiB before, {} KiB at most",
            slot.size >> 20,
            plain.as_secs_f64(),
            times.0 + times.1,
            times.0,
            times.1,
            (times.0 + times.1) / plain.as_secs_f64(),
            before,
            peak,
        );
        assert!(peak - before < 32 << 10, "{} KiB", peak - before);
    }
}

fn install(
    active: &Loop,
    target: &Loop,
    index: &ChunkIndex,
    (image, chunks): (Blob, Blob),
    mut source: FileSource,
) -> ((f64, f64), Amounts) {
    let disk = active.open();
    disk.forget(0, disk.size()).expect("dropped");
    let began = Instant::now();
    writer::clear(target.open().as_ref()).expect("cleared");
    let job = Job { active: disk.as_ref(), slot: Slot::B, image, chunks, index };
    let (writer, amounts) = install::write(&job, target.open(), &mut source, &mut |_| Ok(())).expect("written");
    let written = began.elapsed().as_secs_f64();
    writer.finish().expect("it is the image").write_head().expect("complete");
    ((written, began.elapsed().as_secs_f64() - written), amounts)
}
