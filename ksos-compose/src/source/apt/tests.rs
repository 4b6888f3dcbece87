//! The source against small archives, good and hostile.

use ksos_formats::Digest;
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::SignatureType;

use super::testing::*;
use super::*;
use crate::effects::net::Fetch;
use crate::effects::net::tests::server::{Server, reply};
use crate::effects::net::tests::{Fixture, quick};
use crate::ops::OpError;

const MIRROR: &str = "http://mirror.test/debian";

fn repository(key: &TestKey, mirrors: &[&str], suites: &[&str]) -> Repository {
    Repository {
        name: "debian".to_owned(),
        mirrors: mirrors.iter().map(|mirror| (*mirror).to_owned()).collect(),
        suites: suites.iter().map(|suite| (*suite).to_owned()).collect(),
        components: vec!["main".to_owned()],
        keyring: Keyring::parse("test.asc", key.armored().as_bytes()).unwrap(),
    }
}

fn load_one(fetch: &dyn Fetch, repository: &Repository) -> Result<Archive, AptError> {
    load(fetch, std::slice::from_ref(repository), &["amd64"], NOW)
}

fn trixie() -> Suite {
    Suite::new(
        "trixie",
        stanza("hello", "1.0", "amd64", "Depends: libc (>= 2)\n") + &stanza("libc", "2.1", "amd64", ""),
    )
}

#[test]
fn a_signed_archive_is_loaded_and_cached() {
    let key = TestKey::new("one");
    for (suffix, by_hash) in [(".xz", true), (".gz", true), (".xz", false), ("", false)] {
        let suite = Suite { suffix, by_hash, ..trixie() };
        let mut fetch = MemoryFetch::new();
        suite.serve(&mut fetch, MIRROR, key.sign(&suite.release(), Signing::default()));
        let repository = repository(&key, &[MIRROR], &["trixie"]);
        let archive = load_one(&fetch, &repository).unwrap();
        assert_eq!(archive.indexes[0].packages.len(), 2);
        let pinned = resolve_one(&archive, "hello");
        let names: Vec<_> = pinned.iter().map(|package| package.name.as_str()).collect();
        assert_eq!(names, ["hello", "libc"]);
        assert_eq!((pinned[0].repository.as_str(), pinned[0].path.as_str()), ("debian", "pool/hello_1.0_amd64.deb"));
        load_one(&fetch, &repository).unwrap();
        let log = fetch.log.lock().unwrap();
        let fetched = log.iter().filter(|url| !url.ends_with("/InRelease")).count();
        assert_eq!(fetched, 1, "Packages{suffix} comes from the cache the second time: {log:?}");
    }
}

fn resolve_one(archive: &Archive, request: &str) -> Vec<Pinned> {
    Universe::new(archive, "amd64").resolve(&[request.to_owned()], &Options::default()).unwrap()
}

#[test]
fn the_next_mirror_helps_when_one_is_bad() {
    let key = TestKey::new("one");
    let suite = trixie();
    let mut fetch = MemoryFetch::new();
    fetch.files.insert("http://html.test/debian/dists/trixie/InRelease".to_owned(), b"<html>Log in</html>".to_vec());
    suite.serve(&mut fetch, MIRROR, key.sign(&suite.release(), Signing::default()));
    let repository = repository(&key, &["http://gone.test/debian", "http://html.test/debian", MIRROR], &["trixie"]);
    assert_eq!(load_one(&fetch, &repository).unwrap().indexes.len(), 1);
}

