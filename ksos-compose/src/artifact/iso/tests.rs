#![expect(clippy::disallowed_methods, reason = "tests write files and run foreign tools")]

use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::artifact::grub::{CoreSpec, MODULES, Package};
use crate::testing::has_tool;

const EPOCH: i64 = 1_700_000_000;

/// A package whose files have the right sizes; what makes them boot is tested with the real one.
struct Made;

impl Package for Made {
    fn read(&self, name: &str, _: u64) -> io::Result<Vec<u8>> {
        match name {
            "cdboot.img" => Ok(vec![0xcd; 2048]),
            "diskboot.img" => Ok(vec![0xd1; 512]),
            "boot_hybrid.img" => Ok(vec![0xb0; 512]),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|index| (index * 7 % 253) as u8).collect()
}

fn spec<'a>(directory: &Path, bios: Option<Bios<'a>>) -> IsoSpec<'a> {
    let large = directory.join("large");
    std::fs::write(&large, pattern(3_000_001)).unwrap();
    let files = BTreeMap::from([
        ("EFI/debian/grub.cfg".to_owned(), Source::Bytes(b"echo hello\n".to_vec())),
        ("ksos/root.squashfs".to_owned(), Source::File(large)),
        ("ksos/kubesolo-os.gz".to_owned(), Source::Bytes(pattern(5000))),
        ("ksos/empty".to_owned(), Source::Bytes(Vec::new())),
    ]);
    IsoSpec { name: "KSOS_TEST", epoch: EPOCH, files, efi: Source::Bytes(pattern(9 << 20)), bios }
}

fn run(directory: &Path, script: &str) -> String {
    let output = Command::new("sh").args(["-c", script]).current_dir(directory).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{script}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text + &String::from_utf8_lossy(&output.stderr)
}

fn made(path: &Path, spec: &IsoSpec<'_>) -> File {
    let mut file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    let size = write(&mut file, spec).unwrap();
    assert_eq!(file.metadata().unwrap().len(), size);
    file
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let core = pattern(100_000);
    let bytes = |name: &str| {
        let bios = Bios { package: &Made, core: &core };
        let mut bytes = Vec::new();
        made(&directory.path().join(name), &spec(directory.path(), Some(bios))).read_to_end(&mut bytes).unwrap();
        bytes
    };
    let first = bytes("a");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert!(first == bytes("b"));
}

#[test]
fn the_first_sector_leads_to_the_core() {
    let directory = tempfile::tempdir().unwrap();
    let core = pattern(100_000);
    let file = made(&directory.path().join("iso"), &spec(directory.path(), Some(Bios { package: &Made, core: &core })));
    let mut sector = [0; 512];
    file.read_exact_at(&mut sector, 0).unwrap();
    assert!(sector[..432].iter().all(|byte| *byte == 0xb0));
    let lba = u64::from_le_bytes(sector[432..440].try_into().unwrap());
    let mut image = vec![0; 512 + core.len()];
    file.read_exact_at(&mut image, lba * 512).unwrap();
    assert!(image[..500].iter().all(|byte| *byte == 0xd1), "sector {lba} is not diskboot.img");
    assert_eq!(image[500..508], (lba + 1).to_le_bytes());
    assert!(image[512..] == core);
    // cdboot.img has the boot information table: the descriptor's block, its own, and its size.
    let mut table = [0; 12];
    file.read_exact_at(&mut table, lba * 512 - 2048 + 8).unwrap();
    let expected = [16, (lba / 4 - 1) as u32, (2048 + 512 + core.len()) as u32];
    assert_eq!(table.to_vec(), expected.into_iter().flat_map(u32::to_le_bytes).collect::<Vec<u8>>());
    // One protective entry, and one that is only active.
    assert_eq!((sector[446], sector[450], sector[462], sector[466]), (0, 0xee, 0x80, 0));
}

