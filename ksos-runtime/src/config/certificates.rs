//! Certificate authorities of the configuration: PEM in, PEM out (RFC 7468).
//!
//! Each text may hold several certificates. They are decoded and written anew, so that nothing but certificates reaches
//! the bundle. What is inside a certificate is not judged: an expired one is the site's business.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";
/// Largest certificate in bytes of DER.
const CERTIFICATE_LIMIT: usize = 64 << 10;
/// "Generators MUST wrap the base64-encoded lines so that each line consists of exactly 64 characters" (RFC 7468,
/// section 2).
const LINE: usize = 64;

/// What is wrong with a text that should hold certificates.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// No certificate in it.
    #[error("there is no certificate in it")]
    Empty,
    /// A begin line without its end line.
    #[error("certificate {0} has no end line")]
    NoEnd(usize),
    /// Something between or in place of certificates.
    #[error("line {0} is outside of a certificate and no comment")]
    Outside(usize),
    /// Not base64.
    #[error("certificate {0} is not base64")]
    Base64(usize),
    /// Not what a certificate is made of.
    #[error("certificate {0} is not a DER sequence of its own length")]
    Der(usize),
    /// Too large.
    #[error("certificate {0} has more than {CERTIFICATE_LIMIT} bytes")]
    Large(usize),
}

/// Reads the certificates of one text, as DER. Numbers in errors count from 1.
pub fn parse(text: &str) -> Result<Vec<Vec<u8>>, PemError> {
    let (mut found, mut body) = (Vec::new(), None::<String>);
    for (index, line) in text.lines().enumerate() {
        let (line, number) = (line.trim(), found.len() + 1);
        match (line, body.as_mut()) {
            (BEGIN, None) => body = Some(String::new()),
            (BEGIN, Some(_)) => return Err(PemError::NoEnd(number)),
            (END, Some(base64)) => {
                found.push(decode(base64, number)?);
                body = None;
            }
            (_, Some(base64)) => base64.push_str(line),
            // "Parsers SHOULD ignore whitespace and other non-base64 characters": explanatory text is common, but a
            // private key or another PEM object here is a mistake.
            (_, None) if line.starts_with("-----") => return Err(PemError::Outside(index + 1)),
            (_, None) => {}
        }
    }
    match (body, found.is_empty()) {
        (Some(_), _) => Err(PemError::NoEnd(found.len() + 1)),
        (None, true) => Err(PemError::Empty),
        (None, false) => Ok(found),
    }
}

fn decode(base64: &str, number: usize) -> Result<Vec<u8>, PemError> {
    if base64.len() > CERTIFICATE_LIMIT * 4 / 3 + 4 {
        return Err(PemError::Large(number));
    }
    let der = STANDARD.decode(base64.trim()).map_err(|_| PemError::Base64(number))?;
    // Certificate ::= SEQUENCE { tbsCertificate TBSCertificate, ... }, TBSCertificate ::= SEQUENCE { ... } (RFC 5280,
    // section 4.1).
    let outer = sequence(&der).filter(|(_, rest)| rest.is_empty());
    outer.and_then(|(inner, _)| sequence(inner)).ok_or(PemError::Der(number))?;
    Ok(der)
}

/// Splits a DER sequence off: its content and what is behind it (X.690, sections 8.1.2 and 10.1).
fn sequence(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (header, rest) = bytes.split_at_checked(2)?;
    let [0x30, first] = *header else { return None };
    if first < 0x80 {
        return rest.split_at_checked(usize::from(first));
    }
    let count = usize::from(first & 0x7f);
    if !(1..=4).contains(&count) {
        return None;
    }
    let (length, rest) = rest.split_at_checked(count)?;
    let length = length.iter().fold(0_usize, |value, byte| (value << 8) | usize::from(*byte));
    rest.split_at_checked(length)
}

/// Returns one certificate as PEM.
pub fn to_pem(der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut text = format!("{BEGIN}\n");
    let mut rest = base64.as_str();
    while let Some((line, after)) = rest.split_at_checked(LINE) {
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    if !rest.is_empty() {
        text.push_str(rest);
        text.push('\n');
    }
    text + END + "\n"
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns DER that passes for a certificate.
    pub(crate) fn der(length: u8) -> Vec<u8> {
        let mut bytes = vec![0x30, 0x81, length + 2, 0x30, length];
        bytes.extend(vec![7; usize::from(length)]);
        bytes
    }

    #[test]
    fn several_with_comments_and_windows_lines() {
        let text = format!("My CA\r\n{}# next\n{}", to_pem(&der(100)).replace('\n', "\r\n"), to_pem(&der(3)));
        assert_eq!(parse(&text).expect("valid"), [der(100), der(3)]);
        assert!(to_pem(&der(100)).lines().all(|line| line.len() <= LINE));
    }

    #[test]
    fn garbage_is_named() {
        let good = to_pem(&der(9));
        let wrap = |body: &str| format!("{BEGIN}\n{body}\n{END}\n");
        let long = wrap(&STANDARD.encode(vec![0x30; CERTIFICATE_LIMIT + 10]));
        let trailing = wrap(&STANDARD.encode([der(9), vec![0]].concat()));
        for (text, expected) in [
            ("", PemError::Empty),
            ("hello", PemError::Empty),
            (BEGIN, PemError::NoEnd(1)),
            (&format!("{good}{BEGIN}\n{good}"), PemError::NoEnd(2)),
            (&format!("{good}-----BEGIN PRIVATE KEY-----\n"), PemError::Outside(4)),
            (&format!("{good}{}", wrap("!!!")), PemError::Base64(2)),
            (&wrap(""), PemError::Der(1)),
            (&wrap("aGVsbG8="), PemError::Der(1)),
            (&trailing, PemError::Der(1)),
            (&wrap(&STANDARD.encode([0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0x30, 0])), PemError::Der(1)),
            (&long, PemError::Large(1)),
        ] {
            assert_eq!(parse(text), Err(expected), "{text:.80}");
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "runs a foreign tool to check against")]
    fn takes_what_openssl_makes() {
        let arguments =
            ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x"];
        let made = std::process::Command::new("openssl").args(arguments).args(["-keyout", "/dev/null"]).output();
        let Ok(made) = made else {
            assert!(std::env::var_os("KSOS_REQUIRE_TOOLS").is_none(), "openssl is not installed");
            println!("skipped: openssl is not installed");
            return;
        };
        let text = String::from_utf8(made.stdout).expect("text");
        let found = parse(&text).expect("a certificate");
        assert_eq!(to_pem(&found[0]), text);
    }
}
