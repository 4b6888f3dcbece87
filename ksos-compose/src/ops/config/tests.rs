//! Places, secrets, and that the published schema, the examples and the reference page are true.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use super::*;
use crate::manifest::Style;

const SCHEMA: &str = "../docs/schema/config.schema.json";
const REFERENCE: &str = "../docs/cloud-init.md";
const EXAMPLES: &str = "../examples/cloud-init";

fn rendered(text: &str) -> String {
    Errors { diagnostics: check_bytes(Path::new("site.yaml"), text.as_bytes()) }.render(Style::default())
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(path), 1 << 24).expect("the file can be read")
}

#[test]
fn errors_are_drawn_with_line_caret_and_hint() {
    let text = rendered("hostname: edge-01\nnetwork:\n  adress: 192.0.2.7/24\nmetrics:\n  listen: 9100\n");
    for expected in [
        "unknown key \"adress\" in network",
        "site.yaml:3:3",
        "adress: 192.0.2.7/24",
        "help: did you mean address?",
        "site.yaml:5:11",
    ] {
        assert!(text.contains(expected), "no {expected:?} in\n{text}");
    }
    let caret = text.lines().find(|line| line.contains('─') && line.contains("───")).unwrap_or_default();
    assert!(!caret.is_empty(), "{text}");
}

#[test]
fn places_count_characters_and_stay_inside_of_the_text() {
    assert_eq!(range("ä: ö\nb: cd\n", 1, 4, 1), 4..6);
    assert_eq!(range("ä: ö\nb: cd\n", 2, 4, 2), 10..12);
    assert_eq!(range("a\r\n", 1, 2, 9), 1..1);
    assert_eq!(range("a", 7, 7, 7), 1..1);
    assert_eq!(range("", 1, 1, 0), 0..0);
}

#[test]
fn secrets_are_masked_in_the_lines_that_are_drawn() {
    for text in [
        "kubesolo: {portainer-edge-key: S3cr3t, portainer-edge-asinc: true}\n",
        "kubesolo:\n  portainer-edge-key: 'S3cr3t\n",
        "kubesolo:\n  portainer-edge-key: S3cr3t: S3cr3t\n",
        "kubesolo:\n  \"portainer-edge-key\" : [S3cr3t]\n",
        "kubesolo:\n  portainer-edge-key: >\n    S3cr3t\n    S3cr3t: [\n",
        "kubesolo:\n  portainer-edge-key:\n    - S3cr3t\n",
        "kubeconfig: {token: S3cr3t}\n",
        "kubeconfig:\n  token: [S3cr3t]\n  listen: x\n",
    ] {
        let shown = rendered(text);
        assert!(!shown.is_empty() && !shown.contains("S3cr3t"), "{text}\n{shown}");
    }
    let text = "kubesolo:\n  portainer-edge-key: Sä\n  debug: 1\nhostname: a\n";
    assert_eq!(masked(text), "kubesolo:\n  portainer-edge-key: **\n  debug: 1\nhostname: a\n");
}

#[test]
fn files_of_nocloud_are_known_by_their_names() {
    let network = b"version: 2\nethernets: {eth0: {dhcp4: true}}\n";
    assert_eq!(check_bytes(Path::new("seed/network-config"), network), []);
    assert!(check_bytes(Path::new("seed/user-data"), network).iter().any(|one| one.severity == Severity::Error));
    assert_eq!(check_bytes(Path::new("seed/meta-data"), b"instance-id: i-1\nanything: goes\n"), []);
}

#[test]
fn unreadable_large_and_foreign_files_are_errors() {
    let directory = tempfile::tempdir().unwrap();
    let large = directory.path().join("large.yaml");
    fs::write_atomic(&large, &vec![b'#'; DOCUMENT_LIMIT + 1]).unwrap();
    let zipped = directory.path().join("zipped");
    fs::write_atomic(&zipped, &[0x1f, 0x8b, 8, 0]).unwrap();
    let results = check(&[directory.path().join("missing"), large, zipped]);
    let codes: Vec<Code> = results.iter().map(|result| result.found.diagnostics[0].code).collect();
    assert_eq!(codes, [Code::Unreadable, Code::TooLarge, Code::Configuration]);
    assert!(results.iter().all(CheckedConfig::is_bad));
    assert_eq!(results[2].to_json()["diagnostics"][0]["line"], 1);
}

#[test]
fn what_only_the_whole_shows_is_a_warning() {
    let found = check_bytes(Path::new("a.yaml"), b"kubesolo: {portainer-edge-id: x}\n");
    assert_eq!((found.len(), found[0].severity), (1, Severity::Warning));
}

/// With `KSOS_UPDATE=1` the file is written instead.
#[test]
#[expect(clippy::disallowed_methods, reason = "the variable asks to write the file")]
fn the_published_schema_is_current() {
    if std::env::var_os("KSOS_UPDATE").is_some() {
        fs::write_atomic(Path::new(SCHEMA), schema_text().as_bytes()).expect("the schema can be written");
    }
    let command = "cargo run -p ksos-compose -- schema --config > docs/schema/config.schema.json";
    assert!(read(SCHEMA) == schema_text(), "docs/schema/config.schema.json is stale; run\n    {command}");
}

