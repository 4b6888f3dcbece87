//! The table itself, and the table in `docs/boot-flow.md`.

use super::*;

/// The page, from this package's directory.
const PAGE: &str = "../docs/boot-flow.md";
/// What stands around the table.
const MARKS: (&str, &str) = ("<!-- stages: begin -->\n", "<!-- stages: end -->\n");

fn table() -> String {
    let mut text = "| stage | name | what it does | where | if it fails |\n|---|---|---|---|---|\n".to_owned();
    for stage in &STAGES {
        let place = match stage.number {
            0..=6 => "initramfs",
            10..=70 => "root",
            _ => "supervisor",
        };
        let Stage { number, name, what, failure, .. } = stage;
        text += &format!("| {number:02} | {name} | {what} | {place} | {} |\n", failure.meaning());
    }
    text
}

#[expect(clippy::disallowed_methods, reason = "a test reads a page of the repository")]
fn page() -> String {
    std::fs::read_to_string(PAGE).expect("docs/boot-flow.md is there")
}

#[test]
fn the_page_shows_this_table() {
    let page = page();
    let (before, rest) = page.split_once(MARKS.0).expect("the page has the first mark");
    let (shown, after) = rest.split_once(MARKS.1).expect("the page has the second mark");
    let expected = table();
    #[expect(clippy::disallowed_methods, reason = "a test that is asked to writes a page of the repository")]
    if shown != expected && std::env::var_os("KSOS_UPDATE_DOCS").is_some() {
        std::fs::write(PAGE, format!("{before}{}{expected}{}{after}", MARKS.0, MARKS.1)).expect("written");
        return;
    }
    assert!(
        shown == expected,
        "docs/boot-flow.md differs from the table (KSOS_UPDATE_DOCS=1 writes it). Expected:\n{expected}"
    );
}

#[test]
fn numbers_rise_and_every_stage_says_what_it_is() {
    assert!(STAGES.is_sorted_by(|one, next| one.number < next.number));
    for stage in &STAGES {
        assert!(stage.what.ends_with('.') && !stage.what.contains("  "), "{}", stage.number);
        let initramfs = matches!(stage.run, Run::Initramfs(_));
        let root = matches!(stage.run, Run::Root(..));
        assert_eq!((initramfs, root), (matches!(stage.number, 1..=5), matches!(stage.number, 10..=70)));
        assert!(stage.name.bytes().all(|byte| byte.is_ascii_lowercase()), "one word");
    }
    for number in [0, 6, 80, 90] {
        assert_eq!(by_number(number).number, number);
    }
}

#[test]
fn words_for_outcomes() {
    let retried = Failure::Retried { every_ms: 1, for_ms: None, then: &Failure::Degraded("x") };
    assert_eq!([Failure::Fatal.outcome(), retried.outcome()], ["failed", "degraded"]);
}