#[test]
fn hostile_indexes_are_refused() {
    let key = TestKey::new("one");
    let other = TestKey::new("other");
    let suite = trixie();
    let release = suite.release();
    let good = key.sign(&release, Signing::default());
    let expired = Suite { valid_until: "Valid-Until: Wed, 18 Nov 2026 05:00:00 UTC\n", ..suite.clone() }.release();
    let future = release.replace("Date: Wed, 18 Nov", "Date: Fri, 20 Nov");
    let stable = release.replace("Codename: trixie", "Codename: forky");
    let issuer = |key: &TestKey| {
        let bytes = pgp::types::KeyDetails::fingerprint(&key.public.primary_key);
        bytes.as_bytes().iter().map(|byte| format!("{byte:02X}")).collect::<String>()
    };
    let bad = |reason: &str| format!("no good signature by a key of test.asc: {reason}");
    for (fault, in_release, error) in [
        (
            "html with 200",
            "<!DOCTYPE html>\n<title>x</title>".to_owned(),
            "expected a clear-signed text, found an HTML page".to_owned(),
        ),
        ("unsigned", release.clone(), "expected a clear-signed text, found \"Origin: Test\"".to_owned()),
        (
            "wrong key",
            other.sign(&release, Signing::default()),
            bad(&format!("key {} is not in the keyring", issuer(&other))),
        ),
        (
            "tampered",
            good.replace("Origin: Test", "Origin: Tset"),
            bad(&format!("the signature by {} does not match the text", issuer(&key))),
        ),
        (
            "line added",
            good.replace("Components: main\n", "Components: main\nX: y\n"),
            bad(&format!("the signature by {} does not match the text", issuer(&key))),
        ),
        (
            "text before",
            format!("Suite: trixie\n\n{good}"),
            "expected a clear-signed text, found \"Suite: trixie\"".to_owned(),
        ),
        (
            "text after",
            format!("{good}Suite: trixie\n"),
            format!("line {}: text after the signature", good.lines().count() + 1),
        ),
        (
            "text as header",
            good.replace("Hash: SHA512\n", "Hash: SHA512\nSuite: x\n"),
            "line 3: a header other than Hash before the signed text".to_owned(),
        ),
        ("no signature", clear_sign(&release, &[]), bad("the signature block is empty")),
        (
            "expired",
            key.sign(&expired, Signing::default()),
            "Release is expired: it was valid until 2026-11-18".to_owned(),
        ),
        (
            "from the future",
            key.sign(&future, Signing::default()),
            "Release is from the future: it was made on 2026-11-20, and by this machine's clock it is 2026-11-18"
                .to_owned(),
        ),
        (
            "other suite",
            key.sign(&stable, Signing::default()),
            "it is the Release of suite \"stable\", codename \"forky\"; \"trixie\" was asked for".to_owned(),
        ),
        (
            "not a Release",
            key.sign("hello", Signing::default()),
            "Release line 1: expected `Name: value`, found \"hello\"".to_owned(),
        ),
    ] {
        let mut fetch = MemoryFetch::new();
        suite.serve(&mut fetch, MIRROR, in_release);
        let found = load_one(&fetch, &repository(&key, &[MIRROR], &["trixie"])).unwrap_err().to_string();
        let expected = format!("no good index of debian trixie:\n  {MIRROR}/dists/trixie/InRelease: {error}");
        assert_eq!(found, expected, "{fault}");
    }
}

#[test]
fn a_digest_mismatch_and_a_truncated_index_are_refused() {
    let key = TestKey::new("one");
    let suite = Suite { by_hash: false, ..trixie() };
    let url = format!("{MIRROR}/dists/trixie/main/binary-amd64/Packages.xz");
    let repository = repository(&key, &[MIRROR], &["trixie"]);
    let mut fetch = MemoryFetch::new();
    suite.serve(&mut fetch, MIRROR, key.sign(&suite.release(), Signing::default()));
    fetch.files.get_mut(&url).unwrap()[20] ^= 1;
    let error = load_one(&fetch, &repository).unwrap_err().to_string();
    assert_eq!(error, format!("cannot fetch index of debian trixie main amd64:\n  {url}: wrong digest"));

    // Truncated by the archive itself: its Release vouches for the damaged file.
    let whole = suite.compressed();
    let cut = &whole[..whole.len() - 20];
    let sizes = |bytes: &[u8]| format!("{} {}", Digest::of(bytes), bytes.len());
    let release = suite.release().replace(&sizes(&whole), &sizes(cut));
    fetch.files.insert(format!("{MIRROR}/dists/trixie/InRelease"), key.sign(&release, Signing::default()).into_bytes());
    fetch.files.insert(url, cut.to_vec());
    let error = load_one(&fetch, &repository).unwrap_err().to_string();
    assert!(error.starts_with("index of debian trixie main amd64: "), "{error}");

    // A Packages that is larger than its Release says.
    let size = format!(" {} main/binary-amd64/Packages\n", suite.packages.len());
    let ends = format!("it ends after {} of 9999999 bytes", suite.packages.len());
    for (declared, error) in [("10", "more than 10 bytes"), ("9999999", &ends)] {
        let release = suite.release().replace(&size, &format!(" {declared} main/binary-amd64/Packages\n"));
        let mut fetch = MemoryFetch::new();
        suite.serve(&mut fetch, MIRROR, key.sign(&release, Signing::default()));
        let found = load_one(&fetch, &repository).unwrap_err().to_string();
        assert_eq!(found, format!("index of debian trixie main amd64: {error}"));
    }
}

