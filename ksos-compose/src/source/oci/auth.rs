//! Access to registries: what a `WWW-Authenticate` asks for is answered with a token of the registry's token server
//! ("Token Authentication Specification" of the distribution project) or with a password (RFC 7617).
//!
//! One [`Registries`] serves all pulls of a build: a repository's token is fetched once and renewed when it is refused.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::ImageError;
use super::credentials::{self, Credential};
use super::registry::Place;
use crate::effects::net::{self, Authorize, Downloader, FetchError, Manner, Request, basic_authorization};

/// The largest answer of a token server, in bytes.
const TOKEN_LIMIT: u64 = 1 << 20;
/// A token that is refused sooner after it was given was not refused for its age.
const TOKEN_YOUTH: Duration = Duration::from_secs(10);

/// Whose access it is: a repository, what is done there, and further repositories to pull from.
type AccessKey = (Place, Action, Vec<String>);

/// What registries are told, by repository.
#[derive(Debug)]
pub struct Registries {
    config: Option<PathBuf>,
    known: Mutex<BTreeMap<AccessKey, Arc<Access>>>,
}

/// What a token is to allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// To pull.
    Pull,
    /// To pull and to push.
    Push,
}

impl Registries {
    /// Takes credentials from Docker's configuration, found by `lookup` of environment variables.
    pub fn new(lookup: impl Fn(&str) -> Option<String>) -> Self {
        Registries { config: credentials::config_path(lookup), known: Mutex::default() }
    }

    /// Returns the access to a repository.
    pub(crate) fn access(&self, place: &Place, action: Action) -> Arc<Access> {
        self.shared(place, action, &[])
    }

    /// Returns the access to push to a repository, and to see what `others` of the same registry have.
    pub(crate) fn access_with(&self, place: &Place, others: &[String]) -> Arc<Access> {
        self.shared(place, Action::Push, others)
    }

    fn shared(&self, place: &Place, action: Action, others: &[String]) -> Arc<Access> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Access::new(place.clone(), action, others.to_vec(), self.config.clone()));
        known.entry((place.clone(), action, others.to_vec())).or_insert_with(new).clone()
    }
}

/// Access to one repository.
#[derive(Debug)]
pub(crate) struct Access {
    place: Place,
    action: Action,
    /// Further repositories to pull from.
    others: Vec<String>,
    config: Option<PathBuf>,
    credential: OnceLock<Result<Option<Credential>, String>>,
    current: Mutex<Option<Value>>,
}

/// A value of `Authorization`.
struct Value {
    text: String,
    since: Instant,
    is_token: bool,
}

/// Secrets are not shown.
impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Value").field("is_token", &self.is_token).finish_non_exhaustive()
    }
}

impl Access {
    fn new(place: Place, action: Action, others: Vec<String>, config: Option<PathBuf>) -> Self {
        Access { place, action, others, config, credential: OnceLock::new(), current: Mutex::default() }
    }

    /// Looks the credential up, once: a helper may ask the user.
    fn credential(&self, name: &str) -> Result<Option<&Credential>, FetchError> {
        let look =
            || credentials::find(self.config.as_deref(), &self.place.registry).map_err(|e: ImageError| e.to_string());
        match self.credential.get_or_init(look) {
            Ok(credential) => Ok(credential.as_ref()),
            Err(reason) => Err(self.denied(name, reason.clone())),
        }
    }

    fn denied(&self, name: &str, reason: String) -> FetchError {
        FetchError::Denied { name: name.to_owned(), place: self.place.base(), reason }
    }

    /// Says why there is no access after all that is known was tried.
    fn refused(&self, name: &str, what: &str) -> FetchError {
        let place =
            self.config.as_ref().map_or_else(|| "Docker's configuration".into(), |path| path.display().to_string());
        let reason = match self.credential.get() {
            Some(Ok(Some(_))) => format!("{what} (status 401); the credentials in {place} are refused"),
            _ => format!("{what} (status 401); there are no credentials for {} in {place}", self.place.registry),
        };
        self.denied(name, reason)
    }
}

/// Answers for one repository, for one download.
pub(crate) struct Answering<'a> {
    pub(crate) access: &'a Access,
    pub(crate) fetch: &'a Downloader,
    /// What is downloaded or sent, for messages.
    pub(crate) name: &'a str,
}

impl Authorize for Answering<'_> {
    fn authorization(&self) -> Option<String> {
        let current = self.access.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map(|value| value.text.clone())
    }

    fn answer(&self, challenges: &[String], used: Option<&str>) -> Result<Option<String>, FetchError> {
        // Held while a token is fetched: of many downloads that are refused, one asks and the others take its token.
        let mut current = self.access.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = current.as_ref() {
            if used != Some(value.text.as_str()) {
                return Ok(Some(value.text.clone()));
            }
            if !value.is_token || value.since.elapsed() < TOKEN_YOUTH {
                return Err(self.access.refused(self.name, "it wants other credentials"));
            }
        }
        let (text, is_token) = self.value(challenges)?;
        *current = Some(Value { text: text.clone(), since: Instant::now(), is_token });
        Ok(Some(text))
    }
}

