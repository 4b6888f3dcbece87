//! Licences of Debian packages: from a machine-readable `debian/copyright` (DEP-5, "Machine-readable debian/copyright
//! file", format 1.0) to an SPDX licence expression (SPDX 2.3, annex D).
//!
//! Every licence of every `Files` paragraph counts: the expression is their conjunction. Debian's short names are mapped
//! to SPDX identifiers where both mean the same text; what has no identifier becomes a `LicenseRef` of the package. A
//! file in another form says nothing that a program could rely on.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::tree::{Node, Tree};

/// The largest copyright file that is read, in bytes.
pub const LIMIT: u64 = 4 << 20;

/// The longest expression that is kept, in bytes; a longer one helps nobody.
const MOST: usize = 4000;

/// The licence of a package.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Licence {
    /// The SPDX expression.
    pub expression: String,
    /// What it refers to that SPDX has no identifier for: the reference, and Debian's name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<(String, String)>,
}

/// What a package has at `usr/share/doc/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stated {
    /// Nothing that a program could read.
    Nothing,
    /// A licence.
    Licence(Licence),
    /// A link to the documentation of another package, which has the same.
    At(String),
}

/// Reads what the package `name` states in its tree. One that cannot be read states nothing.
pub fn stated(tree: &Tree, name: &str) -> Stated {
    let directory = format!("usr/share/doc/{name}");
    if let Some(Node::Symlink(target)) = tree.get(&directory).map(|entry| &entry.node) {
        let other = target.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        return Stated::At(other.to_owned());
    }
    let path = tree.canonicalize(&format!("{directory}/copyright"));
    let Some(entry) = path.and_then(|path| tree.get(&path)) else { return Stated::Nothing };
    let Node::File(content) = &tree.resolve_link(entry).node else { return Stated::Nothing };
    let Ok(bytes) = content.read(LIMIT) else { return Stated::Nothing };
    parse(&String::from_utf8_lossy(&bytes), name).map_or(Stated::Nothing, Stated::Licence)
}

/// Returns the licence that a copyright file states; none when it is not machine-readable. `package` is whose file it is.
pub fn parse(text: &str, package: &str) -> Option<Licence> {
    let is_header = |line: &str| {
        line.split_once(':').is_some_and(|(key, value)| {
            (key.eq_ignore_ascii_case("format") || key.eq_ignore_ascii_case("format-specification"))
                && value.contains("copyright-format")
        })
    };
    if !text.lines().take(5).any(is_header) {
        return None;
    }
    let mut references = BTreeSet::new();
    let mut expressions = BTreeSet::new();
    for paragraph in paragraphs(text) {
        let field =
            |name: &str| paragraph.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| *value);
        // A paragraph without files gives the text of a licence that others name.
        let (Some(_), Some(synopsis)) = (field("files"), field("license")) else { continue };
        let expression = expression(synopsis, package, &mut references)?;
        expressions.insert(expression);
    }
    let several = expressions.len() > 1;
    let parts: BTreeSet<String> = expressions
        .into_iter()
        .map(|expression| if several && expression.contains(" OR ") { format!("({expression})") } else { expression })
        .collect();
    let expression = parts.into_iter().collect::<Vec<_>>().join(" AND ");
    let references = references.into_iter().collect();
    (!expression.is_empty() && expression.len() <= MOST).then_some(Licence { expression, references })
}

/// Returns the fields of each paragraph, with the first line of their values.
fn paragraphs(text: &str) -> Vec<Vec<(&str, &str)>> {
    let mut paragraphs = vec![Vec::new()];
    for line in text.lines() {
        if line.trim().is_empty() {
            paragraphs.push(Vec::new());
        } else if !line.starts_with([' ', '\t', '#'])
            && let Some((key, value)) = line.split_once(':')
            && let Some(paragraph) = paragraphs.last_mut()
        {
            paragraph.push((key.trim(), value.trim()));
        }
    }
    paragraphs
}

type References = BTreeSet<(String, String)>;

/// Translates a synopsis (DEP-5, "License specification", "Syntax"): `or` binds weaker than `and`, unless a comma stands
/// before the `and`.
fn expression(synopsis: &str, package: &str, references: &mut References) -> Option<String> {
    let synopsis = synopsis.split_whitespace().collect::<Vec<_>>().join(" ");
    let groups = split(&synopsis, ", and ");
    let several = groups.len() > 1;
    let mut conjunction = BTreeSet::new();
    for group in groups {
        let alternatives = split(group, " or ").into_iter().map(|alternative| {
            let names = split(alternative.trim_end_matches(','), " and ").into_iter();
            let names: Option<BTreeSet<String>> = names.map(|name| identifier(name, package, references)).collect();
            Some(names?.into_iter().collect::<Vec<_>>().join(" AND "))
        });
        let alternatives: BTreeSet<String> = alternatives.collect::<Option<_>>()?;
        let text = alternatives.into_iter().collect::<Vec<_>>().join(" OR ");
        conjunction.insert(if several && text.contains(" OR ") { format!("({text})") } else { text });
    }
    Some(conjunction.into_iter().collect::<Vec<_>>().join(" AND "))
}

