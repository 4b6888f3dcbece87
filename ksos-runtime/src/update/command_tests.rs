use serde_json::{Value, json};

use super::*;
use crate::sys::double::Double;
use crate::update::testing::{World, image, make};

fn parse(line: &str) -> Result<Arguments, String> {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    Arguments::parse(&words)
}

#[test]
fn arguments_of_every_verb() {
    let apply =
        parse("apply --version 1.2.3 --channel=beta --source https://x --no-reboot --retry --force-window --json");
    let apply = apply.expect("they fit");
    let options =
        Options { version: "1.2.3".parse().ok(), no_reboot: true, retry: true, force_window: true, automatic: false };
    let expected = (true, Some("beta".to_owned()), Some("https://x".to_owned()), options);
    assert_eq!((apply.json, apply.channel, apply.source, apply.options), expected);
    for line in ["check", "status --json", "rollback --no-reboot", "history --json", "settle", "apply --automatic"] {
        assert!(parse(line).is_ok(), "{line}");
    }
}

#[test]
fn wrong_arguments_say_what_is_wrong() {
    let table = [
        ("", "a verb is missing"),
        ("install", "\"install\" is no verb"),
        ("check --no-reboot", "check has no argument \"--no-reboot\""),
        ("apply --version", "--version needs a value"),
        ("apply --retry=1", "--retry takes no value"),
        ("apply --channel ../x", "\"../x\" can be no channel"),
        ("apply now", "apply has no argument \"now\""),
    ];
    for (line, expected) in table {
        assert_eq!(parse(line), Err(expected.to_owned()), "{line}");
    }
    assert!(parse("apply --version 1.2").expect_err("no version").contains("1.2"));
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    assert_eq!(main(&Double::new(), &["install".to_owned()], &mut out, &mut errors), error::USAGE);
    assert!(out.is_empty() && String::from_utf8_lossy(&errors).contains("usage: kubesolo-update"));
}

#[test]
fn an_image_without_updates_refuses() {
    let sys = Double::new();
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    assert_eq!(main(&sys, &["check".to_owned(), "--json".to_owned()], &mut out, &mut errors), error::FAILED);
    let said: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
    assert_eq!(said["exit_status"], 1);
    assert!(said["error"].as_str().expect("text").contains("runtime.json"), "{said}");
}

/// A node whose own documents say what [`crate::update::testing::settings`] has.
fn node() -> World {
    let world = World::new();
    let runtime = json!({
        "format": 1, "image": {"name": "edge", "version": "1.0.0", "arch": "x86_64", "epoch": 1}, "hostname": "edge",
        "modules": [], "sysctl": {}, "data": {"label": "KSOLODATA", "mount": "/data", "persist": []},
        "directories": [], "container_images": [], "services": {}, "console_shell": false,
        "update": {"board": "generic", "source": "https://updates.example/os", "channel": "stable", "automatic": true,
                   "interval_ms": 21_600_000, "gate_ms": 600_000, "hold_ms": 60_000, "windows": []},
    });
    world.sys.put(ksos_formats::layout::RUNTIME_CONFIG, runtime.to_string());
    world.sys.put(crate::init::status::PATH, json!({"data": "/data", "persistent": true}).to_string());
    world.sys.put("/proc/self/status", "VmPeak:\t   99999 kB\nVmHWM:\t    9216 kB\n");
    world
}

/// Runs a verb with `--json`; returns its exit status and its document.
fn json(world: &World, line: &str) -> (i32, Value) {
    let words: Vec<String> = line.split_whitespace().chain(["--json"]).map(str::to_owned).collect();
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    let status = run(world, &words, &mut out, &mut errors);
    let document = serde_json::from_slice(&out);
    let said = String::from_utf8_lossy(&errors).into_owned();
    (status, document.unwrap_or_else(|error| panic!("{line}: {error}: {}{said}", String::from_utf8_lossy(&out))))
}

#[test]
fn every_verb_prints_one_document() {
    let world = node();
    world.publish(&[]);
    assert_eq!(json(&world, "check"), (error::OK, json!({"result": "up-to-date", "version": "1.0.0"})));
    assert_eq!(json(&world, "history"), (error::OK, json!([])));
    world.publish(&[make("2.0.0", image(2, 2 << 20))]);
    let available = json!({"result": "available", "running": "1.0.0", "version": "2.0.0", "towards": null});
    assert_eq!(json(&world, "check"), (error::OK, available));
    let (status, said) = json(&world, "status");
    assert_eq!(
        (status, &said["available"], &said["state"]["state"]),
        (error::OK, &json!("2.0.0"), &json!("idle")),
        "{said:#}"
    );
    assert_eq!(said["boot"]["confirmed"], json!([true, false]), "{said:#}");

    let (status, said) = json(&world, "apply");
    assert_eq!(
        (status, &said["result"], &said["restarts"]),
        (error::OK, &json!("installed"), &json!(true)),
        "{said:#}"
    );
    assert_eq!(said["fetched_bytes"], said["planned_bytes"]);
    assert_eq!(said["peak_memory_bytes"], 9_437_184);
    let (status, said) = json(&world, "history");
    assert_eq!((status, said.as_array().map(Vec::len)), (error::OK, Some(1)), "{said:#}");
    assert_eq!((&said[0]["version"], &said[0]["result"]), (&json!("2.0.0"), &json!("installed")));
    let (status, said) = json(&world, "status");
    assert_eq!(
        (status, &said["boot"]["trial"], &said["boot"]["left"]),
        (error::OK, &json!("b"), &json!(3)),
        "{said:#}"
    );
    let (status, said) = json(&world, "rollback");
    assert_eq!((status, &said["result"]), (error::REFUSED, &json!("error")), "{said:#}");
}
