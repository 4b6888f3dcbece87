use super::*;
use crate::sys::double::Double;

fn parse(line: &str) -> Result<Arguments, String> {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    Arguments::parse(&words)
}

#[test]
fn arguments_of_every_verb() {
    let apply = parse("apply --version 1.2.3 --channel=beta --source https://x --no-reboot --retry --force-window --json");
    let apply = apply.expect("they fit");
    let options = Options {
        version: "1.2.3".parse().ok(),
        no_reboot: true,
        retry: true,
        force_window: true,
        automatic: false,
    };
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
