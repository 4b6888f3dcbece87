//! Package URLs (package-url specification): `pkg:TYPE/NAMESPACE/NAME@VERSION?QUALIFIERS`.

/// Returns a package URL. Qualifiers without a value are left out; the others must be in the order of their keys.
pub fn purl(
    kind: &str,
    namespace: Option<&str>,
    name: &str,
    version: Option<&str>,
    qualifiers: &[(&str, &str)],
) -> String {
    let mut text = format!("pkg:{kind}/");
    for part in namespace.iter().flat_map(|namespace| namespace.split('/')).filter(|part| !part.is_empty()) {
        text.push_str(&format!("{}/", encode(part)));
    }
    text.push_str(&encode(name));
    if let Some(version) = version.filter(|version| !version.is_empty()) {
        text.push_str(&format!("@{}", encode(version)));
    }
    let qualifiers = qualifiers.iter().filter(|(_, value)| !value.is_empty());
    for (number, (key, value)) in qualifiers.enumerate() {
        text.push_str(&format!("{}{key}={}", if number == 0 { '?' } else { '&' }, encode(value).replace("%2F", "/")));
    }
    text
}

/// Percent-encodes what is not unreserved (RFC 3986, section 2.3), but for `:`. In values a `/` stays, too.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
                encoded.push(char::from(byte))
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_meaning_in_a_purl_is_encoded() {
        let qualifiers = [("arch", "amd64"), ("distro", "debian-13"), ("nothing", "")];
        assert_eq!(
            purl("deb", Some("debian"), "libstdc++6", Some("1:2.3+b1~x"), &qualifiers),
            "pkg:deb/debian/libstdc%2B%2B6@1:2.3%2Bb1~x?arch=amd64&distro=debian-13"
        );
        assert_eq!(
            purl("oci", None, "nginx", Some("sha256:ab"), &[("repository_url", "docker.io/library/nginx")]),
            "pkg:oci/nginx@sha256:ab?repository_url=docker.io/library/nginx"
        );
    }
}
