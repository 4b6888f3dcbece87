use ksos_formats::update::envelope::{Envelope, EnvelopeError};
use ksos_formats::update::{Blob, KeySet};

use super::record::{self, ARTIFACT, COMPRESSED, CONTENT_DIGEST, PLAIN, RECORD, Record, RecordError};
use super::*;
use crate::graph::Description;
use crate::registry::manifest::{Descriptor, Manifest};
use crate::registry::push::Artifact;
use crate::sign::{LocalSigner, sign_envelope};

const NOW: u64 = 1_800_000_000;
const KEY: &[u8] = include_bytes!("../../../tests/fixtures/keys/test-only-update.key");
const OTHER_KEY: &[u8] = include_bytes!("../../../tests/fixtures/keys/test-only-second.key");

fn signer(pem: &[u8]) -> LocalSigner {
    LocalSigner::from_pem(pem, "a test's key").unwrap()
}

fn trusted() -> Vec<KeySet> {
    vec![KeySet::new(vec![*signer(KEY).public_key()], 1).unwrap()]
}

fn description(parameter: &str) -> Description {
    Description {
        kind: "unpack".to_owned(),
        version: 3,
        parameters: [("of".to_owned(), parameter.to_owned())].into(),
        inputs: BTreeMap::new(),
    }
}

fn blob() -> Blob {
    Blob { size: 5, sha256: Digest::of(b"hello") }
}

fn a_record() -> Record {
    Record {
        format: 1,
        key: description("a").key(),
        kind: "unpack".to_owned(),
        version: 3,
        outputs: [("index".to_owned(), blob())].into(),
        expires: None,
    }
}

fn manifest(record: &Record, key: Option<&[u8]>) -> Manifest {
    let mut artifact = Artifact::new(ARTIFACT, Vec::new());
    let mut envelope = Envelope::new(record);
    if let Some(key) = key {
        sign_envelope(&mut envelope, &signer(key)).unwrap();
    }
    artifact.annotations.insert(RECORD.to_owned(), String::from_utf8(envelope.to_json()).unwrap());
    record::parse(&artifact.manifest()).unwrap()
}

fn believed(manifest: &Manifest) -> Result<BTreeMap<String, Blob>, RecordError> {
    record::believed(manifest, &description("a"), &trusted(), NOW)
}

#[test]
fn a_record_is_believed_when_a_trusted_key_has_signed_it_for_this_step() {
    assert_eq!(believed(&manifest(&a_record(), Some(KEY))), Ok(a_record().outputs));
    let later = Record { expires: Some(NOW + 1), ..a_record() };
    assert!(believed(&manifest(&later, Some(KEY))).is_ok());
}

#[test]
fn what_is_unsigned_or_signed_by_others_is_refused() {
    let refused = |manifest: &Manifest| believed(manifest).unwrap_err();
    assert_eq!(refused(&manifest(&a_record(), None)), RecordError::Envelope(EnvelopeError::Unsigned));
    let other = refused(&manifest(&a_record(), Some(OTHER_KEY)));
    assert!(matches!(other, RecordError::Envelope(EnvelopeError::Threshold { valid: 0, unknown: 1, .. })), "{other}");
    let mut bare = manifest(&a_record(), Some(KEY));
    bare.annotations.clear();
    assert_eq!(refused(&bare), RecordError::Unsigned);
    let garbage = Manifest { annotations: [(RECORD.to_owned(), "{".to_owned())].into(), ..bare };
    assert!(matches!(refused(&garbage), RecordError::Envelope(EnvelopeError::Form(_))));
    // One whose content was changed after it was signed.
    let good = manifest(&a_record(), Some(KEY));
    let mut envelope = Envelope::parse(good.annotations[RECORD].as_bytes()).unwrap();
    envelope.payload = Envelope::new(&Record { version: 4, ..a_record() }).payload;
    let text = String::from_utf8(envelope.to_json()).unwrap();
    let changed = Manifest { annotations: [(RECORD.to_owned(), text)].into(), ..good };
    assert!(matches!(refused(&changed), RecordError::Envelope(EnvelopeError::Threshold { invalid: 1, .. })));
    // A document of another kind by the right key.
    let mut envelope = Envelope::new(&a_record());
    envelope.payload_type = "application/vnd.kubesolo.os.release.v1+json".to_owned();
    sign_envelope(&mut envelope, &signer(KEY)).unwrap();
    let text = String::from_utf8(envelope.to_json()).unwrap();
    let other_kind = Manifest { annotations: [(RECORD.to_owned(), text)].into(), ..changed };
    assert!(matches!(refused(&other_kind), RecordError::Envelope(EnvelopeError::Type { .. })));
    // No key is trusted at all, or its set has ended.
    let good = manifest(&a_record(), Some(KEY));
    assert_eq!(record::believed(&good, &description("a"), &[], NOW), Err(RecordError::Unsigned));
    let ended: Vec<_> = trusted().into_iter().map(|set| KeySet { expires: Some(NOW), ..set }).collect();
    assert_eq!(record::believed(&good, &description("a"), &ended, NOW), Err(RecordError::Unsigned));
}

