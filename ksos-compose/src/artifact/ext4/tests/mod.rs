//! Images cross-checked by e2fsprogs and by the kernel.
#![expect(clippy::disallowed_methods, reason = "runs the foreign tools and reads what they leave")]

mod benchmark;
mod contents;
mod directories;
mod grub;
mod kernel;
mod limits;
mod metadata;
mod properties;
mod structure;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Options, Summary, write};
use crate::tree::{Content, Entry, Meta, Node, Tree};

const MIB: u64 = 1 << 20;
const EPOCH: u64 = 1_700_000_000;
const UUID: [u8; 16] = *b"\x01\x23\x45\x67\x89\xab\x4d\xef\x81\x23\x45\x67\x89\xab\xcd\xef";
const SEED: [u8; 16] = *b"\xfe\xdc\xba\x98\x76\x54\x4e\x10\x8f\xed\xcb\xa9\x87\x65\x43\x21";

/// `cap_net_bind_service=ep`, as setcap stores it.
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// An access control list in the form of the system calls: owner, a named user, group, mask, others.
const ACCESS_LIST: &[u8] = b"\x02\0\0\0\
    \x01\0\x06\0\xff\xff\xff\xff\x02\0\x07\0\xe8\x03\0\0\x04\0\x04\0\xff\xff\xff\xff\
    \x10\0\x07\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";

fn options(size: u64) -> Options {
    Options::new(size, "KSOSSYSA", UUID, SEED, EPOCH)
}

fn tree() -> Tree {
    Tree::new(EPOCH as i64)
}

/// Returns an entry of `node` with mode 0644, root-owned, at the epoch.
fn entry(node: Node) -> Entry {
    Entry { meta: Meta::root(0o644, EPOCH as i64), node }
}

fn file(bytes: impl Into<Vec<u8>>) -> Entry {
    entry(Node::File(Content::inline(bytes.into())))
}

fn directory() -> Entry {
    Entry { meta: Meta::root(0o755, EPOCH as i64), node: Node::Directory }
}

/// Bytes that are not zero in any block and differ from seed to seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8 | 1
        })
        .collect()
}

/// A written image in a directory of its own.
struct Image {
    folder: tempfile::TempDir,
    summary: Summary,
}

impl Image {
    fn write(tree: &Tree, options: &Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut out = File::create_new(folder.path().join("image")).unwrap();
        let summary = write(tree, &mut out, options).unwrap();
        assert_eq!(out.metadata().unwrap().len(), options.size);
        Image { folder, summary }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    /// Bytes that the image takes on the host's disk.
    fn disk_usage(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        self.path().metadata().unwrap().blocks() * 512
    }

    /// Checks the image with `e2fsck -fn`; returns whether the tool is there.
    fn check(&self) -> bool {
        let Some(output) = run("e2fsck", &["-f", "-n", self.path().to_str().unwrap()]) else { return false };
        assert!(output.success && !output.text.contains("WARNING"), "{}", output.text);
        true
    }

    /// Runs debugfs commands and returns all they print; only called once [`Image::check`] has found e2fsprogs.
    fn debugfs(&self, commands: &[String]) -> String {
        let script = self.folder.path().join("commands");
        let mut out = File::create(&script).unwrap();
        for command in commands {
            writeln!(out, "{command}").unwrap();
        }
        let (script, image) = (script.to_str().unwrap().to_owned(), self.path());
        run("debugfs", &["-f", &script, image.to_str().unwrap()]).expect("debugfs comes with e2fsck").standard
    }

    /// Runs one debugfs command and returns what it prints.
    fn debugfs_one(&self, command: &str) -> String {
        run("debugfs", &["-R", command, self.path().to_str().unwrap()]).expect("debugfs comes with e2fsck").standard
    }

    /// Returns the bytes of a file as debugfs reads them.
    fn dump(&self, path: &str) -> Vec<u8> {
        let target = self.folder.path().join("dumped");
        let text = self.debugfs_one(&format!("dump \"{path}\" {}", target.display()));
        std::fs::read(&target).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }
}

struct Output {
    success: bool,
    /// Standard output.
    standard: String,
    /// Standard output and error.
    text: String,
}

/// Runs a foreign tool; `None` when it is not installed and need not be.
fn run(tool: &str, arguments: &[&str]) -> Option<Output> {
    let path = std::env::var("PATH").unwrap_or_default();
    let result = Command::new(tool)
        .args(arguments)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .env("LC_ALL", "C")
        .env("DEBUGFS_PAGER", "cat")
        .output();
    match result {
        Ok(output) => {
            let standard = String::from_utf8_lossy(&output.stdout).into_owned();
            let text = format!("{standard}{}", String::from_utf8_lossy(&output.stderr));
            Some(Output { success: output.status.success(), standard, text })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            assert!(std::env::var("KSOS_REQUIRE_TOOLS").as_deref() != Ok("1"), "{tool} is not installed");
            println!("skipped: {tool} is not installed");
            None
        }
        Err(error) => panic!("{tool}: {error}"),
    }
}

/// Returns owner and group as debugfs prints them: as signed numbers.
fn owners(stat: &str) -> (u32, u32) {
    let line = stat.lines().find(|line| line.starts_with("User:")).unwrap();
    let fields: Vec<&str> = line.split_whitespace().collect();
    (fields[1].parse::<i64>().unwrap() as u32, fields[3].parse::<i64>().unwrap() as u32)
}

/// Returns the `Name: value` lines of `dumpe2fs -h`.
fn superblock(image: &Path) -> Option<BTreeMap<String, String>> {
    let output = run("dumpe2fs", &["-h", image.to_str().unwrap()])?;
    let lines = output.text.lines().filter_map(|line| line.split_once(':'));
    Some(lines.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect())
}
