//! What the dynamic linker would read of an ELF file (System V ABI, "Program Loading and Dynamic Linking"; symbol
//! versions as in the Linux Standard Base, "Symbol Versioning"). 64-bit little-endian files, which both architectures
//! use; every count, offset and size is checked against the file and against a limit.

use std::io;

use serde::{Deserialize, Serialize};

use super::elf_reader::{Bounded, Fault, ReadAt};

/// What kind of ELF file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ElfKind {
    /// `ET_EXEC` or `ET_DYN`: something that is loaded.
    Loadable,
    /// Anything else: relocatable objects, core files.
    Object,
}

/// Headers and dynamic section of an ELF file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElfInfo {
    /// `e_machine`.
    pub machine: u16,
    /// Kind.
    pub kind: ElfKind,
    /// `PT_INTERP`: the dynamic linker that an executable asks for.
    pub interpreter: Option<String>,
    /// `DT_SONAME`.
    pub soname: Option<String>,
    /// `DT_NEEDED` in order.
    pub needed: Vec<String>,
    /// `DT_RPATH`, split at colons; ignored by the dynamic linker when there is a `DT_RUNPATH`.
    pub rpath: Vec<String>,
    /// `DT_RUNPATH`, split at colons.
    pub runpath: Vec<String>,
    /// Symbol versions needed: library and version; weak ones are left out.
    pub versions_needed: Vec<(String, String)>,
    /// Symbol versions defined.
    pub versions_defined: Vec<String>,
}

/// A malformed ELF file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// Not a 64-bit little-endian file.
    #[error("not a 64-bit little-endian ELF file")]
    Class,
    /// A part lies outside the file or is larger than it may be.
    #[error("its {0} lies outside the file or is too large")]
    Malformed(&'static str),
}

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_SONAME: u64 = 14;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;
const DT_VERDEF: u64 = 0x6fff_fffc;
const DT_VERDEFNUM: u64 = 0x6fff_fffd;
const DT_VERNEED: u64 = 0x6fff_fffe;
const DT_VERNEEDNUM: u64 = 0x6fff_ffff;
/// `VER_FLG_BASE`: the version entry that only names the file itself.
const VERSION_BASE: u16 = 1;
/// `VER_FLG_WEAK`: a missing version is not an error.
const VERSION_WEAK: u16 = 2;

/// Most bytes of one dynamic section, one version table, and most entries of either.
const TABLE_LIMIT: u64 = 1 << 20;
const ENTRY_LIMIT: u64 = 4096;

impl ElfInfo {
    /// Reads the headers and the dynamic section of a file of `size` bytes.
    ///
    /// # Errors
    /// The outer error when the file cannot be read, the inner one when it is malformed.
    pub fn read<R: ReadAt + ?Sized>(reader: &R, size: u64) -> io::Result<Result<Self, ElfError>> {
        match read(&mut Bounded::new(reader, size)) {
            Ok(info) => Ok(Ok(info)),
            Err(Fault::Malformed("class")) => Ok(Err(ElfError::Class)),
            Err(Fault::Malformed(what)) => Ok(Err(ElfError::Malformed(what))),
            Err(Fault::Io(error)) => Err(error),
        }
    }
}

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    file_size: u64,
}

fn read<R: ReadAt + ?Sized>(file: &mut Bounded<'_, R>) -> Result<ElfInfo, Fault> {
    let header = file.bytes(0, 64, 64, "class")?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return Err(Fault::Malformed("class"));
    }
    let mut info = ElfInfo {
        machine: number(&header, 18, 2) as u16,
        kind: if matches!(number(&header, 16, 2), 2 | 3) { ElfKind::Loadable } else { ElfKind::Object },
        interpreter: None,
        soname: None,
        needed: Vec::new(),
        rpath: Vec::new(),
        runpath: Vec::new(),
        versions_needed: Vec::new(),
        versions_defined: Vec::new(),
    };
    if info.kind == ElfKind::Object {
        return Ok(info);
    }
    let segments = segments(file, &header)?;
    if let Some(interpreter) = segments.iter().find(|segment| segment.kind == PT_INTERP) {
        let bytes = file.bytes(interpreter.offset, interpreter.file_size, 4096, "interpreter")?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        info.interpreter = Some(String::from_utf8_lossy(&bytes[..end]).into_owned());
    }
    if let Some(dynamic) = segments.iter().find(|segment| segment.kind == PT_DYNAMIC) {
        read_dynamic(file, &segments, dynamic, &mut info)?;
    }
    Ok(info)
}

fn segments<R: ReadAt + ?Sized>(file: &Bounded<'_, R>, header: &[u8]) -> Result<Vec<Segment>, Fault> {
    let (offset, entry_size, count) = (number(header, 32, 8), number(header, 54, 2), number(header, 56, 2));
    if count == 0 {
        return Ok(Vec::new());
    }
    if entry_size < 56 {
        return Err(Fault::Malformed("program header table"));
    }
    let table = file.bytes(offset, entry_size * count, TABLE_LIMIT, "program header table")?;
    let segment = |entry: &[u8]| Segment {
        kind: number(entry, 0, 4) as u32,
        offset: number(entry, 8, 8),
        address: number(entry, 16, 8),
        file_size: number(entry, 32, 8),
    };
    Ok(table.chunks_exact(entry_size as usize).map(segment).collect())
}