#[test]
fn what_the_suite_lacks_is_named() {
    let key = TestKey::new("one");
    let suite = trixie();
    let mut fetch = MemoryFetch::new();
    suite.serve(&mut fetch, MIRROR, key.sign(&suite.release(), Signing::default()));
    let good = repository(&key, &[MIRROR], &["trixie"]);
    let error = |repository: &Repository, architecture: &str| {
        load(&fetch, std::slice::from_ref(repository), &[architecture], NOW).unwrap_err().to_string()
    };
    let contrib = Repository { components: vec!["contrib".to_owned()], ..good.clone() };
    assert_eq!(error(&contrib, "amd64"), "debian trixie: Release has no component \"contrib\"; it has main");
    assert_eq!(error(&good, "s390x"), "debian trixie: Release has no architecture \"s390x\"; it has amd64, arm64");
    let missing = "index of debian trixie main arm64: the Release file lists no Packages.xz, Packages.gz or Packages";
    assert_eq!(error(&good, "arm64"), missing);
    let nowhere = Repository { mirrors: Vec::new(), ..good };
    assert_eq!(error(&nowhere, "amd64"), "no good index of debian trixie: it has no mirror");
}

#[test]
fn a_package_that_is_gone_says_what_is_there_now() {
    let key = TestKey::new("one");
    let old = Suite::new("trixie", stanza("runc", "1.1.12", "amd64", ""));
    let new = Suite::new("trixie", stanza("runc", "1.1.15", "amd64", "") + &stanza("runc", "1.2", "arm64", ""));
    let repository = repository(&key, &[MIRROR, "http://b.test/debian"], &["trixie"]);
    let mut fetch = MemoryFetch::new();
    old.serve(&mut fetch, MIRROR, key.sign(&old.release(), Signing::default()));
    let archive = load_one(&fetch, &repository).unwrap();
    let pinned = resolve_one(&archive, "runc").remove(0);
    let try_fetch = |fetch: &MemoryFetch| pool::fetch(fetch, &pinned, &repository, "runtime", NOW);

    // The index still lists it: the download's failure stands.
    let error = try_fetch(&fetch).unwrap_err();
    assert!(matches!(error, AptError::Fetch(_)), "{error}");
    let urls = format!("{MIRROR}/pool/runc_1.1.12_amd64.deb");
    assert!(error.to_string().contains(&urls), "{error}");

    new.serve(&mut fetch, MIRROR, key.sign(&new.release(), Signing::default()));
    assert_eq!(
        try_fetch(&fetch).unwrap_err().to_string(),
        "package runc 1.1.12 (pool/runc_1.1.12_amd64.deb) is gone from every mirror of debian; there is 1.2 (trixie), \
         1.1.15 (trixie) now"
    );
    let none = Suite::new("trixie", stanza("crun", "1", "amd64", ""));
    none.serve(&mut fetch, MIRROR, key.sign(&none.release(), Signing::default()));
    let error = try_fetch(&fetch).unwrap_err().to_string();
    assert!(error.ends_with("gone from every mirror of debian; its index has no version of it now"), "{error}");

    fetch.files.insert("http://b.test/debian/pool/runc_1.1.12_amd64.deb".to_owned(), b"runc_1.1.12_amd64".to_vec());
    assert_eq!(try_fetch(&fetch).unwrap().digest, pinned.sha256);
}

/// A mirror that serves these files, by path, over HTTP.
fn mirror(files: &MemoryFetch) -> Server {
    let files = files.files.clone();
    Server::start(move |seen, stream| match files.get(seen.target()) {
        Some(bytes) => reply(stream, 200, &[], bytes),
        None => reply(stream, 404, &[], b"not here"),
    })
}

