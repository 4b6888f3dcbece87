//! The `.modinfo` section of a kernel module: `key=value` strings, each ended by NUL (Linux `include/linux/module.h`,
//! `MODULE_INFO`). Reads 64-bit little-endian ELF (System V ABI, "Object Files") and trusts no offset in it.

/// Most sections that a module may have. The largest module of Debian's 6.12 has about 3,000.
const MAX_SECTIONS: usize = 65_535;

/// What a module says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Modinfo {
    /// `name`, as the kernel registers it.
    pub name: Option<String>,
    /// `depends`: modules whose symbols it uses, dashes as underscores.
    pub depends: Vec<String>,
    /// `alias` patterns, in the order of the section.
    pub aliases: Vec<String>,
    /// `softdep` texts, e.g. `pre: crc32c`.
    pub softdeps: Vec<String>,
    /// `firmware` files that it may ask for.
    pub firmware: Vec<String>,
    /// `license`.
    pub license: Option<String>,
    /// Whether it was built with the kernel (`intree=Y`).
    pub intree: bool,
}

/// Bytes that are not a kernel module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ModinfoError {
    /// Not a 64-bit little-endian ELF file.
    #[error("not a 64-bit little-endian ELF file")]
    NotElf,
    /// An offset or a size points outside the file.
    #[error("its {0} lies outside the file")]
    OutOfBounds(&'static str),
    /// There is no `.modinfo` section.
    #[error("no .modinfo section")]
    NoSection,
}

impl Modinfo {
    /// Reads the section out of a whole module.
    ///
    /// # Errors
    /// [`ModinfoError`].
    pub fn from_elf(bytes: &[u8]) -> Result<Self, ModinfoError> {
        Ok(Modinfo::from_section(section(bytes, b".modinfo")?))
    }

    /// Reads the strings of the section.
    pub fn from_section(section: &[u8]) -> Self {
        let mut info = Modinfo::default();
        for record in section.split(|byte| *byte == 0) {
            let text = String::from_utf8_lossy(record);
            let Some((key, value)) = text.split_once('=') else { continue };
            // Values with control characters would break the line formats that they end up in.
            if value.is_empty() || value.contains(char::is_control) {
                continue;
            }
            match key {
                "name" => info.name = Some(value.replace('-', "_")),
                "depends" => info.depends.extend(names(value, ',')),
                "alias" => info.aliases.push(value.to_owned()),
                "softdep" => info.softdeps.push(value.to_owned()),
                "firmware" => info.firmware.push(value.to_owned()),
                "license" => info.license = Some(value.to_owned()),
                "intree" => info.intree = value == "Y",
                _ => {}
            }
        }
        info
    }

    /// Returns the names that the soft dependencies want before the module.
    pub fn pre_softdeps(softdeps: &[String]) -> Vec<String> {
        let mut before = Vec::new();
        for softdep in softdeps {
            let mut pre = false;
            for word in softdep.split_ascii_whitespace() {
                match word {
                    "pre:" => pre = true,
                    "post:" => pre = false,
                    name if pre => before.push(name.replace('-', "_")),
                    _ => {}
                }
            }
        }
        before
    }
}

fn names(list: &str, separator: char) -> impl Iterator<Item = String> {
    list.split(separator).map(str::trim).filter(|name| !name.is_empty()).map(|name| name.replace('-', "_"))
}

/// Returns the content of the section with this name.
fn section<'a>(bytes: &'a [u8], wanted: &[u8]) -> Result<&'a [u8], ModinfoError> {
    // e_ident: magic, ELFCLASS64, ELFDATA2LSB.
    if bytes.len() < 64 || !bytes.starts_with(b"\x7fELF\x02\x01") {
        return Err(ModinfoError::NotElf);
    }
    let table = number(bytes, 0x28, 8).ok_or(ModinfoError::NotElf)?;
    let entry_size = number(bytes, 0x3a, 2).ok_or(ModinfoError::NotElf)?;
    let mut count = number(bytes, 0x3c, 2).ok_or(ModinfoError::NotElf)?;
    let mut names_index = number(bytes, 0x3e, 2).ok_or(ModinfoError::NotElf)?;
    let header = |index: usize| -> Option<&[u8]> {
        let start = table.checked_add(index.checked_mul(entry_size)?)?;
        bytes.get(start..start.checked_add(64)?)
    };
    let outside = ModinfoError::OutOfBounds("section header table");
    // "If the number of sections is greater than or equal to SHN_LORESERVE, e_shnum is zero and the actual number is
    // in the sh_size field of the section header at index 0"; likewise sh_link for SHN_XINDEX.
    if count == 0 {
        count = header(0).and_then(|first| number(first, 32, 8)).ok_or(outside)?;
    }
    if names_index == 0xffff {
        names_index = header(0).and_then(|first| number(first, 40, 4)).ok_or(outside)?;
    }
    if entry_size < 64 || count > MAX_SECTIONS {
        return Err(outside);
    }
    let names = header(names_index).and_then(|header| body(bytes, header));
    let names = names.ok_or(ModinfoError::OutOfBounds("section name table"))?;
    for index in 0..count {
        let header = header(index).ok_or(outside)?;
        let name = number(header, 0, 4).and_then(|offset| names.get(offset..)).unwrap_or_default();
        if name.strip_prefix(wanted).is_some_and(|rest| rest.first() == Some(&0)) {
            return body(bytes, header).ok_or(ModinfoError::OutOfBounds(".modinfo section"));
        }
    }
    Err(ModinfoError::NoSection)
}

