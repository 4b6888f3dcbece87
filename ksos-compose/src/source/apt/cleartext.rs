//! The cleartext signature framework (RFC 9580, section 7): takes a clear-signed text apart.
//!
//! Strict, so that exactly one reading is possible: the message fills the whole file, `Hash` is the only header, every
//! line of the text that starts with a dash is dash-escaped, and no control characters but tab and line ends occur.
//! What comes out as [`ClearSigned::text`] is, line for line, what the signature covers.

/// A clear-signed text, taken apart. Nothing is verified yet: see [`super::openpgp`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClearSigned {
    /// The signed lines, without dash escapes and trailing whitespace, joined by `\n`.
    pub text: String,
    /// The armored signature block.
    pub signature: String,
}

/// A file that is not one clear-signed text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CleartextError {
    /// Not UTF-8.
    #[error("it is not UTF-8 text")]
    NotText,
    /// The file starts with something else.
    #[error("expected a clear-signed text, found {found}")]
    NotSigned {
        /// What it starts with.
        found: String,
    },
    /// A line that must not be where it is.
    #[error("line {line}: {cause}")]
    Line {
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        cause: &'static str,
    },
    /// The file ends early.
    #[error("it ends before {expected}")]
    Truncated {
        /// The line that is missing.
        expected: &'static str,
    },
}

const BEGIN_MESSAGE: &str = "-----BEGIN PGP SIGNED MESSAGE-----";
const BEGIN_SIGNATURE: &str = "-----BEGIN PGP SIGNATURE-----";
const END_SIGNATURE: &str = "-----END PGP SIGNATURE-----";

impl ClearSigned {
    /// Returns the bytes that the signature covers: "the line endings are converted to <CR><LF>" and "the line ending
    /// before the '-----BEGIN PGP SIGNATURE-----' line is not considered part of the signed text" (section 7.2).
    pub fn signed_bytes(&self) -> Vec<u8> {
        self.text.replace('\n', "\r\n").into_bytes()
    }
}

/// Takes `bytes` apart.
///
/// # Errors
/// [`CleartextError`].
pub fn split(bytes: &[u8]) -> Result<ClearSigned, CleartextError> {
    let text = std::str::from_utf8(bytes).map_err(|_| CleartextError::NotText)?;
    let mut lines = text.split_inclusive('\n').enumerate().map(|(index, line)| (index + 1, trim_line(line)));
    match lines.next() {
        Some((_, BEGIN_MESSAGE)) => {}
        _ => return Err(CleartextError::NotSigned { found: describe(text) }),
    }
    skip_headers(&mut lines)?;
    let signed = signed_lines(&mut lines)?;
    let signature = signature_block(&mut lines)?;
    for (line, content) in lines {
        if !content.is_empty() {
            return Err(CleartextError::Line { line, cause: "text after the signature" });
        }
    }
    Ok(ClearSigned { text: signed.join("\n"), signature })
}

/// "Any trailing whitespace -- spaces (0x20) and tabs (0x09) -- at the end of any line is removed when the cleartext
/// signature is generated" (section 7.2); the line end goes too.
fn trim_line(line: &str) -> &str {
    let line = line.strip_suffix('\n').unwrap_or(line);
    line.strip_suffix('\r').unwrap_or(line).trim_end_matches([' ', '\t'])
}

/// "Only the Hash Armor Header is allowed" (section 7.1).
fn skip_headers<'a>(lines: &mut impl Iterator<Item = (usize, &'a str)>) -> Result<(), CleartextError> {
    for (line, content) in lines {
        if content.is_empty() {
            return Ok(());
        }
        if !content.starts_with("Hash: ") {
            return Err(CleartextError::Line { line, cause: "a header other than Hash before the signed text" });
        }
    }
    Err(CleartextError::Truncated { expected: "the signed text" })
}

fn signed_lines<'a>(lines: &mut impl Iterator<Item = (usize, &'a str)>) -> Result<Vec<&'a str>, CleartextError> {
    let mut signed = Vec::new();
    for (line, content) in lines {
        if content == BEGIN_SIGNATURE {
            return Ok(signed);
        }
        if content.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
            return Err(CleartextError::Line { line, cause: "a control character in the signed text" });
        }
        // "The dash-escaped cleartext [...] each line starting with a '-' is prefixed by '- '" (section 7.2). The space
        // of an escaped empty line was trimmed above.
        let unescaped = match content.strip_prefix('-') {
            None => content,
            Some("") => "",
            Some(rest) => rest.strip_prefix(' ').ok_or(CleartextError::Line {
                line,
                cause: "a line of the signed text starts with an unescaped dash",
            })?,
        };
        signed.push(unescaped);
    }
    Err(CleartextError::Truncated { expected: BEGIN_SIGNATURE })
}