#[test]
fn the_downloader_tells_gone_everywhere_from_gone_where_it_can_look() {
    let key = TestKey::new("one");
    let mut old = MemoryFetch::new();
    let mut now = MemoryFetch::new();
    for (fetch, version) in [(&mut old, "1.1.12"), (&mut now, "1.1.15")] {
        let suite = Suite::new("trixie", stanza("runc", version, "amd64", ""));
        suite.serve(fetch, "", key.sign(&suite.release(), Signing::default()));
    }
    let Fixture { downloader, directory: _directory, .. } = Fixture::new(quick());
    let (before, after, empty) = (mirror(&old), mirror(&now), mirror(&MemoryFetch::new()));
    let from = |urls: &[&str]| repository(&key, urls, &["trixie"]);
    let archive = load_one(&downloader, &from(&[&before.url("")])).unwrap();
    let pinned = resolve_one(&archive, "runc").remove(0);
    let error = |urls: &[&str]| pool::fetch(&downloader, &pinned, &from(urls), "runtime", NOW).unwrap_err();

    // The first mirror does not even carry the suite.
    let everywhere = error(&[&empty.url(""), &after.url("")]).to_string();
    let package = "package runc 1.1.12 (pool/runc_1.1.12_amd64.deb) is";
    assert_eq!(everywhere, format!("{package} gone from every mirror of debian; there is 1.1.15 (trixie) now"));

    let closed = "http://127.0.0.1:9";
    let partly = error(&[closed, &after.url("")]).to_string();
    let expected = format!(
        "{package} no longer in the index of debian, and no mirror that answers has it; there is 1.1.15 (trixie) now:"
    );
    assert!(partly.starts_with(&expected), "{partly}");
    for text in [closed, &after.url("/pool/runc_1.1.12_amd64.deb: not found (status 404)")] {
        assert!(partly.contains(text), "no {text:?} in {partly}");
    }
    let source = Box::new(error(&[&after.url("")]));
    let failed = OpError::Package { component: "node".to_owned(), manifest: "examples/a.toml".into(), source };
    let hint = "`ksos-compose update --manifest examples/a.toml node` takes the version there is now";
    assert_eq!(failed.hints(), [hint]);
    // Nobody was asked who could know.
    assert!(matches!(error(&[closed]), AptError::Fetch(FetchError::Unreachable { missing: false, .. })));
    // It is listed, and the file is not there: the mirror is being updated.
    assert!(matches!(error(&[&before.url("")]), AptError::Fetch(FetchError::NotFound { .. })));
}

/// Verifies a text signed by a new key (after `change`) against the key's public part.
fn verify_with(change: impl Fn(&mut TestKey), signing: Signing) -> Result<String, String> {
    verify_by(TestKey::new("policy"), change, signing)
}

fn verify_by(mut key: TestKey, change: impl Fn(&mut TestKey), signing: Signing) -> Result<String, String> {
    change(&mut key);
    let keyring = Keyring::parse("test.gpg", &key.binary()).unwrap();
    let message = cleartext::split(key.sign("A: 1\nB: 2\n", signing).as_bytes()).unwrap();
    let hide = |text: String| {
        let words = text.split(' ').map(|word| if word.len() == 40 { "KEY" } else { word });
        words.collect::<Vec<_>>().join(" ").replace("no good signature by a key of test.gpg: ", "")
    };
    openpgp::verify(&message, &keyring, NOW).map(|_| "good".to_owned()).map_err(|error| hide(error.to_string()))
}

#[test]
fn weak_hashes_are_refused() {
    let sha1 = Signing { hash: HashAlgorithm::Sha1, ..Signing::default() };
    let found = verify_by(TestKey::rsa("weak"), |_| {}, sha1);
    assert_eq!(found, Err("the signature by KEY is made with the weak hash SHA1".to_owned()));
    let weak = |key: &mut TestKey| key.certify(MADE, 0, HashAlgorithm::Sha1, true);
    let found = verify_by(TestKey::rsa("weak"), weak, Signing::default());
    assert_eq!(found, Err("key KEY has no valid self-signature".to_owned()));
    assert_eq!(verify_by(TestKey::rsa("strong"), |_| {}, Signing::default()), Ok("good".to_owned()));
}