impl Answering<'_> {
    fn value(&self, challenges: &[String]) -> Result<(String, bool), FetchError> {
        let parsed: Vec<_> =
            challenges.iter().filter_map(|text| http_auth::parse_challenges(text).ok()).flatten().collect();
        let find = |scheme: &str| parsed.iter().find(|challenge| challenge.scheme.eq_ignore_ascii_case(scheme));
        if let Some(bearer) = find("Bearer") {
            let parameter = |name: &str| {
                let found = bearer.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            let realm = parameter("realm").ok_or_else(|| {
                self.access.denied(self.name, "it asks for a token and does not say whose".to_owned())
            })?;
            let service = parameter("service");
            let others = &self.access.others;
            let token = match self.token(&realm, service.as_deref(), others) {
                // Some token servers give nothing when a part of what is asked for is not allowed.
                Err(_) if !others.is_empty() => self.token(&realm, service.as_deref(), &[])?,
                result => result?,
            };
            return Ok((format!("Bearer {token}"), true));
        }
        match (find("Basic"), self.access.credential(self.name)?) {
            (Some(_), Some(Credential::Password(user, password))) => Ok((basic_authorization(user, password), false)),
            (Some(_), _) => Err(self.access.refused(self.name, "it asks for a password")),
            (None, _) => Err(self.access.refused(self.name, "it asks for credentials of a kind that is not known")),
        }
    }

    /// Fetches a token that allows what is to be done in the repository, and no more.
    fn token(&self, realm: &str, service: Option<&str>, others: &[String]) -> Result<String, FetchError> {
        let Access { place, action, .. } = self.access;
        // A password goes there: never less protected than the registry itself.
        let is_protected = realm.starts_with("https://") || (place.plain && realm.starts_with("http://"));
        if !is_protected {
            let reason = format!("its token server {} is not reached by https", net::redact(realm));
            return Err(self.access.denied(self.name, reason));
        }
        let actions = match action {
            Action::Pull => "pull",
            Action::Push => "pull,push",
        };
        let mut scopes = vec![format!("repository:{}:{actions}", place.repository)];
        scopes.extend(others.iter().map(|other| format!("repository:{other}:pull")));
        let credential = self.access.credential(self.name)?;
        if matches!(credential, Some(Credential::RefreshToken(_))) {
            // One field with all of them where it is a form ("Getting an OAuth2 token"), a field for each in a query.
            scopes = vec![scopes.join(" ")];
        }
        let mut fields: Vec<(&str, &str)> = scopes.iter().map(|scope| ("scope", scope.as_str())).collect();
        fields.extend(service.map(|service| ("service", service)));
        let (url, form, authorization) = match credential {
            Some(Credential::RefreshToken(token)) => {
                fields.extend([
                    ("grant_type", "refresh_token"),
                    ("client_id", "ksos-compose"),
                    ("refresh_token", token),
                ]);
                (realm.to_owned(), Some(encode(&fields)), None)
            }
            Some(Credential::Password(user, password)) => {
                (with_query(realm, &fields), None, Some(basic_authorization(user, password)))
            }
            None => (with_query(realm, &fields), None, None),
        };
        let name = format!("access to {}", place.base());
        let fixed = Fixed { answering: self, authorization };
        let urls = [url];
        let request = Request { name: &name, urls: &urls, digest: None, size: None, limit: TOKEN_LIMIT };
        let manner = Manner { accept: Some("application/json"), authorize: Some(&fixed), form: form.as_deref() };
        let document = self.fetch.document_as(&request, manner)?;
        let token: Token = serde_json::from_slice(&document.bytes).unwrap_or_default();
        let given = [token.token, token.access_token].into_iter().find(|token| !token.is_empty());
        // It becomes part of a header.
        let fit = given.filter(|token| token.bytes().all(|byte| byte.is_ascii_graphic()));
        fit.ok_or_else(|| {
            let reason = format!("its token server {} gave no token", net::redact(realm));
            self.access.denied(self.name, reason)
        })
    }
}

#[derive(Default, Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

/// One value, for a token server.
struct Fixed<'a> {
    answering: &'a Answering<'a>,
    authorization: Option<String>,
}

impl Authorize for Fixed<'_> {
    fn authorization(&self) -> Option<String> {
        self.authorization.clone()
    }

    fn answer(&self, _: &[String], _: Option<&str>) -> Result<Option<String>, FetchError> {
        Err(self.answering.access.refused(self.answering.name, "its token server gives no token"))
    }
}

fn with_query(url: &str, fields: &[(&str, &str)]) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}{}", encode(fields))
}

/// `application/x-www-form-urlencoded`, with everything escaped that RFC 3986, section 2.3, does not call unreserved.
fn encode(fields: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in fields {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        for byte in value.bytes() {
            match byte {
                b'-' | b'.' | b'_' | b'~' => text.push(byte as char),
                byte if byte.is_ascii_alphanumeric() => text.push(byte as char),
                byte => text.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_encoded() {
        let fields = [("scope", "repository:a/b:pull"), ("service", "x y&z=ü~")];
        let text = "scope=repository%3Aa%2Fb%3Apull&service=x%20y%26z%3D%C3%BC~";
        assert_eq!(encode(&fields), text);
        assert_eq!(with_query("https://a/t?x=1", &fields), format!("https://a/t?x=1&{text}"));
    }
}
