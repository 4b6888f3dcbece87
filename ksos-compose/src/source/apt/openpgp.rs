//! Verifies clear-signed texts against a keyring (RFC 9580).
//!
//! `pgp` does the packets and the mathematics; the policy is here. A signature counts only when all of this holds:
//! it is of type text, version 4 or 6, made with SHA-256 or better, has no critical subpacket that is not understood,
//! was made after its key and not in the future, and has not expired; its key is a primary key or a subkey of the keyring
//! that may sign, is bound (a signing subkey also binds back), is neither expired nor revoked now, nor is its primary key.
//! A revoked key is refused for every signature, whatever the reason of the revocation. One good signature is enough:
//! an archive signs with several keys, of which older clients know only some.

use std::io::BufReader;

use pgp::armor::Dearmor;
use pgp::composed::{Deserializable, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Packet, PacketParser, Signature, SignatureType, SignatureVersion, SubpacketData};
use pgp::types::{KeyDetails, Tag};

use super::cleartext::ClearSigned;

/// How far in the future a signature may be made, in seconds: clocks differ.
pub const CLOCK_SLACK: u64 = 24 * 60 * 60;

/// The most signatures looked at in one block.
const SIGNATURE_LIMIT: usize = 64;

/// A keyring or a signature is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenPgpError {
    /// The keyring cannot be read.
    #[error("keyring {keyring}: {cause}")]
    Keyring {
        /// The file, as the manifest names it.
        keyring: String,
        /// What is wrong.
        cause: String,
    },
    /// The signature block is damaged.
    #[error("the signature cannot be read: {cause}")]
    Malformed {
        /// What is wrong.
        cause: String,
    },
    /// No signature is good.
    #[error("no good signature by a key of {keyring}: {}", reasons.join("; "))]
    NoGoodSignature {
        /// The keyring.
        keyring: String,
        /// Why each signature does not count.
        reasons: Vec<String>,
    },
}

/// Public keys that an archive may sign with.
#[derive(Debug, Clone)]
pub struct Keyring {
    name: String,
    certificates: Vec<SignedPublicKey>,
}

impl Keyring {
    /// Reads the keys in `bytes`: binary, or any number of armored blocks. `name` is the file, for messages.
    ///
    /// # Errors
    /// When it holds no public key, or something else.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self, OpenPgpError> {
        let error = |cause: String| OpenPgpError::Keyring { keyring: name.to_owned(), cause };
        let mut certificates = Vec::new();
        if bytes.first().is_some_and(|byte| byte & 0x80 != 0) {
            for certificate in SignedPublicKey::from_bytes_many(bytes).map_err(|cause| error(cause.to_string()))? {
                certificates.push(certificate.map_err(|cause| error(cause.to_string()))?);
            }
        } else {
            let text = std::str::from_utf8(bytes).map_err(|_| error("it is neither binary nor armored".to_owned()))?;
            for block in armored_blocks(text) {
                let (keys, _) =
                    SignedPublicKey::from_armor_many(block.as_bytes()).map_err(|cause| error(cause.to_string()))?;
                for certificate in keys {
                    certificates.push(certificate.map_err(|cause| error(cause.to_string()))?);
                }
            }
        }
        if certificates.is_empty() {
            return Err(error("it holds no public key".to_owned()));
        }
        Ok(Keyring { name: name.to_owned(), certificates })
    }

    /// Returns the keyring's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the fingerprints of the primary keys, in the order of the file.
    pub fn fingerprints(&self) -> Vec<String> {
        self.certificates.iter().map(|certificate| fingerprint(&certificate.primary_key)).collect()
    }
}

fn armored_blocks(text: &str) -> impl Iterator<Item = &str> {
    const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
    text.match_indices(BEGIN).map(|(start, _)| {
        let rest = &text[start..];
        let end = rest[BEGIN.len()..].find(BEGIN).map_or(rest.len(), |end| end + BEGIN.len());
        &rest[..end]
    })
}

fn fingerprint(key: &impl KeyDetails) -> String {
    key.fingerprint().as_bytes().iter().map(|byte| format!("{byte:02X}")).collect()
}

/// Verifies `message` at time `now` (seconds since 1970) and returns the fingerprint of the key whose signature counts.
///
/// # Errors
/// When no signature is good; the reasons are in the error.
pub fn verify(message: &ClearSigned, keyring: &Keyring, now: u64) -> Result<String, OpenPgpError> {
    let data = message.signed_bytes();
    let mut reasons = Vec::new();
    for signature in signatures(&message.signature)? {
        match check_signature(&signature, &data, keyring, now) {
            Ok(fingerprint) => return Ok(fingerprint),
            Err(reason) => reasons.push(reason),
        }
    }
    if reasons.is_empty() {
        reasons.push("the signature block is empty".to_owned());
    }
    Err(OpenPgpError::NoGoodSignature { keyring: keyring.name.clone(), reasons })
}

