//! What cosign leaves in a registry.
#![no_main]

use libfuzzer_sys::fuzz_target;

use ksos_formats::update::cosign::{self, Key};
use ksos_formats::Digest;

fuzz_target!(|bytes: &[u8]| {
    let (left, right) = bytes.split_at(bytes.len() / 2);
    let _ = cosign::simple_signing(bytes, "c2ln", &Digest::of(b"manifest"));
    let _ = cosign::bundle(bytes, b"manifest");
    let _ = cosign::bundle(left, right);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = cosign::simple_signing(left, text, &Digest::of(right));
    if let Ok(key) = Key::from_pem(text) {
        assert!(!key.to_der().is_empty());
    }
});
