//! What a partition holds: ext4 and FAT super blocks, signatures of others, or nothing.

use super::little;

/// How much of a partition's beginning [`identify`] looks at, in bytes.
pub const PROBE_SIZE: usize = 1 << 20;

/// Fields of an ext4 superblock (kernel `Documentation/filesystems/ext4/super.rst`). Its checksum is not checked here;
/// e2fsck does that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ext4 {
    /// Volume label.
    pub label: String,
    /// Number of blocks.
    pub blocks: u64,
    /// Block size in bytes.
    pub block_size: u64,
    /// It was unmounted, without errors, and nothing is left to replay or to clean up: `e2fsck -p` would end at once.
    pub clean: bool,
}

/// What is on a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Only zeroes.
    Blank,
    /// ext2, ext3 or ext4.
    Ext4(Ext4),
    /// Something else that is known by its signature.
    Foreign(String),
    /// Something without a signature that is known.
    Unknown,
}

/// Where the first backup superblock of an ext4 file system with blocks of 4096 bytes is (`sparse_super`: in block
/// group 1, which begins at block 32768; kernel `Documentation/filesystems/ext4/super.rst`), in bytes.
pub const BACKUP_SUPERBLOCK: u64 = 32_768 * 4096;
/// Size of a superblock in bytes.
pub const SUPERBLOCK_SIZE: usize = 1024;

/// Returns whether `block` is a superblock of block group 1 with blocks of 4096 bytes.
pub fn is_backup_superblock(block: &[u8]) -> bool {
    little::<2>(block, 56) == 0xef53 && little::<4>(block, 24) == 2 && little::<2>(block, 90) == 1
}

/// Tells what a partition holds from its first [`PROBE_SIZE`] bytes (fewer if it is smaller).
pub fn identify(head: &[u8]) -> Content {
    if let Some(ext4) = ext4(head) {
        return Content::Ext4(ext4);
    }
    if let Some(label) = fat_label(head) {
        return Content::Foreign(format!("a FAT file system labelled {label:?}"));
    }
    const SIGNATURES: [(usize, &[u8], &str); 13] = [
        (0, b"XFSB", "an XFS file system"),
        (65600, b"_BHRfS_M", "a btrfs file system"),
        (0, b"LUKS\xba\xbe", "a LUKS volume"),
        (0, b"hsqs", "a SquashFS image"),
        (1024, b"\xe2\xe1\xf5\xe0", "an EROFS image"),
        (1024, b"\x10\x20\xf5\xf2", "an F2FS file system"),
        (4086, b"SWAPSPACE2", "swap space"),
        (512, b"LABELONE", "an LVM physical volume"),
        (4096, b"\xfc\x4e\x2b\xa9", "a RAID member"),
        (0, b"\xfc\x4e\x2b\xa9", "a RAID member"),
        (3, b"NTFS    ", "an NTFS file system"),
        (32769, b"CD001", "an ISO 9660 image"),
        (510, b"\x55\xaa", "a boot sector"),
    ];
    let found =
        SIGNATURES.iter().find(|(offset, magic, _)| head.get(*offset..).is_some_and(|rest| rest.starts_with(magic)));
    match found {
        Some((_, _, name)) => Content::Foreign((*name).to_owned()),
        None if head.iter().all(|byte| *byte == 0) => Content::Blank,
        None => Content::Unknown,
    }
}

fn ext4(head: &[u8]) -> Option<Ext4> {
    let superblock = head.get(1024..2048)?;
    if little::<2>(superblock, 56) != 0xef53 {
        return None;
    }
    let block_size = 1024_u64 << Some(little::<4>(superblock, 24)).filter(|log| *log <= 6)?;
    let is_64bit = little::<4>(superblock, 96) & 0x80 != 0;
    let high = if is_64bit { little::<4>(superblock, 336) } else { 0 };
    let label = superblock.get(120..136)?.split(|byte| *byte == 0).next().unwrap_or(&[]);
    Some(Ext4 {
        label: String::from_utf8_lossy(label).into_owned(),
        blocks: little::<4>(superblock, 4) | (high << 32),
        block_size,
        clean: is_clean(superblock),
    })
}

/// `s_state` says cleanly unmounted and no errors, `s_feature_incompat` no journal to replay, `s_last_orphan` and
/// `s_feature_ro_compat` no orphans, `s_error_count` no errors seen by the kernel.
fn is_clean(superblock: &[u8]) -> bool {
    little::<2>(superblock, 58) == 1
        && little::<4>(superblock, 96) & 0x4 == 0
        && little::<4>(superblock, 232) == 0
        && little::<4>(superblock, 100) & 0x1_0000 == 0
        && little::<4>(superblock, 404) == 0
}

