//! The `Release` file of a suite (Debian repository format, "Release files"): which indexes exist, and until when.

use std::collections::BTreeMap;

use ksos_formats::Digest;

use super::deb822;
use super::openpgp::date;

/// How far in the future `Date` may lie, in seconds: clocks differ.
const DATE_SLACK: u64 = 24 * 60 * 60;

/// A `Release` whose text is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// E.g. `stable`.
    pub suite: String,
    /// E.g. `trixie`.
    pub codename: String,
    /// When it was made, in seconds since 1970.
    pub date: u64,
    /// When it ceases to be valid, in seconds since 1970, if ever.
    pub valid_until: Option<u64>,
    /// E.g. `main`; in some archives with a prefix, e.g. `updates/main`.
    pub components: Vec<String>,
    /// E.g. `amd64`.
    pub architectures: Vec<String>,
    /// Whether indexes are also to be had under the name of their digest (`Acquire-By-Hash`).
    pub by_hash: bool,
    /// Size in bytes and SHA-256 of each index, by its path below the suite.
    pub files: BTreeMap<String, (u64, Digest)>,
}

/// A `Release` that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// Not in the format.
    #[error("Release {0}")]
    Syntax(#[from] deb822::Deb822Error),
    /// A field is absent.
    #[error("Release has no field {field}")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// A field's value is not what it must be.
    #[error("Release line {line}: {field} is {value:?}")]
    Malformed {
        /// The line, from 1.
        line: usize,
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
    },
    /// It is for something else.
    #[error("it is the Release of suite {suite:?}, codename {codename:?}; {asked:?} was asked for")]
    WrongSuite {
        /// What was asked for.
        asked: String,
        /// `Suite`.
        suite: String,
        /// `Codename`.
        codename: String,
    },
    /// `Valid-Until` is over.
    #[error("Release is expired: it was valid until {}", date(*until))]
    Expired {
        /// In seconds since 1970.
        until: u64,
    },
    /// `Date` lies in the future.
    #[error("Release is from the future: it was made on {}, and by this machine's clock it is {}", date(*made), date(*now))]
    Future {
        /// `Date`, in seconds since 1970.
        made: u64,
        /// The clock, in seconds since 1970.
        now: u64,
    },
    /// A component or architecture is not part of the suite.
    #[error("Release has no {kind} {asked:?}; it has {}", available.join(", "))]
    NotOffered {
        /// `component` or `architecture`.
        kind: &'static str,
        /// What was asked for.
        asked: String,
        /// What there is.
        available: Vec<String>,
    },
}

impl Release {
    /// Parses the verified text of a `Release`.
    ///
    /// # Errors
    /// [`ReleaseError`]: `Syntax`, `Missing` or `Malformed`.
    pub fn parse(text: &str) -> Result<Self, ReleaseError> {
        let paragraphs = deb822::parse(text)?;
        let fields = paragraphs.first().ok_or(ReleaseError::Missing { field: "Date" })?;
        if let Some(second) = paragraphs.get(1) {
            let line = second.fields.first().map_or(0, |field| field.line);
            return Err(deb822::Deb822Error { line, cause: "a second paragraph".to_owned() }.into());
        }
        let word = |field| fields.value(field).unwrap_or("").to_owned();
        let list = |field: &str| fields.words(field).into_iter().map(str::to_owned).collect();
        Ok(Release {
            suite: word("Suite"),
            codename: word("Codename"),
            date: time_field(fields, "Date")?.ok_or(ReleaseError::Missing { field: "Date" })?,
            valid_until: time_field(fields, "Valid-Until")?,
            components: list("Components"),
            architectures: list("Architectures"),
            by_hash: fields.value("Acquire-By-Hash") == Some("yes"),
            files: files(fields)?,
        })
    }

    /// Checks that this is the `Release` of `suite` (its `Suite` or `Codename`) and that it is valid at `now`, in seconds
    /// since 1970.
    ///
    /// # Errors
    /// [`ReleaseError`]: `WrongSuite`, `Expired` or `Future`.
    pub fn check(&self, suite: &str, now: u64) -> Result<(), ReleaseError> {
        if suite != self.suite && suite != self.codename {
            return Err(ReleaseError::WrongSuite {
                asked: suite.to_owned(),
                suite: self.suite.clone(),
                codename: self.codename.clone(),
            });
        }
        if let Some(until) = self.valid_until.filter(|until| now >= *until) {
            return Err(ReleaseError::Expired { until });
        }
        if self.date > now.saturating_add(DATE_SLACK) {
            return Err(ReleaseError::Future { made: self.date, now });
        }
        Ok(())
    }

    /// Checks that the suite has `component` and `architecture`.
    ///
    /// # Errors
    /// [`ReleaseError::NotOffered`].
    pub fn check_offer(&self, component: &str, architecture: &str) -> Result<(), ReleaseError> {
        // The security archive calls its components `updates/main` and keeps them in `main`.
        let named = |name: &String| name == component || name.rsplit('/').next() == Some(component);
        if !self.components.iter().any(named) {
            return Err(not_offered("component", component, &self.components));
        }
        if !self.architectures.iter().any(|name| name == architecture) {
            return Err(not_offered("architecture", architecture, &self.architectures));
        }
        Ok(())
    }
}

fn not_offered(kind: &'static str, asked: &str, available: &[String]) -> ReleaseError {
    ReleaseError::NotOffered { kind, asked: asked.to_owned(), available: available.to_vec() }
}

fn time_field(fields: &deb822::Paragraph<'_>, name: &'static str) -> Result<Option<u64>, ReleaseError> {
    let Some(field) = fields.field(name) else { return Ok(None) };
    let malformed =
        || ReleaseError::Malformed { line: field.line, field: name, value: field.value.chars().take(60).collect() };
    parse_date(field.value).ok_or_else(malformed).map(Some)
}

