//! Short and long names.

use std::collections::BTreeSet;

use super::FatError;

/// Largest number of bytes in a volume label.
pub const LABEL_LENGTH: usize = 11;
/// UTF-16 units of a name in one directory entry.
const UNITS: usize = 13;

/// A short name: 8 bytes and an extension of 3, padded with spaces.
pub(super) type Short = [u8; LABEL_LENGTH];

/// Tells whether a byte may be in a short name (section 6.1).
fn is_short(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit() || b"$%'-_@~`!(){}^#&".contains(&byte)
}

/// Checks and pads a volume label.
pub(super) fn label(label: &str) -> Result<Short, FatError> {
    let fail = |reason| Err(FatError::Label { label: label.to_owned(), reason });
    if label.is_empty() || label.len() > LABEL_LENGTH {
        return fail("it must have 1 to 11 bytes");
    }
    if label.starts_with(' ') || !label.bytes().all(|byte| is_short(byte) || byte == b' ') {
        return fail("allowed are A-Z, 0-9, space (not first) and $%'-_@~`!(){}^#&");
    }
    let mut padded = [b' '; LABEL_LENGTH];
    padded[..label.len()].copy_from_slice(label.as_bytes());
    Ok(padded)
}

/// Says why `name` cannot be a long name (section 7), if so.
pub(super) fn fault(name: &str) -> Option<&'static str> {
    if name.chars().any(|character| character < ' ' || "\"*/:<>?\\|\u{7f}".contains(character)) {
        return Some("its name has a control character or one of \"*/:<>?\\|");
    }
    if name.ends_with(['.', ' ']) || name.starts_with(' ') {
        return Some("its name ends with a dot or a space, or begins with a space");
    }
    if name.encode_utf16().count() > 255 {
        return Some("its name is longer than 255 UTF-16 units");
    }
    None
}

/// Returns the form in which FAT compares names.
pub(super) fn folded(name: &str) -> String {
    name.chars().flat_map(char::to_uppercase).collect()
}

/// Returns the short name that says all, for a name like `BOOTX64.EFI` in any case; whether it is spelt like this in
/// the second place.
pub(super) fn exact_short(name: &str) -> Option<(Short, bool)> {
    let upper = name.to_ascii_uppercase();
    let (base, extension) = upper.rsplit_once('.').unwrap_or((&upper, ""));
    let fits = (1..=8).contains(&base.len()) && extension.len() <= 3 && !upper.ends_with('.');
    if !fits || !base.bytes().chain(extension.bytes()).all(is_short) {
        return None;
    }
    Some((pad(base.as_bytes(), extension.as_bytes()), upper == name))
}

fn pad(base: &[u8], extension: &[u8]) -> Short {
    let mut short = [b' '; LABEL_LENGTH];
    short[..base.len()].copy_from_slice(base);
    short[8..8 + extension.len()].copy_from_slice(extension);
    short
}

/// Makes a short name with a number that is not in `taken` yet (section 7.4, "The Numeric-Tail Generation Algorithm").
pub(super) fn numbered_short(name: &str, taken: &BTreeSet<Short>) -> Short {
    let trimmed = name.trim_start_matches('.');
    let clean = |text: &str, limit: usize| -> Vec<u8> {
        let characters = text.chars().filter(|character| !matches!(character, ' ' | '.'));
        let byte = |character: char| {
            let upper = character.to_ascii_uppercase();
            u8::try_from(upper).ok().filter(|byte| is_short(*byte)).unwrap_or(b'_')
        };
        characters.map(byte).take(limit).collect()
    };
    let (base, extension) = trimmed.rsplit_once('.').unwrap_or((trimmed, ""));
    let (base, extension) = (clean(base, 6), clean(extension, 3));
    let mut number = 1_u32;
    loop {
        let tail = format!("~{number}");
        let head = &base[..base.len().min(8 - tail.len())];
        let short = pad(&[head, tail.as_bytes()].concat(), &extension);
        if !taken.contains(&short) {
            return short;
        }
        number += 1;
    }
}

/// Number of entries before the short one that the long name takes.
pub(super) fn long_entries(name: &str) -> usize {
    name.encode_utf16().count().div_ceil(UNITS)
}

/// Appends the entries of the long name (section 7.2), the last part first.
pub(super) fn put_long(directory: &mut Vec<u8>, name: &str, short: &Short) {
    let mut units: Vec<u16> = name.encode_utf16().collect();
    let count = units.len().div_ceil(UNITS);
    if !units.len().is_multiple_of(UNITS) {
        units.push(0);
        units.resize(count * UNITS, 0xffff);
    }
    let sum = short.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    for (index, part) in units.chunks(UNITS).enumerate().rev() {
        let last = if index + 1 == count { 0x40 } else { 0 };
        let mut entry = [0; 32];
        entry[0] = (index + 1) as u8 | last;
        entry[11] = 0x0f;
        entry[13] = sum;
        let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain([28, 30]);
        for (place, unit) in places.zip(part) {
            entry[place..place + 2].copy_from_slice(&unit.to_le_bytes());
        }
        directory.extend_from_slice(&entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names() {
        assert_eq!(exact_short("BOOTX64.EFI"), Some((*b"BOOTX64 EFI", true)));
        assert_eq!(exact_short("grub.cfg"), Some((*b"GRUB    CFG", false)));
        for name in ["grubx64.efi.signed", "toolongname", "a.json", ".x", "a b", "é", "a+b", "a.b.c"] {
            assert_eq!(exact_short(name), None, "{name}");
        }
        let mut taken = BTreeSet::new();
        for expected in [b"GRUBX6~1SIG", b"GRUBX6~2SIG"] {
            let short = numbered_short("grubx64.efi.signed", &taken);
            assert_eq!(&short, expected);
            taken.insert(short);
        }
        taken.extend((3..10).map(|number| pad(format!("GRUBX6~{number}").as_bytes(), b"SIG")));
        assert_eq!(&numbered_short("grubx64.efi.signed", &taken), b"GRUBX~10SIG");
        assert_eq!(&numbered_short("...é+ b", &taken), b"__B~1      ");
    }

    #[test]
    fn labels() {
        assert_eq!(label("KSOSEFI").unwrap(), *b"KSOSEFI    ");
        for text in ["", "ksosefi", "TWELVE BYTES", "A.B", " A"] {
            assert!(label(text).is_err(), "{text}");
        }
    }
}
