//! The 512-byte header block.

use super::super::error::Fault;

pub(super) const BLOCK: usize = 512;

/// A header block.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) kind: u8,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) size: u64,
    pub(super) mtime: i64,
    /// Major and minor number.
    pub(super) device: (u32, u32),
}

impl Header {
    pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Self, Fault> {
        check_sum(block)?;
        let posix = &block[257..263] == b"ustar\0";
        let kind = block[156];
        let mut path = until_nul(&block[..100]).to_vec();
        let prefix = until_nul(&block[345..500]);
        // GNU headers (`ustar  `) have other things in the place of the prefix.
        if posix && !prefix.is_empty() {
            path = [prefix, b"/", &path].concat();
        }
        let device = match kind {
            b'3' | b'4' => (device_number(&block[329..337])?, device_number(&block[337..345])?),
            _ => (0, 0),
        };
        Ok(Header {
            path,
            link: until_nul(&block[157..257]).to_vec(),
            kind,
            mode: (unsigned(&block[100..108], "mode")? & 0o7777) as u32,
            uid: unsigned(&block[108..116], "user ID")?,
            gid: unsigned(&block[116..124], "group ID")?,
            size: unsigned(&block[124..136], "size")?,
            mtime: number(&block[136..148], "modification time")?,
            device,
        })
    }

    /// Tells whether this is a regular file (`7`, contiguous, is to be treated as one).
    pub(super) fn is_file(&self) -> bool {
        matches!(self.kind, b'0' | 0 | b'7')
    }
}

/// "The chksum field: the sum of all octets of the header, the field itself taken as blanks."
fn check_sum(block: &[u8; BLOCK]) -> Result<(), Fault> {
    let declared = unsigned(&block[148..156], "checksum")?;
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    match sum(&block[..148]) + sum(&block[156..]) + 8 * u64::from(b' ') == declared {
        true => Ok(()),
        false => Err(Fault::Checksum("a tar header")),
    }
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn device_number(field: &[u8]) -> Result<u32, Fault> {
    u32::try_from(unsigned(field, "device number")?).map_err(|_| Fault::Damaged("device number in a tar header"))
}

fn unsigned(field: &[u8], what: &'static str) -> Result<u64, Fault> {
    u64::try_from(number(field, what)?).map_err(|_| bad(what))
}

fn bad(what: &'static str) -> Fault {
    Fault::Damaged(match what {
        "mode" => "mode in a tar header",
        "user ID" => "user ID in a tar header",
        "group ID" => "group ID in a tar header",
        "size" => "size in a tar header",
        "checksum" => "checksum field of a tar header",
        "modification time" => "modification time in a tar header",
        _ => "device number in a tar header",
    })
}

/// Reads an octal number between blanks or NULs, or GNU's base-256 one whose first byte is 0x80 or 0xff.
fn number(field: &[u8], what: &'static str) -> Result<i64, Fault> {
    if matches!(field[0], 0x80 | 0xff) {
        return base_256(field).ok_or_else(|| bad(what));
    }
    let start = field.iter().position(|byte| *byte != b' ').unwrap_or(field.len());
    let digits = field[start..].iter().take_while(|byte| matches!(byte, b'0'..=b'7')).count();
    let (digits, rest) = field[start..].split_at(digits);
    if rest.iter().any(|byte| !matches!(byte, 0 | b' ')) {
        return Err(bad(what));
    }
    // At most 12 digits: 36 bits.
    Ok(digits.iter().fold(0, |value, digit| value << 3 | i64::from(digit - b'0')))
}

fn base_256(field: &[u8]) -> Option<i64> {
    let negative = field[0] == 0xff;
    let fill = if negative { 0xff } else { 0 };
    let (high, low) = field[1..].split_at((field.len() - 1).saturating_sub(8));
    if high.iter().any(|byte| *byte != fill) {
        return None;
    }
    let mut bytes = [fill; 8];
    bytes[8 - low.len()..].copy_from_slice(low);
    let value = i64::from_be_bytes(bytes);
    (value.is_negative() == negative).then_some(value)
}