/// A foreign validator finds the schema valid, all examples valid against it, and wrong documents not.
#[test]
#[expect(clippy::disallowed_methods, reason = "runs a foreign tool")]
fn a_foreign_validator_agrees() {
    let script = "import sys, json, glob, yaml, jsonschema
schema = json.load(open(sys.argv[1]))
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)
paths = glob.glob(sys.argv[2] + '/*.yaml') + [sys.argv[2] + '/nocloud/user-data']
for path in paths:
    assert not list(validator.iter_errors(yaml.safe_load(open(path)))), path
for wrong in sys.argv[3:]:
    assert list(validator.iter_errors(yaml.safe_load(wrong))), wrong
print(len(paths))
";
    let wrong = [
        "hostnme: a",
        "hostname: Edge",
        "network: {adress: 192.0.2.7/24}",
        "network: {version: 1}",
        "network: {version: 2, ethernets: {eth0: {dhcp: true}}}",
        "kubesolo: {debug: maybe}",
        "kubesolo: {system-reserved: {disk: 1Gi}}",
        "write_files: [{content: x}]",
        "metrics: ':9100'",
        "updates: {windows: [{start: \"02:00\"}]}",
        "updates: {source: updates.example}",
        "updates: {bandwidth: 2M}",
    ];
    let python = |arguments: &[&str]| std::process::Command::new("/usr/bin/python3").args(arguments).output();
    if !python(&["-c", "import jsonschema, yaml"]).is_ok_and(|output| output.status.success()) {
        let required = std::env::var_os("KSOS_REQUIRE_TOOLS").is_some();
        assert!(!required, "python3-jsonschema or python3-yaml is not installed");
        println!("skipped: python3-jsonschema or python3-yaml is not installed");
        return;
    }
    let output = python(&[&["-c", script, SCHEMA, EXAMPLES][..], &wrong].concat()).expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "8\n");
}

/// Every example must be good and free of warnings.
#[test]
fn the_examples_are_good() {
    let mut paths: Vec<PathBuf> = Vec::new();
    for directory in [EXAMPLES.to_owned(), format!("{EXAMPLES}/nocloud")] {
        let directory = Path::new(&directory);
        paths.extend(fs::list(directory).unwrap().into_iter().map(|name| directory.join(name)));
    }
    paths.retain(|path| path.is_file());
    for result in check(&paths) {
        assert!(result.found.diagnostics.is_empty(), "{}", result.found.render(Style::default()));
    }
    assert!(paths.len() >= 9, "{paths:?}");
}

#[test]
fn the_documents_in_the_reference_are_good() {
    let text = read(REFERENCE);
    let blocks: Vec<&str> = text.split("\n```yaml\n").skip(1).filter_map(|rest| rest.split("\n```").next()).collect();
    assert!(blocks.len() >= 6, "{}", blocks.len());
    for block in blocks {
        let name = if block.starts_with("# network-config\n") {
            "network-config"
        } else if block.starts_with("# meta-data\n") {
            "meta-data"
        } else {
            "user-data"
        };
        let found = Errors { diagnostics: check_bytes(Path::new(name), format!("{block}\n").as_bytes()) };
        assert!(found.diagnostics.is_empty(), "{block}\n{}", found.render(Style::default()));
    }
}

/// Calls `see` with the dotted path of every supported key, list items as `[]`, names of one's own as `NAME`.
fn keys(schema: &Json, path: &str, see: &mut dyn FnMut(String)) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let other = property["description"].as_str().is_some_and(|text| text.starts_with("Another spelling"));
        if property["deprecated"] == true || other {
            continue;
        }
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        see(path.clone());
        keys(property, &path, see);
        keys(&property["items"], &path, see);
        keys(&property["additionalProperties"], &path, see);
        property["anyOf"].as_array().into_iter().flatten().for_each(|branch| keys(branch, &path, see));
    }
}

/// In the tables of the reference the first cell names a key: below the heading of its section, without the section.
#[test]
fn the_reference_has_every_key() {
    let text = read(REFERENCE);
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let documented: BTreeSet<&str> = rows.collect();
    let mut missing = Vec::new();
    let mut count = 0;
    keys(&config::json_schema(), "", &mut |path| {
        count += 1;
        let name = path.rsplit('.').next().unwrap_or_default();
        if !documented.contains(name) {
            missing.push(path);
        }
    });
    assert_eq!(missing, Vec::<String>::new());
    assert!(count > 60, "{count}");
}

#[test]
fn every_key_of_the_schema_is_described() {
    let mut without = Vec::new();
    fn visit(schema: &Json, without: &mut Vec<String>) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            if property["description"].as_str().is_none_or(str::is_empty) {
                without.push(name.clone());
            }
            visit(property, without);
            visit(&property["items"], without);
            visit(&property["additionalProperties"], without);
            property["anyOf"].as_array().into_iter().flatten().for_each(|branch| visit(branch, without));
        }
    }
    visit(&config::json_schema(), &mut without);
    assert_eq!(without, Vec::<String>::new());
}
