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

/// What a fragment or several set, by name without `CONFIG_`: later lines win, as in `merge_config.sh`.
fn merged(fragments: &[&str]) -> BTreeMap<String, String> {
    let mut options = BTreeMap::new();
    for fragment in fragments {
        let path = repository().join(format!("kernel/fragments/{fragment}.config"));
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for line in text.lines() {
            if let Some((name, value)) = line.strip_prefix("CONFIG_").and_then(|line| line.split_once('=')) {
                options.insert(name.to_owned(), value.to_owned());
            } else if let Some(name) = line.strip_prefix("# CONFIG_").and_then(|line| line.strip_suffix(" is not set"))
            {
                options.insert(name.to_owned(), "n".to_owned());
            } else {
                assert!(line.is_empty() || line.starts_with('#'), "{fragment}: {line}");
            }
        }
    }
    options
}

/// `docs/kernels.md`: "All of them together meet `kernel/required.txt`", without what a configuration to start from has.
#[test]
fn the_kernel_fragments_set_every_option_that_an_image_requires_and_turn_off_what_it_has_no_use_for() {
    const COMMON: [&str; 6] = ["start", "containers", "nftables", "hardening", "storage", "off"];
    let listed = fs::read_dir(repository().join("kernel/fragments")).expect("it is there").count();
    let mut of_some = 0;
    for more in [&["start-x86_64", "storage-x86_64"][..], &["start-arm64"]] {
        of_some += more.len();
        let options = merged(&[&COMMON[..], more].concat());
        let mut wrong = Vec::new();
        for list in ["required.txt", "required-virtio.txt"] {
            let text = fs::read_to_string(repository().join("kernel").join(list)).expect("it is there");
            let lines = text.lines().filter_map(|line| line.split('#').next()).map(str::trim);
            for line in lines.filter(|line| !line.is_empty()) {
                let (name, expected) = line.split_once('=').map_or((line, None), |(name, value)| (name, Some(value)));
                let found = options.get(name).map(String::as_str);
                let met = match expected {
                    Some(value) => found == Some(value),
                    None => matches!(found, Some("y" | "m")),
                };
                if !met {
                    wrong.push(format!("{more:?} {list}: {line}, the fragments say {found:?}"));
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        for name in ["SOUND", "DRM", "WIRELESS", "WLAN", "CFG80211", "MAC80211", "BT", "MEDIA_SUPPORT"] {
            assert_eq!(options.get(name).map(String::as_str), Some("n"), "{name}");
        }
    }
    assert_eq!(listed, COMMON.len() + of_some, "every fragment belongs to an architecture");
}
