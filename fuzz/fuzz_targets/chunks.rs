//! Cutting a slot image into chunks.
#![no_main]

use libfuzzer_sys::fuzz_target;

use ksos_formats::update::chunks::{self, Piece, MAX_CHUNK};

fuzz_target!(|bytes: &[u8]| {
    // A short input stands for a longer image: some chunks.
    let image: Vec<u8> = bytes.iter().copied().cycle().take(if bytes.is_empty() { 0 } else { 1 << 16 }).collect();
    let mut rest = &image[..];
    while !rest.is_empty() {
        let piece = chunks::first(rest);
        assert!(!piece.is_empty() && piece.len() <= MAX_CHUNK);
        let (head, tail) = rest.split_at(piece.len());
        match piece {
            Piece::Data(data) => assert_eq!(data, head),
            Piece::Zeros(_) => assert!(chunks::is_zero(head)),
        }
        rest = tail;
    }
});
