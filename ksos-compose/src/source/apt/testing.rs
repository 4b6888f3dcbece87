//! Test doubles: signing keys made on the spot, a small archive, a fetcher that serves from memory.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Mutex;

use ksos_formats::Digest;
use pgp::armor::BlockType;
use pgp::composed::{
    ArmorOptions, EncryptionCaps, KeyType, SecretKeyParamsBuilder, SignedPublicKey, SignedSecretKey,
    SubkeyParamsBuilder,
};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{KeyFlags, PacketTrait, Signature, SignatureConfig, SignatureType, Subpacket, SubpacketData};
use pgp::ser::Serialize;
use pgp::types::{Duration, KeyDetails, KeyId, Password, SigningKey, Tag, Timestamp};

use super::codec::Compression;
use super::codec::tests::encode;
use crate::cache::{Blob, Cache};
use crate::effects::net::{Fetch, FetchError, Request};

/// The time of the tests: 2026-11-18 12:26:40 UTC, in seconds since 1970.
pub(crate) const NOW: u64 = 1_795_004_800;

/// When test keys are made: a thousand days before.
pub(crate) const MADE: u32 = 1_795_004_800 - 1000 * DAY;

/// A day in seconds.
pub(crate) const DAY: u32 = 86_400;

/// A signing key: Ed25519, with a signing subkey.
pub(crate) struct TestKey {
    pub(crate) secret: SignedSecretKey,
    /// The public part, which tests may damage.
    pub(crate) public: SignedPublicKey,
}

/// How [`TestKey::sign`] signs.
#[derive(Clone, Copy)]
pub(crate) struct Signing {
    pub(crate) hash: HashAlgorithm,
    pub(crate) created: u32,
    pub(crate) lifetime: u32,
    pub(crate) typ: SignatureType,
    /// By the signing subkey instead of the primary key.
    pub(crate) subkey: bool,
    /// With a critical notation.
    pub(crate) critical: bool,
}

impl Default for Signing {
    fn default() -> Self {
        let created = MADE + 900 * DAY;
        let hash = HashAlgorithm::Sha512;
        Signing { hash, created, lifetime: 0, typ: SignatureType::Text, subkey: false, critical: false }
    }
}

impl TestKey {
    pub(crate) fn new(name: &str) -> Self {
        Self::of_type(KeyType::Ed25519Legacy, name)
    }

    /// Makes a key that also signs with weak hashes, which Ed25519 refuses.
    pub(crate) fn rsa(name: &str) -> Self {
        Self::of_type(KeyType::Rsa(2048), name)
    }

    fn of_type(primary: KeyType, name: &str) -> Self {
        let mut subkey = SubkeyParamsBuilder::default();
        subkey.key_type(KeyType::Ed25519Legacy).can_sign(true).can_encrypt(EncryptionCaps::None);
        subkey.created_at(Timestamp::from_secs(MADE));
        let mut params = SecretKeyParamsBuilder::default();
        params.key_type(primary).can_certify(true).can_sign(true).can_encrypt(EncryptionCaps::None);
        params.created_at(Timestamp::from_secs(MADE)).primary_user_id(format!("Test key {name} <test@example.org>"));
        params.subkeys(vec![subkey.build().unwrap()]);
        let secret = params.build().unwrap().generate(rand::thread_rng()).unwrap();
        let mut key = TestKey { public: secret.to_public_key(), secret };
        // The builder's own self-signatures bear the time of the test run: make them again.
        key.certify(MADE, 0, HashAlgorithm::Sha256, true);
        key.bind(MADE, 0, true, true);
        key
    }

    fn config(
        &self,
        typ: SignatureType,
        hash: HashAlgorithm,
        created: u32,
        issuer: &impl KeyDetails,
    ) -> SignatureConfig {
        let mut config = SignatureConfig::v4(typ, issuer.algorithm(), hash);
        config.hashed_subpackets = vec![
            regular(SubpacketData::SignatureCreationTime(Timestamp::from_secs(created))),
            regular(SubpacketData::IssuerFingerprint(issuer.fingerprint())),
        ];
        config.unhashed_subpackets = vec![regular(SubpacketData::IssuerKeyId(issuer.legacy_key_id()))];
        config
    }

