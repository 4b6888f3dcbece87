//! `WWW-Authenticate` (RFC 9110, section 11.6.1) and the tokens of OCI registries.

use serde::Deserialize;

/// Longest token in bytes.
const TOKEN_LIMIT: usize = 32 << 10;

/// What a server wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    /// Scheme, lower-case.
    pub(super) scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// Returns a parameter; `name` is lower-case.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

/// Reads the challenges of one field; what is not understood ends the list.
pub(super) fn parse(field: &str) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    let mut rest = field;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (name, after) = rest.split_at(rest.find(|c| !is_token(c)).unwrap_or(rest.len()));
        if name.is_empty() {
            return found;
        }
        let name = name.to_ascii_lowercase();
        let spaceless = after.trim_start();
        match (spaceless.strip_prefix('='), found.last_mut()) {
            (Some(value), Some(challenge)) => {
                let Some((value, after)) = value_of(value.trim_start()) else { return found };
                challenge.parameters.push((name, value));
                rest = after;
            }
            (Some(_), None) => return found,
            (None, _) => {
                found.push(Challenge { scheme: name, parameters: Vec::new() });
                rest = after;
            }
        }
    }
}

/// Splits a token or a quoted string off.
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_at(text.find([',', ' ', '\t']).unwrap_or(text.len()));
        return Some((value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((index, c)) = characters.next() {
        match c {
            '"' => return Some((value, &quoted[index + 1..])),
            '\\' => value.push(characters.next()?.1),
            c => value.push(c),
        }
    }
    None
}

/// "token: An opaque Bearer token ... access_token: For compatibility with OAuth 2.0" (CNCF Distribution, "Token
/// Authentication Specification").
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

/// Returns the token in the answer of a token server.
pub(super) fn token(bytes: &[u8]) -> Option<String> {
    let answer: TokenAnswer = serde_json::from_slice(bytes).ok()?;
    let token = answer.token.filter(|token| !token.is_empty()).or(answer.access_token)?;
    let usable = !token.is_empty() && token.len() <= TOKEN_LIMIT && token.bytes().all(|byte| byte.is_ascii_graphic());
    usable.then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let found = parse(
            r#"Negotiate, Basic realm="a \"b\", c" , bearer  realm="https://auth/token",service = reg.example ,scope="x:y,z""#,
        );
        let schemes: Vec<&str> = found.iter().map(|challenge| challenge.scheme.as_str()).collect();
        assert_eq!(schemes, ["negotiate", "basic", "bearer"]);
        assert_eq!(found[1].parameter("realm"), Some("a \"b\", c"));
        assert_eq!(found[2].parameter("realm"), Some("https://auth/token"));
        assert_eq!(found[2].parameter("service"), Some("reg.example"));
        assert_eq!(found[2].parameter("scope"), Some("x:y,z"));
    }

    #[test]
    fn damaged_challenges_end_the_list() {
        for (field, count) in [
            ("", 0),
            ("=x", 0),
            ("\"x\"", 0),
            ("Bearer realm=\"never ends", 1),
            ("Bearer \\", 1),
            ("Bearer realm=\"x\\", 1),
        ] {
            assert_eq!(parse(field).len(), count, "{field}");
        }
    }

    #[test]
    fn tokens_are_one_word() {
        assert_eq!(token(br#"{"token":"abc","expires_in":60}"#).as_deref(), Some("abc"));
        assert_eq!(token(br#"{"token":"","access_token":"d.e-f"}"#).as_deref(), Some("d.e-f"));
        let long = format!("{{\"token\":\"{}\"}}", "a".repeat(TOKEN_LIMIT + 1));
        for text in
            ["", "{}", "[]", r#"{"token":"a\r\nX: y"}"#, r#"{"token":"a b"}"#, r#"{"token":"a","token":"b"}"#, &long]
        {
            assert_eq!(token(text.as_bytes()), None, "{text:.60}");
        }
    }
}
