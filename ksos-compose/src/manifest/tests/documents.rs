//! The published schema and the reference page agree with the types, and patterns agree with the checks in code.

use std::collections::BTreeSet;

use super::*;
use crate::manifest::check::formats;

const SCHEMA: &str = "../docs/schema/manifest.schema.json";
const REFERENCE: &str = "../docs/manifest.md";

fn text(path: &str) -> String {
    crate::effects::fs::read_to_string(Path::new(path), 1 << 24).unwrap_or_default()
}

/// With `KSOS_UPDATE=1` the file is written instead.
#[test]
#[expect(clippy::disallowed_methods, reason = "the variable asks to write the file")]
fn the_published_schema_is_current() {
    if std::env::var_os("KSOS_UPDATE").is_some() {
        crate::effects::fs::write_atomic(Path::new(SCHEMA), schema_text().as_bytes())
            .expect("the schema can be written");
    }
    let command = "cargo run -p ksos-compose -- schema > docs/schema/manifest.schema.json";
    assert!(text(SCHEMA) == schema_text(), "docs/schema/manifest.schema.json is stale; run\n    {command}");
}

/// Calls `see` with every schema, its path of properties, and whether it is described.
fn visit<'a>(root: &'a Json, schema: &'a Json, keys: &[&'a str], see: &mut dyn FnMut(&[&'a str], &'a Json)) {
    if let Some(reference) = schema["$ref"].as_str() {
        return visit(root, root.pointer(&reference[1..]).expect("a definition"), keys, see);
    }
    see(keys, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let inner: Vec<&str> = keys.iter().copied().chain([name.as_str()]).collect();
        visit(root, property, &inner, see);
    }
    for keyword in ["oneOf", "anyOf"] {
        schema[keyword].as_array().into_iter().flatten().for_each(|branch| visit(root, branch, keys, see));
    }
    for keyword in ["items", "additionalProperties"] {
        if schema[keyword].is_object() {
            visit(root, &schema[keyword], keys, see);
        }
    }
}

#[test]
fn every_key_is_described() {
    let schema = schema();
    let mut without = Vec::new();
    for (name, definition) in
        schema["$defs"].as_object().expect("definitions").iter().chain([(&"root".to_owned(), &schema)])
    {
        let branches = definition["anyOf"].as_array().into_iter().flatten().chain([definition]);
        for (key, property) in branches.filter_map(|branch| branch["properties"].as_object()).flatten() {
            let referred = property["$ref"].as_str().and_then(|reference| schema.pointer(&reference[1..]));
            let described = property.get("description").or(referred.and_then(|other| other.get("description")));
            if described.is_none() && property.get("const").is_none() && !["x86_64", "arm64"].contains(&key.as_str()) {
                without.push(format!("{name}.{key}"));
            }
        }
    }
    assert_eq!(without, Vec::<String>::new());
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert!(schema["title"].is_string() && schema["description"].is_string());
}

/// The validator knows these keywords; another one would be ignored without a word.
#[test]
fn the_schemas_use_known_keywords_and_formats_only() {
    let known = [
        "$schema",
        "$id",
        "$defs",
        "$ref",
        "title",
        "description",
        "default",
        "type",
        "properties",
        "required",
        "additionalProperties",
        "propertyNames",
        "minProperties",
        "maxProperties",
        "items",
        "minItems",
        "enum",
        "const",
        "format",
        "pattern",
        "minLength",
        "minimum",
        "maximum",
        "oneOf",
        "anyOf",
    ];
    let others = ["uint8", "uint16", "uint32", "uint64", "int32"];
    for schema in [schema(), schema::merged()] {
        visit(&schema, &schema, &[], &mut |keys, part| {
            for keyword in part.as_object().expect("a schema is an object").keys() {
                assert!(known.contains(&keyword.as_str()), "{keys:?}: {keyword}");
            }
            let names = [&part["format"], &part["propertyNames"]["format"]];
            for format in names.into_iter().filter_map(Json::as_str) {
                let unknown = formats::check(format, "\u{1}").is_err_and(|wrong| wrong.expected.contains("is checked"));
                assert!(others.contains(&format) || (format.starts_with("ksos-") && !unknown), "{keys:?}: {format}");
            }
            let patterned =
                part.get("pattern").is_none_or(|_| part["format"].as_str().is_some_and(|f| f.starts_with("ksos-")));
            assert!(patterned, "{keys:?}: a pattern without a format");
        });
    }
}

