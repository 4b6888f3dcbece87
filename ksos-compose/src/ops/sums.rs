//! `SHA256SUMS` beside the artifacts of builds, and detached signatures of files.
//!
//! ```text
//! SHA256SUMS                  DIGEST  NAME        as sha256sum(1) writes and checks it, in the order of the names
//! SHA256SUMS.sig              base64 of the signature                                 cosign verify-blob --signature
//! SHA256SUMS.sigstore.json    the same signature in a bundle                          cosign verify-blob --bundle
//! SHA256SUMS.2.sig, ...       of the second key, and so on
//! ```
//!
//! Several builds share the file: each replaces the lines of its own image. Its signatures go when a line changes, before
//! it does. Whoever changes it holds [`crate::cache::Cache::exclusive`] of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ksos_formats::Digest;

use super::OpError;
use super::blob_key::{self, BlobKey};
use crate::effects::fs;

/// Name of the list.
pub const FILE: &str = "SHA256SUMS";
/// End of the name of a signature, base64.
pub const SIGNATURE: &str = ".sig";
/// End of the name of a signature in a bundle.
pub const BUNDLE: &str = ".sigstore.json";

/// The largest list that is read, in bytes.
pub const LIMIT: u64 = 16 << 20;

/// The largest file that is signed or verified as a whole, in bytes. Larger ones are signed by their digest in a list.
pub const SIGNED_LIMIT: u64 = 64 << 20;

/// A line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// SHA-256 of the file.
    pub sha256: Digest,
    /// Its path below the directory of the list.
    pub name: String,
}

/// Reads a list; says in which line it is none.
///
/// # Errors
/// The line, and what is wrong with it.
pub fn parse(text: &str) -> Result<Vec<Line>, String> {
    let line = |(number, line): (usize, &str)| {
        let wrong = |what: &str| format!("line {}: {what}", number + 1);
        // "a space, a character indicating type ('*' binary, ' ' text), and the file name" (sha256sum(1)).
        let (digest, name) = line.split_once(' ').ok_or_else(|| wrong("not a digest and a name"))?;
        let name = name.strip_prefix([' ', '*']).ok_or_else(|| wrong("not a digest and a name"))?;
        let sha256 = digest.parse().map_err(|_| wrong("not a SHA-256"))?;
        let inside = !name.starts_with('/') && name.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !inside {
            return Err(wrong("not a name below the directory of the list"));
        }
        Ok(Line { sha256, name: name.to_owned() })
    };
    text.lines().enumerate().filter(|(_, line)| !line.is_empty()).map(line).collect()
}

fn text(lines: &BTreeMap<String, Digest>) -> String {
    lines.iter().map(|(name, sha256)| format!("{sha256}  {name}\n")).collect()
}

/// Reads the list in `directory`; a missing one is empty, one that is damaged too: it is made anew.
fn read(directory: &Path) -> Result<BTreeMap<String, Digest>, OpError> {
    let text = match fs::read_to_string(&directory.join(FILE), LIMIT) {
        Ok(text) => text,
        Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error.into()),
    };
    Ok(parse(&text).unwrap_or_default().into_iter().map(|line| (line.name, line.sha256)).collect())
}

/// Whether `name` is of the image whose files begin with `stem`.
fn is_of(name: &str, stem: &str) -> bool {
    name.strip_prefix(stem).is_some_and(|rest| rest.starts_with('.'))
}

/// Takes the lines of the image `stem`, and that of the file `other`, out of the list in `directory`.
///
/// # Errors
/// When the list cannot be read or written.
pub fn withdraw(directory: &Path, stem: &str, other: Option<&str>) -> Result<(), OpError> {
    let mut lines = read(directory)?;
    let before = lines.len();
    lines.retain(|name, _| !is_of(name, stem) && other != Some(name.as_str()));
    if lines.len() == before { Ok(()) } else { put(directory, &lines) }
}

