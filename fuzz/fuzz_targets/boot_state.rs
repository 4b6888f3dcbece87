//! The boot-state block, both copies of it.
#![no_main]

use libfuzzer_sys::fuzz_target;

use ksos_formats::bootstate::{BootState, BLOCK_SIZE, MAX_GENERATION, MAX_TRIES};

fuzz_target!(|bytes: &[u8]| {
    // What begins as a block does, so that the fuzzer need not find the signature.
    let mut block = b"# GRUB Environment Block\n".to_vec();
    block.extend_from_slice(bytes);
    block.resize(BLOCK_SIZE, b'#');
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let _ = BootState::select([Some(first), Some(second)]);
    for block in [bytes, &block] {
        let Ok(state) = BootState::decode(block) else { continue };
        assert!(state.generation <= MAX_GENERATION && state.trial.is_none_or(|left| left <= MAX_TRIES));
        assert_eq!(BootState::decode(&state.encode()), Ok(state));
        assert_eq!(BootState::select([Some(block), None]), Ok(state));
    }
});
