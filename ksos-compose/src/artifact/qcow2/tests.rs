#![expect(clippy::disallowed_methods, reason = "tests write files and run foreign tools")]

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::*;
use crate::artifact::samples::{SAMPLES, run, sample};
use crate::testing::has_tool;

fn written(directory: &Path, name: &str) -> (std::path::PathBuf, u64) {
    let (raw, size) = sample(directory, name);
    write(&File::open(&raw).unwrap(), size, &File::create(directory.join("image.qcow2")).unwrap()).unwrap();
    (raw, size)
}

#[test]
fn qemu_finds_no_fault_and_the_same_bytes() {
    if !has_tool("qemu-img") {
        return;
    }
    for name in SAMPLES {
        let directory = tempfile::tempdir().unwrap();
        let (raw, size) = written(directory.path(), name);
        let check = run(directory.path(), "qemu-img check -f qcow2 image.qcow2 2>&1");
        assert!(check.contains("No errors were found"), "{name}: {check}");
        let script = format!("qemu-img compare -f raw -F qcow2 '{}' image.qcow2", raw.display());
        assert!(run(directory.path(), &script).contains("Images are identical."), "{name}");
        let info = run(directory.path(), "qemu-img info --output=json image.qcow2");
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        assert_eq!(
            (&info["virtual-size"], &info["format-specific"]["data"]["compat"]),
            (&size.next_multiple_of(512).into(), &"1.1".into()),
            "{name}"
        );
    }
}

#[test]
fn holes_take_no_space_and_the_same_image_has_the_same_bytes() {
    let directory = tempfile::tempdir().unwrap();
    written(directory.path(), "larger than 4 GiB");
    let first = std::fs::read(directory.path().join("image.qcow2")).unwrap();
    // Header, first level, and for three of eleven ranges of 512 MiB a table, with ten clusters of data; reference counts.
    let clusters = std::fs::metadata(directory.path().join("image.qcow2")).unwrap().size() / CLUSTER;
    assert!((14..=20).contains(&clusters), "{clusters} clusters");
    written(directory.path(), "larger than 4 GiB");
    assert!(std::fs::read(directory.path().join("image.qcow2")).unwrap() == first);
}

#[test]
fn reference_counts_count_themselves() {
    // One block of counts is full with 32768 clusters, of which it is one itself and the table is another.
    for (clusters, blocks) in [(1, 1), (COUNTS - 2, 1), (COUNTS - 1, 2), (2 * COUNTS - 3, 2), (2 * COUNTS - 2, 3)] {
        let file = tempfile::tempfile().unwrap();
        let place = reference_counts(&file, clusters * CLUSTER).unwrap();
        assert_eq!((place.offset / CLUSTER - clusters, place.clusters), (blocks, 1), "{clusters}");
    }
}