#[test]
fn signature_policy() {
    let plain = Signing::default();
    let by_subkey = Signing { subkey: true, ..plain };
    let sha256 = HashAlgorithm::Sha256;
    type Change = fn(&mut TestKey);
    let nothing: Change = |_| {};
    let cases: [(&str, Change, Signing, Result<&str, &str>); 20] = [
        ("good", nothing, plain, Ok("good")),
        ("good subkey", nothing, by_subkey, Ok("good")),
        ("sha256", nothing, Signing { hash: sha256, ..plain }, Ok("good")),
        (
            "binary type",
            nothing,
            Signing { typ: SignatureType::Binary, ..plain },
            Err("the signature by KEY is not one of a text"),
        ),
        (
            "critical part",
            nothing,
            Signing { critical: true, ..plain },
            Err("the signature by KEY has a critical part that is not understood"),
        ),
        (
            "made in the future",
            nothing,
            Signing { created: MADE + 1002 * DAY, ..plain },
            Err("the signature by KEY was made in the future, at 2026-11-20"),
        ),
        ("made within the slack", nothing, Signing { created: MADE + 1001 * DAY, ..plain }, Ok("good")),
        ("signature alive", nothing, Signing { lifetime: 101 * DAY, ..plain }, Ok("good")),
        (
            "signature expired",
            nothing,
            Signing { lifetime: 99 * DAY, ..plain },
            Err("the signature by KEY expired on 2026-11-17"),
        ),
        (
            "older than the key",
            nothing,
            Signing { created: MADE - 1, ..plain },
            Err("the signature by KEY is older than the key"),
        ),
        ("key alive", |key| key.certify(MADE, 1001 * DAY, HashAlgorithm::Sha256, true), plain, Ok("good")),
        (
            "key expired",
            |key| key.certify(MADE, 950 * DAY, HashAlgorithm::Sha256, true),
            plain,
            Err("key KEY expired on 2026-09-29"),
        ),
        (
            "primary of subkey expired",
            |key| key.certify(MADE, 950 * DAY, HashAlgorithm::Sha256, true),
            by_subkey,
            Err("key KEY expired on 2026-09-29"),
        ),
        ("key revoked", TestKey::revoke, plain, Err("key KEY is revoked")),
        ("primary of subkey revoked", TestKey::revoke, by_subkey, Err("key KEY is revoked")),
        (
            "key may not sign",
            |key| key.certify(MADE, 0, HashAlgorithm::Sha256, false),
            plain,
            Err("key KEY may not sign"),
        ),
        (
            "subkey expired",
            |key| key.bind(MADE, 950 * DAY, true, true),
            by_subkey,
            Err("key KEY expired on 2026-09-29"),
        ),
        ("subkey revoked", TestKey::revoke_subkey, by_subkey, Err("key KEY is revoked")),
        ("subkey may not sign", |key| key.bind(MADE, 0, false, true), by_subkey, Err("key KEY may not sign")),
        (
            "subkey does not bind back",
            |key| key.bind(MADE, 0, true, false),
            by_subkey,
            Err("key KEY does not bind back to its primary key"),
        ),
    ];
    for (fault, change, signing, expected) in cases {
        let found = verify_with(change, signing);
        assert_eq!(found.as_deref().map_err(String::as_str), expected, "{fault}");
    }
}

#[test]
fn a_subkey_bound_by_another_key_is_refused() {
    let stranger = TestKey::new("stranger");
    let found = verify_with(
        |key| key.public.public_subkeys[0].signatures = stranger.public.public_subkeys[0].signatures.clone(),
        Signing { subkey: true, ..Signing::default() },
    );
    assert_eq!(found, Err("key KEY is not bound to its primary key".to_owned()));
}

#[test]
fn one_good_signature_among_others_is_enough() {
    let (key, other) = (TestKey::new("one"), TestKey::new("other"));
    let text = "A: 1\n";
    let mut nameless = key.signature(text, Signing::default());
    rename_issuer(&mut nameless);
    let signatures = [other.signature(text, Signing::default()), key.signature(text, Signing::default())];
    let keyring =
        Keyring::parse("two.asc", format!("{}\n{}", TestKey::new("x").armored(), key.armored()).as_bytes()).unwrap();
    assert_eq!(keyring.fingerprints().len(), 2);
    let message = cleartext::split(clear_sign(text, &signatures).as_bytes()).unwrap();
    openpgp::verify(&message, &keyring, NOW).unwrap();
    // The fingerprint in the signed part decides, not the key id outside of it.
    let message = cleartext::split(clear_sign(text, &[nameless]).as_bytes()).unwrap();
    openpgp::verify(&message, &keyring, NOW).unwrap();
}

#[test]
fn a_renewed_copy_of_an_expired_key_counts() {
    let mut key = TestKey::new("one");
    key.certify(MADE, 950 * DAY, HashAlgorithm::Sha256, true);
    let old = key.armored();
    key.certify(MADE + 900 * DAY, 2000 * DAY, HashAlgorithm::Sha256, true);
    let new = key.armored();
    let message = cleartext::split(key.sign("A: 1\n", Signing::default()).as_bytes()).unwrap();
    for (keys, good) in [(format!("{old}{new}"), true), (format!("{new}{old}"), true), (old, false)] {
        let keyring = Keyring::parse("k.asc", keys.as_bytes()).unwrap();
        assert_eq!(openpgp::verify(&message, &keyring, NOW).is_ok(), good);
    }
}

