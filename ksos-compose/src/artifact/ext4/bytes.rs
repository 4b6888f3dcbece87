//! Little helpers to lay out on-disk structures.

/// Writes an already encoded integer into `bytes` at `offset`; all offsets in this module are compile-time constants
/// or computed inside a block, so the slice always fits.
pub(super) fn put<const N: usize>(bytes: &mut [u8], offset: usize, value: [u8; N]) {
    bytes[offset..offset + N].copy_from_slice(&value);
}

/// Returns the lower 16 bits.
pub(super) fn low16(value: u32) -> u16 {
    (value & 0xffff) as u16
}

/// Returns the upper 16 bits.
pub(super) fn high16(value: u32) -> u16 {
    (value >> 16) as u16
}

/// Returns the lower 32 bits.
pub(super) fn low32(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

/// Returns the upper 32 bits.
pub(super) fn high32(value: u64) -> u32 {
    (value >> 32) as u32
}