/// Returns the volume label in a FAT boot sector (Microsoft FAT specification 1.03, sections 3.1 to 3.3).
pub fn fat_label(head: &[u8]) -> Option<String> {
    if head.get(510..512)? != [0x55, 0xaa] {
        return None;
    }
    let at = |magic: usize, text: &[u8]| head.get(magic..).is_some_and(|rest| rest.starts_with(text));
    let label = if at(82, b"FAT32") {
        head.get(71..82)?
    } else if at(54, b"FAT1") {
        head.get(43..54)?
    } else {
        return None;
    };
    Some(String::from_utf8_lossy(label).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::put_little;
    use super::*;

    #[test]
    fn clean_is_what_needs_no_check() {
        let clean = |change: fn(&mut [u8])| {
            let mut superblock = vec![0; 1024];
            put_little::<2>(&mut superblock, 58, 1);
            change(&mut superblock);
            is_clean(&superblock)
        };
        assert!(clean(|_| {}));
        assert!(!clean(|s| put_little::<2>(s, 58, 0)), "mounted when the power went");
        assert!(!clean(|s| put_little::<2>(s, 58, 3)), "errors");
        assert!(!clean(|s| put_little::<4>(s, 96, 4)), "a journal to replay");
        assert!(!clean(|s| put_little::<4>(s, 232, 12)), "orphans");
        assert!(!clean(|s| put_little::<4>(s, 100, 0x1_0000)), "orphans in the orphan file");
        assert!(!clean(|s| put_little::<4>(s, 404, 1)), "errors the kernel has counted");
    }

    #[test]
    fn reads_superblocks_and_labels() {
        let mut head = vec![0; 4096];
        put_little::<2>(&mut head, 1024 + 56, 0xef53);
        put_little::<4>(&mut head, 1024 + 4, 7);
        put_little::<4>(&mut head, 1024 + 336, 1);
        put_little::<4>(&mut head, 1024 + 24, 2);
        head[1024 + 120..1024 + 129].copy_from_slice(b"KSOLODATA");
        let expected =
            |blocks| Content::Ext4(Ext4 { label: "KSOLODATA".to_owned(), blocks, block_size: 4096, clean: false });
        assert_eq!(identify(&head), expected(7));
        put_little::<4>(&mut head, 1024 + 96, 0x80);
        assert_eq!(identify(&head), expected((1 << 32) + 7));
        for impossible in [7, 40, 60, u64::from(u32::MAX)] {
            put_little::<4>(&mut head, 1024 + 24, impossible);
            assert_eq!(identify(&head), Content::Unknown, "block size {impossible}");
        }
    }

    #[test]
    fn only_zeroes_are_blank() {
        assert_eq!(identify(&vec![0; PROBE_SIZE]), Content::Blank);
        assert_eq!(identify(&[]), Content::Blank);
        let mut head = vec![0; PROBE_SIZE];
        head[PROBE_SIZE - 1] = 1;
        assert_eq!(identify(&head), Content::Unknown);
    }

    #[test]
    fn foreign_content_is_named() {
        let mut fat = vec![0; 512];
        (fat[510], fat[511]) = (0x55, 0xaa);
        assert_eq!(identify(&fat), Content::Foreign("a boot sector".to_owned()));
        fat[71..87].copy_from_slice(b"KSOSEFI    FAT32");
        assert_eq!(fat_label(&fat).as_deref(), Some("KSOSEFI"));
        assert_eq!(identify(&fat), Content::Foreign("a FAT file system labelled \"KSOSEFI\"".to_owned()));
        let mut luks = vec![0; 8192];
        luks[..6].copy_from_slice(b"LUKS\xba\xbe");
        assert_eq!(identify(&luks), Content::Foreign("a LUKS volume".to_owned()));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "runs a foreign tool to check against")]
    fn reads_what_mke2fs_writes() {
        let image = tempfile::NamedTempFile::new().expect("a file");
        image.as_file().set_len(4 << 20).expect("sized");
        let path = image.path().to_str().expect("text");
        let made =
            std::process::Command::new("/sbin/mke2fs").args(["-q", "-t", "ext4", "-L", "KSOLODATA", path]).status();
        match made {
            Ok(status) => assert!(status.success()),
            Err(error) => {
                assert!(std::env::var_os("KSOS_REQUIRE_TOOLS").is_none(), "mke2fs: {error}");
                println!("skipped: mke2fs is not installed");
                return;
            }
        }
        let head = std::fs::read(path).expect("read");
        let Content::Ext4(found) = identify(&head) else { panic!("not ext4") };
        assert_eq!((found.label.as_str(), found.blocks * found.block_size), ("KSOLODATA", 4 << 20));
    }
}
