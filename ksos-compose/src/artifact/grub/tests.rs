#![expect(clippy::disallowed_methods, reason = "tests compare with what grub-mkimage makes")]

use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;
use crate::testing::has_tool;

struct Directory(PathBuf);

impl Package for Directory {
    fn read(&self, name: &str, _: u64) -> io::Result<Vec<u8>> {
        std::fs::read(self.0.join(name))
    }
}

/// Where Debian's `grub-pc-bin` is installed.
fn installed() -> Option<Directory> {
    let directory = Path::new("/usr/lib/grub/i386-pc");
    if directory.join("kernel.img").exists() && has_tool("grub-mkimage") {
        return Some(Directory(directory.to_owned()));
    }
    assert!(std::env::var_os("KSOS_REQUIRE_TOOLS").is_none(), "grub-pc-bin and grub-common are needed");
    eprintln!("skipped: grub-pc-bin or grub-common is not installed");
    None
}

/// Takes a core apart: the decompressor without its two sizes, and what it makes.
fn parts(core: &[u8], decompressor: usize) -> (Vec<u8>, Vec<u8>) {
    let size = |at: usize| u32::from_le_bytes(core[at..at + 4].try_into().unwrap()) as usize;
    let (compressed, uncompressed) = (size(COMPRESSED_SIZE), size(UNCOMPRESSED_SIZE));
    assert_eq!(core.len(), decompressor + compressed);
    let mut options = LzmaOptions::new_preset(6).unwrap();
    options.dict_size(1 << 20);
    let mut filters = Filters::new();
    filters.lzma1(&options);
    let mut stream = Stream::new_raw_decoder(&filters).unwrap();
    let mut image = Vec::with_capacity(uncompressed);
    stream.process_vec(&core[decompressor..], &mut image, Action::Run).unwrap();
    assert_eq!(image.len(), uncompressed);
    let mut head = core[..decompressor].to_vec();
    head[COMPRESSED_SIZE..COMPRESSED_SIZE + 4].fill(0);
    (head, image)
}

#[test]
fn cores_are_those_of_grub_mkimage_before_compression() {
    let Some(package) = installed() else { return };
    let directory = tempfile::tempdir().unwrap();
    let made = |format: &str| {
        let path = directory.path().join(format);
        let mut command = Command::new("grub-mkimage");
        command.args(["-O", format, "-p", "(,gpt1)/EFI/debian", "-d"]).arg(&package.0).arg("-o").arg(&path);
        assert!(command.args(MODULES).status().unwrap().success());
        std::fs::read(path).unwrap()
    };
    let spec = CoreSpec { prefix: "(,gpt1)/EFI/debian", modules: &MODULES };
    let core = core(&package, &spec).unwrap();
    assert_eq!(core, super::core(&package, &spec).unwrap(), "the same bytes every time");
    let decompressor = package.read("lzma_decompress.img", 0).unwrap().len();
    let own = parts(&core, decompressor);
    let disk = made("i386-pc");
    assert!(own == parts(&disk[SECTOR..], decompressor), "the image for disks differs");
    let mut ours = for_disk(&package, &core, 2047).unwrap();
    assert_eq!(ours[BLOCK_LIST..BLOCK_LIST + 8], 2048_u64.to_le_bytes());
    assert_eq!(ours.len() % SECTOR, 0);
    // grub-mkimage leaves sector 1 there, and counts the sectors of its own compression.
    ours[BLOCK_LIST..BLOCK_LIST + 10].copy_from_slice(&disk[BLOCK_LIST..BLOCK_LIST + 10]);
    assert!(ours[..SECTOR] == disk[..SECTOR], "diskboot.img differs");
    let cd = made("i386-pc-eltorito");
    assert!(own == parts(&cd[CDBOOT + SECTOR..], decompressor), "the image for CDs differs");
    let ours = for_cd(&package, &core).unwrap();
    assert!(ours[..CDBOOT] == cd[..CDBOOT], "cdboot.img differs");
    assert_eq!(ours.len(), CDBOOT + SECTOR + core.len());
}

#[test]
fn boot_code_has_its_sector_and_no_partition_table() {
    let Some(package) = installed() else { return };
    let code = boot_code(&package, 40).unwrap();
    assert_eq!(code[BOOT_KERNEL_SECTOR..BOOT_KERNEL_SECTOR + 8], 40_u64.to_le_bytes());
    let hybrid = hybrid_boot_code(&package, 100).unwrap();
    assert_eq!(hybrid[HYBRID_KERNEL_SECTOR..], 404_u64.to_le_bytes());
}

struct Made(BTreeMap<&'static str, Vec<u8>>);

impl Package for Made {
    fn read(&self, name: &str, _: u64) -> io::Result<Vec<u8>> {
        self.0.get(name).cloned().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

#[test]
fn unusable_packages_are_named_by_their_file() {
    let mut package = Made(BTreeMap::new());
    let spec = CoreSpec { prefix: "/", modules: &["normal"] };
    let mut error = |name: &'static str, bytes: &[u8]| {
        package.0.insert(name, bytes.to_vec());
        super::core(&package, &spec).unwrap_err().to_string()
    };
    assert_eq!(error("other", b""), "cannot read kernel.img of GRUB for BIOS: entity not found");
    assert_eq!(error("kernel.img", b"\x7fELF"), "kernel.img of GRUB for BIOS is not usable: it is no whole ELF file");
    let mut header = vec![0; 52];
    header[..7].copy_from_slice(b"\x7fELF\x01\x01\x01");
    assert_eq!(error("kernel.img", &header), "kernel.img of GRUB for BIOS is not usable: it has no code");
    package.0.insert("diskboot.img", vec![0; 511]);
    let error = for_disk(&package, &[], 1).unwrap_err().to_string();
    assert_eq!(error, "diskboot.img of GRUB for BIOS is not usable: its size is another");
}

#[test]
fn modules_come_after_what_they_depend_on_and_cycles_end() {
    let list = dependencies("a: b c\nb: d\nc: d\nd:\ne: f\nf: e\n");
    assert_eq!(in_order(&list, &["a", "d"]).unwrap(), ["d", "c", "b", "a"]);
    assert_eq!(in_order(&list, &["e"]).unwrap(), ["f", "e"]);
    assert!(matches!(in_order(&list, &["x"]), Err(GrubError::NoModule { .. })));
}