#[test]
fn bad_keyrings_are_refused() {
    let key = TestKey::new("one");
    let error = |bytes: &[u8]| Keyring::parse("k.asc", bytes).unwrap_err().to_string();
    assert_eq!(error(b""), "keyring k.asc: it holds no public key");
    assert_eq!(error(b"hello"), "keyring k.asc: it holds no public key");
    assert_eq!(error(b"\x01\xff"), "keyring k.asc: it is neither binary nor armored");
    let secret = pgp::ser::Serialize::to_bytes(&key.secret).unwrap();
    assert!(error(&secret).starts_with("keyring k.asc: "));
    assert!(Keyring::parse("k.asc", &key.binary()[..20]).is_err());
}

/// The committed keys verify Debian's present archives, and the kernel's dependencies resolve.
///
/// `KSOS_TEST_CACHE` may name a directory that keeps the downloads.
#[test]
#[ignore = "needs a Debian mirror"]
#[expect(clippy::disallowed_methods, reason = "a test reads its own environment")]
fn debian_mirrors_verify_and_resolve() {
    let directory = tempfile::tempdir().unwrap();
    let root = std::env::var_os("KSOS_TEST_CACHE").map_or_else(|| directory.path().to_owned(), Into::into);
    let fetch = NetFetch { cache: crate::cache::Cache::open(&root).unwrap() };
    let host = mirror::host_uris(std::path::Path::new("/etc/apt"));
    let environment = std::env::var("KSOS_APT_MIRROR").ok();
    let keys = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/keys");
    let now = crate::effects::clock::now_seconds();
    for codename in ["trixie", "bookworm"] {
        let repositories = ["debian", "debian-security"].map(|path| {
            let key = keys.join(format!("debian-archive-{codename}.asc"));
            let fallback = [mirror::public(path)];
            let suites = match path {
                "debian" => vec![codename.to_owned(), format!("{codename}-updates")],
                _ => vec![format!("{codename}-security")],
            };
            Repository {
                name: path.to_owned(),
                mirrors: mirror::order(environment.as_deref(), &host, path, &fallback),
                suites,
                components: vec!["main".to_owned()],
                keyring: Keyring::parse(codename, &std::fs::read(key).unwrap()).unwrap(),
            }
        });
        let start = std::time::Instant::now();
        let archive = load(&fetch, &repositories, &["amd64", "arm64"], now).unwrap();
        println!("{codename}: loaded in {:?}", start.elapsed());
        for index in &archive.indexes {
            println!("{} {}: {} packages", index.repository, index.suite, index.packages.len());
        }
        for architecture in ["amd64", "arm64"] {
            let requests = [format!("linux-image-cloud-{architecture}"), "containerd".to_owned(), "runc".to_owned()];
            let exclude = ["linux-base".to_owned(), "initramfs-tools".to_owned()];
            let start = std::time::Instant::now();
            let universe = Universe::new(&archive, architecture);
            println!("{codename} {architecture}: universe made in {:?}", start.elapsed());
            let pinned = universe.resolve(&requests, &Options { recommends: false, exclude: &exclude }).unwrap();
            println!("{codename} {architecture}: resolved in {:?}", start.elapsed());
            let names: Vec<_> = pinned.iter().map(|package| format!("{} {}", package.name, package.version)).collect();
            println!("{codename} {architecture}: {}", names.join(", "));
            assert!(pinned.iter().any(|package| package.name.starts_with("linux-image-6.")), "{names:?}");
            assert!(pinned.iter().any(|package| package.name == "libc6"), "{names:?}");
            let runc = pinned.iter().find(|package| package.name == "runc").unwrap();
            let repository = repositories.iter().find(|repository| repository.name == runc.repository).unwrap();
            let blob = pool::fetch(&fetch, runc, repository, "test", now).unwrap();
            let mut deb = deb::open(crate::effects::fs::open(&blob.path).unwrap()).unwrap();
            assert_eq!(deb.control.field("Version"), runc.version);
            let entries = tar::Archive::new(&mut deb.data).entries().unwrap().count();
            assert!(entries > 5, "{entries}");
        }
    }
}
