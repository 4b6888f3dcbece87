//! Lists of checksums: what `sha256sum` prints (`HEX  NAME`, `HEX *NAME`), its `--tag` form (`SHA256 (NAME) = HEX`), or
//! the bare digest of one file.

use ksos_formats::Digest;

/// A list does not say what a file's digest is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChecksumsError {
    /// Not text, or no line of it is a SHA-256 checksum.
    #[error("not a list of SHA-256 checksums")]
    NotAList,
    /// The file is not in it.
    #[error("has no checksum for {name}; it has {}", if others.is_empty() { "none with a name".to_owned() } else { others.join(", ") })]
    Missing {
        /// The file.
        name: String,
        /// Some that are in it.
        others: Vec<String>,
    },
    /// The file is in it with different digests.
    #[error("has different checksums for {name}")]
    Ambiguous {
        /// The file.
        name: String,
    },
}

/// Returns the digest that `document` gives for the file `name`. A name in the list may have folders before it.
///
/// # Errors
/// [`ChecksumsError`].
pub fn find_digest(document: &[u8], name: &str) -> Result<Digest, ChecksumsError> {
    let text = std::str::from_utf8(document).map_err(|_| ChecksumsError::NotAList)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let entries: Vec<_> = lines.filter_map(parse_line).collect();
    match entries[..] {
        [] => return Err(ChecksumsError::NotAList),
        [(digest, None)] => return Ok(digest),
        _ => {}
    }
    let mut found = None;
    for (digest, entry) in &entries {
        if entry.is_some_and(|entry| file_name(entry) == name)
            && found.replace(*digest).is_some_and(|old| old != *digest)
        {
            return Err(ChecksumsError::Ambiguous { name: name.to_owned() });
        }
    }
    found.ok_or_else(|| {
        let others = entries.iter().filter_map(|(_, entry)| *entry).map(|entry| file_name(entry).to_owned());
        ChecksumsError::Missing { name: name.to_owned(), others: others.take(5).collect() }
    })
}

/// Returns digest and name of a line; none when the line is something else (a signature, another algorithm).
fn parse_line(line: &str) -> Option<(Digest, Option<&str>)> {
    if let Some(tagged) = line.strip_prefix("SHA256 (") {
        let (name, hex) = tagged.rsplit_once(") = ")?;
        return Some((parse_hex(hex)?, Some(name)));
    }
    match line.split_once([' ', '\t']) {
        None => Some((parse_hex(line)?, None)),
        Some((hex, name)) => {
            let name = name.trim_start();
            Some((parse_hex(hex)?, Some(name.strip_prefix('*').unwrap_or(name))))
        }
    }
}

fn parse_hex(text: &str) -> Option<Digest> {
    text.to_ascii_lowercase().parse().ok()
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> String {
        Digest::of(text.as_bytes()).hex()
    }

    #[test]
    fn every_form_is_read() {
        let (a, b) = (hex("a"), hex("b"));
        for document in [
            format!("{b}  other\n{a}  file.tar.gz\n"),
            format!("{a} *file.tar.gz\r\n{b} *other\r\n"),
            format!("{a}\tfile.tar.gz\n{b}\tother\n"),
            format!("# list\n\n{}  ./dist/file.tar.gz\n{b}  x\n", a.to_uppercase()),
            format!("SHA256 (file.tar.gz) = {a}\nSHA512 (file.tar.gz) = 00\n"),
            format!("{a}\n"),
            format!("\u{feff}{a}  file.tar.gz\n{a}  dist/file.tar.gz"),
        ] {
            assert_eq!(find_digest(document.as_bytes(), "file.tar.gz"), Ok(Digest::of(b"a")), "{document}");
        }
    }

    #[test]
    fn what_is_missing_ambiguous_or_no_list_is_an_error() {
        let (a, b) = (hex("a"), hex("b"));
        let find = |document: &str| find_digest(document.as_bytes(), "file").unwrap_err().to_string();
        assert_eq!(find(&format!("{a}  file\n{b}  dir/file\n")), "has different checksums for file");
        assert_eq!(find(&format!("{a}  file.sig\n{b}  xfile")), "has no checksum for file; it has file.sig, xfile");
        assert_eq!(find(&format!("{a}\n{b}\n")), "has no checksum for file; it has none with a name");
        for document in ["", "<html>", "d41d8cd98f00b204e9800998ecf8427e  file", &format!("{a}{a}  file")] {
            assert_eq!(find(document), "not a list of SHA-256 checksums", "{document}");
        }
        assert_eq!(find_digest(b"\xff\xfe", "file"), Err(ChecksumsError::NotAList));
    }

    #[test]
    fn the_only_named_entry_must_still_match() {
        let list = format!("{}  other\n", hex("a"));
        assert!(matches!(find_digest(list.as_bytes(), "file"), Err(ChecksumsError::Missing { .. })));
    }
}
