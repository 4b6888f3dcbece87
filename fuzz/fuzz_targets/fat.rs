//! The EFI system partition, where the boot-state blocks are looked for.
#![no_main]

use ksos_fuzz::Memory;
use ksos_runtime::update::bootblocks;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let disk = Memory { bytes: bytes.to_vec(), sector: 512 };
    let Ok(places) = bootblocks::sectors(&disk) else { return };
    for place in places.into_iter().flatten() {
        assert!(place.is_multiple_of(512) && place + 512 <= bytes.len() as u64, "a sector beyond the volume");
    }
});
