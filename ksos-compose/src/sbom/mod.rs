//! Software bills of materials: what an image is made of, as SPDX 2.3 and CycloneDX 1.6 in JSON.
//!
//! ```text
//! lock, plan, trees -> Bom -> spdx       every package and every file, with the package that it came from
//!                         `-> cyclonedx  every package, with the places of its files
//! ```
//!
//! Nothing in a document depends on when, where or by whom it is made: times are the image's epoch, names and numbers
//! derive from its content. Licences are those that the packages themselves state ([`licence`]), read from the packages,
//! for an image may leave their documentation out.

pub mod crates;
pub mod cyclonedx;
pub mod files;
pub mod licence;
pub mod purl;
pub mod spdx;

use ksos_formats::boot::ImageId;
use ksos_formats::{Arch, Digest};
use serde::{Deserialize, Serialize};

use files::Owner;
use licence::Licence;

/// Where the project is: the beginning of the names of its documents.
pub const PROJECT: &str = "https://github.com/portainer/kubesolo-os";

/// What an image is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bom {
    /// The image.
    pub image: ImageId,
    /// Version of the composer.
    pub composer: &'static str,
    /// The distribution that packages come from: its name, and its version (or the name of its release).
    pub distribution: Option<(String, String)>,
    /// Packages, sorted, each once.
    pub packages: Vec<Package>,
    /// Files of the root file system in the order of their paths.
    pub files: Vec<File>,
}

/// What kind of thing a package is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A Debian package.
    Debian,
    /// A download or a file on the machine that built the image.
    Generic,
    /// A container image that the image carries.
    ContainerImage,
    /// A program built from a Cargo workspace.
    Program,
    /// A crate that is built into a program.
    Crate,
}

/// A package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// What kind of thing it is.
    pub kind: Kind,
    /// Name.
    pub name: String,
    /// Version, when it has one.
    pub version: Option<String>,
    /// Package URL.
    pub purl: String,
    /// Component of the manifest that it belongs to.
    pub component: String,
    /// Where anybody can have it.
    pub download: Option<String>,
    /// SHA-256 of the archive, or of what it is.
    pub sha256: Option<Digest>,
    /// Who has made the package, when it is an organization of that name.
    pub supplier: Option<String>,
    /// Source package.
    pub source: Option<String>,
    /// Licence that it states.
    pub licence: Option<OrderedLicence>,
    /// Package URLs of the crates that it is built with.
    pub uses: Vec<String>,
}

/// A licence, with an order of no meaning.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OrderedLicence {
    /// The SPDX expression.
    pub expression: String,
    /// What it refers to that SPDX has no identifier for: the reference, and Debian's name.
    pub references: Vec<(String, String)>,
}

impl From<Licence> for OrderedLicence {
    fn from(Licence { expression, references }: Licence) -> Self {
        OrderedLicence { expression, references }
    }
}

/// A file of the root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Path below the root.
    pub path: String,
    /// Index of the package that it came from in [`Bom::packages`]; none: the composer made it.
    pub package: Option<usize>,
    /// SHA-256.
    pub sha256: Digest,
    /// SHA-1: SPDX 2.3 asks for it (section 8.4).
    pub sha1: String,
}

/// A form of the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Format {
    /// SPDX 2.3, JSON.
    Spdx,
    /// CycloneDX 1.6, JSON.
    Cyclonedx,
}

impl Format {
    /// Returns the end of the names of files of this form.
    pub fn suffix(self) -> &'static str {
        match self {
            Format::Spdx => ".spdx.json",
            Format::Cyclonedx => ".cdx.json",
        }
    }

    /// Returns the name of the form.
    pub fn name(self) -> &'static str {
        match self {
            Format::Spdx => "spdx",
            Format::Cyclonedx => "cyclonedx",
        }
    }

    /// Returns the document.
    pub fn document(self, bom: &Bom) -> Vec<u8> {
        match self {
            Format::Spdx => spdx::document(bom),
            Format::Cyclonedx => cyclonedx::document(bom),
        }
    }
}

