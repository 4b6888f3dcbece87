//! Where a private key is.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::pem::{LocalSigner, read_public_key};
use super::{ExternalSigner, SignError, Signer};
use crate::effects::fs;

/// The largest file with a key, in bytes.
const LIMIT: u64 = 64 << 10;

/// Where a private key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// `FILE`: PKCS#8 in PEM.
    File(PathBuf),
    /// `env:NAME`: a variable with the same, or with base64 of the 32 bytes of the seed.
    Variable(String),
    /// `exec:COMMAND ARGUMENTS`: a command that signs. Words are apart by blanks; `'` and `"` hold blanks together.
    Command(Vec<String>),
}

/// A text that is no key source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeySourceError {
    /// Nothing.
    #[error("expected a file, env:NAME or exec:COMMAND")]
    Empty,
    /// A quote that does not end.
    #[error("a quote in the command does not end")]
    Quote,
}

impl FromStr for KeySource {
    type Err = KeySourceError;

    fn from_str(text: &str) -> Result<Self, KeySourceError> {
        if let Some(command) = text.strip_prefix("exec:") {
            let words = words(command).ok_or(KeySourceError::Quote)?;
            return if words.is_empty() { Err(KeySourceError::Empty) } else { Ok(KeySource::Command(words)) };
        }
        match text.strip_prefix("env:") {
            Some("") => Err(KeySourceError::Empty),
            Some(name) => Ok(KeySource::Variable(name.to_owned())),
            None if text.is_empty() => Err(KeySourceError::Empty),
            None => Ok(KeySource::File(PathBuf::from(text))),
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeySource::File(path) => path.display().fmt(f),
            KeySource::Variable(name) => write!(f, "env:{name}"),
            // Its arguments may be secret.
            KeySource::Command(words) => write!(f, "exec:{}", words.first().map_or("", String::as_str)),
        }
    }
}

/// Splits a command into words; none when a quote does not end.
fn words(command: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for character in command.chars() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, _) if character.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

/// What is around: read once by the binary.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The environment: for `env:` and for commands.
    pub variables: &'a BTreeMap<String, String>,
    /// The working directory: where relative paths begin.
    pub directory: &'a Path,
}

/// A key that can sign.
pub struct OpenedKey {
    /// It.
    pub signer: Box<dyn Signer>,
    /// What the user should know of it.
    pub warning: Option<String>,
}

impl fmt::Debug for OpenedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenedKey").field("public_key", self.signer.public_key()).finish_non_exhaustive()
    }
}

/// Opens the keys at `sources`. Each `exec:` takes the next of `public_keys`, files with the public keys.
///
/// # Errors
/// [`SignError`].
pub fn open(
    sources: &[KeySource],
    public_keys: &[PathBuf],
    surroundings: Surroundings<'_>,
) -> Result<Vec<OpenedKey>, SignError> {
    let mut public_keys = public_keys.iter();
    let mut opened = Vec::new();
    for source in sources {
        opened.push(open_one(source, &mut public_keys, surroundings)?);
    }
    match public_keys.next() {
        Some(path) => Err(SignError::ExtraPublicKey { path: path.clone() }),
        None => Ok(opened),
    }
}

fn open_one(
    source: &KeySource,
    public_keys: &mut std::slice::Iter<'_, PathBuf>,
    surroundings: Surroundings<'_>,
) -> Result<OpenedKey, SignError> {
    let (signer, warning): (Box<dyn Signer>, _) = match source {
        KeySource::File(path) => {
            let path = surroundings.directory.join(path);
            let warning = mode_warning(&path)?;
            let text = fs::read(&path, LIMIT)?;
            (Box::new(LocalSigner::from_pem(&text, &source.to_string())?), warning)
        }
        KeySource::Variable(name) => {
            let value = surroundings.variables.get(name).filter(|value| !value.is_empty());
            let value = value.ok_or_else(|| SignError::NoVariable { name: name.clone() })?;
            (Box::new(LocalSigner::from_pem_or_seed(value, &source.to_string())?), None)
        }
        KeySource::Command(words) => {
            let place = source.to_string();
            let path = public_keys.next().ok_or_else(|| SignError::NoPublicKey { place: place.clone() })?;
            let public_key = read_public_key(&surroundings.directory.join(path))?;
            (Box::new(ExternalSigner::new(words, place, public_key, surroundings)?), None)
        }
    };
    Ok(OpenedKey { signer, warning })
}

/// Returns what to say of a key file that others may read.
fn mode_warning(path: &Path) -> Result<Option<String>, SignError> {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(path)?.permissions().mode() & 0o777;
    let wide = mode & 0o177 != 0;
    Ok(wide.then(|| format!("{} has mode {mode:04o}; a private key should have 0600", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_say_where_a_key_is() {
        let parse = |text: &str| text.parse::<KeySource>();
        let command = |words: &[&str]| Ok(KeySource::Command(words.iter().map(|word| (*word).to_owned()).collect()));
        assert_eq!(parse("keys/a.key"), Ok(KeySource::File("keys/a.key".into())));
        assert_eq!(parse("env:KEY"), Ok(KeySource::Variable("KEY".to_owned())));
        assert_eq!(parse("exec:hsm  --slot 1"), command(&["hsm", "--slot", "1"]));
        assert_eq!(parse("exec:hsm 'a b'\"c d\" ''"), command(&["hsm", "a bc d", ""]));
        for text in ["", "env:", "exec:", "exec:  "] {
            assert_eq!(parse(text), Err(KeySourceError::Empty), "{text}");
        }
        assert_eq!(parse("exec:hsm 'a"), Err(KeySourceError::Quote));
        assert_eq!(parse("exec:hsm --pin 1234").unwrap().to_string(), "exec:hsm");
    }
}
