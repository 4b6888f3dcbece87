#![expect(clippy::disallowed_methods, reason = "tests write files and run foreign tools")]

use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use super::*;
use crate::testing::has_tool;

const MIB: u64 = 1 << 20;

fn guid(number: u128) -> Uuid {
    Uuid::from_u128(0x1234_5678_9abc_4def_8000_0000_0000_0000 + number)
}

fn partition(label: &str, number: u128, size: u64, content: PartitionContent) -> Partition {
    let type_guid = match number {
        1 => ksos_formats::layout::ESP_TYPE_GUID,
        _ => ksos_formats::layout::LINUX_TYPE_GUID,
    };
    Partition { label: label.into(), type_guid: type_guid.parse().unwrap(), guid: guid(number), size, content }
}

/// A file with data at both ends, a hole and a stretch of written zeros.
fn content(directory: &Path) -> PathBuf {
    let path = directory.join("content");
    let mut file = File::create(&path).unwrap();
    file.write_all(&[1; 10_000]).unwrap();
    file.write_all(&vec![0; 3 * MIB as usize]).unwrap();
    file.set_len(40 * MIB + 77).unwrap();
    file.write_all_at(b"the end", 40 * MIB + 70).unwrap();
    path
}

fn spec(directory: &Path) -> DiskSpec {
    let file = PartitionContent::File(content(directory));
    DiskSpec {
        disk_guid: guid(0),
        partitions: vec![
            partition("KSOSEFI", 1, 256 * MIB, file.clone()),
            partition("KSOSSYSA", 2, 512 * MIB + 512, file),
            partition("KSOSSYSB", 3, 512 * MIB, PartitionContent::Empty),
            partition("KSOLODATA ü", 4, 64 * MIB, PartitionContent::Empty),
        ],
        bios: None,
    }
}

fn run(directory: &Path, script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).current_dir(directory).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{script}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn error(spec: &DiskSpec) -> String {
    write(&mut tempfile::tempfile().unwrap(), spec).unwrap_err().to_string()
}

#[test]
fn the_disk_holds_the_contents_and_stays_sparse() {
    let directory = tempfile::tempdir().unwrap();
    let spec = spec(directory.path());
    let path = directory.path().join("disk");
    // Opened for reading and writing.
    let mut file = File::create_new(&path).unwrap();
    let layout = write(&mut file, &spec).unwrap();
    let offsets: Vec<u64> = layout.partitions.iter().map(|extent| extent.offset / MIB).collect();
    assert_eq!(offsets, [1, 257, 770, 1282]);
    assert_eq!(layout.size, 1347 * MIB);
    let metadata = std::fs::metadata(&path).unwrap();
    assert_eq!(metadata.len(), layout.size);
    assert!(metadata.blocks() * 512 < 256 * 1024, "{} bytes on disk", metadata.blocks() * 512);
    let original = std::fs::read(directory.path().join("content")).unwrap();
    for extent in &layout.partitions[..2] {
        let mut copy = vec![0; original.len()];
        file.read_exact_at(&mut copy, extent.offset).unwrap();
        assert!(copy == original);
    }
    // Nothing of what was there before stays, and the bytes are the same every time.
    let mut first = Vec::new();
    file.rewind().unwrap();
    Read::by_ref(&mut file).take(2 * MIB).read_to_end(&mut first).unwrap();
    file.write_all_at(b"old", 800 * MIB).unwrap();
    file.set_len(3000 * MIB).unwrap();
    write(&mut file, &spec).unwrap();
    let mut again = vec![0; first.len()];
    file.read_exact_at(&mut again, 0).unwrap();
    assert!(again == first);
    let mut old = [1; 3];
    file.read_exact_at(&mut old, 800 * MIB).unwrap();
    assert_eq!(old, [0; 3]);
    assert_eq!(file.metadata().unwrap().len(), layout.size);
}