/// Parses `Sat, 21 Nov 2026 09:15:44 UTC` into seconds since 1970.
fn parse_date(text: &str) -> Option<u64> {
    let format = time::macros::format_description!(
        "[weekday repr:short], [day padding:none] [month repr:short] [year] [hour padding:none]:[minute]:[second]"
    );
    let (date, zone) = text.rsplit_once(' ')?;
    if !matches!(zone, "UTC" | "GMT" | "Z" | "+0000") {
        return None;
    }
    let date = date.split_whitespace().collect::<Vec<_>>().join(" ");
    let date = time::PrimitiveDateTime::parse(&date, format).ok()?;
    u64::try_from(date.assume_utc().unix_timestamp()).ok()
}

fn files(fields: &deb822::Paragraph<'_>) -> Result<BTreeMap<String, (u64, Digest)>, ReleaseError> {
    let field = fields.field("SHA256").ok_or(ReleaseError::Missing { field: "SHA256" })?;
    let mut files = BTreeMap::new();
    for (index, line) in field.lines.iter().enumerate() {
        let malformed = || ReleaseError::Malformed {
            line: field.line + 1 + index,
            field: "SHA256",
            value: line.chars().take(120).collect(),
        };
        let mut words = line.split_whitespace();
        let (Some(digest), Some(size), Some(path), None) = (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(malformed());
        };
        let entry = (size.parse().map_err(|_| malformed())?, digest.parse().map_err(|_| malformed())?);
        if files.insert(path.to_owned(), entry).is_some_and(|other| other != entry) {
            return Err(malformed());
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_000_000; // 2026-11-18

    fn sample() -> String {
        format!(
            "Origin: Debian\nSuite: stable-security\nCodename: trixie-security\nDate: Wed, 18 Nov 2026 05:00:00 UTC\n\
             Valid-Until: Wed, 25 Nov 2026 05:00:00 UTC\nAcquire-By-Hash: yes\nArchitectures: amd64 arm64\n\
             Components: updates/main contrib\nSHA256:\n {} 12 main/binary-amd64/Packages\n",
            Digest::of(b"x")
        )
    }

    #[test]
    fn a_release_is_read() {
        let release = Release::parse(&sample()).unwrap();
        assert_eq!(release.date, 1_794_978_000);
        assert_eq!(release.valid_until, Some(1_795_582_800));
        assert!(release.by_hash);
        assert_eq!(release.files["main/binary-amd64/Packages"], (12, Digest::of(b"x")));
        for suite in ["trixie-security", "stable-security"] {
            release.check(suite, NOW).unwrap();
        }
        for component in ["main", "updates/main", "contrib"] {
            release.check_offer(component, "arm64").unwrap();
        }
    }

    #[test]
    fn time_is_enforced() {
        let release = Release::parse(&sample()).unwrap();
        let check = |now| release.check("trixie-security", now).map_err(|error| error.to_string());
        assert_eq!(check(1_795_582_799), Ok(()));
        assert_eq!(check(1_795_582_800), Err("Release is expired: it was valid until 2026-11-25".to_owned()));
        assert_eq!(check(1_794_978_000 - DATE_SLACK), Ok(()));
        let future =
            "Release is from the future: it was made on 2026-11-18, and by this machine's clock it is 2026-11-17";
        assert_eq!(check(1_794_978_000 - DATE_SLACK - 1), Err(future.to_owned()));
    }

    #[test]
    fn what_is_asked_must_be_there() {
        let release = Release::parse(&sample()).unwrap();
        let error = release.check("trixie", NOW).unwrap_err().to_string();
        let wrong =
            "it is the Release of suite \"stable-security\", codename \"trixie-security\"; \"trixie\" was asked for";
        assert_eq!(error, wrong);
        let error = release.check_offer("non-free", "amd64").unwrap_err().to_string();
        assert_eq!(error, "Release has no component \"non-free\"; it has updates/main, contrib");
        let error = release.check_offer("main", "riscv64").unwrap_err().to_string();
        assert_eq!(error, "Release has no architecture \"riscv64\"; it has amd64, arm64");
    }

    #[test]
    fn malformed_releases_are_refused() {
        let digest = Digest::of(b"x").to_string();
        for (fault, text, error) in [
            (
                "bad date",
                sample().replace("18 Nov", "38 Nov"),
                "Release line 4: Date is \"Wed, 38 Nov 2026 05:00:00 UTC\"",
            ),
            (
                "other zone",
                sample().replace("00:00 UTC", "00:00 PST"),
                "Release line 4: Date is \"Wed, 18 Nov 2026 05:00:00 PST\"",
            ),
            ("no date", sample().replace("Date:", "Dat:"), "Release has no field Date"),
            ("no digests", sample().replace("SHA256:", "MD5Sum:"), "Release has no field SHA256"),
            (
                "short digest",
                sample().replace(&digest, &digest[1..]),
                &format!("Release line 10: SHA256 is \"{} 12 main/binary-amd64/Packages\"", &digest[1..]),
            ),
            (
                "negative size",
                sample().replace(" 12 ", " -1 "),
                &format!("Release line 10: SHA256 is \"{digest} -1 main/binary-amd64/Packages\""),
            ),
            ("second paragraph", format!("{}\nDate: x\n", sample()), "Release line 12: a second paragraph"),
            ("field twice", format!("{}Date: x\n", sample()), "Release line 11: field Date stands twice"),
            ("empty", String::new(), "Release has no field Date"),
        ] {
            assert_eq!(Release::parse(&text).unwrap_err().to_string(), error, "{fault}");
        }
    }
}
