//! Public keys that may log in (sshd(8), "AUTHORIZED_KEYS FILE FORMAT").
//!
//! A line is `[options ]type base64[ comment]`. It is accepted if the blob states the same type as the line (RFC 4253,
//! section 6.6), so that a cut or mistyped key is told now and not at a login that fails.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ksos_formats::config::SSH_KEY_TYPES;

/// Longest line in bytes: an RSA key of 16384 bits has about 2800.
const LINE_LIMIT: usize = 8192;

/// What is wrong with a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Empty, or a comment.
    #[error("it is empty")]
    Empty,
    /// A control character, a line break for example.
    #[error("it holds a control character")]
    Control,
    /// Too long.
    #[error("it has more than {LINE_LIMIT} bytes")]
    Long,
    /// No type that is known.
    #[error("no key type in it is known")]
    Type,
    /// Nothing or no base64 behind the type.
    #[error("no base64 follows the key type")]
    Base64,
    /// The blob is of another type, or cut.
    #[error("the key is cut or not of the type that stands before it")]
    Blob,
}

/// Checks one line; returns it without white space around it.
pub fn check(line: &str) -> Result<String, KeyError> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Err(KeyError::Empty);
    }
    if line.len() > LINE_LIMIT {
        return Err(KeyError::Long);
    }
    if line.chars().any(|character| character.is_control() && character != '\t') {
        return Err(KeyError::Control);
    }
    let mut words = words(line).into_iter();
    let first = words.next().unwrap_or_default();
    let kind = if SSH_KEY_TYPES.contains(&first) { first } else { words.next().unwrap_or_default() };
    if !SSH_KEY_TYPES.contains(&kind) {
        return Err(KeyError::Type);
    }
    let blob = words.next().and_then(|text| STANDARD.decode(text).ok()).ok_or(KeyError::Base64)?;
    if is_blob_of(&blob, kind) { Ok(line.to_owned()) } else { Err(KeyError::Blob) }
}

/// Splits at white space outside of double quotes: options may hold it, with `\"` for a quote inside.
fn words(line: &str) -> Vec<&str> {
    let (mut words, mut start, mut quoted, mut escaped) = (Vec::new(), None, false, false);
    for (index, character) in line.char_indices() {
        match character {
            ' ' | '\t' if !quoted => {
                words.extend(start.take().and_then(|start| line.get(start..index)));
                continue;
            }
            '"' if !escaped => quoted = !quoted,
            _ => {}
        }
        escaped = character == '\\' && !escaped;
        start = start.or(Some(index));
    }
    words.extend(start.and_then(|start| line.get(start..)));
    words
}

/// A blob is a list of strings, each with its length in four bytes before it (RFC 4251, section 5); the first is the
/// type, at least one more follows, and nothing is behind the last.
fn is_blob_of(blob: &[u8], kind: &str) -> bool {
    let (mut rest, mut strings) = (blob, Vec::new());
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let Some((string, after)) = after.split_at_checked(u32::from_be_bytes(*length) as usize) else { return false };
        strings.push(string);
        rest = after;
    }
    rest.is_empty() && strings.len() >= 2 && strings.first() == Some(&kind.as_bytes())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns a key line.
    pub(crate) fn key(kind: &str, comment: &str) -> String {
        let mut blob = Vec::new();
        for part in [kind.as_bytes(), &[5; 32]] {
            blob.extend((part.len() as u32).to_be_bytes());
            blob.extend(part);
        }
        format!("{kind} {} {comment}", STANDARD.encode(blob))
    }

    #[test]
    fn keys_with_and_without_options_and_comments() {
        for kind in SSH_KEY_TYPES {
            assert!(check(&key(kind, "a@b")).is_ok(), "{kind}");
        }
        let plain = key("ssh-ed25519", "");
        assert_eq!(check(&format!("  {plain}\n")).expect("valid"), plain.trim());
        let options = format!(r#"from="10.0.0.0/8,*.example",command="echo \"a b\" c" {plain} me"#);
        assert_eq!(check(&options).expect("valid"), options);
    }

    #[test]
    fn damaged_keys_are_named() {
        let good = key("ssh-ed25519", "x");
        let cut: String = good.chars().take(60).collect();
        for (line, expected) in [
            ("", KeyError::Empty),
            ("# ssh-ed25519 AAAA", KeyError::Empty),
            ("ssh-dss AAAA", KeyError::Type),
            ("hello", KeyError::Type),
            ("-----BEGIN OPENSSH PRIVATE KEY-----", KeyError::Type),
            ("ssh-ed25519", KeyError::Base64),
            ("ssh-ed25519 !!!", KeyError::Base64),
            (&cut, KeyError::Blob),
            (&good.replacen("ssh-ed25519", "ssh-rsa", 1), KeyError::Blob),
            (&format!("{good}\nssh-rsa x"), KeyError::Control),
            (&"a".repeat(LINE_LIMIT + 1), KeyError::Long),
        ] {
            assert_eq!(check(line), Err(expected), "{line:.60}");
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "runs a foreign tool to check against")]
    fn takes_what_ssh_keygen_makes() {
        let directory = tempfile::tempdir().expect("a directory");
        for kind in ["ed25519", "rsa", "ecdsa"] {
            let path = directory.path().join(kind);
            let path = path.to_str().expect("text");
            let made = std::process::Command::new("ssh-keygen").args(["-q", "-t", kind, "-N", "", "-f", path]).status();
            let Ok(status) = made else {
                assert!(std::env::var_os("KSOS_REQUIRE_TOOLS").is_none(), "ssh-keygen is not installed");
                println!("skipped: ssh-keygen is not installed");
                return;
            };
            assert!(status.success());
            check(&std::fs::read_to_string(format!("{path}.pub")).expect("read")).expect(kind);
        }
    }
}
