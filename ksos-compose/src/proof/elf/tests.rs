#![expect(clippy::disallowed_methods, reason = "reads the libraries of the host")]

use super::*;

/// Makes small ELF files: one segment that maps the file at address 0, and a dynamic section.
#[derive(Debug, Clone, Default)]
pub(crate) struct ElfBuilder {
    machine: u16,
    interpreter: Option<String>,
    soname: Option<String>,
    dynamic: bool,
    needed: Vec<(String, Vec<String>)>,
    defined: Vec<String>,
    rpath: Option<String>,
    runpath: Option<String>,
}

impl ElfBuilder {
    pub(crate) fn static_program() -> Self {
        ElfBuilder { machine: 62, ..ElfBuilder::default() }
    }

    pub(crate) fn program() -> Self {
        let interpreter = Some("/lib64/ld-linux-x86-64.so.2".to_owned());
        ElfBuilder { machine: 62, dynamic: true, interpreter, ..ElfBuilder::default() }
    }

    pub(crate) fn library(soname: &str) -> Self {
        ElfBuilder { machine: 62, dynamic: true, soname: Some(soname.to_owned()), ..ElfBuilder::default() }
    }

    pub(crate) fn machine(mut self, machine: u16) -> Self {
        self.machine = machine;
        self
    }

    pub(crate) fn interpreter(mut self, path: &str) -> Self {
        self.interpreter = Some(path.to_owned());
        self
    }

    pub(crate) fn needs(mut self, library: &str, versions: &[&str]) -> Self {
        self.needed.push((library.to_owned(), versions.iter().map(|version| (*version).to_owned()).collect()));
        self
    }

    pub(crate) fn defines(mut self, versions: &[&str]) -> Self {
        self.defined = versions.iter().map(|version| (*version).to_owned()).collect();
        self
    }

    pub(crate) fn rpath(mut self, path: &str) -> Self {
        self.rpath = Some(path.to_owned());
        self
    }

    pub(crate) fn runpath(mut self, path: &str) -> Self {
        self.runpath = Some(path.to_owned());
        self
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let segments = 1 + usize::from(self.interpreter.is_some()) + usize::from(self.dynamic);
        let mut file = vec![0; 64 + segments * 56];
        let mut strings = vec![0u8];
        let mut add = |text: &str| {
            let at = strings.len() as u64;
            strings.extend(text.bytes().chain([0]));
            at
        };
        let mut tags: Vec<(u64, u64)> = self.needed.iter().map(|(library, _)| (DT_NEEDED, add(library))).collect();
        for (tag, text) in [(DT_SONAME, &self.soname), (DT_RPATH, &self.rpath), (DT_RUNPATH, &self.runpath)] {
            tags.extend(text.as_ref().map(|text| (tag, add(text))));
        }
        let mut headers = Vec::new();
        if let Some(interpreter) = &self.interpreter {
            let at = append(&mut file, interpreter.as_bytes());
            append(&mut file, &[0]);
            headers.push((PT_INTERP, at, interpreter.len() as u64 + 1));
        }
        let needs: Vec<_> = self.needed.iter().filter(|(_, versions)| !versions.is_empty()).collect();
        if !needs.is_empty() {
            let mut table = Vec::new();
            for (index, (library, versions)) in needs.iter().enumerate() {
                let size = 16 + 16 * versions.len() as u32;
                let next = if index + 1 == needs.len() { 0 } else { size };
                words(&mut table, &[1 | (versions.len() as u32) << 16, add(library) as u32, 16, next]);
                for (index, version) in versions.iter().enumerate() {
                    let next = if index + 1 == versions.len() { 0 } else { 16 };
                    words(&mut table, &[0, 0, add(version) as u32, next]);
                }
            }
            tags.push((DT_VERNEED, append(&mut file, &table)));
            tags.push((DT_VERNEEDNUM, needs.len() as u64));
        }
        if !self.defined.is_empty() {
            let mut table = Vec::new();
            for (index, version) in self.defined.iter().enumerate() {
                let next = if index + 1 == self.defined.len() { 0 } else { 28 };
                words(&mut table, &[1, 1 << 16, 0, 20, next, add(version) as u32, 0]);
            }
            tags.push((DT_VERDEF, append(&mut file, &table)));
            tags.push((DT_VERDEFNUM, self.defined.len() as u64));
        }
        let at = append(&mut file, &strings);
        tags.push((DT_STRTAB, at));
        tags.push((0, 0));
        if self.dynamic {
            let table: Vec<u8> =
                tags.iter().flat_map(|(tag, value)| [tag.to_le_bytes(), value.to_le_bytes()].concat()).collect();
            headers.push((PT_DYNAMIC, append(&mut file, &table), table.len() as u64));
        }
        headers.push((PT_LOAD, 0, file.len() as u64));
        self.write_headers(&mut file, &headers);
        file
    }

