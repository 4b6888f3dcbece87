//! The real GRUB and kernel in QEMU: a sample of the power cuts, and disks that are bad in other ways. Each disk must boot
//! the slot and version that the model says, and have the boot state that the model has written: QEMU records the writes,
//! and they are those of the model, sector by sector and in its order.
//!
//! Shim, GRUB and kernel are those of the containerd example, which is built for that, or `shim.efi`, `grub.efi` and
//! `vmlinuz` in the directory `KSOS_TEST_BOOT`. The initramfs is one program that prints its version and ends, which is a
//! kernel panic and the end of the case. Two machines run at a time.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ksos_compose::artifact::{cpio, disk, ext4};
use ksos_compose::boot::GrubConfig;
use ksos_compose::image::{DiskImage, Slot as SlotReader};
use ksos_compose::ops::run::{Outcome, RunOptions, Setup, Until, run, set_up};
use ksos_compose::tree::{Content, Entry, Meta, Node, Tree};
use ksos_formats::bootstate::{BootState, COPIES, MARKS, Mark, Slot};
use ksos_formats::{Arch, layout};
use ksos_tests::{compose, program, repository};

use crate::log;
use crate::machine::{Image, Machine, disk_spec, esp};
use crate::power_cuts::{all, recordings};
use crate::world::{Cut, Recording, World, boot_changes};

const MIB: u64 = 1 << 20;
const ESP_SIZE: u64 = 64 * MIB;
/// Cuts of what the node does that are booted, unless all are to be that differ to a boot loader; those of what GRUB itself
/// does come on top.
const SAMPLE: usize = 16;
/// Limit for one boot. On two idle processors it takes some seconds.
const LIMIT: Duration = Duration::from_secs(600);
/// What a version says.
const MARKER: &str = "ksos-test: version=";

fn insert(tree: &mut Tree, path: &str, mode: u32, bytes: Vec<u8>) {
    let entry = Entry { meta: Meta::root(mode, 1_700_000_000), node: Node::File(Content::inline(bytes)) };
    tree.insert(path, entry).expect("a path");
}

/// Shim, GRUB and kernel.
struct Parts {
    shim: Vec<u8>,
    grub: Vec<u8>,
    kernel: Vec<u8>,
}

impl Parts {
    fn find() -> Self {
        match std::env::var_os("KSOS_TEST_BOOT") {
            Some(directory) => {
                let read = |name: &str| std::fs::read(Path::new(&directory).join(name)).expect(name);
                Parts { shim: read("shim.efi"), grub: read("grub.efi"), kernel: read("vmlinuz") }
            }
            None => Self::of_example(),
        }
    }

    fn of_example() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut command = compose(&repository());
        command.args(["build", "examples/containerd-node.toml", "--json", "--arch", "x86_64", "--out"]);
        let outcome = ksos_tests::run(command.arg(directory.path())).expect_code(0);
        let listed: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("--json prints JSON");
        let path = PathBuf::from(listed["artifacts"][0]["path"].as_str().expect("an artifact has a path"));
        let image = DiskImage::open(&path).expect("an image");
        let esp = format!("{}@@1M", path.display());
        let read = |name: &str| {
            let output = Command::new("mtype").args(["-i", &esp, &format!("::EFI/BOOT/{name}")]).output();
            let output = output.expect("mtools is installed");
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            output.stdout
        };
        let slot = SlotReader::open(&image, image.partition(2).expect("slot A")).expect("readable").expect("a slot");
        let file = slot.file(layout::SLOT_KERNEL).expect("readable").expect("a kernel");
        let mut kernel = vec![0; file.size() as usize];
        file.read_exact_at(&mut kernel, 0).expect("readable");
        Parts { shim: read("BOOTX64.EFI"), grub: read("grubx64.efi"), kernel }
    }

    /// A slot image whose only program says its version.
    fn image(&self, version: &str) -> Image {
        let mut initramfs = Tree::new(1_700_000_000);
        insert(&mut initramfs, "init", 0o755, program(&format!("\n{MARKER}{version}\n")));
        let mut archive = Vec::new();
        cpio::write(&initramfs, &mut archive, 1_700_000_000).expect("written");
        let mut tree = Tree::new(1_700_000_000);
        insert(&mut tree, layout::SLOT_KERNEL, 0o644, self.kernel.clone());
        insert(&mut tree, layout::SLOT_INITRAMFS, 0o644, archive);
        let size = (self.kernel.len() as u64 + 3 * MIB).next_multiple_of(MIB);
        let id = [version.as_bytes()[2]; 16];
        let mut options = ext4::Options::new(size, layout::SLOT_A_LABEL, id, id, 1_700_000_000);
        (options.journal, options.inodes) = (Some(0), Some(128));
        let mut bytes = std::io::Cursor::new(Vec::new());
        ext4::write(&tree, &mut bytes, &options).expect("it fits");
        let mut bytes = bytes.into_inner();
        bytes.resize(size as usize, 0);
        Image { version: version.parse().expect("a version"), bytes }
    }
}

