//! The boot state: which system slot starts, and which one is on trial.
//!
//! A block is a GRUB environment block of exactly 512 bytes (GRUB manual, "Environment block"): the signature line,
//! `name=value` lines, and `#` up to the end. One block is one sector, so it is written by one write. Two copies are
//! kept on the EFI system partition, each in its own directory and so in its own clusters:
//!
//! ```text
//! # GRUB Environment Block
//! gen=7          generation: grows by one with every change made by the node; GRUB keeps it
//! act=a          slot that starts: a or b
//! try=b          slot on trial, or `-`
//! left=3         tries left for it, 0 to 3; GRUB takes one before each try
//! end=7          equals gen and is written last, so that a mix of two blocks is seen
//! ###...         to 512 bytes
//! ```
//!
//! The node writes copy 1, then copy 2, in place, with one aligned synchronous write each. GRUB and the node read
//! copy 1, and copy 2 only when copy 1 is not valid. The same values are valid in `grub.cfg` and in
//! [`BootState::decode`]: in particular a trial never names the active slot, and without one no tries are left.
//! (Of a name given twice GRUB takes one; here that is an error.) Unknown names are ignored, so a later composer can
//! add some.
//!
//! Two more blocks of the same form, the marks ([`Mark`]), say which slots were found good. GRUB looks at them only when
//! neither copy of the boot state is valid.

use std::fmt;

/// Size of a block in bytes: one sector.
pub const BLOCK_SIZE: usize = 512;
/// Where the two copies are on the EFI system partition, in the order in which they are read and written.
pub const COPIES: [&str; 2] = ["EFI/ksos/state1/boot.env", "EFI/ksos/state2/boot.env"];
/// Where the confirmed marks of slot A and slot B are on the EFI system partition.
pub const MARKS: [&str; 2] = ["EFI/ksos/slot-a/confirmed.env", "EFI/ksos/slot-b/confirmed.env"];
/// Tries that a new trial has.
pub const MAX_TRIES: u8 = 3;

/// Largest generation: 19 decimal digits, which is what `grub.cfg` takes.
pub const MAX_GENERATION: u64 = 9_999_999_999_999_999_999;

const SIGNATURE: &str = "# GRUB Environment Block\n";

/// A system slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// System slot A.
    A,
    /// System slot B.
    B,
}

