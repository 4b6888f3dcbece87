//! CRC-32C (Castagnoli, reflected polynomial 0x82F63B78) as ext4 uses it: the caller gives the running value and no
//! final inversion is done (kernel documentation, "ext4 data structures and algorithms", section "Checksums").

const POLYNOMIAL: u32 = 0x82F6_3B78;

/// `TABLES[k][b]` advances the checksum of byte `b` by `k` further zero bytes, so that eight bytes go in at once.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ POLYNOMIAL } else { value >> 1 };
            bit += 1;
        }
        tables[0][byte] = value;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let previous: u32 = tables[table - 1][byte];
            tables[table][byte] = (previous >> 8) ^ tables[0][(previous & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

/// Returns the checksum `value` continued over `bytes`. A fresh checksum starts with `!0`.
pub(super) fn crc32c(value: u32, bytes: &[u8]) -> u32 {
    let mut value = value;
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let mixed = u64::from_le_bytes(*word) ^ u64::from(value);
        value = 0;
        for (position, byte) in mixed.to_le_bytes().into_iter().enumerate() {
            value ^= TABLES[7 - position][usize::from(byte)];
        }
    }
    for byte in rest {
        value = (value >> 8) ^ TABLES[0][((value ^ u32::from(*byte)) & 0xff) as usize];
    }
    value
}

#[cfg(test)]
mod tests {
    use super::crc32c;

    #[test]
    fn the_published_check_value_comes_out() {
        // RFC 3720, appendix B.4, and the usual check string; both state the inverted value.
        assert_eq!(!crc32c(!0, b"123456789"), 0xE306_9283);
        assert_eq!(!crc32c(!0, &[0; 32]), 0x8A91_36AA);
        assert_eq!(!crc32c(!0, &[0xff; 32]), 0x62A8_AB43);
    }

    #[test]
    fn pieces_give_the_same_as_the_whole() {
        let bytes: Vec<u8> = (0..100).collect();
        for split in 0..bytes.len() {
            assert_eq!(crc32c(crc32c(7, &bytes[..split]), &bytes[split..]), crc32c(7, &bytes), "{split}");
        }
    }
}