/// Returns where in the file a virtual address is.
fn file_offset(segments: &[Segment], address: u64, what: &'static str) -> Result<u64, Fault> {
    segments
        .iter()
        .filter(|segment| segment.kind == PT_LOAD)
        .find_map(|segment| {
            let inside = address.checked_sub(segment.address)?;
            if inside < segment.file_size { segment.offset.checked_add(inside) } else { None }
        })
        .ok_or(Fault::Malformed(what))
}

fn read_dynamic<R: ReadAt + ?Sized>(
    file: &mut Bounded<'_, R>,
    segments: &[Segment],
    dynamic: &Segment,
    info: &mut ElfInfo,
) -> Result<(), Fault> {
    let table = file.bytes(dynamic.offset, dynamic.file_size, TABLE_LIMIT, "dynamic section")?;
    let entries: Vec<(u64, u64)> = table
        .chunks_exact(16)
        .map(|entry| (number(entry, 0, 8), number(entry, 8, 8)))
        .take_while(|(tag, _)| *tag != 0)
        .collect();
    let value = |wanted: u64| entries.iter().find(|(tag, _)| *tag == wanted).map(|(_, value)| *value);
    let Some(strings) = value(DT_STRTAB) else { return Ok(()) };
    let strings = file_offset(segments, strings, "string table")?;
    for (tag, value) in &entries {
        if !matches!(*tag, DT_NEEDED | DT_SONAME | DT_RPATH | DT_RUNPATH) {
            continue;
        }
        let text = string(file, strings, *value)?;
        let list = || text.split(':').filter(|path| !path.is_empty()).map(str::to_owned);
        match *tag {
            DT_NEEDED => info.needed.push(text),
            DT_SONAME => info.soname = Some(text),
            DT_RPATH => info.rpath.extend(list()),
            _ => info.runpath.extend(list()),
        }
    }
    if let (Some(address), Some(count)) = (value(DT_VERNEED), value(DT_VERNEEDNUM)) {
        let offset = file_offset(segments, address, "version needs")?;
        info.versions_needed = versions_needed(file, strings, offset, count)?;
    }
    if let (Some(address), Some(count)) = (value(DT_VERDEF), value(DT_VERDEFNUM)) {
        let offset = file_offset(segments, address, "version definitions")?;
        info.versions_defined = versions_defined(file, strings, offset, count)?;
    }
    Ok(())
}

fn string<R: ReadAt + ?Sized>(file: &mut Bounded<'_, R>, table: u64, offset: u64) -> Result<String, Fault> {
    let position = table.checked_add(offset).ok_or(Fault::Malformed("string table"))?;
    file.string(position, "string table")
}

/// Advances by `next`, which is 0 for the last entry of a list.
fn advance(position: u64, next: u64, what: &'static str) -> Result<Option<u64>, Fault> {
    if next == 0 {
        return Ok(None);
    }
    position.checked_add(next).map(Some).ok_or(Fault::Malformed(what))
}

/// Reads `Elfxx_Verneed` entries, each with its list of `Elfxx_Vernaux`.
fn versions_needed<R: ReadAt + ?Sized>(
    file: &mut Bounded<'_, R>,
    strings: u64,
    offset: u64,
    count: u64,
) -> Result<Vec<(String, String)>, Fault> {
    const WHAT: &str = "version needs";
    let (mut versions, mut steps) = (Vec::new(), 0);
    let mut position = Some(offset);
    for _ in 0..count {
        let Some(at) = position else { break };
        let entry = file.bytes(at, 16, 16, WHAT)?;
        let library = string(file, strings, number(&entry, 4, 4))?;
        let mut auxiliary = advance(at, number(&entry, 8, 4), WHAT)?;
        for _ in 0..number(&entry, 2, 2) {
            let Some(at) = auxiliary else { break };
            // Lists may run in circles.
            steps += 1;
            if steps > ENTRY_LIMIT {
                return Err(Fault::Malformed(WHAT));
            }
            let entry = file.bytes(at, 16, 16, WHAT)?;
            if number(&entry, 4, 2) as u16 & VERSION_WEAK == 0 {
                versions.push((library.clone(), string(file, strings, number(&entry, 8, 4))?));
            }
            auxiliary = advance(at, number(&entry, 12, 4), WHAT)?;
        }
        position = advance(at, number(&entry, 12, 4), WHAT)?;
        steps += 1;
        if steps > ENTRY_LIMIT {
            return Err(Fault::Malformed(WHAT));
        }
    }
    Ok(versions)
}

/// Reads `Elfxx_Verdef` entries; the first auxiliary entry of each names the version.
fn versions_defined<R: ReadAt + ?Sized>(
    file: &mut Bounded<'_, R>,
    strings: u64,
    offset: u64,
    count: u64,
) -> Result<Vec<String>, Fault> {
    const WHAT: &str = "version definitions";
    let mut versions = Vec::new();
    let mut position = Some(offset);
    for _ in 0..count.min(ENTRY_LIMIT) {
        let Some(at) = position else { break };
        let entry = file.bytes(at, 20, 20, WHAT)?;
        if number(&entry, 2, 2) as u16 & VERSION_BASE == 0
            && let Some(auxiliary) = advance(at, number(&entry, 12, 4), WHAT)?
        {
            let auxiliary = file.bytes(auxiliary, 8, 8, WHAT)?;
            versions.push(string(file, strings, number(&auxiliary, 0, 4))?);
        }
        position = advance(at, number(&entry, 16, 4), WHAT)?;
    }
    Ok(versions)
}

/// Reads a little-endian number of `size` bytes; the caller has read at least that much.
fn number(bytes: &[u8], offset: usize, size: usize) -> u64 {
    bytes[offset..offset + size].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
pub(crate) mod tests;