/// Splits at a separator, in whatever case it is written.
fn split<'a>(text: &'a str, separator: &str) -> Vec<&'a str> {
    let lower = text.to_ascii_lowercase();
    let (mut parts, mut start) = (Vec::new(), 0);
    for (position, _) in lower.match_indices(separator) {
        parts.push(&text[start..position]);
        start = position + separator.len();
    }
    parts.push(&text[start..]);
    parts
}

/// Returns the SPDX identifier of a short name, or a reference to it; none when there is no name.
fn identifier(name: &str, package: &str, references: &mut References) -> Option<String> {
    let name = name.trim().trim_matches(',').trim();
    if name.is_empty() {
        return None;
    }
    if let Some(known) = known(name) {
        return Some(known);
    }
    let clean = |text: &str| -> String {
        text.chars()
            .map(|character| if character.is_ascii_alphanumeric() || character == '.' { character } else { '-' })
            .collect()
    };
    let reference = format!("LicenseRef-{}-{}", clean(package), clean(name));
    references.insert((reference.clone(), name.to_owned()));
    Some(reference)
}

fn known(name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    if let Some((licence, exception)) = lower.split_once(" with ") {
        let licence = known(licence)?;
        return Some(format!("{licence} WITH {}", with(&licence, exception)?));
    }
    // Debian writes "or later" as a `+`.
    let (base, later) = match lower.strip_suffix('+').or_else(|| lower.strip_suffix("-or-later")) {
        Some(base) => (base, true),
        None => (lower.strip_suffix("-only").unwrap_or(&lower), false),
    };
    if let Some((family, version)) = base.split_once('-')
        && let Some((_, spdx)) = GNU.iter().find(|(debian, _)| *debian == family)
    {
        let version = if version.contains('.') { version.to_owned() } else { format!("{version}.0") };
        let plain = version.split('.').all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
        let exists = match *spdx {
            "GPL" => matches!(version.as_str(), "1.0" | "2.0" | "3.0"),
            "LGPL" => matches!(version.as_str(), "2.0" | "2.1" | "3.0"),
            "AGPL" => version == "3.0",
            _ => matches!(version.as_str(), "1.1" | "1.2" | "1.3"),
        };
        return (plain && exists).then(|| format!("{spdx}-{version}-{}", if later { "or-later" } else { "only" }));
    }
    if later {
        return None;
    }
    let renamed = RENAMED.iter().find(|(debian, _)| *debian == base).map(|(_, spdx)| *spdx);
    let same = || SAME.iter().find(|identifier| identifier.eq_ignore_ascii_case(base)).copied();
    renamed.or_else(same).map(str::to_owned)
}

/// Returns the SPDX exception (SPDX 2.3, annex A.2) that Debian describes in words.
fn with(licence: &str, exception: &str) -> Option<&'static str> {
    let name = exception.trim_end_matches("exception").trim().trim_end_matches('-').to_ascii_lowercase();
    match (name.as_str(), licence) {
        ("autoconf", "GPL-3.0-or-later" | "GPL-3.0-only") => Some("Autoconf-exception-3.0"),
        ("autoconf", "GPL-2.0-or-later" | "GPL-2.0-only") => Some("Autoconf-exception-2.0"),
        ("bison", _) => Some("Bison-exception-2.2"),
        ("libtool", _) => Some("Libtool-exception"),
        ("classpath", _) => Some("Classpath-exception-2.0"),
        ("font", _) => Some("Font-exception-2.0"),
        ("llvm", _) => Some("LLVM-exception"),
        ("linux-syscall-note", _) => Some("Linux-syscall-note"),
        _ => None,
    }
}

/// Families whose versions Debian writes without `.0` and without `-only`.
const GNU: [(&str, &str); 4] = [("gpl", "GPL"), ("lgpl", "LGPL"), ("agpl", "AGPL"), ("gfdl", "GFDL")];

/// Short names of DEP-5 and of Debian's archive that SPDX spells in another way.
const RENAMED: [(&str, &str); 22] = [
    ("expat", "MIT"),
    ("mit/expat", "MIT"),
    ("mit/x11", "X11"),
    ("apache-2", "Apache-2.0"),
    ("apache-1", "Apache-1.0"),
    ("artistic", "Artistic-1.0-Perl"),
    ("artistic-1", "Artistic-1.0"),
    ("artistic-2", "Artistic-2.0"),
    ("bsd-2", "BSD-2-Clause"),
    ("bsd-3", "BSD-3-Clause"),
    ("bsd-4", "BSD-4-Clause"),
    ("bsl-1", "BSL-1.0"),
    ("boost-1.0", "BSL-1.0"),
    ("cc0", "CC0-1.0"),
    ("cc0-1", "CC0-1.0"),
    ("mpl-1", "MPL-1.0"),
    ("mpl-2", "MPL-2.0"),
    ("python-2", "Python-2.0"),
    ("psf-2", "PSF-2.0"),
    ("ofl-1", "OFL-1.1"),
    ("wtfpl-2", "WTFPL"),
    ("openssl-ssleay", "OpenSSL"),
];

