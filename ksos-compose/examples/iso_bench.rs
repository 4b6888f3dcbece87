//! Writes a host directory as a hybrid ISO image, durable as a build leaves it: what `tests/bench-iso` measures.
//!
//! ```text
//! iso_bench DIRECTORY EFI-IMAGE GRUB-PACKAGE CORE IMAGE
//! ```
#![expect(clippy::disallowed_methods, reason = "a measuring tool")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use ksos_compose::artifact::grub::Package;
use ksos_compose::artifact::iso::{Bios, IsoSpec, Source, write};

struct Installed(PathBuf);

impl Package for Installed {
    fn read(&self, name: &str, _: u64) -> io::Result<Vec<u8>> {
        fs::read(self.0.join(name))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, efi, package, core, image] = arguments.as_slice() else {
        return Err("usage: iso_bench DIRECTORY EFI-IMAGE GRUB-PACKAGE CORE IMAGE".into());
    };
    let package = Installed(package.into());
    let core = fs::read(core)?;
    let mut files = BTreeMap::new();
    add(&mut files, Path::new(directory), "")?;
    let bios = Some(Bios { package: &package, core: &core });
    let spec = IsoSpec { name: "KSOS_BENCH", epoch: 0, files, efi: Source::File(efi.into()), bios };
    let mut output = File::options().read(true).write(true).create(true).truncate(true).open(image)?;
    write(&mut output, &spec)?;
    output.sync_all()?;
    Ok(())
}

fn add(files: &mut BTreeMap<String, Source>, place: &Path, path: &str) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(place)? {
        let entry = entry?;
        let name = format!("{path}{}", entry.file_name().to_string_lossy());
        match entry.file_type()?.is_dir() {
            true => add(files, &entry.path(), &format!("{name}/"))?,
            false => drop(files.insert(name, Source::File(entry.path()))),
        }
    }
    Ok(())
}
