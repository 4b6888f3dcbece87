#![expect(clippy::disallowed_methods, reason = "tests write files and run foreign tools")]

use std::os::unix::fs::MetadataExt;

use super::*;
use crate::artifact::samples::{SAMPLES, run, sample};
use crate::testing::has_tool;

const IDENTITY: Identity = Identity { id: *b"0123456789abcdef", epoch: EPOCH + 86_400 };

#[test]
fn qemu_reads_the_same_bytes_and_every_size_is_whole_mebibytes() {
    if !has_tool("qemu-img") {
        return;
    }
    // A disk without sectors is none.
    for name in SAMPLES.into_iter().filter(|name| *name != "empty") {
        let directory = tempfile::tempdir().unwrap();
        let (raw, size) = sample(directory.path(), name);
        let path = directory.path().join("image.vhd");
        write(&File::open(&raw).unwrap(), size, IDENTITY, &File::create(&path).unwrap()).unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        let disk = size.next_multiple_of(ALIGNMENT);
        assert_eq!(metadata.size(), disk + 512, "{name}");
        let data = std::fs::metadata(&raw).unwrap().blocks();
        assert!(metadata.blocks() <= data + 16, "{name}: {} blocks for {data}", metadata.blocks());
        // Zeros behind the end of the smaller one are no difference.
        let script = format!("qemu-img compare -f raw -F vpc '{}' image.vhd", raw.display());
        assert!(run(directory.path(), &script).contains("Images are identical."), "{name}");
        let info = run(directory.path(), "qemu-img info -f vpc --output=json image.vhd");
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        assert_eq!(info["virtual-size"], disk, "{name}");
    }
}

#[test]
fn the_footer_is_what_the_specification_says() {
    let footer = footer(64 << 20, IDENTITY);
    assert_eq!((&footer[..8], &footer[8..16]), (&b"conectix"[..], &[0, 0, 0, 2, 0, 1, 0, 0][..]));
    assert_eq!(footer[24..28], 86_400u32.to_be_bytes());
    assert_eq!(footer[68..84], IDENTITY.id);
    let sum: u32 = footer.iter().map(|byte| u32::from(*byte)).sum();
    let own: u32 = footer[64..68].iter().map(|byte| u32::from(*byte)).sum();
    assert_eq!(u32::from_be_bytes(footer[64..68].try_into().unwrap()), !(sum - own));
}

#[test]
fn geometry_is_what_qemu_has_for_the_same_size() {
    if !has_tool("qemu-img") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for mebibytes in [1, 3, 64, 504, 505, 1024, 2000, 32_256, 65_000] {
        let script = format!("qemu-img create -q -f vpc -o subformat=fixed,force_size=on other.vhd {mebibytes}M");
        run(directory.path(), &script);
        let other = File::open(directory.path().join("other.vhd")).unwrap();
        let mut footer = [0; FOOTER];
        other.read_exact_at(&mut footer, mebibytes << 20).unwrap();
        let (cylinders, heads, sectors) = geometry((mebibytes << 20) / SECTOR);
        let [high, low] = cylinders.to_be_bytes();
        assert_eq!(footer[56..60], [high, low, heads, sectors], "{mebibytes} MiB");
    }
}
