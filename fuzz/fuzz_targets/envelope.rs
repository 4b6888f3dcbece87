//! Signed documents as they come from a network.
#![no_main]

use libfuzzer_sys::fuzz_target;

use ksos_formats::update::{Channel, Envelope, KeySet, Release};

fuzz_target!(|bytes: &[u8]| {
    let Ok(envelope) = Envelope::parse(bytes) else { return };
    assert_eq!(Envelope::parse(&envelope.to_json()).as_ref(), Ok(&envelope));
    let keys = ksos_fuzz::keys();
    let release = envelope.verify::<Release>(&keys).is_ok();
    let channel = envelope.verify::<Channel>(&keys).is_ok();
    let set = envelope.verify::<KeySet>(&keys).is_ok();
    // Nobody but the holder of the key makes one that verifies, and then it is of one type.
    assert!(u8::from(release) + u8::from(channel) + u8::from(set) <= 1);
});
