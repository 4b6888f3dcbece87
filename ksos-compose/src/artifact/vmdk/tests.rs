#![expect(clippy::disallowed_methods, reason = "tests write files and run foreign tools")]

use std::path::Path;

use super::*;
use crate::artifact::samples::{SAMPLES, run, sample};
use crate::testing::has_tool;

const IDENTITY: Identity<'static> = Identity { file_name: "image.vmdk", content_id: u32::MAX };

fn written(directory: &Path, name: &str, jobs: usize) -> (std::path::PathBuf, u64) {
    let (raw, size) = sample(directory, name);
    let mut target = File::create(directory.join("image.vmdk")).unwrap();
    write(&File::open(&raw).unwrap(), size, &IDENTITY, &mut target, jobs).unwrap();
    (raw, size)
}

#[test]
fn qemu_finds_no_fault_and_the_same_bytes() {
    if !has_tool("qemu-img") {
        return;
    }
    for name in SAMPLES {
        let directory = tempfile::tempdir().unwrap();
        let (raw, size) = written(directory.path(), name, 2);
        let check = run(directory.path(), "qemu-img check -f vmdk image.vmdk 2>&1");
        assert!(check.contains("No errors were found"), "{name}: {check}");
        // Zeros behind the end of the smaller one are no difference.
        let script = format!("qemu-img compare -f raw -F vmdk '{}' image.vmdk", raw.display());
        assert!(run(directory.path(), &script).contains("Images are identical."), "{name}");
        let info = run(directory.path(), "qemu-img info --output=json image.vmdk");
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        assert_eq!(info["virtual-size"], size.next_multiple_of(GRAIN).max(GRAIN), "{name}");
        let extent = &info["format-specific"]["data"];
        assert_eq!((&extent["create-type"], &extent["cid"]), (&"streamOptimized".into(), &0x7fff_ffffu32.into()));
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = |jobs| {
        written(directory.path(), "random data over several tables", jobs);
        std::fs::read(directory.path().join("image.vmdk")).unwrap()
    };
    assert!(bytes(1) == bytes(3));
}