impl Slot {
    /// Returns `a` or `b`, as in the block and in `ksos.slot=`.
    pub fn name(self) -> &'static str {
        match self {
            Slot::A => "a",
            Slot::B => "b",
        }
    }

    /// Returns the other slot.
    pub fn other(self) -> Slot {
        match self {
            Slot::A => Slot::B,
            Slot::B => Slot::A,
        }
    }

    /// Returns the slot of that name.
    pub fn from_name(name: &str) -> Option<Slot> {
        match name {
            "a" => Some(Slot::A),
            "b" => Some(Slot::B),
            _ => None,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The content of a boot-state block. The slot on trial is always the other one than [`BootState::active`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootState {
    /// Generation, at most [`MAX_GENERATION`].
    pub generation: u64,
    /// The slot that starts when there is no trial, or no tries are left.
    pub active: Slot,
    /// Tries left for the other slot, 0 to [`MAX_TRIES`]; `None` without a trial.
    pub trial: Option<u8>,
}

/// Bytes that are not a valid boot-state block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BootStateError {
    /// It is not there, or the medium does not give it.
    #[error("the boot-state block cannot be read")]
    Unreadable,
    /// Not [`BLOCK_SIZE`] bytes.
    #[error("the boot-state block has {0} bytes instead of 512")]
    Size(usize),
    /// The first line is not the signature of an environment block.
    #[error("the boot-state block does not begin with the signature of a GRUB environment block")]
    Signature,
    /// A line without `=`, with bytes other than printable ASCII, or without its end.
    #[error("the boot-state block has a malformed line at byte {0}")]
    Line(usize),
    /// A required name is missing.
    #[error("the boot-state block has no {0:?}")]
    Missing(&'static str),
    /// A name is there twice.
    #[error("the boot-state block has {0:?} more than once")]
    Duplicate(&'static str),
    /// A value is not one of those allowed.
    #[error("the boot-state block has a wrong value for {0:?}")]
    Value(&'static str),
    /// `end` differs from `gen`: parts of two different blocks.
    #[error("the boot-state block is torn: its end differs from its generation")]
    Torn,
    /// `try` and `left` do not fit `act`: a trial of the active slot, or tries without a trial.
    #[error("the boot-state block has a trial that does not fit its active slot")]
    Trial,
}

impl BootState {
    /// Returns the state of a new image: slot A is active, and nothing is on trial.
    pub fn initial() -> Self {
        BootState { generation: 1, active: Slot::A, trial: None }
    }

    /// Returns the slot on trial, with tries left or not.
    pub fn trial_slot(&self) -> Option<Slot> {
        self.trial.map(|_| self.active.other())
    }

    /// Returns the canonical block.
    pub fn encode(&self) -> [u8; BLOCK_SIZE] {
        let (trial, left) = match self.trial {
            Some(left) => (self.active.other().name(), left.min(MAX_TRIES)),
            None => ("-", 0),
        };
        let text = format!(
            "{SIGNATURE}gen={generation}\nact={active}\ntry={trial}\nleft={left}\nend={generation}\n",
            generation = self.generation.min(MAX_GENERATION),
            active = self.active,
        );
        padded(&text)
    }

    /// Reads a block as GRUB would.
    ///
    /// # Errors
    /// [`BootStateError`]: the copy is not valid, and the other one is to be used.
    pub fn decode(block: &[u8]) -> Result<Self, BootStateError> {
        let fields = Fields::read(body(block)?, NAMES)?;
        let generation = fields.number("gen")?;
        let end = fields.number("end")?;
        let active = Slot::from_name(fields.get("act")?).ok_or(BootStateError::Value("act"))?;
        let left = match fields.get("left")? {
            "0" => 0,
            "1" => 1,
            "2" => 2,
            "3" => 3,
            _ => return Err(BootStateError::Value("left")),
        };
        if end != generation {
            return Err(BootStateError::Torn);
        }
        let trial = match fields.get("try")? {
            "-" if left == 0 => None,
            "-" => return Err(BootStateError::Trial),
            name => {
                let slot = Slot::from_name(name).ok_or(BootStateError::Value("try"))?;
                if slot == active {
                    return Err(BootStateError::Trial);
                }
                Some(left)
            }
        };
        Ok(BootState { generation, active, trial })
    }

    /// Reads both copies as GRUB does: copy 1, else copy 2. `None` stands for a copy that cannot be read.
    ///
    /// # Errors
    /// What is wrong with copy 1 (or with copy 2, when copy 1 could not be read), when neither is valid.
    pub fn select(copies: [Option<&[u8]>; 2]) -> Result<Self, BootStateError> {
        let mut failure = BootStateError::Size(0);
        for (index, copy) in copies.into_iter().enumerate() {
            match copy.map(BootState::decode) {
                Some(Ok(state)) => return Ok(state),
                Some(Err(error)) if index == 0 || copies[0].is_none() => failure = error,
                Some(Err(_)) | None => {}
            }
        }
        Err(failure)
    }
}

/// Whether a slot was found good: `ok=yes` or `ok=no` in a block of its own ([`MARKS`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The slot has a version that was kept, whole.
    pub confirmed: bool,
}

impl Mark {
    /// Returns the canonical block.
    pub fn encode(self) -> [u8; BLOCK_SIZE] {
        padded(&format!("{SIGNATURE}ok={}\n", if self.confirmed { "yes" } else { "no" }))
    }

    /// Reads a block as GRUB would.
    ///
    /// # Errors
    /// [`BootStateError`]: not a mark. GRUB takes the slot for one that is not confirmed.
    pub fn decode(block: &[u8]) -> Result<Self, BootStateError> {
        match Fields::read(body(block)?, ["ok"])?.get("ok")? {
            "yes" => Ok(Mark { confirmed: true }),
            "no" => Ok(Mark { confirmed: false }),
            _ => Err(BootStateError::Value("ok")),
        }
    }
}

/// Fills a block up with `#`. The texts of this module are far shorter than a block.
fn padded(text: &str) -> [u8; BLOCK_SIZE] {
    let mut block = [b'#'; BLOCK_SIZE];
    block[..text.len()].copy_from_slice(text.as_bytes());
    block
}

/// Returns what is behind the signature.
fn body(block: &[u8]) -> Result<&[u8], BootStateError> {
    if block.len() != BLOCK_SIZE {
        return Err(BootStateError::Size(block.len()));
    }
    block.strip_prefix(SIGNATURE.as_bytes()).ok_or(BootStateError::Signature)
}

const NAMES: [&str; 5] = ["gen", "act", "try", "left", "end"];

/// Names that are looked for, and their values.
struct Fields<'a, const N: usize> {
    names: [&'static str; N],
    values: [Option<&'a str>; N],
}

impl<'a, const N: usize> Fields<'a, N> {
    /// Reads lines until the `#` padding. Like GRUB, skips lines that begin with `#`.
    fn read(body: &'a [u8], names: [&'static str; N]) -> Result<Self, BootStateError> {
        let mut fields = Fields { names, values: [None; N] };
        let mut position = 0;
        while position < body.len() {
            let rest = &body[position..];
            let malformed = BootStateError::Line(SIGNATURE.len() + position);
            let end = rest.iter().position(|&byte| byte == b'\n');
            if rest[0] == b'#' {
                position += end.map_or(rest.len(), |end| end + 1);
                continue;
            }
            let line = &rest[..end.ok_or(malformed)?];
            if !line.iter().all(|byte| (b' '..=b'~').contains(byte) && *byte != b'\\') {
                return Err(malformed);
            }
            let line = std::str::from_utf8(line).map_err(|_| malformed)?;
            let (name, value) = line.split_once('=').ok_or(malformed)?;
            if let Some(index) = fields.names.iter().position(|known| *known == name)
                && fields.values[index].replace(value).is_some()
            {
                return Err(BootStateError::Duplicate(fields.names[index]));
            }
            position += line.len() + 1;
        }
        Ok(fields)
    }

    fn get(&self, name: &'static str) -> Result<&'a str, BootStateError> {
        let index = self.names.iter().position(|known| *known == name);
        index.and_then(|index| self.values[index]).ok_or(BootStateError::Missing(name))
    }

    /// Reads a decimal number of canonical form, so that GRUB's comparison of the texts and ours of the numbers agree.
    fn number(&self, name: &'static str) -> Result<u64, BootStateError> {
        let text = self.get(name)?;
        let number: u64 = text.parse().map_err(|_| BootStateError::Value(name))?;
        let canonical = number <= MAX_GENERATION && number.to_string() == text;
        if canonical { Ok(number) } else { Err(BootStateError::Value(name)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> Vec<u8> {
        let mut bytes = format!("{SIGNATURE}{text}").into_bytes();
        bytes.resize(BLOCK_SIZE, b'#');
        bytes
    }

    #[test]
    fn the_initial_block_has_these_bytes() {
        let text = "# GRUB Environment Block\ngen=1\nact=a\ntry=-\nleft=0\nend=1\n";
        let encoded = BootState::initial().encode();
        assert_eq!(&encoded[..text.len()], text.as_bytes());
        assert!(encoded[text.len()..].iter().all(|byte| *byte == b'#'));
    }

    #[test]
    fn every_state_round_trips() {
        for generation in [0, 1, 9, MAX_GENERATION] {
            for active in [Slot::A, Slot::B] {
                for trial in [None, Some(0), Some(1), Some(2), Some(3)] {
                    let state = BootState { generation, active, trial };
                    assert_eq!(BootState::decode(&state.encode()), Ok(state));
                }
            }
        }
    }

    #[test]
    fn bad_blocks_are_refused_with_the_reason() {
        let good = "gen=1\nact=a\ntry=-\nleft=0\nend=1\n";
        assert!(BootState::decode(&block(good)).is_ok());
        let table: [(&str, BootStateError); 17] = [
            ("", BootStateError::Missing("gen")),
            ("gen=1\nact=a\ntry=-\nleft=0\n", BootStateError::Missing("end")),
            ("gen=2\nact=a\ntry=-\nleft=0\nend=1\n", BootStateError::Torn),
            ("gen=01\nact=a\ntry=-\nleft=0\nend=1\n", BootStateError::Value("gen")),
            ("gen=-1\nact=a\ntry=-\nleft=0\nend=-1\n", BootStateError::Value("gen")),
            ("gen=10000000000000000000\nact=a\ntry=-\nleft=0\nend=1\n", BootStateError::Value("gen")),
            ("gen=1\nact=c\ntry=-\nleft=0\nend=1\n", BootStateError::Value("act")),
            ("gen=1\nact=\ntry=-\nleft=0\nend=1\n", BootStateError::Value("act")),
            ("gen=1\nact=a\ntry=x\nleft=0\nend=1\n", BootStateError::Value("try")),
            ("gen=1\nact=a\ntry=b\nleft=4\nend=1\n", BootStateError::Value("left")),
            ("gen=1\nact=a\ntry=b\nleft= 3\nend=1\n", BootStateError::Value("left")),
            ("gen=1\nact=a\ntry=a\nleft=3\nend=1\n", BootStateError::Trial),
            ("gen=1\nact=a\ntry=-\nleft=3\nend=1\n", BootStateError::Trial),
            ("gen=1\nact=a\nact=b\ntry=-\nleft=0\nend=1\n", BootStateError::Duplicate("act")),
            ("gen=1\nact\n", BootStateError::Line(31)),
            ("gen=1\nact=a\u{1b}\n", BootStateError::Line(31)),
            ("gen=1\nact=a", BootStateError::Line(31)),
        ];
        for (text, error) in table {
            assert_eq!(BootState::decode(&block(text)), Err(error), "{text:?}");
        }
        let full = block(good);
        assert_eq!(BootState::decode(&full[..511]), Err(BootStateError::Size(511)));
        assert_eq!(BootState::decode(&[]), Err(BootStateError::Size(0)));
        assert_eq!(BootState::decode(&[0xff; 512]), Err(BootStateError::Signature));
        assert_eq!(BootState::decode(&[0; 512]), Err(BootStateError::Signature));
    }

    #[test]
    fn names_of_a_later_format_are_ignored() {
        let text = "gen=1\nact=b\nfloor=12\ntry=a\nleft=2\nend=1\n";
        let state = BootState { generation: 1, active: Slot::B, trial: Some(2) };
        assert_eq!(BootState::decode(&block(text)), Ok(state));
        assert_eq!(state.trial_slot(), Some(Slot::A));
    }

    #[test]
    fn marks_round_trip_and_everything_else_is_none() {
        for confirmed in [true, false] {
            assert_eq!(Mark::decode(&Mark { confirmed }.encode()), Ok(Mark { confirmed }));
        }
        assert!(Mark { confirmed: true }.encode().starts_with(b"# GRUB Environment Block\nok=yes\n###"));
        for (bytes, error) in [
            (block("ok=YES\n"), BootStateError::Value("ok")),
            (block("ok=yes\nok=yes\n"), BootStateError::Duplicate("ok")),
            (block(""), BootStateError::Missing("ok")),
            (vec![0; BLOCK_SIZE], BootStateError::Signature),
            (block("ok=yes\n")[..100].to_vec(), BootStateError::Size(100)),
            (BootState::initial().encode().to_vec(), BootStateError::Missing("ok")),
        ] {
            assert_eq!(Mark::decode(&bytes), Err(error));
        }
        assert_eq!(BootState::decode(&Mark { confirmed: true }.encode()), Err(BootStateError::Missing("gen")));
    }

    #[test]
    fn copy_2_counts_only_without_copy_1() {
        let one = BootState { generation: 2, active: Slot::B, trial: None };
        let two = BootState::initial();
        let (first, second) = (one.encode(), two.encode());
        let junk = [0xff; 512];
        assert_eq!(BootState::select([Some(&first), Some(&second)]), Ok(one));
        assert_eq!(BootState::select([Some(&junk), Some(&second)]), Ok(two));
        assert_eq!(BootState::select([None, Some(&second)]), Ok(two));
        assert_eq!(BootState::select([Some(&junk), None]), Err(BootStateError::Signature));
        assert_eq!(BootState::select([None, Some(&junk)]), Err(BootStateError::Signature));
        assert_eq!(BootState::select([None, None]), Err(BootStateError::Size(0)));
    }

    #[test]
    fn no_single_changed_byte_panics_or_yields_an_unlisted_state() {
        let state = BootState { generation: 41, active: Slot::A, trial: Some(3) };
        let good = state.encode();
        for index in 0..BLOCK_SIZE {
            for byte in 0..=255 {
                let mut bytes = good;
                bytes[index] = byte;
                if let Ok(read) = BootState::decode(&bytes) {
                    assert_eq!(read.generation, 41);
                    assert!(read.trial.is_none_or(|left| left <= MAX_TRIES));
                }
            }
        }
    }
}
