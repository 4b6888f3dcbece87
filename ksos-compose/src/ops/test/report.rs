//! What a test found: a table for people, JSON, and JUnit XML.
//!
//! JUnit XML is the form of Ant and of Maven's Surefire (`surefire-test-report.xsd`) that GitLab and Jenkins read:
//! `testsuites/testsuite/testcase` with `failure`, `error` and `skipped`, times in seconds, and `[[ATTACHMENT|PATH]]` for
//! files that belong to a case. XML 1.0 has no way to write most control characters (section 2.2): they become U+FFFD.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;

/// The current value of `format` in the JSON form.
const FORMAT: u32 = 1;

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// As it should.
    Passed,
    /// Otherwise.
    Failed {
        /// What was seen instead.
        reason: String,
    },
    /// It was not tried, because a case before it failed.
    Skipped,
}

/// One case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// What belongs together and runs on one disk: `boot`, `update`, `rollback`.
    pub group: &'static str,
    /// What should happen.
    pub name: &'static str,
    /// How it ended.
    pub verdict: Verdict,
    /// How long it took.
    pub time: Duration,
    /// What was seen, for people; empty: nothing.
    pub detail: String,
    /// Bytes of chunks that the node fetched for the update, in the case in which it was installed.
    pub fetched_bytes: Option<u64>,
}

/// What a test found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// The image that was tested: its file name.
    pub image: String,
    /// The cases, in the order in which they ran.
    pub cases: Vec<Case>,
    /// Logs of the serial console that were kept, by group.
    pub logs: Vec<(&'static str, PathBuf)>,
}

impl Report {
    /// Whether every case passed.
    pub fn passed(&self) -> bool {
        self.cases.iter().all(|case| case.verdict == Verdict::Passed)
    }

    fn count(&self, wanted: impl Fn(&Verdict) -> bool) -> usize {
        self.cases.iter().filter(|case| wanted(&case.verdict)).count()
    }

    fn time(&self) -> Duration {
        self.cases.iter().map(|case| case.time).sum()
    }

    /// Returns the table for people, with a line break at its end.
    pub fn to_table(&self) -> String {
        let mut text = String::new();
        let width = self.cases.iter().map(|case| case.name.chars().count()).max().unwrap_or(0);
        for Case { group, name, verdict, time, detail, fetched_bytes: _ } in &self.cases {
            let (word, reason) = match verdict {
                Verdict::Passed => ("ok", ""),
                Verdict::Failed { reason } => ("FAILED", reason.as_str()),
                Verdict::Skipped => ("skipped", ""),
            };
            let line = format!("{group:<9} {name:<width$} {word:<7} {:>7.1} s  {detail}", time.as_secs_f64());
            let _ = writeln!(text, "{}", line.trim_end());
            for line in reason.lines() {
                let _ = writeln!(text, "  {}", line.escape_debug());
            }
        }
        let failed = self.count(|verdict| matches!(verdict, Verdict::Failed { .. }));
        let skipped = self.count(|verdict| *verdict == Verdict::Skipped);
        let passed = self.cases.len() - failed - skipped;
        let total = self.time().as_secs();
        let _ = writeln!(text, "{}: {passed} passed, {failed} failed, {skipped} skipped in {total} s", self.image);
        for (group, path) in &self.logs {
            let _ = writeln!(text, "console of {group}: {}", path.display());
        }
        text
    }

    /// Returns the report as JSON.
    pub fn to_json(&self) -> serde_json::Value {
        let cases: Vec<_> = self
            .cases
            .iter()
            .map(|case| {
                let mut value = json!(case.verdict);
                value["group"] = json!(case.group);
                value["name"] = json!(case.name);
                value["seconds"] = json!(seconds(case.time));
                value["detail"] = json!(case.detail);
                if let Some(bytes) = case.fetched_bytes {
                    value["fetched_bytes"] = json!(bytes);
                }
                value
            })
            .collect();
        let logs: Vec<_> = self.logs.iter().map(|(group, path)| json!({ "group": group, "path": path })).collect();
        json!({ "format": FORMAT, "image": self.image, "passed": self.passed(), "cases": cases, "logs": logs })
    }

