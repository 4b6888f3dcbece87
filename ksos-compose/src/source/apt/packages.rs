//! `Packages`, the index of binary packages (Debian repository format, "Packages indices"; Debian Policy, chapter 5).
//!
//! A suite has some 65,000 packages in 57 MB of text, so this reader streams: it looks at the name of each field and keeps
//! the values that resolution needs, all in one string; a [`Record`] holds ranges of it. Relations stay text until the
//! resolver comes to them.

use std::io::{BufRead, Read};
use std::ops::Range;

use ksos_formats::Digest;

use super::version;

/// The longest line accepted, in bytes.
const LINE_LIMIT: u64 = 1 << 20;

/// The fields that are kept, in the order of [`Record::fields`].
const FIELDS: [&str; COUNT] = [
    "Package",
    "Version",
    "Architecture",
    "Multi-Arch",
    "Depends",
    "Pre-Depends",
    "Recommends",
    "Provides",
    "Conflicts",
    "Breaks",
    "Essential",
    "Priority",
    "Filename",
    "Size",
    "SHA256",
    "Source",
    "Section",
];
const COUNT: usize = 17;

/// Names one of the kept fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in Debian Policy, section 5.6")]
pub enum Key {
    Package,
    Version,
    Architecture,
    MultiArch,
    Depends,
    PreDepends,
    Recommends,
    Provides,
    Conflicts,
    Breaks,
    Essential,
    Priority,
    Filename,
    Size,
    Sha256,
    Source,
    Section,
}

/// The packages of one index.
#[derive(Debug, Default)]
pub struct Packages {
    text: String,
    records: Vec<Record>,
}

#[derive(Debug, Clone)]
struct Record {
    fields: [Range<u32>; COUNT],
    size: u64,
    digest: Digest,
}

/// One package of an index.
#[derive(Debug, Clone, Copy)]
pub struct Package<'a> {
    packages: &'a Packages,
    record: &'a Record,
}

/// An index that is not in the format.
#[derive(Debug, thiserror::Error)]
pub enum PackagesError {
    /// A line or a field is wrong.
    #[error("line {line}: {field}{cause}")]
    Malformed {
        /// The line, from 1.
        line: usize,
        /// The field and `: `, or nothing.
        field: String,
        /// What is wrong.
        cause: String,
    },
    /// It cannot be read or decompressed.
    #[error("{0}")]
    Read(#[from] std::io::Error),
}

fn malformed(line: usize, field: &str, cause: impl Into<String>) -> PackagesError {
    let field = if field.is_empty() { String::new() } else { format!("{field}: ") };
    PackagesError::Malformed { line, field, cause: cause.into() }
}

impl<'a> Package<'a> {
    /// Returns the value of a field, or an empty string.
    pub fn get(self, key: Key) -> &'a str {
        let range = &self.record.fields[key as usize];
        &self.packages.text[range.start as usize..range.end as usize]
    }

    /// Returns the name.
    pub fn name(self) -> &'a str {
        self.get(Key::Package)
    }

    /// Returns the version.
    pub fn version(self) -> &'a str {
        self.get(Key::Version)
    }

    /// Returns the architecture, e.g. `amd64` or `all`.
    pub fn architecture(self) -> &'a str {
        self.get(Key::Architecture)
    }

    /// Returns the size of the `.deb` in bytes.
    pub fn size(self) -> u64 {
        self.record.size
    }

    /// Returns the SHA-256 of the `.deb`.
    pub fn digest(self) -> Digest {
        self.record.digest
    }

    /// Returns the name of the source package, without its version.
    pub fn source(self) -> &'a str {
        match self.get(Key::Source).split_whitespace().next() {
            Some(source) => source,
            None => self.name(),
        }
    }
}

impl Packages {
    /// Returns the number of packages.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Tells whether there are no packages.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Returns package number `index`.
    pub fn get(&self, index: usize) -> Package<'_> {
        Package { packages: self, record: &self.records[index] }
    }

    /// Returns the packages in the order of the index.
    pub fn iter(&self) -> impl Iterator<Item = Package<'_>> {
        self.records.iter().map(|record| Package { packages: self, record })
    }

    /// Reads an index. The caller limits how much `reader` gives.
    ///
    /// # Errors
    /// [`PackagesError`].
    pub fn read(mut reader: impl BufRead) -> Result<Self, PackagesError> {
        let mut packages = Packages::default();
        let mut stanza = Stanza::default();
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let count = reader.by_ref().take(LINE_LIMIT + 1).read_until(b'\n', &mut line)?;
            if count as u64 > LINE_LIMIT {
                return Err(malformed(number, "", format!("longer than {LINE_LIMIT} bytes")));
            }
            let content = line.strip_suffix(b"\n").unwrap_or(&line);
            if count == 0 || content.trim_ascii().is_empty() {
                if let Some(record) = stanza.finish(&packages.text)? {
                    packages.records.push(record);
                }
                if count == 0 {
                    break;
                }
            } else {
                stanza.line(content, number, &mut packages.text)?;
            }
        }
        packages.text.shrink_to_fit();
        packages.records.shrink_to_fit();
        Ok(packages)
    }
}