/// Puts the lines of the image `stem` in the place of those that the list in `directory` has. Lines of files that are gone
/// go, too.
///
/// # Errors
/// When the list cannot be read or written.
pub fn merge(directory: &Path, stem: &str, new: Vec<Line>) -> Result<(), OpError> {
    let old = read(directory)?;
    let mut lines = old.clone();
    lines.retain(|name, _| !is_of(name, stem) && fs::metadata(&directory.join(name)).is_ok());
    lines.extend(new.into_iter().map(|line| (line.name, line.sha256)));
    if lines == old { Ok(()) } else { put(directory, &lines) }
}

/// Puts the digest of `name`, which has changed, into the list in `directory`, when that has a line of it. Says whether it
/// has changed.
///
/// # Errors
/// When the list cannot be read or written.
pub fn refresh(directory: &Path, name: &str, sha256: Digest) -> Result<bool, OpError> {
    let mut lines = read(directory)?;
    match lines.get_mut(name) {
        Some(old) if *old != sha256 => *old = sha256,
        _ => return Ok(false),
    }
    put(directory, &lines)?;
    Ok(true)
}

/// Writes the list, without signatures: those are of another one.
fn put(directory: &Path, lines: &BTreeMap<String, Digest>) -> Result<(), OpError> {
    for name in fs::list(directory)? {
        let name = name.to_string_lossy();
        let of_list = name.strip_prefix(FILE).is_some_and(|rest| rest.starts_with('.'));
        if of_list && (name.ends_with(SIGNATURE) || name.ends_with(BUNDLE)) {
            fs::remove_file(&directory.join(&*name))?;
        }
    }
    let path = directory.join(FILE);
    if lines.is_empty() {
        return Ok(fs::remove_file(&path)?);
    }
    Ok(fs::write_atomic(&path, text(lines).as_bytes())?)
}