fn signatures(armored: &str) -> Result<Vec<Signature>, OpenPgpError> {
    let error = |cause: String| OpenPgpError::Malformed { cause };
    let dearmored = BufReader::new(Dearmor::new(armored.as_bytes()));
    let mut signatures = Vec::new();
    for packet in PacketParser::new(dearmored).take(SIGNATURE_LIMIT) {
        match packet.map_err(|cause| error(cause.to_string()))? {
            Packet::Signature(signature) => signatures.push(signature),
            _ => return Err(error("it holds packets that are not signatures".to_owned())),
        }
    }
    Ok(signatures)
}

/// Checks one signature over `data`; the error is the reason why it does not count.
fn check_signature(signature: &Signature, data: &[u8], keyring: &Keyring, now: u64) -> Result<String, String> {
    let issuer = issuer(signature);
    if signature.typ() != Some(SignatureType::Text) {
        return Err(format!("the signature by {issuer} is not one of a text"));
    }
    check_form(signature, now).map_err(|reason| format!("the signature by {issuer} {reason}"))?;
    // A keyring may hold an older copy of a key: any good one is enough.
    let checked = keyring.certificates.iter().flat_map(|certificate| check_by(signature, data, certificate, now));
    let mut result = Err(format!("key {issuer} is not in the keyring"));
    for outcome in checked {
        if outcome.is_ok() {
            return outcome;
        }
        result = outcome;
    }
    result
}

/// Checks the signature with each key of `certificate` that it names.
fn check_by<'a>(
    signature: &'a Signature,
    data: &'a [u8],
    certificate: &'a SignedPublicKey,
    now: u64,
) -> impl Iterator<Item = Result<String, String>> + 'a {
    let primary = &certificate.primary_key;
    let by_primary = names(signature, primary).then(|| {
        signature.verify(primary, data).map_err(|_| mismatch(&issuer(signature)))?;
        check_created(signature, primary)?;
        primary_may_sign(certificate, now)?;
        Ok(fingerprint(primary))
    });
    let subkeys = certificate.public_subkeys.iter().filter(|subkey| names(signature, &subkey.key));
    let by_subkeys = subkeys.map(move |subkey| {
        signature.verify(&subkey.key, data).map_err(|_| mismatch(&issuer(signature)))?;
        check_created(signature, &subkey.key)?;
        subkey_may_sign(certificate, subkey, now)?;
        Ok(fingerprint(&subkey.key))
    });
    by_primary.into_iter().chain(by_subkeys)
}

fn mismatch(issuer: &str) -> String {
    format!("the signature by {issuer} does not match the text")
}

/// Tells whether `signature` says that `key` made it.
fn names(signature: &Signature, key: &impl KeyDetails) -> bool {
    let fingerprints = signature.issuer_fingerprint();
    if !fingerprints.is_empty() {
        return fingerprints.contains(&&key.fingerprint());
    }
    signature.issuer_key_id().contains(&&key.legacy_key_id())
}

fn issuer(signature: &Signature) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02X}")).collect::<String>();
    match (signature.issuer_fingerprint().first(), signature.issuer_key_id().first()) {
        (Some(fingerprint), _) => hex(fingerprint.as_bytes()),
        (None, Some(key_id)) => hex(key_id.as_ref()),
        (None, None) => "an unnamed key".to_owned(),
    }
}

/// Checks what holds for every signature, on texts and on keys: version, hash, critical subpackets, times.
fn check_form(signature: &Signature, now: u64) -> Result<(), String> {
    if !matches!(signature.version(), SignatureVersion::V4 | SignatureVersion::V6) {
        return Err(format!("has the unsupported version {:?}", signature.version()));
    }
    match signature.hash_alg() {
        Some(
            HashAlgorithm::Sha256
            | HashAlgorithm::Sha384
            | HashAlgorithm::Sha512
            | HashAlgorithm::Sha3_256
            | HashAlgorithm::Sha3_512,
        ) => {}
        Some(weak) => return Err(format!("is made with the weak hash {weak}")),
        None => return Err("names no hash".to_owned()),
    }
    let config = signature.config().ok_or("cannot be read")?;
    // "If a subpacket is encountered that is marked critical but is unknown to the evaluating implementation, the
    // evaluator SHOULD consider the signature to be in error." (section 5.2.3.7)
    let unknown = |data: &SubpacketData| {
        matches!(data, SubpacketData::Other(..) | SubpacketData::Experimental(..) | SubpacketData::Notation(..))
    };
    if config.hashed_subpackets().any(|subpacket| subpacket.is_critical && unknown(&subpacket.data)) {
        return Err("has a critical part that is not understood".to_owned());
    }
    let created = signature.created().ok_or("has no creation time")?.as_secs();
    if u64::from(created) > now.saturating_add(CLOCK_SLACK) {
        return Err(format!("was made in the future, at {}", date(created.into())));
    }
    let lifetime = signature.signature_expiration_time().map_or(0, |lifetime| lifetime.as_secs());
    check_lifetime(created, lifetime, now)
}