/// What the code accepts, the pattern for editors accepts, too.
#[test]
fn patterns_accept_what_the_checks_accept() {
    let samples = [
        "a",
        "A",
        "1",
        "a-b",
        "a_b",
        "a.b",
        "a b",
        "",
        "64MiB",
        "64 MiB",
        "1.5GiB",
        "3s",
        "500ms",
        "2m",
        "1h",
        "3",
        "0755",
        "755",
        "00755",
        "0888",
        "usr/bin",
        "/usr/bin",
        "/",
        "//",
        "1.2.3",
        "1.2",
        "01.2.3",
        "1.2.3-rc.1+b.2",
        "1.2.3-01",
        "linux-image-amd64",
        "libc++1",
        "nft_*",
        "ext4?",
        "?",
        "OVERLAY_FS",
        "OVERLAY_FS=y",
        "CONFIG_X",
        "9P_FS=n",
        "x=1",
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "kubesolo",
        "-kubesolo",
        "k.example",
        "KSOSEFI",
        "net.ipv4.ip_forward",
        "net/ipv4/conf/all",
        "kernel",
        "http://ftp.debian.org/debian",
        "https://a/{version}",
        "ftp://a",
        "trixie-updates",
        "../x",
        "1.2.0+ds1~rc1",
        "é",
        "_x",
        "ksos-runtime",
        "a:b",
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "1TiB",
        "90d",
        "02:00",
        "mon-fri",
        "1h30m",
        "oci://registry.example/os",
        "12",
        "0",
    ];
    let schema = schema();
    let mut compared = BTreeSet::new();
    visit(&schema, &schema, &[], &mut |_, part| {
        for (format, pattern) in
            [(&part["format"], &part["pattern"]), (&part["propertyNames"]["format"], &part["propertyNames"]["pattern"])]
        {
            let (Some(format), Some(pattern)) = (format.as_str(), pattern.as_str()) else { continue };
            if !compared.insert((format.to_owned(), pattern.to_owned())) {
                continue;
            }
            let regex = regex::Regex::new(pattern).expect("a pattern is a regular expression");
            let accepted: Vec<&&str> = samples.iter().filter(|text| formats::check(format, text).is_ok()).collect();
            assert!(!accepted.is_empty(), "no sample has the format {format}");
            assert!(accepted.len() < samples.len(), "every sample has the format {format}");
            accepted.iter().for_each(|text| assert!(regex.is_match(text), "{format}: {text:?} and {pattern}"));
        }
    });
    assert!(compared.len() > 15, "{}", compared.len());
}

/// The reference page has every key, in code, in the section that is its own.
#[test]
fn the_reference_names_every_key() {
    let page = text(REFERENCE);
    let schema = schema();
    let mut missing = BTreeSet::new();
    visit(&schema, &schema, &[], &mut |keys, _| {
        let [section, .., key] = keys else { return };
        if *section == "arch" || ["add", "remove"].contains(key) {
            return;
        }
        let heading = format!("## `{section}`");
        let body = page.split(&heading).nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap_or_default();
        if !body.contains(&format!("`{key}`")) {
            missing.insert(format!("{section}: {key}"));
        }
    });
    for section in schema["properties"].as_object().expect("sections").keys() {
        if !page.contains(&format!("## `{section}`")) {
            missing.insert(section.clone());
        }
    }
    assert!(missing.is_empty(), "docs/manifest.md does not mention {missing:?}");
}

/// The full manifest has every key, so that it is the place to look for how something is written.
#[test]
fn the_full_manifest_uses_every_key() {
    let directory = Path::new(FIXTURES);
    let texts: Vec<String> =
        ["full.toml", "base.toml"].iter().map(|name| text(directory.join(name).to_str().unwrap())).collect();
    let mut used = BTreeSet::new();
    for text in &texts {
        let table: toml::Table = text.parse().expect("the fixture is TOML");
        collect(&Json::from_iter(table.into_iter().map(|(k, v)| (k, serde_json::to_value(v).unwrap()))), &mut used);
    }
    let schema = schema();
    let mut missing: BTreeSet<&str> = BTreeSet::new();
    visit(&schema, &schema, &[], &mut |keys, _| {
        missing.extend(keys.last().filter(|key| !used.contains(**key)));
    });
    assert_eq!(missing, BTreeSet::new());
}

fn collect(value: &Json, keys: &mut BTreeSet<String>) {
    match value {
        Json::Object(map) => map.iter().for_each(|(key, value)| {
            keys.insert(key.clone());
            collect(value, keys);
        }),
        Json::Array(items) => items.iter().for_each(|item| collect(item, keys)),
        _ => {}
    }
}

/// A foreign validator finds the schema valid, the full manifest valid against it, and a wrong one not.
#[test]
#[expect(clippy::disallowed_methods, reason = "runs a foreign tool")]
fn a_foreign_validator_agrees() {
    let script = "import sys, json, tomllib, jsonschema
schema = json.load(open(sys.argv[1]))
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)
for path in sys.argv[2:]:
    errors = list(validator.iter_errors(tomllib.load(open(path, 'rb'))))
    print(path.split('/')[-1], len(errors) > 0)
";
    let available = std::process::Command::new("/usr/bin/python3").args(["-c", "import jsonschema, tomllib"]).output();
    if !available.is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("KSOS_REQUIRE_TOOLS").is_none(), "python3-jsonschema is not installed");
        println!("skipped: python3-jsonschema is not installed");
        return;
    }
    let fixtures = [
        "full.toml",
        "base.toml",
        "valid.toml",
        "broken/unknown-key.toml",
        "broken/wrong-type.toml",
        "broken/key-of-another-source.toml",
        "broken/list-change-bad-key.toml",
        "broken/unknown-value.toml",
        "broken/invalid-size.toml",
        "broken/ready-two-ways.toml",
        "broken/arch-overlay-sets-arch.toml",
    ];
    let paths = fixtures.map(|name| format!("{FIXTURES}/{name}"));
    let output = std::process::Command::new("/usr/bin/python3")
        .args(["-c", script, SCHEMA])
        .args(paths)
        .output()
        .expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected = "full.toml False\nbase.toml False\nvalid.toml False\nunknown-key.toml True\nwrong-type.toml True\n\
                    key-of-another-source.toml False\nlist-change-bad-key.toml True\nunknown-value.toml True\n\
                    invalid-size.toml True\nready-two-ways.toml True\narch-overlay-sets-arch.toml True\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}