/// Signs the list in `directory`; returns the names of the signatures that were made.
///
/// # Errors
/// As [`sign_file`].
pub fn sign(directory: &Path, keys: &[BlobKey]) -> Result<Vec<String>, OpError> {
    if keys.is_empty() || fs::metadata(&directory.join(FILE)).is_err() {
        return Ok(Vec::new());
    }
    let made = sign_file(&directory.join(FILE), keys)?;
    Ok(made.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
}

/// Signs the file at `path` with every key, each in both forms. A signature that is there and good stays; returns the files
/// that were written.
///
/// # Errors
/// When the file cannot be read or is too large, a key does not sign, or a signature cannot be written.
pub fn sign_file(path: &Path, keys: &[BlobKey]) -> Result<Vec<PathBuf>, OpError> {
    let message = read_signed(path)?;
    let mut made = Vec::new();
    for (number, key) in keys.iter().enumerate() {
        let [plain, bundle] = signature_paths(path, number);
        let known = fs::read_to_string(&plain, LIMIT).ok().and_then(|text| STANDARD.decode(text.trim()).ok());
        let signature = match known.filter(|known| key.has_signed(&message, known)) {
            Some(known) => known,
            None => key.sign(&message)?,
        };
        let text = format!("{}\n", STANDARD.encode(&signature)).into_bytes();
        for (place, bytes) in [(plain, text), (bundle, blob_key::bundle(&key.public_key(), &message, &signature))] {
            if fs::read(&place, LIMIT).ok().as_ref() != Some(&bytes) {
                fs::write_atomic(&place, &bytes)?;
                made.push(place);
            }
        }
    }
    Ok(made)
}

/// Reads a file that is signed as a whole.
///
/// # Errors
/// When it cannot be read, or is larger than [`SIGNED_LIMIT`].
pub fn read_signed(path: &Path) -> Result<Vec<u8>, OpError> {
    let size = fs::metadata(path)?.len();
    if size > SIGNED_LIMIT {
        return Err(OpError::TooLargeToSign { path: path.to_owned(), size });
    }
    Ok(fs::read(path, SIGNED_LIMIT)?)
}

/// Returns where the signature of `path` by key `number`, from 0, is: plain, and in a bundle.
pub fn signature_paths(path: &Path, number: usize) -> [PathBuf; 2] {
    let key = if number == 0 { String::new() } else { format!(".{}", number + 1) };
    [SIGNATURE, BUNDLE].map(|suffix| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!("{key}{suffix}"));
        PathBuf::from(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, names: &[&str]) {
        names.iter().for_each(|name| fs::write_atomic(&directory.join(name), name.as_bytes()).unwrap());
    }

    fn lines(names: &[&str]) -> Vec<Line> {
        names.iter().map(|name| Line { sha256: Digest::of(name.as_bytes()), name: (*name).to_owned() }).collect()
    }

    fn names(directory: &Path) -> Vec<String> {
        let text = fs::read_to_string(&directory.join(FILE), LIMIT).unwrap_or_default();
        parse(&text).unwrap().into_iter().map(|line| line.name).collect()
    }

    #[test]
    fn builds_share_a_list_and_each_changes_its_own_lines() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        write(directory, &["b-1-x86_64.img", "b-1-x86_64.update/slot.index", "a-1-x86_64.img", "b-1-x86_64-more.img"]);
        merge(directory, "b-1-x86_64", lines(&["b-1-x86_64.update/slot.index", "b-1-x86_64.img"])).unwrap();
        merge(directory, "b-1-x86_64-more", lines(&["b-1-x86_64-more.img"])).unwrap();
        merge(directory, "a-1-x86_64", lines(&["a-1-x86_64.img"])).unwrap();
        let all = ["a-1-x86_64.img", "b-1-x86_64-more.img", "b-1-x86_64.img", "b-1-x86_64.update/slot.index"];
        assert_eq!(names(directory), all);
        let text = fs::read_to_string(&directory.join(FILE), LIMIT).unwrap();
        assert!(text.starts_with(&format!("{}  a-1-x86_64.img\n", Digest::of(b"a-1-x86_64.img"))), "{text}");
        write(directory, &["SHA256SUMS.sig", "SHA256SUMS.2.sigstore.json", "b-1-x86_64.img.sig"]);
        merge(directory, "a-1-x86_64", lines(&["a-1-x86_64.img"])).unwrap();
        assert!(directory.join("SHA256SUMS.sig").exists(), "nothing changed");
        withdraw(directory, "b-1-x86_64", None).unwrap();
        assert_eq!(names(directory), ["a-1-x86_64.img", "b-1-x86_64-more.img"]);
        let signatures = ["SHA256SUMS.sig", "SHA256SUMS.2.sigstore.json", "b-1-x86_64.img.sig"];
        assert_eq!(signatures.map(|name| directory.join(name).exists()), [false, false, true]);
        fs::remove_file(&directory.join("a-1-x86_64.img")).unwrap();
        merge(directory, "b-1-x86_64", lines(&["b-1-x86_64.img"])).unwrap();
        assert_eq!(names(directory), ["b-1-x86_64-more.img", "b-1-x86_64.img"], "what is gone is not listed");
        withdraw(directory, "b-1-x86_64", None).unwrap();
        withdraw(directory, "b-1-x86_64-more", None).unwrap();
        assert!(!directory.join(FILE).exists());
    }

    #[test]
    fn a_list_with_other_lines_is_refused_with_the_number() {
        let digest = Digest::of(b"");
        assert_eq!(parse(&format!("{digest} *a b\n{digest}  c/d\n\n")).unwrap().len(), 2);
        for (text, reason) in [
            ("abc  x".to_owned(), "line 1: not a SHA-256"),
            (format!("{digest}  a\n{digest}"), "line 2: not a digest and a name"),
            (format!("{digest} a"), "line 1: not a digest and a name"),
            (format!("{digest}  ../a"), "line 1: not a name below the directory of the list"),
            (format!("{digest}  /a"), "line 1: not a name below the directory of the list"),
        ] {
            assert_eq!(parse(&text).unwrap_err(), reason, "{text}");
        }
    }
}
