//! What a file that a build wrote is as an artifact: told by its name, `NAME-VERSION-ARCH.EXTENSION`.

use std::collections::BTreeMap;

use ksos_formats::Arch;
use ksos_formats::update::{Version, is_name};

/// `artifactType` of a disk image, in whatever format.
pub const DISK_ARTIFACT: &str = "application/vnd.kubesolo.os.disk.v1";
/// `artifactType` of a CD image.
pub const ISO_ARTIFACT: &str = "application/vnd.kubesolo.os.iso.v1";
/// Media type of a raw disk image.
pub const RAW: &str = "application/vnd.kubesolo.os.disk.v1.raw";
/// Media type of a raw disk image compressed with Zstandard.
pub const RAW_ZSTD: &str = "application/vnd.kubesolo.os.disk.v1.raw+zstd";
/// Annotation of the architecture: `x86_64` or `arm64`.
pub const ARCHITECTURE: &str = "io.kubesolo.os.architecture";

/// File name extension, `artifactType`, and media type of the layer.
const KINDS: [(&str, &str, &str); 11] = [
    (".img", DISK_ARTIFACT, RAW),
    (".raw", DISK_ARTIFACT, RAW),
    (".img.zst", DISK_ARTIFACT, RAW_ZSTD),
    (".raw.zst", DISK_ARTIFACT, RAW_ZSTD),
    (".img.gz", DISK_ARTIFACT, "application/vnd.kubesolo.os.disk.v1.raw+gzip"),
    (".img.xz", DISK_ARTIFACT, "application/vnd.kubesolo.os.disk.v1.raw+xz"),
    (".qcow2", DISK_ARTIFACT, "application/vnd.kubesolo.os.disk.v1.qcow2"),
    (".vmdk", DISK_ARTIFACT, "application/vnd.kubesolo.os.disk.v1.vmdk"),
    (".vhd", DISK_ARTIFACT, "application/vnd.kubesolo.os.disk.v1.vhd"),
    (".vhdx", DISK_ARTIFACT, "application/vnd.kubesolo.os.disk.v1.vhdx"),
    (".iso", ISO_ARTIFACT, "application/vnd.kubesolo.os.iso.v1.iso9660"),
];
/// Extensions of what is no single file, or is not pushed as one.
const OTHERS: [&str; 4] = [".oci.tar", ".tar", ".oci", ".update"];

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// `artifactType` of its manifest.
    pub artifact_type: &'static str,
    /// Media type of the layer that it is.
    pub media_type: &'static str,
}

impl Kind {
    /// Tells it by the name of the file; none when that has no known extension.
    pub fn of(file_name: &str) -> Option<Self> {
        let (_, artifact_type, media_type) = KINDS.into_iter().find(|(extension, ..)| file_name.ends_with(extension))?;
        Some(Kind { artifact_type, media_type })
    }
}

/// Returns the name without what says the format: what the names of an artifact and of its documents begin with.
pub fn stem(file_name: &str) -> &str {
    let extensions = KINDS.iter().map(|(extension, ..)| *extension).chain(OTHERS);
    // Of `.img.zst` and `.zst`, the longer.
    let stems = extensions.filter_map(|extension| file_name.strip_suffix(extension));
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

    /// Returns what the manifest says of it ("Pre-Defined Annotation Keys", and the architecture).
    pub fn annotations(&self) -> BTreeMap<String, String> {
        let title = |key: &str| format!("org.opencontainers.image.{key}");
        let named = [
            (title("title"), self.name.clone()),
            (title("version"), self.version.as_ref().map(ToString::to_string)),
            (ARCHITECTURE.to_owned(), self.arch.map(|arch| arch.name().to_owned())),
        ];
        named.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        for (file, stem_of, name, version, arch) in [
            ("os-1.2.3-x86_64.img", "os-1.2.3-x86_64", "os", "1.2.3", Some(Arch::X86_64)),
            ("my-os-2-1.0.0-rc.1-arm64.img.zst", "my-os-2-1.0.0-rc.1-arm64", "my-os-2", "1.0.0-rc.1", Some(Arch::Arm64)),
            ("os-1.2.3+build.7.oci.tar", "os-1.2.3+build.7", "os", "1.2.3+build.7", None),
            ("os.iso", "os", "os", "", None),
            ("os-arm64.qcow2", "os-arm64", "os", "", Some(Arch::Arm64)),
            ("Some Thing.vhd", "Some Thing", "", "", None),
            ("node-1.0.0-x86_64.update", "node-1.0.0-x86_64", "node", "1.0.0", Some(Arch::X86_64)),
            (".img", ".img", "", "", None),
        ] {
            assert_eq!(stem(file), stem_of);
            let named = Named::of(stem(file));
            let text = |version: Option<Version>| version.map(|version| version.to_string()).unwrap_or_default();
            assert_eq!((named.name.unwrap_or_default().as_str(), text(named.version).as_str(), named.arch), (name, version, arch), "{file}");
        }
        assert_eq!(Kind::of("a.img.zst").unwrap().media_type, RAW_ZSTD);
        assert_eq!(Kind::of("a.iso").unwrap().artifact_type, ISO_ARTIFACT);
        assert_eq!(Kind::of("a.txt"), None);
    }
}