/// Change to the bytes of the EFI system partition; gets where files begin.
type Damage = fn(&mut [u8], &dyn Fn(&str) -> usize);

/// One disk to boot.
struct Case {
    name: String,
    world: World,
    damage: Option<Damage>,
    /// Attach a disk with the same identifiers, whose boot state says that slot B is active.
    twin: bool,
    /// Files of the boot state are as GRUB finds them, for the model: `None` where there is none.
    missing: [bool; 2],
    /// Whether a power cut has left it.
    is_cut: bool,
}

impl Case {
    fn new(name: impl Into<String>, world: &World) -> Self {
        Case { name: name.into(), world: world.clone(), damage: None, twin: false, missing: [false; 2], is_cut: false }
    }

    fn cut(cut: Cut) -> Self {
        Case { is_cut: true, ..Case::new(cut.what, &cut.world) }
    }
}

struct Bench {
    parts_esp: Vec<u8>,
    places: [u64; 4],
    extents: [u64; 3],
    slot_size: u64,
    versions: Vec<Image>,
    setup: Setup,
    work: tempfile::TempDir,
    /// Cases of power cuts that were booted.
    cuts: AtomicUsize,
    /// Cases that were booted.
    done: AtomicUsize,
    /// Writes that QEMU has recorded.
    recorded: AtomicUsize,
}

impl Bench {
    fn options() -> RunOptions {
        let mut options = RunOptions::new(Arch::X86_64, std::env::var_os("PATH").expect("a PATH"));
        options.until = Until::Ready;
        options.persist = true;
        options.memory = 256 * MIB;
        options.processors = 1;
        options.disk_size = 0;
        options.network = false;
        options.timeout = Some(LIMIT);
        options
    }

    fn new(parts: &Parts, versions: Vec<Image>, slot_size: u64) -> Option<Self> {
        let setup = match set_up(&Self::options()) {
            Ok(setup) => setup,
            Err(error) => {
                assert!(std::env::var("KSOS_REQUIRE_TOOLS").as_deref() != Ok("1"), "{error}");
                eprintln!("skipped: {error}");
                return None;
            }
        };
        let cmdline = ["console=ttyS0,115200".to_owned()];
        let config =
            GrubConfig { name: "kubesolo-os", arch: Arch::X86_64, cmdline: &cmdline, slot_a: 2, slot_b: 3, timeout: 0 };
        // Files that are not ours are on it as well.
        let foreign = (0..40).map(|number| (format!("EFI/vendor/some long name {number}.bin"), vec![number; 700]));
        let foreign: Vec<(String, Vec<u8>)> = foreign.collect();
        let mut others: Vec<(&str, Vec<u8>)> =
            vec![("EFI/BOOT/BOOTX64.EFI", parts.shim.clone()), ("EFI/BOOT/grubx64.efi", parts.grub.clone())];
        others.extend(foreign.iter().map(|(path, bytes)| (path.as_str(), bytes.clone())));
        let (parts_esp, files) = esp(ESP_SIZE, &config, &others);
        let places = [COPIES[0], COPIES[1], MARKS[0], MARKS[1]].map(|path| files[path]);
        let work = tempfile::tempdir().expect("a directory");
        let mut table = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(work.path().join("table.img"))
            .expect("a file");
        let layout = disk::write(&mut table, &disk_spec(ESP_SIZE, slot_size)).expect("it fits");
        let extents = [0, 1, 2].map(|number: usize| layout.partitions[number].offset);
        Some(Bench {
            parts_esp,
            places,
            extents,
            slot_size,
            versions,
            setup,
            work,
            cuts: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            recorded: AtomicUsize::new(0),
        })
    }

