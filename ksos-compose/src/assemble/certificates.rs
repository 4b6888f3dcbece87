//! The CA bundle, which Debian's `ca-certificates` makes in a maintainer script.

use super::AssembleError;
use crate::tree::{Node, Tree};

/// Where packages put certificates, in tree form.
pub const CERTIFICATES: &str = "usr/share/ca-certificates";
/// Where programs look for the bundle, in tree form.
pub const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";

/// The largest certificate file read, in bytes.
const CERTIFICATE_LIMIT: u64 = 1 << 20;

/// Returns the concatenation of every `*.crt` below [`CERTIFICATES`] in path order, each ending in a newline.
///
/// # Errors
/// When a file cannot be read or is not PEM.
pub fn bundle(tree: &Tree) -> Result<Vec<u8>, AssembleError> {
    let mut bundle = Vec::new();
    for (path, entry) in tree.below(CERTIFICATES) {
        let Node::File(content) = &tree.resolve_link(entry).node else { continue };
        if !path.ends_with(".crt") {
            continue;
        }
        let bytes =
            content.read(CERTIFICATE_LIMIT).map_err(|source| AssembleError::Read { path: path.to_owned(), source })?;
        if !bytes.starts_with(b"-----BEGIN CERTIFICATE-----") {
            return Err(AssembleError::Certificate { path: path.to_owned() });
        }
        bundle.extend_from_slice(&bytes);
        if !bytes.ends_with(b"\n") {
            bundle.push(b'\n');
        }
    }
    if bundle.is_empty() {
        return Err(AssembleError::NoCertificates);
    }
    Ok(bundle)
}

#[cfg(test)]
mod tests {
    use super::super::put_file;
    use super::*;

    #[test]
    fn certificates_are_joined_in_path_order() {
        let mut tree = Tree::new(0);
        let pem = |name: &str| format!("-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----");
        put_file(&mut tree, "usr/share/ca-certificates/m/B.crt", 0o644, pem("b").as_bytes(), 0, "t").unwrap();
        put_file(&mut tree, "usr/share/ca-certificates/m/A.crt", 0o644, pem("a").as_bytes(), 0, "t").unwrap();
        put_file(&mut tree, "usr/share/ca-certificates/README", 0o644, b"no", 0, "t").unwrap();
        let text = String::from_utf8(bundle(&tree).unwrap()).unwrap();
        assert_eq!(text, format!("{}\n{}\n", pem("a"), pem("b")));
    }

    #[test]
    fn a_file_that_is_no_certificate_is_named() {
        let mut tree = Tree::new(0);
        put_file(&mut tree, "usr/share/ca-certificates/x.crt", 0o644, b"<html>", 0, "t").unwrap();
        let error = bundle(&tree).unwrap_err();
        assert_eq!(error.to_string(), "usr/share/ca-certificates/x.crt: not a PEM certificate");
    }
}
