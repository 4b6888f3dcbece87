//! Manifests with errors. Each file in `broken/` is named by its fault; its first line has the codes of the errors,
//! in any order, and the report is a snapshot. `INSTA_UPDATE=always cargo test` writes the snapshots anew.

use std::collections::BTreeSet;

use super::*;

fn fixtures() -> Vec<String> {
    let names = crate::effects::fs::list(&Path::new(FIXTURES).join("broken")).expect("the fixtures exist");
    let names = names.into_iter().filter_map(|name| name.into_string().ok());
    names.filter_map(|name| Some(name.strip_suffix(".toml")?.to_owned())).collect()
}

fn expected_codes(path: &Path) -> Vec<String> {
    let bytes = crate::effects::fs::read(path, MAX_FILE_SIZE).expect("the fixture exists");
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let first = text.lines().next().and_then(|line| line.strip_prefix("# codes: ")).expect("a fixture has its codes");
    let mut codes: Vec<String> = first.split_whitespace().map(str::to_owned).collect();
    codes.sort();
    codes
}

#[test]
fn broken_manifests_are_reported() {
    let mut wrong = Vec::new();
    for name in fixtures() {
        let path = Path::new(FIXTURES).join("broken").join(&name).with_extension("toml");
        let Err(errors) = load(&path, None, &DiskFiles) else {
            wrong.push(format!("{name}: valid"));
            continue;
        };
        let mut found = codes(&errors);
        found.sort();
        let expected = expected_codes(&path);
        if found != expected {
            wrong.push(format!("{name}: {found:?}, expected {expected:?}\n{}", errors.render(Style::default())));
        }
        insta::with_settings!({ snapshot_path => "snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(format!("broken-{name}"), errors.render(Style::default()));
        });
    }
    assert_eq!(wrong, Vec::<String>::new(), "{}", wrong.join("\n"));
}

/// No kind of error is without a manifest that has it.
#[test]
fn every_code_is_reported_for_some_fixture() {
    let fixtures = fixtures();
    assert!(fixtures.len() >= 30, "{}", fixtures.len());
    let paths = fixtures.iter().map(|name| Path::new(FIXTURES).join("broken").join(name).with_extension("toml"));
    let covered: BTreeSet<String> = paths.flat_map(|path| expected_codes(&path)).collect();
    let all = [
        Code::Unreadable,
        Code::NotUtf8,
        Code::Syntax,
        Code::ExtendsCycle,
        Code::ListChange,
        Code::UnknownKey,
        Code::MissingKey,
        Code::WrongType,
        Code::UnknownValue,
        Code::OutOfRange,
        Code::InvalidValue,
        Code::Conflict,
        Code::UnknownReference,
        Code::DisabledReference,
        Code::Duplicate,
        Code::ServiceCycle,
        Code::PartitionLayout,
        Code::PathNotFound,
        Code::KernelParameter,
    ];
    let missing: Vec<Code> = all.into_iter().filter(|code| !covered.contains(json!(code).as_str().unwrap())).collect();
    assert_eq!(missing, []);
}

#[test]
fn a_file_above_the_limit_is_refused() {
    let large = " ".repeat(MAX_FILE_SIZE as usize + 1);
    let errors = load_texts(&[("main.toml", "extends = \"large.toml\""), ("large.toml", &large)]).unwrap_err();
    assert_eq!(codes(&errors)[0], "too-large");
    assert_eq!(errors.diagnostics[0].to_string(), "/m/main.toml:1:11: /m/large.toml is larger than 1048576 bytes");
    let errors = load_text(&large).unwrap_err();
    assert_eq!(errors.to_string(), "/m/main.toml is larger than 1048576 bytes");
}

#[test]
fn more_files_than_the_limit_are_refused() {
    let texts: Vec<(String, String)> =
        (0..=MAX_FILES).map(|index| (format!("{index}.toml"), format!("extends = \"{}.toml\"", index + 1))).collect();
    let mut files: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    files.push(("main.toml", "extends = \"0.toml\""));
    assert_eq!(codes(&load_texts(&files).unwrap_err())[0], "extends-limit");
}

#[test]
fn a_missing_manifest_has_no_place() {
    let errors = load(Path::new("/m/none.toml"), None, &Memory::default()).unwrap_err();
    assert_eq!(codes(&errors), ["unreadable"]);
    assert_eq!(errors.to_json()[0]["file"], Json::Null);
    assert!(errors.render(Style::default()).contains("/m/none.toml cannot be read"), "{errors}");
}

#[test]
fn the_json_form_has_place_and_hint() {
    let errors = load_text("extends = \"base.toml\"\n[kernel]\n  cmdlin = []\n").unwrap_err();
    let expected = json!([{
        "severity": "error",
        "code": "unknown-key",
        "file": "/m/main.toml",
        "line": 3,
        "column": 3,
        "message": "`cmdlin` is not a key of `kernel`",
        "expected": "unknown key",
        "hint": "did you mean `cmdline`?"
    }]);
    assert_eq!(errors.to_json(), expected);
    assert_eq!(errors.to_string(), "/m/main.toml:3:3: `cmdlin` is not a key of `kernel`");
}

/// Columns count characters, also behind wide ones, and an error in a file that another extends names that file.
#[test]
fn places_are_in_the_file_that_states_the_value() {
    let base = "# é\n[image]\nhostname = \"é\"\n";
    let errors = load_texts(&[("main.toml", "extends = [\"base.toml\", \"b.toml\"]"), ("b.toml", base)]).unwrap_err();
    assert_eq!(errors.diagnostics[0].to_string().split(": ").next(), Some("/m/b.toml:3:12"));
    let errors = load_text("extends = \"base.toml\"\nimage = { \"é\" = 1, x = 2 }\n").unwrap_err();
    let places: Vec<String> =
        errors.diagnostics.iter().map(|error| error.place.as_ref().unwrap().to_string()).collect();
    assert_eq!(places, ["/m/main.toml:2:11", "/m/main.toml:2:20"]);
}

#[test]
fn colour_and_box_drawing_are_as_asked() {
    let errors = load_text("extends = \"base.toml\"\nx = 1\n").unwrap_err();
    let plain = errors.render(Style { color: false, unicode: false, width: 80 });
    assert!(plain.is_ascii() && !plain.contains('\u{1b}'), "{plain}");
    assert!(plain.contains("/m/main.toml:2:1") && plain.contains("x = 1"), "{plain}");
    let unicode = errors.render(Style { color: false, unicode: true, width: 80 });
    assert!(!unicode.is_ascii() && !unicode.contains('\u{1b}'), "{unicode}");
    assert!(errors.render(Style { color: true, unicode: true, width: 80 }).contains('\u{1b}'));
}

/// A byte order mark is no reason to fail.
#[test]
fn a_byte_order_mark_is_skipped() {
    assert!(load_text("\u{feff}extends = \"base.toml\"\n").is_ok());
}

/// A line that is too long to be drawn is named, not shown.
#[test]
fn very_long_lines_are_not_drawn() {
    let text = format!("extends = \"base.toml\"\n{}x = 1\n", " ".repeat(70_000));
    let report = load_text(&text).unwrap_err().render(Style::default());
    assert!(report.len() < 1000 && report.contains("/m/main.toml:2:70001: `x` is not a key"), "{report}");
}
