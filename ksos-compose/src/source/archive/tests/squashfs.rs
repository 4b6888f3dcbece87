use super::*;

fn image(place: &Place, setup: &str, options: &str) -> Vec<u8> {
    let directory = place.directory.path();
    sh(directory, &format!("rm -rf root image; mkdir root; cd root; {setup}"));
    sh(directory, &format!("mksquashfs root image -no-progress -quiet -processors 1 {options}"));
    std::fs::read(directory.join("image")).unwrap()
}

const SETUP: &str = "mkdir -p a/b; seq 1 9000 >a/f; seq 1 20 >a/small; ln a/f a/b/link; ln -s ../f a/b/l; \
     truncate -s 200k a/sparse; echo end >>a/sparse";

#[test]
fn every_compressor_and_block_kind_is_read() {
    if !has_tool("mksquashfs") {
        return;
    }
    let place = place();
    for options in [
        "-comp gzip",
        "-comp xz",
        "-comp zstd -b 4096",
        "-noI -noD -noF",
        "-no-fragments",
        "-always-use-fragments -b 8192",
    ] {
        let bytes = image(&place, SETUP, options);
        let tree = place.unpack(&bytes, Format::SquashFs, &STRICT).unwrap().tree;
        assert_eq!(paths(&tree), ["a", "a/b", "a/b/l", "a/b/link", "a/f", "a/small", "a/sparse"], "{options}");
        assert_eq!(text_of(&tree, "a/f").lines().count(), 9000);
        assert_eq!(text_of(&tree, "a/small").lines().count(), 20);
        assert_eq!(text_of(&tree, "a/sparse").len(), 200 * 1024 + 4);
        assert_eq!(tree.link_counts().values().collect::<Vec<_>>(), [&2]);
    }
    let bytes = image(&place, SETUP, "-comp lzo");
    assert_eq!(error(&bytes, Format::SquashFs, &OPEN), "SquashFS compressed with lzma, lzo or lz4 is not supported");
}

#[test]
fn large_directories_are_read() {
    if !has_tool("mksquashfs") {
        return;
    }
    let place = place();
    let bytes = image(&place, "for i in $(seq 1 900); do : >a-rather-long-file-name-$i; done", "");
    let tree = place.unpack(&bytes, Format::SquashFs, &STRICT).unwrap().tree;
    assert_eq!(tree.len(), 901);
    let few = Limits { entries: 500, ..SMALL };
    let error =
        unpack(&place.cache, &place.directory.path().join("image"), Format::SquashFs, &STRICT, &few).unwrap_err();
    assert!(matches!(error.fault, Fault::EntriesLimit { limit: 500 }), "{error}");
}

#[test]
fn damage_anywhere_gives_an_error_or_the_same_names() {
    if !has_tool("mksquashfs") {
        return;
    }
    let place = place();
    let bytes = image(&place, SETUP, "-comp gzip -b 4096");
    truncated_everywhere(&bytes, (1..bytes.len() - 4096).step_by(997), Format::SquashFs);
    // Every byte of the superblock, and many of the rest: never a panic, a hang or much memory.
    let mut refused = 0;
    let places = (0..96).chain((96..bytes.len()).step_by(41));
    for at in places {
        for change in [0xff, 0x01] {
            let mut damaged = bytes.clone();
            damaged[at] ^= change;
            refused += usize::from(place.unpack(&damaged, Format::SquashFs, &OPEN).is_err());
        }
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn a_directory_inside_itself_is_refused() {
    if !has_tool("mksquashfs") {
        return;
    }
    let place = place();
    let bytes = image(&place, "mkdir d; echo x >d/x", "-noI");
    // The directory table holds one header (12 bytes) and one entry for `d`; its offset is made that of the root.
    let root = u64::from_le_bytes(bytes[32..40].try_into().unwrap());
    let table = u64::from_le_bytes(bytes[72..80].try_into().unwrap()) as usize;
    let at = table + 2 + bytes[table + 2..].windows(9).position(|window| window[8] == b'd' && window[4] == 1).unwrap();
    let mut looped = bytes.clone();
    looped[at..at + 2].copy_from_slice(&((root & 0xffff) as u16).to_le_bytes());
    let message = error(&looped, Format::SquashFs, &OPEN);
    assert!(message.contains("a directory is in two places"), "{message}");
}