fn signature_block<'a>(lines: &mut impl Iterator<Item = (usize, &'a str)>) -> Result<String, CleartextError> {
    let mut block = format!("{BEGIN_SIGNATURE}\n");
    for (line, content) in lines {
        block.push_str(content);
        block.push('\n');
        if content == END_SIGNATURE {
            return Ok(block);
        }
        if content.starts_with("-----") {
            return Err(CleartextError::Line { line, cause: "another block inside the signature" });
        }
    }
    Err(CleartextError::Truncated { expected: END_SIGNATURE })
}

/// Describes in a few words what `text` is instead.
fn describe(text: &str) -> String {
    let start = text.trim_start_matches('\u{feff}').trim_start();
    let lower: String = start.chars().take(64).flat_map(char::to_lowercase).collect();
    if start.is_empty() {
        "nothing".to_owned()
    } else if lower.starts_with("<!doctype html") || lower.starts_with("<html") {
        "an HTML page".to_owned()
    } else {
        format!("{:?}", start.lines().next().unwrap_or("").chars().take(60).collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAIL: &str = "-----BEGIN PGP SIGNATURE-----\n\nAAAA\n-----END PGP SIGNATURE-----\n";

    fn message(body: &str) -> String {
        format!("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{body}{TAIL}")
    }

    #[test]
    fn dashes_whitespace_and_line_ends_follow_the_framework() {
        let signed = split(message("A: 1 \t\r\n- -----x\n- \n\n- - y\nB\n\n").as_bytes()).unwrap();
        assert_eq!(signed.text, "A: 1\n-----x\n\n\n- y\nB\n");
        assert_eq!(signed.signed_bytes(), b"A: 1\r\n-----x\r\n\r\n\r\n- y\r\nB\r\n");
        assert_eq!(signed.signature, TAIL);
        assert_eq!(split(message("").as_bytes()).unwrap().text, "");
    }

    #[test]
    fn hostile_framing_is_refused() {
        let good = message("A: 1\n");
        for (fault, text, error) in [
            ("text before", format!("B: 2\n{good}"), "expected a clear-signed text, found \"B: 2\""),
            ("html", "\n<!DOCTYPE HTML>\n".to_owned(), "expected a clear-signed text, found an HTML page"),
            ("empty", String::new(), "expected a clear-signed text, found nothing"),
            ("text after", format!("{good}B: 2\n"), "line 9: text after the signature"),
            ("second message", format!("{good}{good}"), "line 9: text after the signature"),
            (
                "header",
                good.replace("Hash: SHA256", "NotDashEscaped: x"),
                "line 2: a header other than Hash before the signed text",
            ),
            (
                "text as header",
                good.replace("Hash: SHA256\n", "Hash: SHA256\nB: 2\n"),
                "line 3: a header other than Hash before the signed text",
            ),
            ("unescaped dash", message("-A\n"), "line 4: a line of the signed text starts with an unescaped dash"),
            ("carriage return", message("A: 1\rB: 2\n"), "line 4: a control character in the signed text"),
            ("nul", message("A: \0\n"), "line 4: a control character in the signed text"),
            (
                "no signature",
                "-----BEGIN PGP SIGNED MESSAGE-----\n\nA: 1\n".to_owned(),
                "it ends before -----BEGIN PGP SIGNATURE-----",
            ),
            ("no end", good.replace("-----END PGP SIGNATURE-----\n", ""), "it ends before -----END PGP SIGNATURE-----"),
            ("no text", "-----BEGIN PGP SIGNED MESSAGE-----\n".to_owned(), "it ends before the signed text"),
            (
                "nested",
                good.replace("AAAA", "-----BEGIN PGP MESSAGE-----"),
                "line 7: another block inside the signature",
            ),
        ] {
            assert_eq!(split(text.as_bytes()).unwrap_err().to_string(), error, "{fault}");
        }
        assert_eq!(split(b"-----BEGIN PGP SIGNED MESSAGE-----\n\n\xff\n").unwrap_err(), CleartextError::NotText);
    }
}
