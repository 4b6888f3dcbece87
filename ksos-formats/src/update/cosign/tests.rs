//! What real `cosign` has signed (tests/fixtures/cosign, made by its generate.sh), and what it has not.

use serde_json::{Value, json};

use super::*;

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!("../../../../tests/fixtures/cosign/", $name))
    };
}

const RELEASE: &str = fixture!("release-manifest.json");
const PAYLOAD: &str = fixture!("classic-payload.json");

fn release() -> Digest {
    Digest::of(RELEASE.as_bytes())
}

fn annotation(manifest: &str) -> String {
    let manifest: Value = serde_json::from_str(manifest).expect("JSON");
    manifest["layers"][0]["annotations"][SIGNATURE_ANNOTATION].as_str().expect("a signature").to_owned()
}

#[test]
fn ed25519_signatures_of_all_forms_verify() {
    let manifest = fixture!("ed25519-release-manifest.json");
    let key = Key::from_pem(fixture!("test-key-ed25519.pub")).expect("a key");
    let verifies = |claim: &Claim| key.verifies(claim, &|_, _, _| panic!("not ECDSA"));
    let signature = annotation(fixture!("ed25519-classic-manifest.json"));
    let payload = fixture!("ed25519-classic-payload.json").as_bytes();
    let digest = Digest::of(manifest.as_bytes());
    for claim in [
        simple_signing(payload, &signature, &digest),
        bundle(fixture!("ed25519-bundle.json").as_bytes(), manifest.as_bytes()),
        bundle(fixture!("ed25519-message-bundle.json").as_bytes(), manifest.as_bytes()),
    ] {
        let mut claim = claim.expect("about this manifest");
        assert!(verifies(&claim));
        claim.message[3] ^= 1;
        assert!(!verifies(&claim));
    }
}

#[test]
fn p256_claims_are_about_the_manifest() {
    assert!(matches!(Key::from_pem(fixture!("test-key-p256.pub")), Ok(Key::EcdsaP256(_))));
    let signature = annotation(fixture!("classic-manifest.json"));
    let claim = simple_signing(PAYLOAD.as_bytes(), &signature, &release()).expect("a claim");
    assert_eq!(claim.message, PAYLOAD.as_bytes());
    let claim = bundle(fixture!("bundle.json").as_bytes(), RELEASE.as_bytes()).expect("a claim");
    assert!(claim.message.starts_with(b"DSSEv1 28 application/vnd.in-toto+json "));
    let claim = bundle(fixture!("message-bundle.json").as_bytes(), RELEASE.as_bytes()).expect("a claim");
    assert_eq!(claim.message, RELEASE.as_bytes());
}

#[test]
fn what_signs_another_manifest_is_refused() {
    let signature = annotation(fixture!("other-digest-manifest.json"));
    let other = simple_signing(fixture!("other-digest-payload.json").as_bytes(), &signature, &release());
    assert!(matches!(other, Err(CosignError::OtherDigest(_))), "{other:?}");
    for text in [fixture!("other-digest-bundle.json"), fixture!("ed25519-bundle.json")] {
        let other = bundle(text.as_bytes(), RELEASE.as_bytes());
        assert!(matches!(other, Err(CosignError::OtherDigest(_))), "{other:?}");
    }
    let other = bundle(fixture!("message-bundle.json").as_bytes(), b"another");
    assert!(matches!(other, Err(CosignError::OtherDigest(_))), "{other:?}");
}

#[test]
fn attestations_are_no_signatures() {
    let manifest = fixture!("attested-manifest.json").as_bytes();
    let attested = bundle(fixture!("attestation-bundle.json").as_bytes(), manifest);
    assert!(matches!(attested, Err(CosignError::Type { what: "predicateType", .. })), "{attested:?}");
}

#[test]
fn damaged_payloads_are_refused() {
    let form = |payload: &str| simple_signing(payload.as_bytes(), "", &release()).expect_err("refused").to_string();
    let twice = PAYLOAD.replacen(
        "{\"docker-manifest-digest\"",
        "{\"docker-manifest-digest\":\"a\",\"docker-manifest-digest\"",
        1,
    );
    for (payload, expected) in [
        ("", "EOF"),
        ("[]", "invalid length"),
        // What is ignored is skipped without recursion.
        (&format!("{{\"x\":{}", "[".repeat(100_000)), "EOF"),
        (&twice, "duplicate field"),
        (&PAYLOAD.replace("cosign container", "my"), "critical.type"),
        (&PAYLOAD.replace("sha256:", "sha512:"), "sha512:"),
        (&PAYLOAD.replace("sha256:", ""), "signs"),
    ] {
        let found = form(payload);
        assert!(found.contains(expected), "{payload:.80}: {found}");
    }
    assert_eq!(simple_signing(PAYLOAD.as_bytes(), "?", &release()), Err(CosignError::Base64("the signature")));
}

#[test]
fn damaged_bundles_are_refused() {
    let good: Value = serde_json::from_str(fixture!("bundle.json")).expect("JSON");
    let change = |path: &str, value: Value| {
        let mut changed = good.clone();
        *changed.pointer_mut(path).expect("there") = value;
        bundle(changed.to_string().as_bytes(), RELEASE.as_bytes()).expect_err("refused")
    };
    let signature = good["dsseEnvelope"]["signatures"][0].clone();
    assert_eq!(change("/dsseEnvelope/signatures", json!([])), CosignError::Signatures(0));
    assert_eq!(change("/dsseEnvelope/signatures", json!([signature, signature])), CosignError::Signatures(2));
    assert_eq!(change("/dsseEnvelope/payload", json!("?")), CosignError::Base64("payload"));
    assert_eq!(change("/dsseEnvelope", Value::Null), CosignError::Content);
    assert!(matches!(change("/mediaType", json!("x")), CosignError::Type { .. }));
    assert!(matches!(change("/dsseEnvelope/payloadType", json!("x")), CosignError::Type { .. }));
    assert!(matches!(change("/dsseEnvelope/payload", json!("e30=")), CosignError::Form { .. }));
    let mut both = good.clone();
    both["messageSignature"] = json!({"signature": ""});
    assert_eq!(bundle(both.to_string().as_bytes(), RELEASE.as_bytes()), Err(CosignError::Content));
}

#[test]
fn keys_of_other_kinds_are_refused() {
    let good = fixture!("test-key-p256.pub");
    let pem = |der: &[u8]| {
        let text = crate::update::envelope::encode_base64(der);
        Key::from_pem(&format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n"))
    };
    let point = |first: u8, length: usize| [&P256_PREFIX[..], &[first], &vec![7; length]].concat();
    for (key, expected) in [
        (Key::from_pem(""), CosignKeyError::Pem),
        (Key::from_pem(&good.replace("PUBLIC", "PRIVATE")), CosignKeyError::Pem),
        (Key::from_pem(&format!("{good}{good}")), CosignKeyError::Pem),
        (Key::from_pem(&format!("{good}{}", " ".repeat(KEY_LIMIT))), CosignKeyError::Pem),
        (pem(&[]), CosignKeyError::Kind),
        (pem(&point(2, 64)), CosignKeyError::Kind),
        (pem(&point(4, 63)), CosignKeyError::Kind),
        (pem(&point(4, 65)), CosignKeyError::Kind),
    ] {
        assert_eq!(key, Err(expected));
    }
    // The identity has order 1.
    let weak = [&ED25519_PREFIX[..], &[1], &[0; 31]].concat();
    assert!(matches!(pem(&weak), Err(CosignKeyError::Ed25519(_))));
}
