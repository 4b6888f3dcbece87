//! Key sets, and the rule by which one follows another.
#![no_main]

use libfuzzer_sys::fuzz_target;

use ksos_formats::update::{Envelope, KeySet, Payload};

fuzz_target!(|bytes: &[u8]| {
    let current = ksos_fuzz::keys();
    let _ = current.rotate(bytes);
    if let Ok(set) = KeySet::from_trusted(bytes) {
        assert!(set.check().is_ok() && set.threshold >= 1);
        let again = serde_json::to_vec(&set).expect("a key set is JSON");
        assert_eq!(KeySet::from_trusted(&again), Ok(set));
    }
    if serde_json::from_slice::<KeySet>(bytes).is_err() {
        return;
    }
    let mut envelope = Envelope { payload_type: KeySet::TYPE.to_owned(), payload: bytes.to_vec(), signatures: vec![] };
    ksos_fuzz::sign(&mut envelope);
    if let Ok(next) = current.rotate(&envelope.to_json()) {
        assert_eq!(next.version, current.version + 1);
        assert!(next.check().is_ok() && envelope.verify::<KeySet>(&next).is_ok());
    }
});