fn body<'a>(bytes: &'a [u8], header: &[u8]) -> Option<&'a [u8]> {
    let offset = number(header, 24, 8)?;
    let size = number(header, 32, 8)?;
    bytes.get(offset..offset.checked_add(size)?)
}

/// Reads a little-endian number of `size` bytes (2, 4 or 8).
fn number(bytes: &[u8], offset: usize, size: usize) -> Option<usize> {
    let field = bytes.get(offset..offset.checked_add(size)?)?;
    let value = field.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    usize::try_from(value).ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Returns the smallest ELF file with a `.modinfo` section of these strings.
    pub(crate) fn module(strings: &[&str]) -> Vec<u8> {
        let modinfo: Vec<u8> = strings.iter().flat_map(|text| text.bytes().chain([0])).collect();
        let names = b"\0.modinfo\0.shstrtab\0";
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(64, 0);
        bytes[16] = 1; // ET_REL
        bytes[18] = 62; // EM_X86_64
        let modinfo_at = bytes.len();
        bytes.extend(&modinfo);
        let names_at = bytes.len();
        bytes.extend(names);
        let table = bytes.len() as u64;
        for (name, at, size) in [(0u32, 0, 0), (1, modinfo_at, modinfo.len()), (10, names_at, names.len())] {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[4] = 1;
            header[24..32].copy_from_slice(&(at as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(size as u64).to_le_bytes());
            bytes.extend(header);
        }
        bytes[0x28..0x30].copy_from_slice(&table.to_le_bytes());
        bytes[0x34] = 64;
        bytes[0x3a] = 64;
        bytes[0x3c] = 3;
        bytes[0x3e] = 2;
        bytes
    }

    #[test]
    fn fields_are_read_and_normalised() {
        let info = Modinfo::from_elf(&module(&[
            "name=nft-compat",
            "depends=x_tables,nf-tables",
            "alias=nft-expr-target",
            "alias=nft-expr-match",
            "softdep=pre: crc32c-a post: b",
            "firmware=a/b.bin",
            "license=GPL",
            "intree=Y",
            "alias=bad\nline",
            "noise",
        ]))
        .unwrap();
        assert_eq!(info.name.as_deref(), Some("nft_compat"));
        assert_eq!(info.depends, ["x_tables", "nf_tables"]);
        assert_eq!(info.aliases, ["nft-expr-target", "nft-expr-match"]);
        assert_eq!(Modinfo::pre_softdeps(&info.softdeps), ["crc32c_a"]);
        assert_eq!(info.firmware, ["a/b.bin"]);
        assert!(info.intree);
    }

    #[test]
    fn files_that_are_no_modules_are_refused() {
        let good = module(&["name=x"]);
        assert_eq!(Modinfo::from_elf(b""), Err(ModinfoError::NotElf));
        assert_eq!(Modinfo::from_elf(&[0; 100]), Err(ModinfoError::NotElf));
        assert_eq!(Modinfo::from_elf(&good[..80]), Err(ModinfoError::OutOfBounds("section name table")));
        let mut no_section = good.clone();
        let at = good.windows(8).position(|window| window == b".modinfo").unwrap();
        no_section[at] = b'x';
        assert_eq!(Modinfo::from_elf(&no_section), Err(ModinfoError::NoSection));
    }

    proptest::proptest! {
        #[test]
        fn mutated_modules_never_panic(changes in proptest::collection::vec((0usize..400, 0u8..), 1..8), cut in 0usize..400) {
            let mut bytes = module(&["name=x", "depends=a,b"]);
            for (index, byte) in changes {
                if let Some(place) = bytes.get_mut(index) {
                    *place = byte;
                }
            }
            bytes.truncate(bytes.len().saturating_sub(cut % 64));
            let _ = Modinfo::from_elf(&bytes);
        }
    }
}
