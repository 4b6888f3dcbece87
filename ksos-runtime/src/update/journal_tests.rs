//! The journal as nodes in the field have it: one file for each state, in `tests/fixtures/journal/v1`, and hostile ones named
//! by their fault. To write them: `KSOS_WRITE_FIXTURES=1 cargo test -p ksos-runtime --lib journal`. Those of a format that
//! was released are never changed: a node reads what the version before it has written.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;
use crate::sys::double::Double;
use crate::update::machine::{Pending, Purpose};

const DIRECTORY: &str = "/data/ksos/update";

fn pending() -> Pending {
    Pending {
        purpose: Purpose::Update,
        release: Some(Digest([1; 32])),
        image: Some(Digest([2; 32])),
        version: "2.0.0".parse().ok(),
        from: "1.0.0".parse().ok(),
        from_release: None,
        target: Slot::B,
        started: 1_700_000_000,
        boot_id: "3ddb0c5e-25c8-4f9c-8d1d-5ac4b1de1b8b".to_owned(),
        force_window: false,
    }
}

/// One journal for each state.
fn journals() -> Vec<Journal> {
    let reason = || "it was started three times and never became healthy".to_owned();
    let unknown = Pending { purpose: Purpose::Unknown, release: None, image: None, version: None, ..pending() };
    let states = [
        State::Idle,
        State::Chosen(pending()),
        State::Clearing(pending()),
        State::Writing { pending: pending(), progress: 33_554_432 },
        State::Verifying(pending()),
        State::Activating(Pending { purpose: Purpose::Rollback, force_window: true, ..pending() }),
        State::AwaitingReboot(pending()),
        State::OnTrial(unknown),
        State::Committing(pending()),
        State::Failed { pending: pending(), reason: "the medium".to_owned() },
        State::Committed(pending()),
        State::FellBack { pending: pending(), reason: reason() },
    ];
    let image = Blob { size: 165_150_720, sha256: Digest([3; 32]) };
    let content =
        |version: &str, release, image| version.parse().ok().map(|version| SlotContent { version, release, image });
    let with = |state: State| Journal {
        format: FORMAT,
        slots: [content("1.0.0", None, None), content("0.9.0", Some(Digest([4; 32])), Some(image))],
        coming: content("2.0.0", Some(Digest([1; 32])), Some(image)).filter(|_| state != State::Idle),
        trial_note: matches!(state, State::FellBack { .. }).then(|| "services: kubesolo is not ready".to_owned()),
        state,
    };
    states.into_iter().map(with).collect()
}

fn golden() -> Vec<(String, Vec<u8>)> {
    let file = |journal: &Journal| {
        let mut bytes = serde_json::to_vec_pretty(journal).expect("JSON");
        bytes.push(b'\n');
        (format!("{}.json", journal.state.name()), bytes)
    };
    journals().iter().map(file).collect()
}

fn hostile() -> Vec<(String, Vec<u8>)> {
    let writing = journals().swap_remove(3);
    let good = serde_json::to_value(&writing).expect("JSON");
    let bytes = serde_json::to_vec(&writing).expect("JSON");
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut value = good.clone();
        change(&mut value);
        serde_json::to_vec(&value).expect("JSON")
    };
    let set =
        |pointer: &'static str, to: Value| changed(&|value| *value.pointer_mut(pointer).expect("there") = to.clone());
    let deep = format!("{{\"format\":1,\"state\":\"idle\",\"coming\":{}", "[".repeat(100_000));
    let twice = format!("{{\"format\":1,{}", String::from_utf8_lossy(&bytes[1..]));
    [
        ("empty", Vec::new()),
        ("zeroed", vec![0; bytes.len()]),
        ("garbage", (0..=255).rev().collect()),
        ("truncated", bytes[..bytes.len() / 2].to_vec()),
        ("without-its-last-byte", bytes[..bytes.len() - 1].to_vec()),
        ("twice", [&bytes[..], &bytes].concat()),
        ("depth-bomb", deep.into_bytes()),
        ("format-twice", twice.into_bytes()),
        ("later-format", set("/format", json!(2))),
        ("format-as-text", set("/format", json!("1"))),
        ("no-format", changed(&|value| drop(value.as_object_mut().expect("an object").remove("format")))),
        ("unknown-state", set("/state", json!("flying"))),
        ("no-state", changed(&|value| drop(value.as_object_mut().expect("an object").remove("state")))),
        ("unknown-slot", set("/pending/target", json!("c"))),
        ("unknown-purpose", set("/pending/purpose", json!("fun"))),
        ("digest-cut-off", set("/pending/release", json!("00"))),
        ("negative-progress", set("/progress", json!(-1))),
        ("huge-number", set("/pending/started", json!(1e300))),
        ("version-not-semantic", set("/pending/version", json!("2"))),
        ("three-slots", set("/slots", json!([null, null, null]))),
        ("array", b"[]".to_vec()),
    ]
    .map(|(name, bytes)| (format!("hostile/{name}.json"), bytes))
    .into()
}

#[test]
#[expect(clippy::disallowed_methods, reason = "fixtures are files")]
fn files_of_this_format_are_read_and_hostile_ones_count_as_none() {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/journal/v1");
    if std::env::var_os("KSOS_WRITE_FIXTURES").is_some() {
        std::fs::create_dir_all(fixtures.join("hostile")).expect("made");
        let files = golden().into_iter().chain(hostile());
        files.for_each(|(name, bytes)| std::fs::write(fixtures.join(name), bytes).expect("written"));
    }
    let file = |name: &str| std::fs::read(fixtures.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let sys = Double::new();
    let read = |bytes: &[u8]| {
        sys.put(&format!("{DIRECTORY}/{FILE}"), bytes);
        Journal::read(&sys, DIRECTORY)
    };
    for ((name, bytes), journal) in golden().iter().zip(journals()) {
        assert!(file(name) == *bytes, "{name} is no longer what is made: a new format needs a new version");
        assert_eq!(read(&file(name)), (journal.clone(), None), "{name}");
        // A later version says more, in the same format.
        let mut later: Value = serde_json::from_slice(bytes).expect("JSON");
        later["later"] = json!({"a": 1});
        assert_eq!(read(later.to_string().as_bytes()), (journal, None), "{name}");
    }
    for (name, bytes) in hostile() {
        // The order of keys is that of whatever features `serde_json` was compiled with.
        let value = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).ok();
        let made = file(&name) == bytes || value(&bytes).is_some_and(|made| value(&file(&name)) == Some(made));
        assert!(made, "{name} is no longer what is made");
        let (journal, damage) = read(&file(&name));
        assert_eq!(journal, Journal::default(), "{name}");
        assert!(damage.is_some_and(|damage| damage.contains("update journal")), "{name}");
    }
    let count = |directory: PathBuf| {
        let entries = std::fs::read_dir(directory).expect("there");
        entries.filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().is_file())).count()
    };
    let files = count(fixtures.clone()) + count(fixtures.join("hostile"));
    assert_eq!(files, golden().len() + hostile().len(), "a file that nothing makes");
}
