//! What the documentation says of the code.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ksos_tests::repository;

/// Collects the Rust sources below a directory: text by file name, several of one name together.
fn sources(directory: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(directory).expect("the project can be read") {
        let path = entry.expect("the project can be read").path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.entry(name).or_default().push_str(&fs::read_to_string(&path).expect("text"));
        }
    }
}

/// The table of threats names a test for each; every one must be there.
#[test]
fn the_tests_that_the_update_protocol_names_exist() {
    let mut files = BTreeMap::new();
    sources(&repository(), &mut files);
    let text = fs::read_to_string(repository().join("docs/update-protocol.md")).expect("it is there");
    let table = text.split("| threat | what happens | test |").nth(1).expect("the table is there");
    let (mut rows, mut missing) = (0, Vec::new());
    for row in table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("|---")) {
        rows += 1;
        let tests = row.trim_end_matches('|').rsplit(" | ").next().expect("a last column");
        let mut file = String::new();
        let names = tests.split('`').skip(1).step_by(2);
        for name in names {
            let (path, test) = match name.split_once(": ") {
                Some((path, test)) => (Some(path), Some(test)),
                None if name.ends_with(".rs") => (Some(name), None),
                None => (None, Some(name)),
            };
            if let Some(path) = path {
                file = path.rsplit('/').next().unwrap_or(path).to_owned();
            }
            let source = files.get(&file);
            let there = source.is_some_and(|source| test.is_none_or(|test| source.contains(&format!("fn {test}("))));
            if !there {
                missing.push(name.to_owned());
            }
        }
    }
    assert!(rows > 20, "{rows} rows");
    assert!(missing.is_empty(), "named and not there: {missing:#?}");
}