#[test]
fn foreign_tools_agree() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let spec = spec(directory);
    let mut file = File::options().read(true).write(true).create_new(true).open(directory.join("disk")).unwrap();
    let layout = write(&mut file, &spec).unwrap();
    if has_tool("sgdisk") {
        let report = run(directory, "sgdisk -v disk; sgdisk -p disk");
        assert!(report.contains("No problems found"), "{report}");
        assert!(
            report.contains(
                &format!("Disk identifier (GUID): {}", guid(0))
                    .to_uppercase()
                    .replace("DISK IDENTIFIER", "Disk identifier")
            ),
            "{report}"
        );
    }
    if has_tool("sfdisk") {
        let json: serde_json::Value = serde_json::from_str(&run(directory, "sfdisk --json disk")).unwrap();
        let table = &json["partitiontable"];
        assert_eq!(table["id"].as_str().unwrap().to_lowercase(), guid(0).to_string());
        let partitions = table["partitions"].as_array().unwrap();
        assert_eq!(partitions.len(), 4);
        for ((found, partition), extent) in partitions.iter().zip(&spec.partitions).zip(&layout.partitions) {
            assert_eq!(found["start"].as_u64().unwrap() * SECTOR, extent.offset);
            assert_eq!(found["size"].as_u64().unwrap() * SECTOR, partition.size);
            assert_eq!(found["name"], partition.label);
            assert_eq!(found["uuid"].as_str().unwrap().to_lowercase(), partition.guid.to_string());
            assert_eq!(found["type"].as_str().unwrap().to_lowercase(), partition.type_guid.to_string());
        }
        assert!(run(directory, "sfdisk --verify disk").contains("No errors detected"));
    }
    if has_tool("partx") {
        assert!(run(directory, "partx -o START,SECTORS -g -s disk").starts_with("   2048  524288\n"));
    }
}

#[test]
fn what_a_bios_boots_is_before_the_first_partition_and_numbered_last() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let mut spec = spec(directory);
    spec.bios = Some(BiosBoot { guid: guid(9), code: [0x90; 440], image: vec![0xc0; 200 << 10] });
    let mut file = File::options().read(true).write(true).create_new(true).open(directory.join("disk")).unwrap();
    write(&mut file, &spec).unwrap();
    let mut first = vec![0; MIB as usize];
    file.read_exact_at(&mut first, 0).unwrap();
    assert!(first[..440] == [0x90; 440] && first[450] == 0xee && first[510..512] == [0x55, 0xaa]);
    assert!(first[20 << 10..220 << 10].iter().all(|byte| *byte == 0xc0) && first[220 << 10] == 0);
    if has_tool("sgdisk") {
        let report = run(directory, "sgdisk -v disk; sgdisk -i 5 disk; sgdisk -i 1 disk");
        assert!(report.contains("No problems found"), "{report}");
        assert!(report.contains("21686148-6449-6E6F-744E-656564454649 (BIOS boot partition)"), "{report}");
        assert!(report.contains("First sector: 40 ") && report.contains("Last sector: 2047 "), "{report}");
        assert!(report.contains("C12A7328-F81F-11D2-BA4B-00A0C93EC93B"), "the ESP is still the first: {report}");
    }
    spec.bios = Some(BiosBoot { guid: guid(9), code: [0; 440], image: vec![0; 1004 << 10 | 1] });
    assert_eq!(error(&spec), "the boot loader for BIOS has 1028097 bytes; 1028096 fit before the first partition");
}

#[test]
fn what_does_not_fit_is_refused_with_numbers() {
    let directory = tempfile::tempdir().unwrap();
    let good = spec(directory.path());
    let changed = |change: &dyn Fn(&mut DiskSpec)| {
        let mut spec = good.clone();
        change(&mut spec);
        error(&spec)
    };
    let too_large = changed(&|spec| spec.partitions[1].size = 40 * MIB);
    assert!(too_large.starts_with("partition \"KSOSSYSA\" has 41943040 bytes, its content "), "{too_large}");
    assert!(too_large.ends_with(" has 41943117"), "{too_large}");
    assert_eq!(
        changed(&|spec| spec.partitions[2].size = 0),
        "partition 3 cannot have 0 bytes: a positive multiple of 512 is needed"
    );
    assert!(changed(&|spec| spec.partitions[2].size = 1000).contains("partition 3 cannot have 1000 bytes"));
    assert!(changed(&|spec| spec.partitions[2].size = u64::MAX - 511).contains("together have more than"));
    assert!(changed(&|spec| spec.partitions[3].guid = guid(1)).contains("is used twice"));
    assert!(changed(&|spec| spec.partitions[3].type_guid = Uuid::nil()).contains("is nil"));
    assert!(changed(&|spec| spec.partitions[3].label = "x".repeat(37)).contains("is not a partition name"));
    assert!(
        changed(&|spec| spec.partitions[3].content = PartitionContent::File("/none/x".into()))
            .contains("cannot open /none/x")
    );
    assert_eq!(layout(&[512; 129]).unwrap_err().to_string(), "129 partitions; the table holds 128");
    assert_eq!(layout(&[]).unwrap(), Layout { size: 2 * MIB, partitions: vec![] });
}
