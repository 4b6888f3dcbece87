#![expect(clippy::disallowed_methods, reason = "tests write keys and run openssl")]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ksos_formats::update::{Envelope, KeySet};

use super::*;

/// Returns the signer of a seed of these bytes.
pub(crate) fn signer(byte: u8) -> LocalSigner {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode([byte; 32]);
    LocalSigner::from_pem_or_seed(&text, &format!("key {byte}")).unwrap()
}

fn document() -> KeySet {
    KeySet::new(vec![*signer(1).public_key()], 1).unwrap()
}

struct Place {
    directory: tempfile::TempDir,
    variables: BTreeMap<String, String>,
}

impl Place {
    fn new() -> Self {
        let variables = BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]);
        Place { directory: tempfile::tempdir().unwrap(), variables }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn write(&self, name: &str, bytes: &[u8], mode: u32) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn open(&self, source: &str, public_keys: &[&str]) -> Result<OpenedKey, SignError> {
        let public_keys: Vec<PathBuf> = public_keys.iter().map(PathBuf::from).collect();
        let surroundings = Surroundings { variables: &self.variables, directory: self.path() };
        Ok(open(&[source.parse().unwrap()], &public_keys, surroundings)?.remove(0))
    }
}

#[test]
fn a_new_key_is_written_once_and_read_back_from_both_files() {
    let place = Place::new();
    let (private, public) = (place.path().join("a.key"), place.path().join("a.pub"));
    let new = NewKey::generate().unwrap();
    new.write(&private, &public).unwrap();
    assert_eq!(std::fs::metadata(&private).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(read_public_key(&public).unwrap(), new.public_key);
    let opened = place.open("a.key", &[]).unwrap();
    assert_eq!((opened.signer.public_key(), opened.warning), (&new.public_key, None));
    let before = std::fs::read(&private).unwrap();
    for existing in [&private, &public] {
        let other = place.path().join("other");
        let pair = if existing == &private { (existing, &other) } else { (&other, existing) };
        let error = NewKey::generate().unwrap().write(pair.0, pair.1).unwrap_err();
        assert!(matches!(&error, SignError::Exists { path } if path == existing), "{error}");
        assert!(!other.exists());
    }
    assert_eq!(std::fs::read(&private).unwrap(), before);
    assert_ne!(NewKey::generate().unwrap().public_key, new.public_key);
    let mut envelope = Envelope::new(&document());
    sign_envelope(&mut envelope, opened.signer.as_ref()).unwrap();
    let keys = KeySet::new(vec![new.public_key], 1).unwrap();
    assert_eq!(envelope.verify::<KeySet>(&keys).unwrap().keys(), [new.public_key.id()]);
}

#[test]
fn openssl_and_we_read_each_others_keys() {
    let place = Place::new();
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).current_dir(place.path()).output();
        output.ok().map(|output| {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            output.stdout
        })
    };
    if openssl(&["version"]).is_none() {
        assert!(std::env::var_os("KSOS_REQUIRE_TOOLS").is_none(), "openssl is needed");
        println!("skipped: openssl is not installed");
        return;
    }
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", "theirs.key"]);
    openssl(&["pkey", "-in", "theirs.key", "-pubout", "-out", "theirs.pub"]);
    let theirs = place.open("theirs.key", &[]).unwrap().signer;
    assert_eq!(*theirs.public_key(), read_public_key(&place.path().join("theirs.pub")).unwrap());
    let new = NewKey::generate().unwrap();
    new.write(&place.path().join("ours.key"), &place.path().join("ours.pub")).unwrap();
    let derived = openssl(&["pkey", "-in", "ours.key", "-pubout"]).unwrap();
    assert_eq!(derived, std::fs::read(place.path().join("ours.pub")).unwrap());
    // OpenSSL verifies what we sign, and signs for us as a hardware module would.
    place.write("message", b"DSSEv1 message", 0o644);
    let ours = place.open("ours.key", &[]).unwrap().signer;
    place.write("signature", &sign(ours.as_ref(), b"DSSEv1 message").unwrap(), 0o644);
    let arguments = ["pkeyutl", "-verify", "-pubin", "-inkey", "ours.pub", "-rawin", "-in", "message"];
    openssl(&[&arguments[..], &["-sigfile", "signature"]].concat());
    let script = "#!/bin/sh\ncat >to-sign && openssl pkeyutl -sign -inkey theirs.key -rawin -in to-sign\n";
    place.write("hsm", script.as_bytes(), 0o755);
    let external = place.open("exec:./hsm", &["theirs.pub"]).unwrap().signer;
    assert_eq!(sign(external.as_ref(), b"m").unwrap(), sign(theirs.as_ref(), b"m").unwrap());
    for (algorithm, text) in [("ed448", "not an Ed25519"), ("x25519", "not an Ed25519")] {
        openssl(&["genpkey", "-algorithm", algorithm, "-out", "other.key"]);
        openssl(&["pkey", "-in", "other.key", "-pubout", "-out", "other.pub"]);
        let said = place.open("other.key", &[]).unwrap_err().to_string();
        assert!(said.contains(text) && said.starts_with("other.key"), "{said}");
        assert!(read_public_key(&place.path().join("other.pub")).is_err());
    }
    openssl(&["genpkey", "-algorithm", "ed25519", "-aes256", "-pass", "pass:x", "-out", "locked.key"]);
    assert!(place.open("locked.key", &[]).unwrap_err().to_string().contains("encrypted"));
}