/// Checks that something made at `created` that lives `lifetime` seconds (0: forever) is alive.
fn check_lifetime(created: u32, lifetime: u32, now: u64) -> Result<(), String> {
    let end = u64::from(created) + u64::from(lifetime);
    if lifetime != 0 && now >= end {
        return Err(format!("expired on {}", date(end)));
    }
    Ok(())
}

fn check_created(signature: &Signature, key: &impl KeyDetails) -> Result<(), String> {
    match signature.created() {
        Some(created) if created >= key.created_at() => Ok(()),
        _ => Err(format!("the signature by {} is older than the key", fingerprint(key))),
    }
}

/// Returns the newest of `candidates` that is good now: verified by `verified`.
fn newest<'a>(
    candidates: impl Iterator<Item = &'a Signature>,
    now: u64,
    verified: impl Fn(&Signature) -> bool,
) -> Option<&'a Signature> {
    candidates.filter(|signature| check_form(signature, now).is_ok() && verified(signature)).max_by_key(|s| s.created())
}

/// Checks that the primary key is valid now and returns the self-signature that says so.
fn check_primary(certificate: &SignedPublicKey, now: u64) -> Result<&Signature, String> {
    let key = &certificate.primary_key;
    let name = fingerprint(key);
    // A revocation made with an old hash still revokes: only its signature counts.
    if certificate.details.revocation_signatures.iter().any(|signature| signature.verify_key(key).is_ok()) {
        return Err(format!("key {name} is revoked"));
    }
    let direct = newest(of_type(&certificate.details.direct_signatures, &[SignatureType::Key]), now, |signature| {
        signature.verify_key(key).is_ok()
    });
    let users = certificate.details.users.iter().filter_map(|user| {
        let certifies = |signature: &Signature| signature.verify_certification(key, Tag::UserId, &user.id).is_ok();
        let binding = newest(of_type(&user.signatures, &CERTIFICATIONS), now, certifies)?;
        let revocation = newest(of_type(&user.signatures, &[SignatureType::CertRevocation]), now, certifies);
        revocation.is_none_or(|revocation| revocation.created() < binding.created()).then_some(binding)
    });
    let binding = direct.into_iter().chain(users).max_by_key(|signature| signature.created());
    let binding = binding.ok_or_else(|| format!("key {name} has no valid self-signature"))?;
    let lifetime = binding.key_expiration_time().map_or(0, |lifetime| lifetime.as_secs());
    check_lifetime(key.created_at().as_secs(), lifetime, now).map_err(|reason| format!("key {name} {reason}"))?;
    Ok(binding)
}

const CERTIFICATIONS: [SignatureType; 4] =
    [SignatureType::CertGeneric, SignatureType::CertPersona, SignatureType::CertCasual, SignatureType::CertPositive];

fn of_type<'a>(signatures: &'a [Signature], types: &'a [SignatureType]) -> impl Iterator<Item = &'a Signature> {
    signatures.iter().filter(|signature| signature.typ().is_some_and(|typ| types.contains(&typ)))
}

fn may_sign(binding: &Signature) -> bool {
    binding.key_flags().sign()
}

fn primary_may_sign(certificate: &SignedPublicKey, now: u64) -> Result<(), String> {
    let binding = check_primary(certificate, now)?;
    if !may_sign(binding) {
        return Err(format!("key {} may not sign", fingerprint(&certificate.primary_key)));
    }
    Ok(())
}

fn subkey_may_sign(certificate: &SignedPublicKey, subkey: &SignedPublicSubKey, now: u64) -> Result<(), String> {
    check_primary(certificate, now)?;
    let (primary, key) = (&certificate.primary_key, &subkey.key);
    let name = fingerprint(key);
    let binds = |signature: &Signature| signature.verify_subkey_binding(primary, key).is_ok();
    if of_type(&subkey.signatures, &[SignatureType::SubkeyRevocation]).any(binds) {
        return Err(format!("key {name} is revoked"));
    }
    let binding = newest(of_type(&subkey.signatures, &[SignatureType::SubkeyBinding]), now, binds);
    let binding = binding.ok_or_else(|| format!("key {name} is not bound to its primary key"))?;
    let lifetime = binding.key_expiration_time().map_or(0, |lifetime| lifetime.as_secs());
    check_lifetime(key.created_at().as_secs(), lifetime, now).map_err(|reason| format!("key {name} {reason}"))?;
    if !may_sign(binding) {
        return Err(format!("key {name} may not sign"));
    }
    // "For subkeys that can issue signatures, the Subkey Binding signature MUST contain an Embedded Signature subpacket
    // with a Primary Key Binding signature" (section 5.2.1.8).
    let back = binding.embedded_signature().filter(|back| check_form(back, now).is_ok());
    if back.is_none_or(|back| back.verify_primary_key_binding(key, primary).is_err()) {
        return Err(format!("key {name} does not bind back to its primary key"));
    }
    Ok(())
}

/// Returns the UTC date of a time in seconds since 1970.
pub(super) fn date(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.map_or_else(|| format!("second {seconds}"), |time| time.date().to_string())
}
