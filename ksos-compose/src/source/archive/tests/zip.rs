use std::io::{Cursor, Write};

use ::zip::write::{SimpleFileOptions, ZipWriter};

use super::*;

fn archive(fill: impl FnOnce(&mut ZipWriter<Cursor<Vec<u8>>>)) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    fill(&mut writer);
    writer.finish().unwrap().into_inner()
}

fn with_file(name: &str, content: &[u8]) -> Vec<u8> {
    archive(|writer| {
        writer.start_file(name, SimpleFileOptions::default().unix_permissions(0o755)).unwrap();
        writer.write_all(content).unwrap();
    })
}

/// Replaces `from` by `to` everywhere.
fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for at in 0..=bytes.len() - from.len() {
        if bytes[at..].starts_with(from) {
            bytes[at..at + to.len()].copy_from_slice(to);
        }
    }
    bytes
}

#[test]
fn paths_that_lead_out_are_refused() {
    let good = with_file("aa/evil", b"x");
    for name in [b"../evil", b"/a/evil", b"a/./evi", b"a\\b\\evi", b"a//evil"] {
        let name = &name[..7.min(name.len())];
        let message = error(&replace(&good, b"aa/evil", name), Format::Zip, &OPEN);
        assert!(message.contains("is not a valid path"), "{}: {message}", String::from_utf8_lossy(name));
    }
    assert!(error(&replace(&good, b"evil", b"ev\xffl"), Format::Zip, &OPEN).contains("is not UTF-8"));
}

#[test]
fn symlinks_and_modes_are_kept() {
    let options = SimpleFileOptions::default();
    let bytes = archive(|writer| {
        writer.add_directory("d", options.unix_permissions(0o700)).unwrap();
        writer.add_symlink("d/l", "../x", options).unwrap();
        writer.start_file("x", options.unix_permissions(0o755).large_file(true)).unwrap();
        writer.write_all(b"zip64").unwrap();
    });
    let place = place();
    let tree = place.unpack(&bytes, Format::Zip, &STRICT).unwrap().tree;
    assert_eq!(tree.get("d").unwrap().meta.mode, 0o700);
    assert_eq!(tree.get("d/l").unwrap().node, Node::Symlink("../x".into()));
    assert_eq!((tree.get("x").unwrap().meta.mode, text_of(&tree, "x")), (0o755, "zip64".into()));
    let through = archive(|writer| {
        writer.add_symlink("d", "/etc", options).unwrap();
        writer.start_file("d/passwd", options).unwrap();
    });
    let message = error(&through, Format::Zip, &OPEN);
    assert_eq!(message, "entry \"d/passwd\": its parent \"d\" is a symbolic link");
}

#[test]
fn lies_about_sizes_are_refused() {
    let stored = archive(|writer| {
        let options = SimpleFileOptions::default().compression_method(::zip::CompressionMethod::Deflated);
        writer.start_file("x", options).unwrap();
        writer.write_all(&[0; 5000]).unwrap();
    });
    for size in [4999_u32, 5001, 0, 70_000] {
        let lying = replace(&stored, &5000_u32.to_le_bytes(), &size.to_le_bytes());
        assert!(!error(&lying, Format::Zip, &OPEN).is_empty(), "{size}");
    }
    // Only the local header or only the central directory lies.
    let mut lying = stored.clone();
    lying[22..26].copy_from_slice(&4000_u32.to_le_bytes());
    assert!(error(&lying, Format::Zip, &OPEN).contains("header"));
}

#[test]
fn bombs_stop_at_the_limits() {
    let message = error(&with_file("bomb", &vec![0; 3 << 20]), Format::Zip, &OPEN);
    assert_eq!(message, "entry \"bomb\": larger than the limit of 1048576 bytes for one file");
    let many = archive(|writer| {
        for index in 0..1001 {
            writer.start_file(format!("f{index}"), SimpleFileOptions::default()).unwrap();
        }
    });
    assert_eq!(error(&many, Format::Zip, &OPEN), "more than the limit of 1000 entries");
}

#[test]
fn encrypted_entries_are_refused() {
    let mut bytes = with_file("x", b"secret");
    // Bit 0 of the flags, in the local header and in the central directory.
    bytes[6] |= 1;
    let central = bytes.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    bytes[central + 8] |= 1;
    assert_eq!(error(&bytes, Format::Zip, &OPEN), "entry \"x\": encrypted entries are not supported");
}

#[test]
fn entries_that_share_bytes_are_refused() {
    let two = archive(|writer| {
        for name in ["a", "b"] {
            writer.start_file(name, SimpleFileOptions::default()).unwrap();
            writer.write_all(b"same").unwrap();
        }
    });
    // The second central entry points to the first local header, and calls itself the same.
    let first = two.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    let second = first + 4 + two[first + 4..].windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    let mut overlapping = two.clone();
    overlapping[second + 42..second + 46].copy_from_slice(&[0; 4]);
    assert!(!error(&overlapping, Format::Zip, &OPEN).is_empty());
    let duplicate = replace(&two, b"b", b"a");
    assert!(error(&duplicate, Format::Zip, &OPEN).contains("duplicate"));
}

#[test]
fn truncation_and_damage_are_seen() {
    let bytes = with_file("x", &[7; 300]);
    truncated_everywhere(&bytes, (1..bytes.len()).step_by(3), Format::Zip);
    let mut damaged = with_file("x", b"hello");
    let at = 30 + 1 + 2;
    damaged[at] ^= 0x20;
    assert!(!error(&damaged, Format::Zip, &OPEN).is_empty());
}
