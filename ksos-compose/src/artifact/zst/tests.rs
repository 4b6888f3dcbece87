#![expect(clippy::disallowed_methods, reason = "tests write files and run foreign tools")]

use std::path::Path;

use super::*;
use crate::artifact::samples::{SAMPLES, run, sample};
use crate::testing::has_tool;

fn written(directory: &Path, name: &str, jobs: usize) -> (std::path::PathBuf, u64) {
    let (raw, size) = sample(directory, name);
    let mut target = File::create(directory.join("image.img.zst")).unwrap();
    write(&File::open(&raw).unwrap(), size, &mut target, jobs).unwrap();
    (raw, size)
}

#[test]
fn zstd_finds_no_fault_and_the_same_bytes() {
    if !has_tool("zstd") {
        return;
    }
    for name in SAMPLES {
        let directory = tempfile::tempdir().unwrap();
        let (raw, size) = written(directory.path(), name, 2);
        // `cmp` finds one that ends early, too.
        run(directory.path(), &format!("zstd -q -d -c image.img.zst | cmp - '{}'", raw.display()));
        if size < 1 << 30 {
            run(directory.path(), "zstd -q -t image.img.zst");
        }
    }
}

#[test]
fn the_size_and_a_checksum_are_in_every_frame() {
    if !has_tool("zstd") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (_, size) = written(directory.path(), "larger than 4 GiB", 2);
    let list = run(directory.path(), "zstd -lv image.img.zst");
    assert!(list.contains("XXH64") && list.contains(&format!("({size} B)")), "{list}");
    // 5 GiB and 3 MiB of almost nothing: a few hundred bytes for each of the 1281 frames.
    let compressed = std::fs::metadata(directory.path().join("image.img.zst")).unwrap().len();
    assert!(compressed < 1 << 20, "{compressed}");
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = |jobs| {
        written(directory.path(), "random data over several tables", jobs);
        std::fs::read(directory.path().join("image.img.zst")).unwrap()
    };
    assert!(bytes(1) == bytes(3));
}

#[test]
fn an_image_that_is_shorter_than_said_is_an_error() {
    let source = tempfile::tempfile().unwrap();
    source.write_all_at(&[1; 1000], 0).unwrap();
    let error = write(&source, 2000, &mut Vec::new(), 1).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}