#[test]
fn a_signed_record_of_something_else_is_refused() {
    let large = Blob { size: 1 << 50, ..blob() };
    for (record, expected) in [
        (Record { key: description("b").key(), ..a_record() }, RecordError::Key { found: description("b").key() }),
        (Record { version: 2, ..a_record() }, RecordError::Step { kind: "unpack".to_owned(), version: 2 }),
        (Record { kind: "root".to_owned(), ..a_record() }, RecordError::Step { kind: "root".to_owned(), version: 3 }),
        (Record { expires: Some(NOW), ..a_record() }, RecordError::Expired),
        (
            Record { outputs: [("index".to_owned(), large)].into(), ..a_record() },
            RecordError::Size { outputs: 1, largest: 1 << 50 },
        ),
    ] {
        assert_eq!(believed(&manifest(&record, Some(KEY))), Err(expected));
    }
    let newer = believed(&manifest(&Record { format: 2, ..a_record() }, Some(KEY))).unwrap_err();
    assert!(matches!(newer, RecordError::Envelope(EnvelopeError::Format { found: 2, known: 1 })), "{newer}");
}

#[test]
fn what_is_under_the_tag_may_be_anything() {
    let mut other = manifest(&a_record(), Some(KEY));
    other.artifact_type = Some("application/vnd.example".to_owned());
    for bytes in [&b""[..], b"\xff", b"{}", b"[1]", &other.to_bytes()] {
        assert!(matches!(record::parse(bytes), Err(RecordError::Artifact(_))));
    }
}

#[test]
fn layers_are_hints_and_those_without_sense_are_left_out() {
    let layer = |media_type: &str, digest: Option<&str>| {
        let mut layer = Descriptor::new(media_type, &blob());
        layer.annotations.extend(digest.map(|digest| (CONTENT_DIGEST.to_owned(), digest.to_owned())));
        layer
    };
    let content = Digest::of(b"content");
    let mut odd = layer(PLAIN, None);
    odd.digest = "sha512:00".to_owned();
    let layers = vec![
        layer(PLAIN, None),
        layer(COMPRESSED, Some(&content.hex())),
        layer(COMPRESSED, None),
        layer(COMPRESSED, Some("../../etc/passwd")),
        layer("text/plain", None),
        odd,
    ];
    let manifest = Manifest { layers, ..manifest(&a_record(), None) };
    let stored = record::stored(&manifest);
    let expected = |compressed| Stored { blob: blob(), compressed };
    assert_eq!(stored, [(blob().sha256, expected(false)), (content, expected(true))].into());
}

#[test]
fn a_direction_is_left_alone_after_failures_in_a_row() {
    let channel = Channel::new(true);
    assert!(!channel.fails(false) && !channel.fails(false));
    channel.works();
    assert!(!channel.fails(false) && !channel.fails(false) && channel.is_on());
    assert!(channel.fails(false) && !channel.is_on());
    assert!(!channel.fails(false), "said once");
    let channel = Channel::new(true);
    assert!(channel.fails(true) && !channel.is_on());
}