    /// Replaces the self-signature over the user id.
    pub(crate) fn certify(&mut self, created: u32, lifetime: u32, hash: HashAlgorithm, sign: bool) {
        let primary = &self.secret.primary_key;
        let mut config = self.config(SignatureType::CertPositive, hash, created, primary);
        config.hashed_subpackets.push(regular(SubpacketData::KeyFlags(flags(sign))));
        config.hashed_subpackets.push(regular(SubpacketData::KeyExpirationTime(Duration::from_secs(lifetime))));
        let user = &self.public.details.users[0].id;
        let password = Password::empty();
        let signature = config.sign_certification(primary, primary.public_key(), &password, Tag::UserId, user).unwrap();
        self.public.details.users[0].signatures = vec![signature];
    }

    /// Replaces the binding of the signing subkey.
    pub(crate) fn bind(&mut self, created: u32, lifetime: u32, sign: bool, back: bool) {
        let (primary, subkey) = (&self.secret.primary_key, &self.secret.secret_subkeys[0].key);
        let mut config = self.config(SignatureType::SubkeyBinding, HashAlgorithm::Sha256, created, primary);
        config.hashed_subpackets.push(regular(SubpacketData::KeyFlags(flags(sign))));
        config.hashed_subpackets.push(regular(SubpacketData::KeyExpirationTime(Duration::from_secs(lifetime))));
        let password = Password::empty();
        if back {
            let config_back = self.config(SignatureType::KeyBinding, HashAlgorithm::Sha256, created, subkey);
            let signature =
                config_back.sign_primary_key_binding(subkey, subkey.public_key(), &password, primary.public_key());
            config.hashed_subpackets.push(regular(SubpacketData::EmbeddedSignature(Box::new(signature.unwrap()))));
        }
        let signature = config.sign_subkey_binding(primary, primary.public_key(), &password, subkey.public_key());
        self.public.public_subkeys[0].signatures = vec![signature.unwrap()];
    }

    /// Revokes the primary key.
    pub(crate) fn revoke(&mut self) {
        let primary = &self.secret.primary_key;
        let config = self.config(SignatureType::KeyRevocation, HashAlgorithm::Sha256, MADE + 10, primary);
        let signature = config.sign_key(primary, &Password::empty(), primary.public_key()).unwrap();
        self.public.details.revocation_signatures.push(signature);
    }

    /// Revokes the signing subkey.
    pub(crate) fn revoke_subkey(&mut self) {
        let (primary, subkey) = (&self.secret.primary_key, &self.secret.secret_subkeys[0].key);
        let config = self.config(SignatureType::SubkeyRevocation, HashAlgorithm::Sha256, MADE + 10, primary);
        let password = Password::empty();
        let signature = config.sign_subkey_binding(primary, primary.public_key(), &password, subkey.public_key());
        self.public.public_subkeys[0].signatures.push(signature.unwrap());
    }

    /// Returns the public key, armored.
    pub(crate) fn armored(&self) -> String {
        self.public.to_armored_string(ArmorOptions::default()).unwrap()
    }

    /// Returns the public key, binary.
    pub(crate) fn binary(&self) -> Vec<u8> {
        self.public.to_bytes().unwrap()
    }

    /// Clear-signs `text`, whose lines neither start with a dash nor end in whitespace.
    pub(crate) fn sign(&self, text: &str, signing: Signing) -> String {
        let block = self.signature(text, signing);
        clear_sign(text, &[block])
    }

    /// Returns a signature over `text`.
    pub(crate) fn signature(&self, text: &str, signing: Signing) -> Signature {
        if signing.subkey {
            self.signature_by(&self.secret.secret_subkeys[0].key, text, signing)
        } else {
            self.signature_by(&self.secret.primary_key, text, signing)
        }
    }