impl Bom {
    /// Returns the files of the root file system by what made them, as indexes into [`Bom::packages`].
    pub fn set_files(&mut self, listed: files::RootFiles, owner: impl Fn(&Owner, &Digest) -> Option<usize>) {
        let files::RootFiles { format: _, owners, files, licences: _ } = listed;
        self.files = files
            .into_iter()
            .map(|files::ListedFile(path, by, sha256, sha1)| {
                let package = owners.get(by).and_then(|by| owner(by, &sha256));
                File { path, package, sha256, sha1 }
            })
            .collect();
    }

    /// Returns `NAME-VERSION-ARCH`.
    pub fn stem(&self) -> String {
        let ImageId { name, version, arch, epoch: _ } = &self.image;
        format!("{name}-{version}-{arch}")
    }

    /// Returns the epoch as RFC 3339 has it.
    pub fn created(&self) -> String {
        timestamp(self.image.epoch)
    }
}

/// Returns a time in seconds since 1970 as RFC 3339 has it, e.g. `2026-01-01T00:00:00Z`.
pub fn timestamp(epoch: u64) -> String {
    let seconds = i64::try_from(epoch).unwrap_or(i64::MAX);
    let time = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    time.format(&time::format_description::well_known::Rfc3339).expect("a year of four digits has a form")
}

/// Returns Debian's name for an architecture.
pub fn debian_arch(arch: Arch) -> &'static str {
    arch.debian()
}

/// Returns name and version of the distribution that a suite of package archives belongs to, as scanners know them.
pub fn distribution(suite: &str) -> (String, String) {
    // Release names of Debian (debian.org, "Debian Releases") and of Ubuntu's long-term releases.
    const RELEASES: [(&str, &str, &str); 10] = [
        ("bullseye", "debian", "11"),
        ("bookworm", "debian", "12"),
        ("trixie", "debian", "13"),
        ("forky", "debian", "14"),
        ("duke", "debian", "15"),
        ("sid", "debian", "sid"),
        ("focal", "ubuntu", "20.04"),
        ("jammy", "ubuntu", "22.04"),
        ("noble", "ubuntu", "24.04"),
        ("resolute", "ubuntu", "26.04"),
    ];
    let name = suite.split(['-', '/']).next().unwrap_or(suite);
    match RELEASES.iter().find(|(release, _, _)| *release == name) {
        Some((_, distribution, version)) => ((*distribution).to_owned(), (*version).to_owned()),
        None => ("debian".to_owned(), name.to_owned()),
    }
}

/// Writes a JSON object whose long lists have one line for each entry, so that two documents can be compared by line.
pub(crate) fn lines(head: &serde_json::Value, lists: &[(&str, Vec<serde_json::Value>)]) -> Vec<u8> {
    let mut text = b"{\n".to_vec();
    let mut first = true;
    let mut key = |text: &mut Vec<u8>, name: &str| {
        if !std::mem::take(&mut first) {
            text.extend_from_slice(b",\n");
        }
        text.extend_from_slice(format!("{}: ", serde_json::Value::from(name)).as_bytes());
    };
    for (name, value) in head.as_object().into_iter().flatten() {
        key(&mut text, name);
        serde_json::to_writer(&mut text, value).expect("a JSON value has a text");
    }
    for (name, entries) in lists.iter().filter(|(_, entries)| !entries.is_empty()) {
        key(&mut text, name);
        text.extend_from_slice(b"[\n");
        for (number, entry) in entries.iter().enumerate() {
            text.extend_from_slice(if number == 0 { b"" } else { b",\n" });
            serde_json::to_writer(&mut text, entry).expect("a JSON value has a text");
        }
        text.extend_from_slice(b"\n]");
    }
    text.extend_from_slice(b"\n}\n");
    text
}

#[cfg(test)]
pub(crate) mod tests;