/// SPDX identifiers that Debian's files use as they are.
const SAME: [&str; 62] = [
    "0BSD",
    "AFL-2.1",
    "Apache-1.0",
    "Apache-1.1",
    "Apache-2.0",
    "APSL-2.0",
    "Artistic-1.0",
    "Artistic-2.0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSD-3-Clause-LBNL",
    "BSD-4-Clause",
    "BSD-4-Clause-UC",
    "BSD-Source-Code",
    "BSL-1.0",
    "bzip2-1.0.6",
    "CC-BY-3.0",
    "CC-BY-4.0",
    "CC-BY-SA-3.0",
    "CC-BY-SA-4.0",
    "CC0-1.0",
    "CDDL-1.0",
    "CPL-1.0",
    "curl",
    "ECL-2.0",
    "EPL-1.0",
    "EPL-2.0",
    "FSFAP",
    "FSFUL",
    "FSFULLR",
    "FTL",
    "HPND",
    "ICU",
    "IJG",
    "ImageMagick",
    "ISC",
    "Latex2e",
    "libpng-2.0",
    "Libpng",
    "MIT",
    "MIT-0",
    "MIT-CMU",
    "MPL-1.0",
    "MPL-1.1",
    "MPL-2.0",
    "MS-PL",
    "NCSA",
    "NTP",
    "OFL-1.1",
    "OLDAP-2.8",
    "OpenSSL",
    "PHP-3.01",
    "PostgreSQL",
    "PSF-2.0",
    "Python-2.0",
    "TCL",
    "Unicode-DFS-2016",
    "Unlicense",
    "Vim",
    "X11",
    "Zlib",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn one(synopsis: &str) -> String {
        let text = format!(
            "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nCopyright: x\nLicense: {synopsis}\n text\n"
        );
        parse(&text, "zlib1g").map_or_else(|| "none".to_owned(), |licence| licence.expression)
    }

    #[test]
    fn debian_names_become_spdx_expressions() {
        for (debian, spdx) in [
            ("GPL-2+", "GPL-2.0-or-later"),
            ("GPL-2", "GPL-2.0-only"),
            ("LGPL-2.1+", "LGPL-2.1-or-later"),
            ("LGPL-3.0+", "LGPL-3.0-or-later"),
            ("GFDL-1.3+", "GFDL-1.3-or-later"),
            ("GPL-2.0-only or LGPL-2.1-or-later", "GPL-2.0-only OR LGPL-2.1-or-later"),
            ("Expat", "MIT"),
            ("BSD-3-clause", "BSD-3-Clause"),
            ("zlib", "Zlib"),
            ("GPL-2+ or Artistic", "Artistic-1.0-Perl OR GPL-2.0-or-later"),
            ("GPL-2 and Expat or ISC", "GPL-2.0-only AND MIT OR ISC"),
            ("GPL-2 or ISC, and Expat", "(GPL-2.0-only OR ISC) AND MIT"),
            ("GPL-3+ with Autoconf exception", "GPL-3.0-or-later WITH Autoconf-exception-3.0"),
            ("GPL-2+ with OpenSSL exception", "LicenseRef-zlib1g-GPL-2--with-OpenSSL-exception"),
            ("public-domain", "LicenseRef-zlib1g-public-domain"),
            ("GPL-9", "LicenseRef-zlib1g-GPL-9"),
            ("GFDL-NIV-1.3+", "LicenseRef-zlib1g-GFDL-NIV-1.3-"),
            ("", "none"),
        ] {
            assert_eq!(one(debian), spdx, "{debian}");
        }
    }

    #[test]
    fn every_paragraph_with_files_counts_once() {
        let text = "Format: http://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nLicense: ISC\n\n\
            Files: *\nCopyright: 2020 A\nLicense: GPL-2+ or MIT\n\nFiles: debian/*\nLicense: GPL-2+\n\n\
            Files: b\nLicense: gpl-2+ OR mit\n\nFiles: c\nLicense: permissive\n\nLicense: BSD-2-clause\n the text\n";
        let licence = parse(text, "lib++x").unwrap();
        let expected = "(GPL-2.0-or-later OR MIT) AND GPL-2.0-or-later AND LicenseRef-lib--x-permissive";
        assert_eq!(licence.expression, expected);
        let reference = ("LicenseRef-lib--x-permissive".to_owned(), "permissive".to_owned());
        assert_eq!(licence.references, [reference]);
    }

    #[test]
    fn a_file_in_another_form_says_nothing() {
        let old = "This package was debianized by somebody.\n\nLicense: GPL-2\nFiles: *\n";
        assert_eq!(parse(old, "x"), None);
        assert_eq!(parse("Format: copyright-format\n\nFiles: *\nCopyright: x\n", "x"), None);
        assert_eq!(parse("", "x"), None);
    }
}