    /// Makes a disk.
    fn disk(&self, name: &str, world: &World, damage: Option<Damage>) -> PathBuf {
        let path = self.work.path().join(name);
        std::fs::copy(self.work.path().join("table.img"), &path).expect("copied");
        let file = OpenOptions::new().write(true).open(&path).expect("there");
        let mut esp = self.parts_esp.clone();
        for (place, sector) in self.places.iter().zip(&world.esp) {
            esp[*place as usize..*place as usize + 512].copy_from_slice(sector);
        }
        if let Some(damage) = damage {
            let place = |path: &str| {
                let index = [COPIES[0], COPIES[1], MARKS[0], MARKS[1]].iter().position(|known| *known == path);
                self.places[index.expect("a known file")] as usize
            };
            damage(&mut esp, &place);
        }
        let write = |offset: u64, bytes: &[u8]| {
            for (index, block) in bytes.chunks(1 << 16).enumerate().filter(|(_, block)| block.iter().any(|b| *b != 0)) {
                file.write_all_at(block, offset + ((index as u64) << 16)).expect("written");
            }
        };
        write(self.extents[0], &esp);
        for (extent, slot) in self.extents[1..].iter().zip(&world.slots) {
            write(*extent, slot);
        }
        path
    }

    /// Reads the blocks of the boot state back.
    fn copies(&self, disk: &Path) -> [Vec<u8>; 2] {
        let file = File::open(disk).expect("there");
        [0, 1].map(|copy| {
            let mut block = vec![0; 512];
            file.read_exact_at(&mut block, self.extents[0] + self.places[copy]).expect("readable");
            block
        })
    }

    /// Boots a case and compares it with the model; returns what is wrong.
    fn try_case(&self, case: &Case, number: usize) -> Result<(), String> {
        let disk = self.disk(&format!("case-{number}.img"), &case.world, case.damage);
        let mut options = Self::options();
        let (mut twin, mut log) = (None, None);
        // The disk to boot from is behind the recorder; the one that `run` attaches is empty.
        let mut attached = disk.clone();
        if !case.twin {
            attached = self.work.path().join(format!("empty-{number}.img"));
            std::fs::write(&attached, vec![0; MIB as usize]).expect("written");
            let path = self.work.path().join(format!("log-{number}"));
            File::create(&path).expect("made");
            options.extra = log::disk(&disk, &path);
            log = Some(path);
        }
        if case.twin {
            let mut world = case.world.clone();
            let other = BootState { generation: 9, active: Slot::B, trial: None }.encode().to_vec();
            (world.esp[0], world.esp[1]) = (other.clone(), other);
            let path = self.disk(&format!("twin-{number}.img"), &world, None);
            let drive = format!("if=none,id=twin,format=raw,readonly=on,file={}", path.display());
            options.extra = ["-drive", &drive, "-device", "virtio-blk-pci,drive=twin"].map(str::to_owned).to_vec();
            twin = Some(path);
        }
        let started = std::time::Instant::now();
        let mut serial = Vec::new();
        let outcome = run(&attached, &options, &self.setup, &mut serial).map_err(|error| error.to_string())?;
        let serial = String::from_utf8_lossy(&serial).into_owned();
        let recorded = log.as_ref().map(|log| log::writes(&std::fs::read(log).expect("readable")));
        let result = self.compare(case, &disk, &outcome, &serial, recorded);
        for path in [disk, attached].into_iter().chain(twin).chain(log) {
            // Where nothing is recorded, two of them are one.
            let _ = std::fs::remove_file(path);
        }
        eprintln!("{} ({} s)", case.name, started.elapsed().as_secs());
        self.done.fetch_add(1, Ordering::Relaxed);
        self.cuts.fetch_add(usize::from(case.is_cut), Ordering::Relaxed);
        result.map_err(|error| format!("{}: {error}\n{outcome}\n{serial}", case.name))
    }