    /// Returns the report as JUnit XML.
    pub fn to_junit(&self) -> String {
        let failures = self.count(|verdict| matches!(verdict, Verdict::Failed { .. }));
        let skipped = self.count(|verdict| *verdict == Verdict::Skipped);
        let totals = format!(
            "tests=\"{}\" failures=\"{failures}\" errors=\"0\" skipped=\"{skipped}\" time=\"{:.3}\"",
            self.cases.len(),
            self.time().as_secs_f64()
        );
        let name = escape(&self.image);
        let mut text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"ksos-compose test\" {totals}>\n  \
             <testsuite name=\"{name}\" {totals}>\n"
        );
        self.cases.iter().for_each(|case| self.testcase(&mut text, case));
        text.push_str("  </testsuite>\n</testsuites>\n");
        text
    }

    fn testcase(&self, text: &mut String, case: &Case) {
        let Case { group, name, verdict, time, detail, fetched_bytes: _ } = case;
        let time = time.as_secs_f64();
        let _ = writeln!(text, "    <testcase classname=\"{group}\" name=\"{}\" time=\"{time:.3}\">", escape(name));
        match verdict {
            Verdict::Passed => {}
            Verdict::Skipped => text.push_str("      <skipped/>\n"),
            Verdict::Failed { reason } => {
                let first = escape(reason.lines().next().unwrap_or_default());
                let all = escape(reason);
                let _ = writeln!(text, "      <failure message=\"{first}\" type=\"failed\">{all}</failure>");
            }
        }
        let log = self.logs.iter().find(|(of, _)| of == group && matches!(verdict, Verdict::Failed { .. }));
        let attachment = log.map(|(_, path)| format!("[[ATTACHMENT|{}]]", path.display())).unwrap_or_default();
        let output: Vec<&str> =
            [detail.as_str(), attachment.as_str()].into_iter().filter(|text| !text.is_empty()).collect();
        if !output.is_empty() {
            let _ = writeln!(text, "      <system-out>{}</system-out>", escape(&output.join("\n")));
        }
        text.push_str("    </testcase>\n");
    }
}

/// Returns seconds to the millisecond.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

/// Escapes text for XML 1.0, in an attribute as between tags.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // In an attribute, a line break would be read as a blank (section 3.3.3).
            '\n' => escaped.push_str("&#10;"),
            '\t' => escaped.push_str("&#9;"),
            // Section 2.2, Char.
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            character => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &'static str, verdict: Verdict, milliseconds: u64, detail: &str) -> Case {
        let time = Duration::from_millis(milliseconds);
        Case { group: "update", name, verdict, time, detail: detail.to_owned(), fetched_bytes: None }
    }

    fn report() -> Report {
        let reason = "the console said:\nksos: emergency \"no <root> & \u{1b}[31m\u{0}\"";
        Report {
            image: "os-1.0.0-x86_64.img".to_owned(),
            cases: vec![
                case("the image boots", Verdict::Passed, 41_250, "version 1.0.0, slot a"),
                case("the update is installed", Verdict::Failed { reason: reason.to_owned() }, 600_000, ""),
                case("the update is kept", Verdict::Skipped, 0, ""),
            ],
            logs: vec![("update", PathBuf::from("out/os-update.log"))],
        }
    }

    #[test]
    fn the_table_is_for_people() {
        assert_eq!(
            report().to_table(),
            "update    the image boots         ok         41.2 s  version 1.0.0, slot a\n\
             update    the update is installed FAILED    600.0 s\n  the console said:\n  \
             ksos: emergency \\\"no <root> & \\u{1b}[31m\\0\\\"\n\
             update    the update is kept      skipped     0.0 s\n\
             os-1.0.0-x86_64.img: 1 passed, 1 failed, 1 skipped in 641 s\n\
             console of update: out/os-update.log\n"
        );
        assert!(!report().passed());
    }

    #[test]
    fn the_json_form_has_a_version_and_every_case() {
        let value = report().to_json();
        assert_eq!((value["format"].as_u64(), value["passed"].as_bool()), (Some(1), Some(false)));
        assert_eq!(value["cases"][0]["verdict"], "passed");
        assert_eq!(value["cases"][0]["seconds"], 41.25);
        assert_eq!(value["cases"][1]["verdict"], "failed");
        assert!(value["cases"][1]["reason"].as_str().is_some_and(|reason| reason.contains("no <root>")));
        assert_eq!(value["cases"][2]["verdict"], "skipped");
        assert_eq!(value["logs"][0]["path"], "out/os-update.log");
    }

    #[test]
    fn the_junit_form_is_xml_whatever_the_console_said() {
        let text = report().to_junit();
        assert!(text.contains(
            "<testsuite name=\"os-1.0.0-x86_64.img\" tests=\"3\" failures=\"1\" errors=\"0\" skipped=\"1\" time=\"641.250\">"
        ));
        assert!(text.contains(
            "<failure message=\"the console said:\" type=\"failed\">the console said:&#10;ksos: emergency \
             &quot;no &lt;root&gt; &amp; \u{fffd}[31m\u{fffd}&quot;</failure>"
        ));
        assert!(text.contains("<system-out>[[ATTACHMENT|out/os-update.log]]</system-out>"), "{text}");
        assert!(text.chars().all(|character| !character.is_control() || character == '\n'));
    }

    /// A foreign parser reads it and finds what was put in.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "runs a foreign tool")]
    fn python_reads_the_junit_form() {
        if !crate::testing::has_tool("python3") {
            return;
        }
        let script = "import sys, xml.etree.ElementTree as x
s = x.fromstring(sys.argv[1].encode())
c = s.findall('./testsuite/testcase')
assert s.tag == 'testsuites' and len(c) == 3 == int(s.get('tests')), s.attrib
assert c[1].find('failure').text.startswith('the console said:\\n'), c[1].find('failure').text
assert c[2].find('skipped') is not None and c[0].find('failure') is None
print('read')";
        let output = std::process::Command::new("python3").args(["-c", script, &report().to_junit()]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "read\n", "{}", String::from_utf8_lossy(&output.stderr));
    }
}