    fn signature_by(&self, key: &impl SigningKey, text: &str, signing: Signing) -> Signature {
        let mut config = self.config(signing.typ, signing.hash, signing.created, key);
        if signing.lifetime != 0 {
            let lifetime = Duration::from_secs(signing.lifetime);
            config.hashed_subpackets.push(regular(SubpacketData::SignatureExpirationTime(lifetime)));
        }
        if signing.critical {
            let data = SubpacketData::Experimental(101, vec![1].into());
            config.hashed_subpackets.push(Subpacket::critical(data).unwrap());
        }
        // The line end before the signature block is not covered.
        let text = text.strip_suffix('\n').unwrap_or(text).replace('\n', "\r\n");
        config.sign(key, &Password::empty(), text.as_bytes()).unwrap()
    }
}

/// Frames `text` with the given signatures.
pub(crate) fn clear_sign(text: &str, signatures: &[Signature]) -> String {
    struct Block<'a>(&'a [Signature]);
    impl Serialize for Block<'_> {
        fn to_writer<W: Write>(&self, writer: &mut W) -> pgp::errors::Result<()> {
            self.0.iter().try_for_each(|signature| signature.to_writer_with_header(writer))
        }
        fn write_len(&self) -> usize {
            self.0.iter().map(PacketTrait::write_len_with_header).sum()
        }
    }
    let mut block = Vec::new();
    pgp::armor::write(&Block(signatures), BlockType::Signature, &mut block, None, true).unwrap();
    let block = String::from_utf8(block).unwrap();
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{text}{end}{block}")
}

/// Makes a signature name another key as its issuer.
pub(crate) fn rename_issuer(signature: &mut Signature) {
    while signature.config().is_some_and(|config| !config.unhashed_subpackets.is_empty()) {
        signature.unhashed_subpacket_remove(0).unwrap();
    }
    let other = SubpacketData::IssuerKeyId(KeyId::new([7; 8]));
    signature.unhashed_subpacket_push(regular(other)).unwrap();
}

fn regular(data: SubpacketData) -> Subpacket {
    Subpacket::regular(data).unwrap()
}

fn flags(sign: bool) -> KeyFlags {
    let mut flags = KeyFlags::default();
    flags.set_certify(true);
    flags.set_sign(sign);
    flags
}

/// Serves files from memory; everything else is a 404.
pub(crate) struct MemoryFetch {
    pub(crate) cache: Cache,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// The URLs that were asked for, in order.
    pub(crate) log: Mutex<Vec<String>>,
    _directory: tempfile::TempDir,
}

impl MemoryFetch {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        MemoryFetch { cache, files: BTreeMap::new(), log: Mutex::default(), _directory: directory }
    }

    fn try_urls(&self, request: &Request<'_>, good: impl Fn(&[u8]) -> bool) -> Result<&[u8], FetchError> {
        let mut failures = Vec::new();
        let mut missing = 0;
        for url in request.urls {
            self.log.lock().unwrap().push(url.clone());
            match self.files.get(url) {
                Some(bytes) if good(bytes) && bytes.len() as u64 <= request.limit => return Ok(bytes),
                Some(_) => failures.push((url.clone(), "wrong digest".to_owned())),
                None => {
                    failures.push((url.clone(), "404 Not Found".to_owned()));
                    missing += 1;
                }
            }
        }
        // As the downloader tells it.
        let name = request.name.to_owned();
        if missing > 0 && missing == request.urls.len() {
            return Err(FetchError::NotFound { name, urls: request.urls.to_vec() });
        }
        Err(FetchError::Unreachable { name, failures, missing: missing > 0 })
    }
}

impl Fetch for MemoryFetch {
    fn blob(&self, request: &Request<'_>) -> Result<Blob, FetchError> {
        if let Some(blob) = request.digest.and_then(|digest| self.cache.blob(&digest, request.size)) {
            return Ok(blob);
        }
        let good = |bytes: &[u8]| request.digest.is_none_or(|digest| digest == Digest::of(bytes));
        Ok(self.cache.insert(self.try_urls(request, good)?)?)
    }

    fn document(&self, request: &Request<'_>) -> Result<Vec<u8>, FetchError> {
        Ok(self.try_urls(request, |_| true)?.to_vec())
    }
}