/// The paragraph being read.
#[derive(Default)]
struct Stanza {
    /// Line of the first field; 0 before it.
    first: usize,
    /// Where each kept field's value is in the text, and the line of its name (0: absent).
    fields: [Range<u32>; COUNT],
    lines: [usize; COUNT],
    /// The kept field that a continuation line continues.
    current: Option<usize>,
}

impl Stanza {
    fn line(&mut self, content: &[u8], number: usize, text: &mut String) -> Result<(), PackagesError> {
        if matches!(content[0], b' ' | b'\t') {
            if self.first == 0 {
                return Err(malformed(number, "", "a continuation line before any field"));
            }
            return self.continue_field(content, number, text);
        }
        let colon = content.iter().position(|byte| *byte == b':').filter(|colon| *colon > 0);
        let Some(colon) = colon else {
            return Err(malformed(number, "", format!("expected `Name: value`, found {}", shown(content))));
        };
        if self.first == 0 {
            self.first = number;
        }
        self.current = find_field(&content[..colon]);
        let Some(index) = self.current else { return Ok(()) };
        if self.lines[index] != 0 {
            return Err(malformed(number, FIELDS[index], "stands twice"));
        }
        let value = utf8(&content[colon + 1..], number, FIELDS[index])?.trim();
        let start = offset(text.len(), number)?;
        text.push_str(value);
        self.fields[index] = start..offset(text.len(), number)?;
        self.lines[index] = number;
        Ok(())
    }

    /// Appends a continuation line to a kept field: folded fields read as one line (Debian Policy, section 5.1).
    fn continue_field(&mut self, content: &[u8], number: usize, text: &mut String) -> Result<(), PackagesError> {
        let Some(index) = self.current else { return Ok(()) };
        text.push(' ');
        text.push_str(utf8(content, number, FIELDS[index])?.trim());
        self.fields[index].end = offset(text.len(), number)?;
        Ok(())
    }

    /// Ends the paragraph: checks the fields that everything relies on.
    fn finish(&mut self, text: &str) -> Result<Option<Record>, PackagesError> {
        let Stanza { first, fields, lines, .. } = std::mem::take(self);
        if first == 0 {
            return Ok(None);
        }
        let value = |key: Key| {
            let (range, line) = (&fields[key as usize], lines[key as usize]);
            let name = FIELDS[key as usize];
            let value = &text[range.start as usize..range.end as usize];
            if value.is_empty() {
                return Err(malformed(if line == 0 { first } else { line }, name, "is missing"));
            }
            let refuse = move || malformed(line, name, format!("is {}", shown(value.as_bytes())));
            Ok((value, refuse))
        };
        let (name, refuse) = value(Key::Package)?;
        is_name(name).then_some(()).ok_or_else(refuse)?;
        let (number, refuse) = value(Key::Version)?;
        version::is_valid(number).then_some(()).ok_or_else(refuse)?;
        let (architecture, refuse) = value(Key::Architecture)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        architecture.bytes().all(plain).then_some(()).ok_or_else(refuse)?;
        let (path, refuse) = value(Key::Filename)?;
        is_pool_path(path).then_some(()).ok_or_else(refuse)?;
        let (size, refuse) = value(Key::Size)?;
        let size = size.parse().map_err(|_| refuse())?;
        let (digest, refuse) = value(Key::Sha256)?;
        let digest = digest.parse().map_err(|_| refuse())?;
        Ok(Some(Record { fields, size, digest }))
    }
}

fn find_field(name: &[u8]) -> Option<usize> {
    FIELDS.iter().position(|field| field.len() == name.len() && field.as_bytes().eq_ignore_ascii_case(name))
}

fn utf8<'a>(bytes: &'a [u8], line: usize, field: &str) -> Result<&'a str, PackagesError> {
    std::str::from_utf8(bytes).map_err(|_| malformed(line, field, "is not UTF-8"))
}

