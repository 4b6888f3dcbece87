use ksos_formats::update::envelope::EnvelopeError;
use ksos_formats::update::keys::{KeySetError, PublicKeyError};
use ksos_formats::update::{Channel, Envelope, KeySet, Payload, PublicKey, Release};

use super::{generate, hostile};

fn verify<T: Payload + std::fmt::Debug>(name: &str, keys: &KeySet) -> EnvelopeError {
    let parsed = Envelope::parse(&hostile(name));
    let verified = parsed.and_then(|envelope| envelope.verify::<T>(keys));
    verified.expect_err(name)
}

fn threshold(valid: usize, threshold: u32, unknown: usize, invalid: usize) -> EnvelopeError {
    EnvelopeError::Threshold { valid, threshold, unknown, invalid }
}

#[test]
fn signatures_that_do_not_count() {
    let set = generate::first_set();
    assert_eq!(verify::<Release>("unsigned.json", &set), EnvelopeError::Unsigned);
    assert_eq!(verify::<Release>("too-many-signatures.json", &set), EnvelopeError::TooManySignatures(65));
    for (name, unknown, invalid) in [
        ("wrong-key.json", 1, 0),
        ("key-in-the-bundle.json", 1, 0),
        ("wrong-key-with-a-trusted-id.json", 0, 1),
        ("signature-cut-off.json", 0, 1),
        ("signature-too-long.json", 0, 1),
        ("signature-of-nothing.json", 0, 1),
        ("signature-over-the-bare-payload.json", 0, 1),
        ("scalar-plus-order.json", 0, 1),
        ("small-order-commitment.json", 0, 1),
        ("non-canonical-commitment.json", 0, 1),
        ("all-zero-signature.json", 0, 1),
    ] {
        assert_eq!(verify::<Release>(name, &set), threshold(0, 1, unknown, invalid), "{name}");
    }
}

/// What makes these two hostile is the encoding alone: the equation holds.
#[test]
fn the_crafted_commitments_fulfil_the_equation() {
    for name in ["small-order-commitment.json", "scalar-plus-order.json"] {
        let envelope = Envelope::parse(&hostile(name)).unwrap();
        let signature = ed25519_dalek::Signature::from_slice(&envelope.signatures[0].bytes);
        let key = ed25519_dalek::VerifyingKey::from_bytes(generate::public(1).as_bytes()).unwrap();
        let lenient = signature
            .is_ok_and(|signature| ed25519_dalek::Verifier::verify(&key, &envelope.message(), &signature).is_ok());
        assert_eq!(lenient, name.starts_with("small"), "{name}");
    }
}

#[test]
fn one_key_never_counts_twice() {
    let set = generate::threshold_set();
    for name in ["same-signature-twice.json", "same-signature-under-two-ids.json"] {
        assert_eq!(verify::<Release>(name, &set), threshold(1, 2, 0, 0), "{name}");
    }
}

#[test]
fn a_revoked_key_signs_nothing() {
    let envelope = Envelope::parse(&super::fixture("release.json")).unwrap();
    assert!(envelope.verify::<Release>(&generate::first_set()).is_ok());
    assert_eq!(envelope.verify::<Release>(&generate::second_set()), Err(threshold(0, 2, 1, 0)));
}

#[test]
fn a_document_of_one_type_is_none_of_another() {
    let set = generate::first_set();
    let wrong = |expected: &'static str, found: &str| EnvelopeError::Type { expected, found: found.to_owned() };
    assert_eq!(verify::<Release>("signed-as-a-channel.json", &set), wrong(Release::TYPE, Channel::TYPE));
    assert!(matches!(verify::<Channel>("signed-as-a-channel.json", &set), EnvelopeError::Payload(_)));
    assert_eq!(verify::<Channel>("type-changed-after-signing.json", &set), threshold(0, 1, 0, 1));
    assert!(matches!(verify::<Release>("type-with-other-case.json", &set), EnvelopeError::Type { .. }));
}

#[test]
fn what_is_no_envelope_is_refused() {
    for name in [
        "payload-twice.json",
        "type-twice.json",
        "signatures-twice.json",
        "trailing-data.json",
        "cut-off.json",
        "not-base64.json",
        "not-json.json",
        "null.json",
        "empty.json",
        "array-for-text.json",
        "depth-bomb.json",
        "depth-bomb-in-signatures.json",
    ] {
        assert!(matches!(Envelope::parse(&hostile(name)), Err(EnvelopeError::Form(_))), "{name}");
    }
}