    fn compare(
        &self,
        case: &Case,
        disk: &Path,
        outcome: &Outcome,
        serial: &str,
        recorded: Option<Vec<log::Write>>,
    ) -> Result<(), String> {
        let mut esp = case.world.grub();
        for (copy, missing) in esp.copies.iter_mut().zip(case.missing) {
            *copy = copy.take().filter(|_| !missing);
        }
        let decision = crate::grub::decide(&esp);
        let order = [decision.first, decision.first.other()];
        let expected = order.into_iter().find_map(|slot| {
            let bytes = &case.world.slots[slot as usize];
            let image = self.versions.iter().find(|image| bytes.starts_with(&image.bytes))?;
            Some((slot, image.version.to_string()))
        });
        let found = started(serial);
        if found != expected {
            return Err(format!("{found:?} started instead of {expected:?}"));
        }
        if expected.is_none() && !matches!(outcome, Outcome::NoBoot { line } if line.contains("no system slot boots")) {
            return Err("it does not say that no slot boots".to_owned());
        }
        let mut copies = [case.world.esp[0].clone(), case.world.esp[1].clone()];
        // What a damaged file system does to where a file is, the model does not know.
        if let Some(recorded) = recorded.filter(|_| case.damage.is_none()) {
            let place = |copy: usize| self.extents[0] + self.places[copy];
            let modelled: Vec<_> = decision.writes.iter().map(|(copy, block)| (place(*copy), block.clone())).collect();
            if recorded != modelled {
                return Err(format!("the writes are {recorded:?} instead of {modelled:?}"));
            }
            self.recorded.fetch_add(recorded.len(), Ordering::Relaxed);
        }
        for (copy, block) in decision.writes {
            copies[copy] = block;
        }
        let left = self.copies(disk);
        let same = case.damage.is_some() || left == copies;
        same.then_some(()).ok_or_else(|| format!("GRUB has written {left:?} instead of {copies:?}"))
    }
}

/// The slot that the kernel was started from, and the version that the program said.
fn started(serial: &str) -> Option<(Slot, String)> {
    let line = serial.lines().find(|line| line.to_lowercase().contains("command line:"))?;
    let slot = Slot::from_name(line.split("ksos.slot=").nth(1)?.split_whitespace().next()?)?;
    let version = serial.split(MARKER).nth(1)?.split_whitespace().next()?;
    Some((slot, version.to_owned()))
}

/// Disks that are bad in other ways than by a power cut. Not among them: a directory whose chain of clusters is a cycle
/// and that has no end. GRUB 2.12 looks through that for ever; nothing here ever writes a directory or a chain.
fn bad_disks(good: &World) -> Vec<Case> {
    let junk = vec![0xff; 512];
    let zeros = vec![0; 512];
    let state = |active, trial| BootState { generation: 5, active, trial }.encode().to_vec();
    let mark = |confirmed| Mark { confirmed }.encode().to_vec();
    let with = |name: &str, blocks: [&Vec<u8>; 4]| {
        let mut case = Case::new(name, good);
        case.world.esp = blocks.map(Clone::clone);
        case
    };
    let (yes, no) = (mark(true), mark(false));
    let (a, b, trial) = (state(Slot::A, None), state(Slot::B, None), state(Slot::A, Some(2)));
    let text = String::from_utf8(trial.clone()).expect("text");
    let left_99 = text.replacen("left=2", "left=99", 1).into_bytes()[..512].to_vec();
    let mut cases = vec![
        with("both copies zeroed, slot B confirmed", [&zeros, &zeros, &no, &yes]),
        with("both copies garbage, slot A confirmed", [&junk, &junk, &yes, &no]),
        with("both copies garbage, both slots confirmed", [&junk, &zeros, &yes, &yes]),
        with("everything garbage", [&junk, &junk, &junk, &junk]),
        with("copy 1 zeroed, copy 2 says B", [&zeros, &b, &yes, &no]),
        with("copy 2 garbage, copy 1 on trial", [&trial, &junk, &yes, &no]),
        with("left=99 in both copies", [&left_99, &left_99, &yes, &no]),
        with("left=99 in copy 1", [&left_99, &trial, &yes, &no]),
        with("tries used up", [&state(Slot::A, Some(0)), &state(Slot::A, Some(0)), &yes, &no]),
    ];
    let mut bad_slots = with("both slots bad", [&a, &a, &yes, &no]);
    bad_slots.world.slots.iter_mut().for_each(|slot| slot[..4096].fill(0));
    cases.push(bad_slots);
    let mut kernel = with("the active slot has lost its file system", [&b, &b, &no, &yes]);
    kernel.world.slots[1][..4096].fill(0);
    cases.push(kernel);
    let mut twin = with("a second disk with the same GUIDs, on which B is active", [&a, &a, &yes, &no]);
    twin.twin = true;
    cases.push(twin);
    let mut cycle = with("the chain of copy 1 is a cycle", [&b, &a, &no, &yes]);
    cycle.damage = Some(|esp, place| chain(esp, place(COPIES[0]), None));
    cases.push(cycle);
    let mut free = with("the clusters of copy 1 are free", [&b, &a, &no, &yes]);
    free.damage = Some(|esp, place| chain(esp, place(COPIES[0]), Some(0)));
    cases.push(free);
    let mut full = with("the ESP is full", [&trial, &trial, &yes, &no]);
    full.damage = Some(|esp, _| {
        for entry in tables(esp).flat_map(|table| table.step_by(4)).collect::<Vec<_>>() {
            if esp[entry..entry + 4] == [0; 4] {
                esp[entry..entry + 4].copy_from_slice(&[0xff, 0xff, 0xff, 0x0f]);
            }
        }
    });
    cases.push(full);
    cases
}

