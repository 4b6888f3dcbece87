//! Archives and images that others made: tar, cpio, zip and SquashFS as they are unpacked into the cache, ext4, ISO 9660 and
//! partition tables as `inspect`, `diff` and `verify` read them. The first byte chooses the reader.
#![no_main]

use std::fs::File;
use std::io::Write;
use std::path::Path;

use ksos_compose::cache::Cache;
use ksos_compose::image::ext4::FileSystem;
use ksos_compose::image::iso::Iso;
use ksos_compose::image::{DiskImage, Part};
use ksos_compose::source::archive::{self, Compression, Format, Limits, Owner, Policy};
use libfuzzer_sys::fuzz_target;

/// Far below what a build may take, so that a bomb is one.
const LIMITS: Limits = Limits { total: 1 << 20, entries: 1000, file: 1 << 20 };
const POLICY: Policy = Policy { allow_devices: true, allow_setid: true, owner: Owner::Keep };

thread_local! {
    static PLACE: (tempfile::TempDir, Cache) = {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = Cache::open(directory.path()).expect("a cache");
        (directory, cache)
    };
}

fuzz_target!(|bytes: &[u8]| {
    let Some((which, bytes)) = bytes.split_first() else { return };
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(bytes).expect("written");
    let format = match which % 9 {
        0 => Format::Tar(Compression::None),
        1 => Format::Tar(Compression::Gzip),
        2 => Format::Cpio(Compression::None),
        3 => Format::Cpio(Compression::Zstd),
        4 => Format::Zip,
        5 => Format::SquashFs,
        6 => return ext4(file.as_file(), bytes.len() as u64),
        7 => return drop(Iso::read(file.as_file(), bytes.len() as u64)),
        _ => return drop(DiskImage::open(file.path())),
    };
    PLACE.with(|(_, cache)| unpack(cache, file.path(), format));
});

fn unpack(cache: &Cache, path: &Path, format: Format) {
    let Ok(unpacked) = archive::unpack(cache, path, format, &POLICY, &LIMITS) else { return };
    assert!(unpacked.pack.blob.size <= LIMITS.total, "no more than may be");
    // Content by content: a run makes many.
    let _ = std::fs::remove_file(&unpacked.pack.blob.path);
}

fn ext4(file: &File, size: u64) {
    let Ok(system) = FileSystem::open(Part::new(file, 0, size)) else { return };
    for inode in system.entries().unwrap_or_default().values().take(16) {
        let Ok(mut reader) = system.open_file(inode) else { continue };
        let _ = std::io::copy(&mut std::io::Read::take(&mut reader, LIMITS.file), &mut std::io::sink());
    }
}
