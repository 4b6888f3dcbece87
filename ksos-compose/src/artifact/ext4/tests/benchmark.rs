//! Times against `mke2fs -d` with the same input and settings. Run by name, with optimisation:
//! `CARGO_PROFILE_DEV_OPT_LEVEL=3 cargo test -p ksos-compose --lib ext4::tests::benchmark -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use ksos_formats::digest::Hasher;

use super::*;

struct Host {
    folder: tempfile::TempDir,
    tree: Tree,
}

impl Host {
    fn new() -> Self {
        Host { folder: tempfile::tempdir().unwrap(), tree: tree() }
    }

    fn add(&mut self, path: &str, bytes: &[u8], size: u64) {
        let host = self.folder.path().join(path);
        std::fs::create_dir_all(host.parent().unwrap()).unwrap();
        let mut out = File::create_new(&host).unwrap();
        out.write_all(bytes).unwrap();
        out.set_len(size).unwrap();
        let mut hasher = Hasher::new();
        std::io::copy(&mut File::open(&host).unwrap(), &mut hasher).unwrap();
        self.tree.insert(path, entry(Node::File(Content::host_file(host, hasher.finish(), size)))).unwrap();
    }

    /// Times both, best of `runs`.
    fn compare(&self, name: &str, size: u64, inodes: u32, runs: usize) {
        let path = self.folder.path().with_extension("image");
        let best = |action: &dyn Fn()| -> Duration {
            let once = |_| {
                let _ = std::fs::remove_file(&path);
                let start = Instant::now();
                action();
                start.elapsed()
            };
            (0..runs).map(once).min().unwrap()
        };
        let ours = || {
            let options = Options { inodes: Some(inodes), ..options(size) };
            write(&self.tree, &mut File::create_new(&path).unwrap(), &options).unwrap();
        };
        let theirs = || {
            let (inodes, root) = (inodes.to_string(), self.folder.path().to_str().unwrap());
            let (file, kib) = (path.to_str().unwrap(), format!("{}k", size / 1024));
            let features = "^resize_inode,^orphan_file,metadata_csum,64bit";
            let arguments =
                ["-q", "-t", "ext4", "-b", "4096", "-O", features, "-N", &inodes, "-m", "0", "-d", root, file, &kib];
            let output = run("mke2fs", &arguments).expect("mke2fs is installed");
            assert!(output.success, "{}", output.text);
        };
        let (ours, theirs) = (best(&ours), best(&theirs));
        let ratio = theirs.as_secs_f64() / ours.as_secs_f64();
        println!("{name}: ours {ours:.2?}, mke2fs -d {theirs:.2?}, ratio {ratio:.1}");
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
#[ignore = "a benchmark"]
fn a_slot_of_350_mb() {
    let mut host = Host::new();
    host.add("vmlinuz", &noise(1, 12 << 20), 12 << 20);
    host.add("kubesolo-os.gz", &noise(2, 18 << 20), 18 << 20);
    host.add("root.squashfs", &noise(3, 320 << 20), 320 << 20);
    host.compare("350 MB in 3 files", 512 * MIB, 32768, 5);
}

#[test]
#[ignore = "a benchmark"]
fn a_root_of_350_mb() {
    let mut host = Host::new();
    let bytes = noise(4, 1 << 20);
    for number in 0..20_000 {
        let size = 500 + (number * 7919) % 20_000;
        host.add(&format!("usr/share/d{}/f{number}", number % 500), &bytes[..size], size as u64);
    }
    for number in 0..140 {
        host.add(&format!("usr/lib/l{number}"), &bytes, 1 << 20);
    }
    host.compare("350 MB in 20,000 files", 768 * MIB, 49152, 5);
}

#[test]
#[ignore = "a benchmark"]
fn a_directory_of_60_000_and_a_sparse_file() {
    let mut host = Host::new();
    for number in 0..60_000 {
        host.add(&format!("d/entry-{number}"), b"x", 1);
    }
    host.add("sparse", b"start", 3 << 30);
    host.compare("60,000 files and 3 GiB of hole", 1024 * MIB, 65536, 1);
}
