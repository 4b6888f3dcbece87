//! Rules about what the node reads at boot: the image's default configuration and its AppArmor profiles.

use std::collections::BTreeMap;

use ksos_formats::config::parse_document;
use ksos_formats::layout;
use ksos_formats::runtime::ServiceConfig;

use super::files::is_program;
use super::paths::entry;
use super::{Finding, Place, ProofError, Rule, failure};
use crate::tree::{Content, Node, Tree};

/// Where AppArmor's parser is looked for on the node.
const PARSERS: [&str; 4] =
    ["/usr/sbin/apparmor_parser", "/sbin/apparmor_parser", "/usr/bin/apparmor_parser", "/bin/apparmor_parser"];
/// Where profiles are.
const PROFILES: &str = "etc/apparmor.d/";
/// Largest text read, in bytes.
const LIMIT: u64 = 1 << 20;

/// Checks the default configuration as the node will.
///
/// # Errors
/// [`ProofError::Read`].
pub fn configuration(root: &Tree) -> Result<Vec<Finding>, ProofError> {
    let Some(Node::File(content)) = entry(root, layout::DEFAULT_CONFIG).map(|entry| &entry.node) else {
        return Ok(Vec::new());
    };
    let report = |message: String, fix: &str| {
        failure(Rule::Configuration, Place::Root, layout::DEFAULT_CONFIG, message, fix.to_owned())
    };
    let Some(text) = text(content, layout::DEFAULT_CONFIG)? else {
        return Ok(vec![report("is not text, or larger than 1 MiB".to_owned(), "write it as YAML")]);
    };
    let Err(diagnostics) = parse_document(&text) else { return Ok(Vec::new()) };
    let finding = |diagnostic: ksos_formats::config::Diagnostic| {
        let message = format!("{}:{}: {}", diagnostic.line, diagnostic.column, diagnostic.message);
        report(message, diagnostic.hint.as_deref().unwrap_or("`ksos-compose check --config FILE` shows the place"))
    };
    Ok(diagnostics.into_iter().map(finding).collect())
}

/// Checks that every profile that confines a service is in the image, with the program that loads it.
///
/// # Errors
/// [`ProofError::Read`].
pub fn profiles(root: &Tree, services: &BTreeMap<String, ServiceConfig>) -> Result<Vec<Finding>, ProofError> {
    let mut findings = Vec::new();
    let wanted: Vec<(&String, &String)> =
        services.iter().filter_map(|(name, service)| Some((name, service.apparmor.as_ref()?))).collect();
    if wanted.is_empty() {
        return Ok(findings);
    }
    let mut report = |service: &str, message: String, fix: &str| {
        findings.push(failure(Rule::Service, Place::Plan, &format!("services.{service}"), message, fix));
    };
    let mut texts = Vec::new();
    for (path, entry) in root.iter() {
        let name = path.strip_prefix(PROFILES).filter(|name| !name.contains('/'));
        if let (Some(_), Node::File(content)) = (name, &entry.node) {
            texts.extend(text(content, path)?);
        }
    }
    let parser = PARSERS.iter().any(|path| is_program(root, path));
    for (service, profile) in wanted {
        if !parser {
            report(
                service,
                "apparmor: apparmor_parser is not in the image".to_owned(),
                "add Debian's package apparmor",
            );
        }
        if !texts.iter().any(|text| defines(text, profile)) {
            let message = format!("apparmor: no file in /{PROFILES} has the profile {profile:?}");
            report(service, message, "add the profile by [files] or an overlay");
        }
    }
    Ok(findings)
}

/// Whether a text has `profile NAME ...` (apparmor.d(5)).
fn defines(text: &str, profile: &str) -> bool {
    text.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some("profile") && words.next().is_some_and(|word| word.trim_matches('"') == profile)
    })
}

fn text(content: &Content, path: &str) -> Result<Option<String>, ProofError> {
    if content.size > LIMIT {
        return Ok(None);
    }
    let bytes = content.read(LIMIT).map_err(|source| ProofError::Read { path: path.to_owned(), source })?;
    Ok(String::from_utf8(bytes).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Entry, Meta};

    fn tree(files: &[(&str, &str)]) -> Tree {
        let mut tree = Tree::new(0);
        for (path, text) in files {
            for (slash, _) in path.match_indices('/') {
                let directory = Entry { meta: Meta::root(0o755, 0), node: Node::Directory };
                if tree.get(&path[..slash]).is_none() {
                    tree.insert(&path[..slash], directory).expect("a valid path");
                }
            }
            let entry = Entry { meta: Meta::root(0o755, 0), node: Node::File(Content::inline(text.as_bytes())) };
            tree.insert(path, entry).expect("a valid path");
        }
        tree
    }

    #[test]
    fn a_bad_default_configuration_names_line_and_column() {
        let good = tree(&[("usr/lib/ksos/config.yaml", "hostname: edge-1\n")]);
        assert!(configuration(&good).expect("read").is_empty());
        let bad = configuration(&tree(&[("usr/lib/ksos/config.yaml", "hostnam: edge-1\n")])).expect("read");
        assert!(bad[0].message.starts_with("1:1: "), "{bad:?}");
        assert!(configuration(&Tree::new(0)).expect("read").is_empty());
    }

    #[test]
    fn a_profile_needs_its_file_and_the_parser() {
        let mut services = BTreeMap::new();
        let mut service: ServiceConfig = crate::ops::build::root::service_config(
            &toml::from_str::<crate::manifest::Service>("command = [\"/usr/bin/x\"]").expect("a service"),
        );
        service.apparmor = Some("x".to_owned());
        services.insert("x".to_owned(), service);
        let both = profiles(&Tree::new(0), &services).expect("read");
        assert_eq!(both.len(), 2, "{both:?}");
        let whole =
            tree(&[("usr/sbin/apparmor_parser", "#!"), ("etc/apparmor.d/x", "profile x flags=(complain) {\n}\n")]);
        assert!(profiles(&whole, &services).expect("read").is_empty());
        let other = tree(&[("usr/sbin/apparmor_parser", "#!"), ("etc/apparmor.d/x", "profile xy {\n}\n")]);
        assert_eq!(profiles(&other, &services).expect("read").len(), 1);
    }
}