/// Where the allocation tables are, in bytes (fatgen103, "Boot Sector and BPB").
fn tables(esp: &[u8]) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
    let reserved = u16::from_le_bytes([esp[14], esp[15]]) as usize * 512;
    let size = u32::from_le_bytes([esp[36], esp[37], esp[38], esp[39]]) as usize * 512;
    (0..esp[16] as usize).map(move |number| reserved + number * size..reserved + (number + 1) * size)
}

/// Sets the table's entry for the cluster at `place`: to itself, or to a value.
fn chain(esp: &mut [u8], place: usize, value: Option<u32>) {
    let all: Vec<_> = tables(esp).collect();
    let data = all.last().expect("a table").end;
    let cluster = (place - data) / (esp[13] as usize * 512) + 2;
    for table in all {
        let entry = table.start + 4 * cluster;
        esp[entry..entry + 4].copy_from_slice(&value.unwrap_or(cluster as u32).to_le_bytes());
    }
}

fn work(bench: &Bench, cases: &Mutex<Receiver<Case>>, failures: &Mutex<Vec<String>>, next: &AtomicUsize) {
    loop {
        let case = match cases.lock().expect("no panic holds it").recv() {
            Ok(case) => case,
            Err(_) => return,
        };
        let number = next.fetch_add(1, Ordering::Relaxed);
        if let Err(failure) = bench.try_case(&case, number) {
            failures.lock().expect("no panic holds it").push(failure);
        }
    }
}

/// Which cuts are booted.
struct Sample {
    /// Numbers of the cuts, for each recording.
    chosen: Vec<BTreeSet<usize>>,
    /// Cuts of all recordings.
    cuts: usize,
    /// Disks among them that differ to a boot loader.
    faces: usize,
}

/// Chooses among the cuts that leave something new to a boot loader: all, or some of each recording.
fn sample(machine: &Machine, recordings: &[Recording]) -> Sample {
    let (mut seen, mut cuts) = (BTreeSet::new(), 0);
    let mut new: Vec<Vec<usize>> = Vec::new();
    for recording in recordings {
        let (mut mine, number) = (Vec::new(), Cell::new(0));
        cuts += recording.cuts(&machine.sectors, &|_| true, &mut |cut| {
            if seen.insert(cut.world.face(&machine.images)) {
                mine.push(number.get());
            }
            number.set(number.get() + 1);
        });
        new.push(mine);
    }
    let faces = new.iter().map(Vec::len).sum::<usize>();
    let numbered = new.iter().enumerate().flat_map(|(recording, mine)| mine.iter().map(move |cut| (recording, *cut)));
    let numbered: Vec<(usize, usize)> = numbered.collect();
    let count = if all() { faces } else { SAMPLE.min(faces) };
    let mut chosen = vec![BTreeSet::new(); recordings.len()];
    for (recording, cut) in (0..count).map(|number| numbered[number * faces / count]) {
        chosen[recording].insert(cut);
    }
    Sample { chosen, cuts, faces }
}