#[test]
fn foreign_tools_agree() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let core = pattern(100_000);
    for bios in [true, false] {
        let name = if bios { "hybrid.iso" } else { "uefi.iso" };
        let bios = bios.then_some(Bios { package: &Made, core: &core });
        let with_bios = bios.is_some();
        let mut bytes = Vec::new();
        made(&directory.join(name), &spec(directory, bios)).read_to_end(&mut bytes).unwrap();
        if has_tool("xorriso") {
            let report =
                run(directory, &format!("xorriso -indev {name} -report_el_torito plain -report_system_area plain"));
            assert!(report.contains("UEFI"), "{report}");
            assert_eq!(report.contains("BIOS"), with_bios, "{report}");
            assert!(report.contains("Volume id    : 'KSOS_TEST'"), "{report}");
            assert!(report.contains("System area summary:") && report.contains("GPT"), "{report}");
            let out = format!("out-{name}");
            run(directory, &format!("xorriso -osirrox on -indev {name} -extract / {out} && chmod -R u+rw {out}"));
            for (path, source) in &spec(directory, None).files {
                let expected = match source {
                    Source::Bytes(bytes) => bytes.clone(),
                    Source::File(path) => std::fs::read(path).unwrap(),
                };
                assert!(std::fs::read(directory.join(&out).join(path)).unwrap() == expected, "{path}");
            }
            let times = run(directory, &format!("find {out} -type f -printf '%T@\\n' | sort -u"));
            assert_eq!(times.trim(), format!("{EPOCH}.0000000000"));
        }
        if has_tool("isoinfo") {
            let listing = run(directory, &format!("isoinfo -R -f -i {name}"));
            assert!(listing.lines().any(|line| line == "/ksos/root.squashfs"), "{listing}");
        }
        if has_tool("sgdisk") {
            let report = run(directory, &format!("sgdisk -v {name}; sgdisk -p {name}"));
            assert!(report.contains("No problems found"), "{report}");
            let esp = report.lines().find(|line| line.contains(" EF00 ")).unwrap_or_else(|| panic!("{report}"));
            let sector: usize = esp.split_whitespace().nth(1).unwrap().parse().unwrap();
            assert!(bytes[sector * 512..].starts_with(&pattern(9 << 20)), "the EFI image is not at {sector}");
        }
    }
}

#[test]
fn names_and_files_that_cannot_be_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let error = |change: &dyn Fn(&mut IsoSpec<'_>)| {
        let mut spec = spec(directory.path(), None);
        change(&mut spec);
        write(&mut tempfile::tempfile().unwrap(), &spec).unwrap_err().to_string()
    };
    for name in ["", "lower", "A B", "A23456789012345678901234567890123"] {
        assert!(error(&|spec| spec.name = name).contains("is not a volume name"), "{name}");
    }
    let missing = error(&|spec| {
        spec.files.insert("x".to_owned(), Source::File(PathBuf::from("/nowhere/x")));
    });
    assert!(missing.starts_with("cannot write the volume:") && missing.contains("/nowhere/x"), "{missing}");
    assert!(error(&|spec| spec.epoch = i64::MAX).contains("is no time of an ISO image"));
}

#[test]
fn the_real_core_fits() {
    let directory = Path::new("/usr/lib/grub/i386-pc");
    if !directory.join("kernel.img").exists() {
        assert!(std::env::var_os("KSOS_REQUIRE_TOOLS").is_none(), "grub-pc-bin is needed");
        eprintln!("skipped: grub-pc-bin is not installed");
        return;
    }
    struct Installed;
    impl Package for Installed {
        fn read(&self, name: &str, _: u64) -> io::Result<Vec<u8>> {
            std::fs::read(Path::new("/usr/lib/grub/i386-pc").join(name))
        }
    }
    let core = grub::core(&Installed, &CoreSpec { prefix: "/EFI/debian", modules: &MODULES }).unwrap();
    let temporary = tempfile::tempdir().unwrap();
    made(&temporary.path().join("iso"), &spec(temporary.path(), Some(Bios { package: &Installed, core: &core })));
    assert!(core.len() < 1004 << 10, "{} bytes do not fit before the first partition", core.len());
}