/// Returns a stanza of `Packages`; `extra` holds more fields, each with its line end. The file's content is its own name.
pub(crate) fn stanza(name: &str, version: &str, architecture: &str, extra: &str) -> String {
    let content = format!("{name}_{version}_{architecture}");
    format!(
        "Package: {name}\nVersion: {version}\nArchitecture: {architecture}\n{extra}\
         Filename: pool/{content}.deb\nSize: {}\nSHA256: {}\n\n",
        content.len(),
        Digest::of(content.as_bytes())
    )
}

/// One suite of a test archive: what its `Release` says, and its files.
#[derive(Clone)]
pub(crate) struct Suite {
    pub(crate) name: &'static str,
    /// `Packages` of amd64.
    pub(crate) packages: String,
    pub(crate) valid_until: &'static str,
    pub(crate) by_hash: bool,
    pub(crate) suffix: &'static str,
}

impl Suite {
    pub(crate) fn new(name: &'static str, packages: String) -> Self {
        let valid_until = "Valid-Until: Wed, 25 Nov 2026 05:00:00 UTC\n";
        Suite { name, packages, valid_until, by_hash: true, suffix: ".xz" }
    }

    /// Returns `Packages` as it is served.
    pub(crate) fn compressed(&self) -> Vec<u8> {
        encode(Compression::from_suffix(self.suffix).unwrap(), self.packages.as_bytes())
    }

    pub(crate) fn release(&self) -> String {
        let compressed = self.compressed();
        format!(
            "Origin: Test\nSuite: stable\nCodename: {}\nDate: Wed, 18 Nov 2026 05:00:00 UTC\n{}Acquire-By-Hash: {}\n\
             Architectures: amd64 arm64\nComponents: main\nSHA256:\n \
             {} {} main/binary-amd64/Packages\n {} {} main/binary-amd64/Packages{}\n",
            self.name,
            self.valid_until,
            if self.by_hash { "yes" } else { "no" },
            Digest::of(self.packages.as_bytes()),
            self.packages.len(),
            Digest::of(&compressed),
            compressed.len(),
            self.suffix,
        )
    }

    /// Puts the suite under `mirror`, with `in_release` as its signed index.
    pub(crate) fn serve(&self, fetch: &mut MemoryFetch, mirror: &str, in_release: impl Into<Vec<u8>>) {
        let base = format!("{mirror}/dists/{}", self.name);
        let compressed = self.compressed();
        fetch.files.insert(format!("{base}/InRelease"), in_release.into());
        let path = if self.by_hash {
            format!("{base}/main/binary-amd64/by-hash/SHA256/{}", Digest::of(&compressed))
        } else {
            format!("{base}/main/binary-amd64/Packages{}", self.suffix)
        };
        fetch.files.insert(path, compressed);
    }
}

/// Fetches from the network: for tests that say that they need it.
pub(crate) struct NetFetch {
    pub(crate) cache: Cache,
}

impl NetFetch {
    fn get(&self, request: &Request<'_>) -> Result<Blob, FetchError> {
        let mut failures = Vec::new();
        for url in request.urls {
            let attempt = || -> Result<Blob, Box<dyn std::error::Error>> {
                let mut response = ureq::get(url).call()?;
                let mut writer = self.cache.writer()?;
                std::io::copy(&mut response.body_mut().with_config().limit(request.limit).reader(), &mut writer)?;
                Ok(writer.commit()?)
            };
            match attempt() {
                Ok(blob) if request.digest.is_none_or(|digest| digest == blob.digest) => return Ok(blob),
                Ok(_) => failures.push((url.clone(), "wrong digest".to_owned())),
                Err(error) => failures.push((url.clone(), error.to_string())),
            }
        }
        Err(FetchError::Unreachable { name: request.name.to_owned(), failures, missing: false })
    }
}

impl Fetch for NetFetch {
    fn blob(&self, request: &Request<'_>) -> Result<Blob, FetchError> {
        match request.digest.and_then(|digest| self.cache.blob(&digest, request.size)) {
            Some(blob) => Ok(blob),
            None => self.get(request),
        }
    }

    fn document(&self, request: &Request<'_>) -> Result<Vec<u8>, FetchError> {
        let blob = self.get(request)?;
        let error = |source| FetchError::Partial { path: blob.path.clone(), source };
        crate::effects::fs::read(&blob.path, request.limit).map_err(|failure| error(failure.source))
    }
}