    fn write_headers(&self, file: &mut [u8], headers: &[(u32, u64, u64)]) {
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        file[16] = 3;
        file[18..20].copy_from_slice(&self.machine.to_le_bytes());
        file[32] = 64;
        file[54] = 56;
        file[56] = headers.len() as u8;
        for (index, (kind, offset, size)) in headers.iter().enumerate() {
            let at = 64 + index * 56;
            file[at..at + 4].copy_from_slice(&kind.to_le_bytes());
            file[at + 8..at + 16].copy_from_slice(&offset.to_le_bytes());
            file[at + 16..at + 24].copy_from_slice(&offset.to_le_bytes());
            file[at + 32..at + 40].copy_from_slice(&size.to_le_bytes());
        }
    }
}

fn append(file: &mut Vec<u8>, bytes: &[u8]) -> u64 {
    let at = file.len() as u64;
    file.extend(bytes);
    at
}

fn words(table: &mut Vec<u8>, words: &[u32]) {
    words.iter().for_each(|word| table.extend(word.to_le_bytes()));
}

fn info(bytes: &[u8]) -> Result<ElfInfo, ElfError> {
    ElfInfo::read(bytes, bytes.len() as u64).unwrap()
}

fn rich() -> ElfBuilder {
    ElfBuilder::program()
        .needs("liba.so", &["A_1", "A_2"])
        .needs("libb.so", &[])
        .needs("libc.so.6", &["GLIBC_2.34"])
        .defines(&["X_1", "X_2"])
        .rpath("/a:/b")
        .runpath("$ORIGIN/x")
}

#[test]
fn every_part_is_read() {
    let info = info(&rich().build()).unwrap();
    assert_eq!(info.machine, 62);
    assert_eq!(info.interpreter.as_deref(), Some("/lib64/ld-linux-x86-64.so.2"));
    assert_eq!(info.needed, ["liba.so", "libb.so", "libc.so.6"]);
    assert_eq!(info.rpath, ["/a", "/b"]);
    assert_eq!(info.runpath, ["$ORIGIN/x"]);
    let needed: Vec<String> =
        info.versions_needed.iter().map(|(library, version)| format!("{library}:{version}")).collect();
    assert_eq!(needed, ["liba.so:A_1", "liba.so:A_2", "libc.so.6:GLIBC_2.34"]);
    assert_eq!(info.versions_defined, ["X_1", "X_2"]);
}

#[test]
fn malformed_files_are_refused() {
    let good = rich().build();
    assert_eq!(info(b"\x7fELF"), Err(ElfError::Class));
    let mut class = good.clone();
    class[4] = 1;
    assert_eq!(info(&class), Err(ElfError::Class));
    assert_eq!(info(&good[..100]), Err(ElfError::Malformed("program header table")));
    let mut endless = good.clone();
    // Version needs that lead back to themselves: the first entry's `vn_next` is made so that it stays in place.
    let at = good.windows(2).position(|window| window == [1, 0]).unwrap();
    endless[at] = 0xff;
    let _ = info(&endless);
}

#[test]
fn the_libraries_of_this_machine_read_as_another_reader_reads_them() {
    use object::read::elf::{Dyn, FileHeader, ProgramHeader};
    let mut compared = 0;
    for directory in ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/bin"] {
        let Ok(entries) = std::fs::read_dir(directory) else { continue };
        for path in entries.filter_map(|entry| entry.ok()).map(|entry| entry.path()).take(150) {
            let Ok(bytes) = std::fs::read(&path) else { continue };
            let Ok(header) = object::elf::FileHeader64::<object::LittleEndian>::parse(&*bytes) else { continue };
            let Ok(segments) = header.program_headers(object::LittleEndian, &*bytes) else { continue };
            let Ok(ours) = info(&bytes) else { panic!("{}", path.display()) };
            let mut needed = Vec::new();
            for segment in segments {
                let Ok(Some(dynamic)) = segment.dynamic(object::LittleEndian, &*bytes) else { continue };
                let value = |tag: u64| {
                    dynamic
                        .iter()
                        .find(|entry| entry.d_tag(object::LittleEndian).0 as u64 == tag)
                        .map(|entry| entry.d_val(object::LittleEndian))
                };
                let Some(strings) = value(DT_STRTAB) else { continue };
                let table = segments
                    .iter()
                    .find_map(|segment| segment.data_range(object::LittleEndian, &*bytes, strings, value(10)?).ok()?)
                    .unwrap();
                for entry in dynamic.iter().filter(|entry| entry.d_tag(object::LittleEndian).0 as u64 == DT_NEEDED) {
                    let rest = &table[entry.d_val(object::LittleEndian) as usize..];
                    let end = rest.iter().position(|byte| *byte == 0).unwrap();
                    needed.push(String::from_utf8_lossy(&rest[..end]).into_owned());
                }
            }
            assert_eq!(ours.needed, needed, "{}", path.display());
            compared += 1;
        }
    }
    println!("compared {compared} files");
}

proptest::proptest! {
    #[test]
    fn mutated_files_never_panic(
        changes in proptest::collection::vec((0usize..900, 0u8..), 1..12),
        cut in 0usize..900,
    ) {
        let mut bytes = rich().build();
        for (index, byte) in changes {
            if let Some(place) = bytes.get_mut(index) {
                *place = byte;
            }
        }
        if cut % 3 == 0 {
            bytes.truncate(cut);
        }
        let _ = ElfInfo::read(bytes.as_slice(), bytes.len() as u64);
    }
}