#[test]
fn what_is_signed_and_no_release_is_refused() {
    let set = generate::first_set();
    for (name, part) in [
        ("payload-not-json.json", "expected value"),
        ("payload-not-utf8.json", "invalid unicode"),
        ("payload-empty.json", "EOF"),
        ("payload-trailing-data.json", "trailing characters"),
        ("payload-field-twice.json", "duplicate field `version`"),
        ("payload-format-twice.json", "duplicate field `format`"),
        ("payload-unknown-field.json", "unknown field `extra`"),
        ("payload-depth-bomb.json", "unknown field `x`"),
        ("payload-huge-number.json", "invalid type"),
        ("payload-huge-exponent.json", "number out of range"),
        ("payload-fraction.json", "invalid type"),
        ("payload-negative.json", "invalid value"),
        ("payload-number-as-text.json", "invalid type"),
        ("huge-format.json", "invalid type"),
        ("no-format.json", "missing field `format`"),
        ("version-not-semantic.json", "is not a version"),
        ("version-with-leading-zero.json", "is not a version"),
        ("version-too-long.json", "longer than 64"),
        ("arch-unknown.json", "m68k"),
        ("digest-cut-off.json", "64 lower-case"),
    ] {
        let error = verify::<Release>(name, &set);
        let EnvelopeError::Payload(reason) = &error else { panic!("{name}: {error}") };
        assert!(reason.contains(part), "{name}: {reason}");
    }
    assert_eq!(verify::<Release>("later-format.json", &set), EnvelopeError::Format { found: 2, known: 1 });
}

#[test]
fn keys_that_prove_nothing_are_no_keys() {
    let unreadable = |name: &str| match KeySet::from_trusted(&hostile(name)) {
        Err(KeySetError::Envelope(EnvelopeError::Payload(reason))) => reason,
        other => panic!("{name}: {other:?}"),
    };
    assert!(unreadable("keys-small-order.json").contains("small order"));
    assert!(unreadable("keys-non-canonical.json").contains("canonical"));
    assert!(unreadable("keys-not-a-point.json").contains("canonical"));
    unreadable("keys-too-short.json");
    // The eight points of small order (RFC 7748 and Chalkias et al., "Taming the many EdDSAs", table 1), and every
    // encoding beyond the prime.
    let mut sign_bit = [0; 32];
    sign_bit[31] = 0x80;
    for small in 0..19 {
        let bytes = generate::beyond_prime(small);
        for bytes in [bytes, std::array::from_fn(|index| bytes[index] | sign_bit[index])] {
            assert!(PublicKey::from_bytes(&bytes).is_err(), "p + {small}");
        }
    }
    let order_8 = "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a";
    let order_8: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&order_8[2 * at..2 * at + 2], 16).unwrap()).collect();
    assert_eq!(PublicKey::from_bytes(&order_8), Err(PublicKeyError::Weak));
    assert_eq!(PublicKey::from_bytes(&[0; 32]), Err(PublicKeyError::Weak), "order 4");
    assert_eq!(PublicKey::from_bytes(&[0; 31]), Err(PublicKeyError::Length(31)));
}

#[test]
fn key_sets_that_do_not_follow_are_refused() {
    let first = generate::first_set();
    let rotate = |name: &str| first.rotate(&hostile(name)).expect_err(name);
    for (name, expected) in [
        ("keys-rotated-without-the-old.json", threshold(0, 1, 2, 0)),
        ("keys-rotated-without-the-new.json", threshold(0, 2, 1, 0)),
        ("keys-rotated-with-one-of-two.json", threshold(1, 2, 1, 0)),
        ("keys-rotated-by-nobody.json", EnvelopeError::Unsigned),
    ] {
        assert_eq!(rotate(name), KeySetError::Envelope(expected), "{name}");
    }
    for (name, found) in [
        ("keys-version-skipped.json", 3),
        ("keys-version-again.json", 1),
        ("keys-version-zero.json", 0),
        ("keys-version-largest.json", u64::MAX),
    ] {
        assert_eq!(rotate(name), KeySetError::Version { current: 1, found }, "{name}");
    }
    assert_eq!(rotate("keys-threshold-zero.json"), KeySetError::Threshold { threshold: 0, keys: 2 });
    assert_eq!(rotate("keys-threshold-too-high.json"), KeySetError::Threshold { threshold: 3, keys: 2 });
    assert_eq!(rotate("keys-key-twice.json"), KeySetError::Duplicate(generate::public(2).id()));
    assert_eq!(rotate("keys-no-key.json"), KeySetError::Count(0));
    assert_eq!(rotate("keys-too-many.json"), KeySetError::Count(33));
    // A set that is in use and has no sense is met by nothing.
    let broken = KeySet { threshold: 0, ..first };
    let envelope = Envelope::parse(&super::fixture("release.json")).unwrap();
    assert!(envelope.verify::<Release>(&broken).is_err());
}