/// Cuts while GRUB itself writes the boot state: of the first try, or of all three.
fn in_save_env(machine: &Machine, good: &World) -> Vec<Cut> {
    let mut cuts = Vec::new();
    let lefts = if all() { 1..=3 } else { 3..=3 };
    for left in lefts {
        let mut before = good.clone();
        let state = BootState { generation: 2, active: Slot::A, trial: Some(left) }.encode().to_vec();
        (before.esp[0], before.esp[1]) = (state.clone(), state);
        let changes = boot_changes(&before, &machine.sectors);
        assert_eq!(changes.len(), 2, "both copies are written");
        let recording = Recording { name: format!("in save_env, left={left}"), before, changes, pieces: 1 };
        let mut seen = BTreeSet::new();
        recording.cuts(&machine.sectors, &|_| true, &mut |cut| {
            if seen.insert(cut.world.face(&machine.images)) {
                cuts.push(cut);
            }
        });
    }
    cuts
}

/// Whether a case is asked for.
fn is_wanted(name: &str) -> bool {
    std::env::var("KSOS_BOOT_CASES").map_or(true, |wanted| name.contains(&wanted))
}

#[test]
fn grub_and_kernel_do_what_the_model_says() {
    let parts = Parts::find();
    let versions = vec![parts.image("1.0.0"), parts.image("1.1.0")];
    let slot_size = versions[0].bytes.len() as u64;
    let Some(bench) = Bench::new(&parts, versions.clone(), slot_size) else { return };
    assert_eq!(bench.slot_size, slot_size);
    let machine = Machine::new(versions, slot_size, 1);
    let recordings = recordings(&machine);
    let (bench, next, failures) = (Arc::new(bench), Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let (sender, receiver) = sync_channel(0);
    let receiver = Arc::new(Mutex::new(receiver));
    let workers: Vec<_> = (0..2)
        .map(|_| {
            let (bench, receiver, failures, next) =
                (Arc::clone(&bench), Arc::clone(&receiver), Arc::clone(&failures), Arc::clone(&next));
            std::thread::spawn(move || work(&bench, &receiver, &failures, &next))
        })
        .collect();
    let good = {
        let mut world = recordings[0].before.clone();
        world.slots[1].clone_from(&machine.slot(&machine.images[1]));
        world
    };
    for case in bad_disks(&good).into_iter().filter(|case| is_wanted(&case.name)) {
        sender.send(case).expect("workers run");
    }
    let sample = sample(&machine, &recordings);
    for (recording, numbers) in recordings.iter().zip(&sample.chosen) {
        recording.cuts(&machine.sectors, &|number| numbers.contains(&number), &mut |cut| {
            if is_wanted(&cut.what) {
                sender.send(Case::cut(cut)).expect("workers run");
            }
        });
    }
    for cut in in_save_env(&machine, &good) {
        if is_wanted(&cut.what) {
            sender.send(Case::cut(cut)).expect("workers run");
        }
    }
    drop(sender);
    for worker in workers {
        worker.join().expect("it does not panic");
    }
    let done = bench.done.load(Ordering::Relaxed);
    let failures = failures.lock().expect("no panic holds it");
    let Sample { cuts, faces, .. } = sample;
    let count = failures.len();
    let (booted, recorded) = (bench.cuts.load(Ordering::Relaxed), bench.recorded.load(Ordering::Relaxed));
    println!(
        "real boots: {done} cases, {booted} of them power cuts; {cuts} power cuts leave {faces} disks that differ to GRUB; \
         {recorded} writes of GRUB, each as the model says; {count} failures"
    );
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    let some = std::env::var_os("KSOS_BOOT_CASES").is_some();
    assert!(some || booted >= 20 && recorded >= 20, "too few cases");
}
