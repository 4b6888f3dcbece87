//! Credentials of registries from Docker's configuration: `config.json` in `$DOCKER_CONFIG` or `~/.docker`, with its
//! `auths`, `credHelpers` and `credsStore`.

use std::path::{Path, PathBuf};

use docker_credential::{CredentialRetrievalError, DockerCredential};

use super::ImageError;
use crate::effects::fs;
use crate::oci::reference::DOCKER_HUB;

/// The largest configuration read, in bytes.
const LIMIT: u64 = 4 << 20;

/// What a registry is told.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// User name and password.
    Password(String, String),
    /// A refresh token ("OAuth2 token authentication" of the distribution project).
    RefreshToken(String),
}

/// Secrets are not shown.
impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Credential::Password(..) => "Password",
            Credential::RefreshToken(_) => "RefreshToken",
        })
    }
}

/// Returns where Docker's configuration is, by `lookup` of environment variables.
pub fn config_path(lookup: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
    let directory = set("DOCKER_CONFIG").map(PathBuf::from);
    directory.or_else(|| Some(Path::new(&set("HOME")?).join(".docker"))).map(|path| path.join("config.json"))
}

/// Returns the credential for `registry`; none without a configuration, or when it has none.
///
/// # Errors
/// [`ImageError::Credentials`] when there is one that cannot be read.
pub fn find(config: Option<&Path>, registry: &str) -> Result<Option<Credential>, ImageError> {
    let Some(path) = config else { return Ok(None) };
    let bytes = match fs::read(path, LIMIT) {
        Ok(bytes) => bytes,
        Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // Docker's own key for its registry ("docker login" without a server).
    let keys: &[&str] = if registry == DOCKER_HUB { &["https://index.docker.io/v1/"] } else { &[registry] };
    for key in keys {
        match docker_credential::get_credential_from_reader(bytes.as_slice(), key) {
            Ok(DockerCredential::UsernamePassword(user, password)) => {
                return Ok(Some(Credential::Password(user, password)));
            }
            Ok(DockerCredential::IdentityToken(token)) if !token.is_empty() => {
                return Ok(Some(Credential::RefreshToken(token)));
            }
            Ok(DockerCredential::IdentityToken(_)) | Err(CredentialRetrievalError::NoCredentialConfigured) => {}
            Err(error) => {
                let (registry, path) = (registry.to_owned(), path.to_owned());
                return match reason(error) {
                    Some(reason) => Err(ImageError::Credentials { registry, path, reason }),
                    None => Ok(None),
                };
            }
        }
    }
    Ok(None)
}

/// Returns what to say; nothing when a helper merely has no credentials. What a helper prints to its standard output
/// may be a secret.
fn reason(error: CredentialRetrievalError) -> Option<String> {
    match error {
        CredentialRetrievalError::HelperFailure { helper, stdout, stderr } => {
            // docker-credential-helpers, `credentials/error.go`: the text by which Docker itself knows it.
            let none = |text: &str| text.contains("credentials not found");
            if none(&stdout) || none(&stderr) {
                return None;
            }
            Some(format!("credential helper {helper} failed: {}", stderr.trim()))
        }
        CredentialRetrievalError::ConfigReadError => Some("it is not Docker's configuration in JSON".to_owned()),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "tests write configurations and a helper")]

    use super::*;

    fn with(text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        (directory, path)
    }

    #[test]
    fn the_configuration_is_where_docker_has_it() {
        let lookup = |pairs: &'static [(&str, &str)]| {
            move |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        assert_eq!(config_path(lookup(&[("HOME", "/h")])), Some("/h/.docker/config.json".into()));
        assert_eq!(config_path(lookup(&[("HOME", "/h"), ("DOCKER_CONFIG", "/d")])), Some("/d/config.json".into()));
        assert_eq!(config_path(lookup(&[("DOCKER_CONFIG", "")])), None);
        assert_eq!(find(Some(Path::new("/nonexistent/config.json")), "quay.io").unwrap(), None);
    }

    #[test]
    fn credentials_are_found_by_registry() {
        let (_directory, path) = with(
            r#"{"auths":{"quay.io":{"auth":"dXNlcjpwOnE="},"https://index.docker.io/v1/":{"auth":"aHViOnB3"},
                "tok.io":{"identitytoken":"T"},"localhost:5000":{"username":"a","password":"b"}}}"#,
        );
        let find = |registry: &str| find(Some(&path), registry).unwrap();
        let password = |user: &str, word: &str| Some(Credential::Password(user.to_owned(), word.to_owned()));
        assert_eq!(find("quay.io"), password("user", "p:q"));
        assert_eq!(find("docker.io"), password("hub", "pw"));
        assert_eq!(find("localhost:5000"), password("a", "b"));
        assert_eq!(find("tok.io"), Some(Credential::RefreshToken("T".to_owned())));
        assert_eq!(find("other.io"), None);
    }

    #[test]
    fn a_damaged_configuration_is_named_and_no_secret_is_shown() {
        for (text, expected) in [("{", "not Docker's configuration"), (r#"{"auths":{"r.io":{"auth":"%%"}}}"#, "decode")]
        {
            let (_directory, path) = with(text);
            let said = find(Some(&path), "r.io").expect_err("refused").to_string();
            assert!(said.contains(expected) && said.contains("config.json"), "{said}");
        }
        let helper = r#"{"credHelpers":{"r.io":"no-such-helper-of-ksos"}}"#;
        let (_directory, path) = with(helper);
        assert!(find(Some(&path), "r.io").expect_err("refused").to_string().contains("credential helper"));
        assert_eq!(format!("{:?}", Credential::Password("u".into(), "p".into())), "Password");
    }
}
