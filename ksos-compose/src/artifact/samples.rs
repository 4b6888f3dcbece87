//! Raw images for the tests of formats that are made from them, each named by what is special about it.
#![expect(clippy::disallowed_methods, reason = "tests make images of their own and run foreign tools")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Names of the images that [`sample`] makes.
pub const SAMPLES: [&str; 7] = [
    "empty",
    "no data at all",
    "not a multiple of the cluster",
    "data in the last cluster",
    "written zeros",
    "larger than 4 GiB",
    "random data over several tables",
];

/// Bytes that do not compress, the same every time.
pub fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Makes the image `name` in `directory`, and returns its path and size.
pub fn sample(directory: &Path, name: &str) -> (PathBuf, u64) {
    let path = directory.join(format!("{}.raw", name.replace(' ', "-")));
    let file = File::create(&path).unwrap();
    let put = |offset: u64, bytes: &[u8]| file.write_all_at(bytes, offset).unwrap();
    let size = match name {
        "empty" => 0,
        "no data at all" => 10 * MIB,
        "not a multiple of the cluster" => {
            put(1000, b"text");
            put(3 * MIB + 4000, &noise(700, 1));
            3 * MIB + 4700 + 4
        }
        "data in the last cluster" => {
            put(0, &noise(4096, 2));
            put(8 * MIB - 512, &noise(512, 3));
            8 * MIB
        }
        "written zeros" => {
            put(0, &vec![0; 5 * MIB as usize]);
            put(MIB, b"data between zeros");
            5 * MIB
        }
        "larger than 4 GiB" => {
            put(64 * MIB, &noise(300_000, 4));
            put(4 * GIB - 10, b"across four gibibytes");
            put(5 * GIB + 3 * MIB - 1, b"!");
            5 * GIB + 3 * MIB
        }
        "random data over several tables" => {
            for part in 0..6 {
                put(part * 17 * MIB + 12_345, &noise(2 * MIB as usize, part));
            }
            110 * MIB
        }
        other => panic!("there is no sample {other}"),
    };
    file.set_len(size).unwrap();
    (path, size)
}

/// Runs a shell script in `directory` that must succeed, and returns what it prints.
pub fn run(directory: &Path, script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).current_dir(directory).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{script}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}
