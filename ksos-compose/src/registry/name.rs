//! What the name of a file that a build wrote says of it: `NAME-VERSION-ARCH.EXTENSION`.

use std::collections::BTreeMap;

use ksos_formats::Arch;
use ksos_formats::update::{Version, is_name};

use crate::oci::artifact::ARCH_ANNOTATION;

/// Ends of the names of artifacts.
const EXTENSIONS: [&str; 15] = [
    ".img",
    ".raw",
    ".img.zst",
    ".raw.zst",
    ".qcow2",
    ".vmdk",
    ".vhd",
    ".iso",
    ".disk.oci.tar",
    ".oci.tar",
    ".tar",
    ".tar.gz",
    ".tar.zst",
    ".oci",
    ".update",
];

/// Returns the name without what says the format: what the names of an artifact and of its documents begin with.
pub fn stem(file_name: &str) -> &str {
    let stems = EXTENSIONS.iter().filter_map(|extension| file_name.strip_suffix(extension));
    // Of `.oci.tar` and `.tar`, the longer.
    stems.min_by_key(|stem| stem.len()).filter(|stem| !stem.is_empty()).unwrap_or(file_name)
}

/// What the name of an artifact says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    /// Image.
    pub name: Option<String>,
    /// Version.
    pub version: Option<Version>,
    /// Architecture.
    pub arch: Option<Arch>,
}

impl Named {
    /// Reads `NAME-VERSION-ARCH`; parts that are not there are none.
    pub fn of(stem: &str) -> Self {
        let (rest, arch) = match stem.rsplit_once('-').map(|(rest, arch)| (rest, arch.parse::<Arch>())) {
            Some((rest, Ok(arch))) => (rest, Some(arch)),
            _ => (stem, None),
        };
        let mut splits = rest.match_indices('-').map(|(at, _)| (&rest[..at], &rest[at + 1..]));
        let found = splits.find_map(|(name, version)| Some((name, version.parse::<Version>().ok()?)));
        match found.filter(|(name, _)| is_name(name)) {
            Some((name, version)) => Named { name: Some(name.to_owned()), version: Some(version), arch },
            None => Named { name: is_name(rest).then(|| rest.to_owned()), version: None, arch },
        }
    }

    /// Returns what the manifest says of it, as [`crate::oci::artifact::Identity::annotations`] does, as far as it is known.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        let title = |key: &str| format!("org.opencontainers.image.{key}");
        let named = [
            (title("title"), self.name.clone()),
            (title("version"), self.version.as_ref().map(ToString::to_string)),
            (ARCH_ANNOTATION.to_owned(), self.arch.map(|arch| arch.debian().to_owned())),
        ];
        named.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::artifact::Identity;

    #[test]
    fn names_are_taken_apart() {
        for (file, stem_of, name, version, arch) in [
            ("os-1.2.3-x86_64.img", "os-1.2.3-x86_64", "os", "1.2.3", Some(Arch::X86_64)),
            (
                "my-os-2-1.0.0-rc.1-arm64.img.zst",
                "my-os-2-1.0.0-rc.1-arm64",
                "my-os-2",
                "1.0.0-rc.1",
                Some(Arch::Arm64),
            ),
            ("os-1.2.3+build.7.oci.tar", "os-1.2.3+build.7", "os", "1.2.3+build.7", None),
            ("os-1.2.3-arm64.disk.oci.tar", "os-1.2.3-arm64", "os", "1.2.3", Some(Arch::Arm64)),
            ("os.iso", "os", "os", "", None),
            ("os-arm64.qcow2", "os-arm64", "os", "", Some(Arch::Arm64)),
            ("Some Thing.vhd", "Some Thing", "", "", None),
            ("node-1.0.0-x86_64.update", "node-1.0.0-x86_64", "node", "1.0.0", Some(Arch::X86_64)),
            (".img", ".img", "", "", None),
        ] {
            assert_eq!(stem(file), stem_of);
            let named = Named::of(stem(file));
            let text = |version: Option<Version>| version.map(|version| version.to_string()).unwrap_or_default();
            assert_eq!(
                (named.name.unwrap_or_default().as_str(), text(named.version).as_str(), named.arch),
                (name, version, arch),
                "{file}"
            );
        }
    }

    #[test]
    fn annotations_are_those_of_the_layout_that_a_build_writes() {
        let identity = Identity { name: "os".into(), version: "1.2.3+b".into(), arch: Arch::Arm64 };
        assert_eq!(Named::of("os-1.2.3+b-arm64").annotations(), identity.annotations());
    }
}
