//! The directory hash "half MD4" (kernel documentation, "Hash Tree Directories"; reduced MD4 after RFC 1320), over
//! unsigned name bytes.

/// The hash of names in the directories of one file system.
#[derive(Debug, Clone, Copy)]
pub(super) struct NameHash {
    start: [u32; 4],
}

/// Stands for the end of a directory when it is read in hash order, so no name may have it.
const END_OF_DIRECTORY: u32 = 0x7fff_ffff << 1;

impl NameHash {
    /// Returns the hash with the superblock's `seed`; an all-zero seed stands for MD4's own start values.
    pub(super) fn new(seed: &[u8; 16]) -> Self {
        let mut start = [0; 4];
        for (word, bytes) in start.iter_mut().zip(seed.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        if start == [0; 4] {
            start = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
        }
        NameHash { start }
    }

    /// Returns the major hash, whose lowest bit is always clear, and the minor hash of `name`.
    pub(super) fn of(&self, name: &[u8]) -> (u32, u32) {
        let mut state = self.start;
        let mut rest = name;
        while !rest.is_empty() {
            half_md4(&mut state, &words(rest));
            rest = &rest[rest.len().min(32)..];
        }
        let major = state[1] & !1;
        let major = if major == END_OF_DIRECTORY { (0x7fff_ffff - 1) << 1 } else { major };
        (major, state[2])
    }
}

/// Packs up to 32 bytes of `name` into words, first byte highest, padded with the length of the whole of `name`.
fn words(name: &[u8]) -> [u32; 8] {
    let length = name.len() as u32;
    let pair = length | (length << 8);
    let padding = pair | (pair << 16);
    let mut words = [padding; 8];
    for (word, bytes) in words.iter_mut().zip(name.chunks(4)) {
        *word = bytes.iter().fold(padding, |value, byte| (value << 8).wrapping_add(u32::from(*byte)));
    }
    words
}

fn half_md4(state: &mut [u32; 4], input: &[u32; 8]) {
    const ORDERS: [[usize; 8]; 3] = [[0, 1, 2, 3, 4, 5, 6, 7], [1, 3, 5, 7, 0, 2, 4, 6], [3, 7, 2, 6, 1, 5, 0, 4]];
    const SHIFTS: [[u32; 4]; 3] = [[3, 7, 11, 19], [3, 5, 9, 13], [3, 9, 11, 15]];
    const CONSTANTS: [u32; 3] = [0, 0x5a82_7999, 0x6ed9_eba1];
    let [mut a, mut b, mut c, mut d] = *state;
    for round in 0..3 {
        for (step, word) in ORDERS[round].into_iter().enumerate() {
            let mixed = match round {
                0 => d ^ (b & (c ^ d)),
                1 => (b & c).wrapping_add((b ^ c) & d),
                _ => b ^ c ^ d,
            };
            let sum = a.wrapping_add(mixed).wrapping_add(input[word]).wrapping_add(CONSTANTS[round]);
            (a, b, c, d) = (d, sum.rotate_left(SHIFTS[round][step % 4]), b, c);
        }
    }
    for (word, addend) in state.iter_mut().zip([a, b, c, d]) {
        *word = word.wrapping_add(addend);
    }
}