fn offset(length: usize, line: usize) -> Result<u32, PackagesError> {
    u32::try_from(length).map_err(|_| malformed(line, "", "the index is too large"))
}

fn shown(bytes: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(60)]))
}

/// Tells whether `name` is a package name (Debian Policy, section 5.6.1).
pub fn is_name(name: &str) -> bool {
    name.len() >= 2
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.' | b'_'))
}

/// Tells whether `path` stays below the archive and needs no quoting in a URL but of `~`, `+`, `:` and `%`.
pub fn is_pool_path(path: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+:%/=,@!".contains(&byte);
    !path.starts_with('/') && path.bytes().all(plain) && path.split('/').all(|name| !matches!(name, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stanza(extra: &str) -> String {
        format!(
            "Package: hello\nVersion: 1:2.10-3\nArchitecture: amd64\nFilename: pool/main/h/hello_2.10-3_amd64.deb\n\
             Size: 53132\nSHA256: {}\n{extra}",
            Digest::of(b"deb")
        )
    }

    fn read(text: &str) -> Result<Packages, PackagesError> {
        Packages::read(text.as_bytes())
    }

    #[test]
    fn needed_fields_are_kept() {
        let text = stanza(
            "Source: hello-src (1.0)\nDescription: x\n long: text\n .\nDepends: a (>= 1),\n  b | c\nsection: devel\n",
        );
        let packages = read(&format!("\n{text}\n\n{}", stanza("Multi-Arch: foreign\n"))).unwrap();
        assert_eq!(packages.len(), 2);
        let hello = packages.get(0);
        assert_eq!((hello.name(), hello.version(), hello.architecture()), ("hello", "1:2.10-3", "amd64"));
        assert_eq!((hello.size(), hello.digest()), (53132, Digest::of(b"deb")));
        assert_eq!(hello.get(Key::Depends), "a (>= 1), b | c");
        assert_eq!((hello.source(), hello.get(Key::Section)), ("hello-src", "devel"));
        assert_eq!(hello.get(Key::MultiArch), "");
        assert_eq!((packages.get(1).source(), packages.get(1).get(Key::MultiArch)), ("hello", "foreign"));
        assert!(read("").unwrap().is_empty());
    }

    #[test]
    fn malformed_stanzas_are_named_by_line_and_field() {
        let second = |text: &str| format!("{}\n{text}", stanza(""));
        let digest = Digest::of(b"deb").to_string();
        for (fault, text, error) in [
            ("no version", second("Package: a-b\nArchitecture: all\n"), "line 8: Version: is missing"),
            ("empty size", second(&stanza("").replace("53132", "")), "line 12: Size: is missing"),
            ("bad size", second(&stanza("").replace("53132", "5x")), "line 12: Size: is \"5x\""),
            ("bad version", second(&stanza("").replace("1:2.10-3", "1 2")), "line 9: Version: is \"1 2\""),
            (
                "bad name",
                second(&stanza("").replace("Package: hello", "Package: he/llo")),
                "line 8: Package: is \"he/llo\"",
            ),
            ("bad digest", second(&stanza("").replace(&digest, "00")), "line 13: SHA256: is \"00\""),
            (
                "absolute path",
                second(&stanza("").replace("pool/", "/pool/")),
                "line 11: Filename: is \"/pool/main/h/hello_2.10-3_amd64.deb\"",
            ),
            (
                "escaping path",
                second(&stanza("").replace("pool/", "../pool/")),
                "line 11: Filename: is \"../pool/main/h/hello_2.10-3_amd64.deb\"",
            ),
            (
                "query in path",
                second(&stanza("").replace("pool/", "pool?x/")),
                "line 11: Filename: is \"pool?x/main/h/hello_2.10-3_amd64.deb\"",
            ),
            ("field twice", second(&stanza("Size: 1\n")), "line 14: Size: stands twice"),
            ("no colon", second("<html>\n"), "line 8: expected `Name: value`, found \"<html>\""),
            ("stray continuation", second(" x\n"), "line 8: a continuation line before any field"),
            ("long line", second(&format!("X: {}\n", "y".repeat(2 << 20))), "line 8: longer than 1048576 bytes"),
        ] {
            assert_eq!(read(&text).unwrap_err().to_string(), error, "{fault}");
        }
        let error = Packages::read(&b"Package: a\xff\n"[..]).unwrap_err().to_string();
        assert_eq!(error, "line 1: Package: is not UTF-8");
    }
}
