//! Schemas of strings that stay strings in the types: each names its format, and a pattern for editors that agrees
//! with the format's check (a test compares them).

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// Defines types that stand for strings in schemas only.
macro_rules! texts {
    ($($name:ident: $format:literal, $pattern:expr;)+) => {
        $(
            pub(super) struct $name;

            impl JsonSchema for $name {
                fn schema_name() -> Cow<'static, str> {
                    stringify!($name).into()
                }

                fn inline_schema() -> bool {
                    true
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    let pattern: Option<&str> = $pattern;
                    match pattern {
                        Some(pattern) => json_schema!({ "type": "string", "format": $format, "pattern": pattern }),
                        None => json_schema!({ "type": "string", "format": $format, "minLength": 1 }),
                    }
                }
            }
        )+
    };
}

texts! {
    AbsolutePath: "ksos-absolute-path", Some("^/");
    ArchiveName: "ksos-archive-name", Some("^[A-Za-z0-9][A-Za-z0-9._/-]*$");
    CrateName: "ksos-crate-name", Some("^[A-Za-z0-9_][A-Za-z0-9_-]*$");
    Days: "ksos-days", None;
    ExtensionName: "ksos-extension-name", Some("^[A-Za-z0-9][A-Za-z0-9+._~-]*$");
    Hostname: "ksos-hostname", Some("^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$");
    ImageDigest: "ksos-image-digest", Some("^sha256:[0-9a-f]{64}$");
    ImageName: "ksos-image-name", Some("^[a-z0-9][a-z0-9-]*$");
    ImageReference: "ksos-image-reference", None;
    InstallFrom: "ksos-install-from", None;
    KernelParameter: "ksos-kernel-parameter", None;
    Label: "ksos-label", Some("^[A-Za-z0-9_-]+$");
    LinkTarget: "ksos-link-target", None;
    PackageName: "ksos-package", Some("^[a-z0-9][a-z0-9+.-]+$");
    ProfileName: "ksos-profile-name", Some("^[A-Za-z0-9/][A-Za-z0-9./_-]*$");
    RemoteCache: "ksos-remote-cache", Some("^oci(\\+http)?://");
    Semver: "ksos-semver", Some(
        "^(0|[1-9][0-9]*)\\.(0|[1-9][0-9]*)\\.(0|[1-9][0-9]*)(-[0-9A-Za-z.-]+)?(\\+[0-9A-Za-z.-]+)?$"
    );
    Sha256: "ksos-sha256", Some("^[0-9a-f]{64}$");
    Suite: "ksos-suite", Some("^[A-Za-z0-9][A-Za-z0-9._/-]*$");
    TimeOfDay: "ksos-time-of-day", Some("^[0-9]{1,2}:[0-9]{2}$");
    TimeZone: "ksos-time-zone", None;
    UpdateName: "ksos-update-name", Some("^[a-z0-9][a-z0-9-]*$");
    UpdateSource: "ksos-update-source", Some("^(https?|oci([+]http)?)://");
    Url: "ksos-url", Some("^https?://");
    UrlTemplate: "ksos-url-template", Some("^https?://");
    Version: "ksos-version", Some("^[A-Za-z0-9][A-Za-z0-9.+~_-]*$");
    WindowLength: "ksos-window-length", Some("^([0-9]+[mhd])+$");
}

/// An argument of a command: any text without NUL, also none.
pub(super) struct Argument;

impl JsonSchema for Argument {
    fn schema_name() -> Cow<'static, str> {
        "Argument".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "ksos-argument" })
    }
}