#[test]
fn a_key_file_that_others_may_read_is_warned_of() {
    let place = Place::new();
    NewKey::generate().unwrap().write(&place.path().join("a.key"), &place.path().join("a.pub")).unwrap();
    for (mode, warned) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true), (0o700, true)] {
        std::fs::set_permissions(place.path().join("a.key"), std::fs::Permissions::from_mode(mode)).unwrap();
        let warning = place.open("a.key", &[]).unwrap().warning;
        assert_eq!(warning.is_some(), warned, "{mode:o}");
        assert!(warning.is_none_or(|text| text.contains(&format!("mode {mode:04o}"))));
    }
}

#[test]
fn variables_hold_pem_or_a_seed_and_errors_do_not_show_them() {
    let mut place = Place::new();
    let seed = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    place.variables.insert("SEED".to_owned(), format!("{seed}\n"));
    assert_eq!(place.open("env:SEED", &[]).unwrap().signer.public_key(), signer(1).public_key());
    NewKey::generate().unwrap().write(&place.path().join("a.key"), &place.path().join("a.pub")).unwrap();
    let text = std::fs::read_to_string(place.path().join("a.key")).unwrap();
    place.variables.insert("PEM".to_owned(), text);
    let key = *place.open("env:PEM", &[]).unwrap().signer.public_key();
    assert_eq!(key, read_public_key(&place.path().join("a.pub")).unwrap());
    for bad in ["c2VjcmV0c2VjcmV0", "S3cr3t!", "-----BEGIN PRIVATE KEY-----\nUzNjcjN0\n-----END PRIVATE KEY-----"] {
        place.variables.insert("BAD".to_owned(), bad.to_owned());
        let said = format!("{:?} {0}", place.open("env:BAD", &[]).unwrap_err());
        assert!(said.contains("env:BAD") && !said.contains("c2Vjc") && !said.contains("S3c"), "{said}");
    }
    place.variables.insert("NONE".to_owned(), String::new());
    for name in ["NONE", "NOWHERE"] {
        let error = place.open(&format!("env:{name}"), &[]).unwrap_err();
        assert!(matches!(error, SignError::NoVariable { .. }), "{error}");
    }
    assert!(!format!("{:?}", signer(1)).contains("secret"));
}

#[test]
fn a_command_that_does_not_sign_is_named_with_what_it_did() {
    let place = Place::new();
    place.write("a.pub", pem::public_key_pem(signer(1).public_key()).as_bytes(), 0o644);
    let message = b"message";
    let base64 = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(signer(1).sign(message).unwrap())
    };
    for (script, expected) in [
        (format!("cat >/dev/null; echo {base64}"), None),
        ("cat >/dev/null; echo no card >&2; exit 3".to_owned(), Some("no card")),
        ("head -c 63 /dev/zero".to_owned(), Some("answered with 63 bytes")),
        ("head -c 64 /dev/zero".to_owned(), Some("is not by key")),
        ("echo '{}'".to_owned(), Some("answered with 3 bytes")),
        ("true".to_owned(), Some("answered with 0 bytes")),
        ("yes".to_owned(), Some("more than 4096 bytes")),
        ("kill -9 $$".to_owned(), Some("signal: 9")),
    ] {
        place.write("hsm", format!("#!/bin/sh\n{script}\n").as_bytes(), 0o755);
        let signer = place.open("exec:./hsm", &["a.pub"]).unwrap().signer;
        match (sign(signer.as_ref(), message), expected) {
            (Ok(_), None) => {}
            (Err(error), Some(text)) => {
                let said = error.to_string();
                assert!(said.contains(text) && said.starts_with("exec:./hsm: ") && error.is_external(), "{said}");
            }
            (result, _) => panic!("{script}: {result:?}"),
        }
    }
    let surroundings = Surroundings { variables: &place.variables, directory: place.path() };
    let words = ["sh", "-c", "exec sleep 100"].map(str::to_owned);
    let slow = ExternalSigner::new(&words, "exec:sh".to_owned(), *signer(1).public_key(), surroundings).unwrap();
    let error = slow.with_patience(Duration::from_millis(300)).sign(message).unwrap_err();
    assert!(error.to_string().contains("did not end within"), "{error}");
}

#[test]
fn public_keys_go_to_commands_one_each() {
    let place = Place::new();
    place.write("a.pub", pem::public_key_pem(signer(1).public_key()).as_bytes(), 0o644);
    assert!(matches!(place.open("exec:cat", &[]), Err(SignError::NoPublicKey { .. })));
    assert!(matches!(place.open("exec:cat", &["a.pub", "a.pub"]), Err(SignError::ExtraPublicKey { .. })));
    assert!(matches!(place.open("exec:no-such-program-of-ksos", &["a.pub"]), Err(SignError::NoProgram { .. })));
    assert!(matches!(place.open("missing.key", &[]), Err(SignError::Fs(_))));
    place.write("b.key", b"", 0o600);
    assert!(matches!(place.open("b.key", &[]), Err(SignError::Key { .. })));
    assert!(matches!(place.open("a.pub", &[]), Err(SignError::Key { .. })), "a public key does not sign");
}

#[test]
fn an_envelope_keeps_one_signature_for_each_key() {
    let mut envelope = Envelope::new(&document());
    for byte in [1, 2, 1, 2, 2] {
        sign_envelope(&mut envelope, &signer(byte)).unwrap();
    }
    assert_eq!(envelope.signatures.len(), 2);
    let keys = KeySet::new(vec![*signer(1).public_key(), *signer(2).public_key()], 2).unwrap();
    assert_eq!(envelope.verify::<KeySet>(&keys).unwrap().keys().len(), 2);
}
