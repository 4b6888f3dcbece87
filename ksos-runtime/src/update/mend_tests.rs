use ksos_formats::Digest;
use serde_json::{Value, json};

use super::*;
use crate::sys::Sys;
use crate::update::apply::{Done, Options};
use crate::update::gate::Verdicts;
use crate::update::quarantine::Entry as Left;
use crate::update::status::Status;
use crate::update::testing::{DIRECTORY, World, image, make, version};
use crate::update::{error, rollback};

/// What a file may become: by its name.
fn hostile(good: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut garbage: Vec<u8> = (0..4096_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    garbage[0] = 0xff;
    let other = String::from_utf8(good.to_vec()).expect("text").replace("\"format\":1", "\"format\":2");
    vec![
        ("empty", Vec::new()),
        ("truncated", good[..good.len() - 4].to_vec()),
        ("zeroed", vec![0; good.len()]),
        ("garbage", garbage),
        ("another format", other.into_bytes()),
        ("another document", b"[]\n".to_vec()),
        ("nothing in it", b"{}\n".to_vec()),
        ("too deep", b"[".repeat(100_000)),
        ("too large", vec![b' '; (store::DOCUMENT_LIMIT + 1) as usize]),
    ]
}

fn read(world: &World, path: &str) -> Vec<u8> {
    world.sys.read(path, store::DOCUMENT_LIMIT).expect(path)
}

/// A node that went from 1.0.0 to 2.0.0 and then to 2.1.0, and back at the word of its operator.
fn gone_back() -> World {
    let world = World::new();
    for (text, salt) in [("2.0.0", 2), ("2.1.0", 4)] {
        world.publish(&[make(text, image(salt, 2 << 20))]);
        world.apply().expect("installed");
        world.restart();
        assert_eq!(world.settle().expect("settled"), Verdicts::Kept);
    }
    let settings = world.settings.borrow().clone();
    rollback::rollback(&world, &settings, &Options::default()).expect("back");
    world.restart();
    assert_eq!(world.settle().expect("settled"), Verdicts::Kept);
    assert_eq!(world.settings.borrow().image.version, "2.0.0");
    world
}

fn set(world: &World, paths: &[String], bytes: &[u8]) {
    paths.iter().for_each(|path| world.sys.replace(path, bytes, 0o600).expect("written"));
}

#[test]
fn one_good_copy_is_enough() {
    let world = gone_back();
    for name in [floor::NAME, quarantine::NAME, trust::CHANNELS] {
        let copies = store::copies(DIRECTORY, name);
        for damaged in [0, 1] {
            let good = read(&world, &copies[0]);
            assert_eq!(read(&world, &copies[1]), good, "{name}: both copies are the same");
            for (fault, bytes) in hostile(&good) {
                set(&world, &copies[damaged..=damaged], &bytes);
                let found = floor::read(&world.sys, DIRECTORY).expect("readable");
                assert_eq!(found, Some(version("2.1.0")), "{name}, {fault}");
                assert_eq!(world.settle().expect(fault), Verdicts::NoTrial);
                for path in &copies {
                    assert_eq!(read(&world, path), good, "{name}, {fault}: mended");
                }
                assert!(read(&world, &format!("{}.damaged", copies[damaged])) == bytes || fault == "too large");
            }
        }
    }
}

#[test]
fn a_lost_floor_is_not_lower_than_what_was_kept() {
    let copies = store::copies(DIRECTORY, floor::NAME);
    let world = gone_back();
    let good = read(&world, &copies[0]);
    for (fault, bytes) in hostile(&good) {
        set(&world, &copies, &bytes);
        assert_eq!(floor::read(&world.sys, DIRECTORY).expect(fault), Some(version("2.1.0")), "{fault}");
        // 2.0.0 runs and 2.1.0 was kept: nothing between them comes.
        world.publish(&[make("2.0.5", image(6, 2 << 20))]);
        assert!(matches!(world.apply(), Ok(Done::UpToDate { .. })), "{fault}");
        assert_eq!(read(&world, &copies[0]), good, "{fault}: written anew");
        assert_eq!(Status::read(&world.sys).damaged, ["floor-2.json.damaged", "floor.json.damaged"], "{fault}");
    }
    // Without a history what runs is the floor; raised again, it is not lost.
    set(&world, &copies, b"{");
    world.sys.replace(&format!("{DIRECTORY}/{}", history::FILE), b"\0\0", 0o600).expect("written");
    assert_eq!(floor::read(&world.sys, DIRECTORY).expect("readable"), None);
    world.settle().expect("settled");
    assert_eq!(floor::read(&world.sys, DIRECTORY).expect("readable"), Some(version("2.0.0")));
    assert_eq!(history::read(&world.sys, DIRECTORY).expect("readable"), []);
    set(&world, &copies, b"{");
    floor::raise(&world.sys, DIRECTORY, &version("2.0.3")).expect("raised");
    assert_eq!(floor::read(&world.sys, DIRECTORY).expect("readable"), Some(version("2.0.3")));
}

#[test]
fn a_version_on_trial_is_no_floor() {
    let world = World::new();
    world.publish(&[make("2.0.0", image(2, 2 << 20))]);
    world.apply().expect("installed");
    world.restart();
    set(&world, &store::copies(DIRECTORY, floor::NAME), b"{");
    let settings = world.settings.borrow().clone();
    mend(&world, &settings);
    assert_eq!(floor::read(&world.sys, DIRECTORY).expect("readable"), Some(version("1.0.0")), "what ran before");
}

#[test]
fn a_lost_quarantine_is_what_the_history_knows() {
    let copies = store::copies(DIRECTORY, quarantine::NAME);
    let world = World::new();
    let bad = make("2.0.0", image(2, 2 << 20));
    world.publish(std::slice::from_ref(&bad));
    world.apply().expect("installed");
    (0..4).for_each(|_| world.restart());
    world.settle().expect("settled");
    let good = read(&world, &copies[0]);
    let before = Quarantine::read(&world.sys, DIRECTORY).expect("readable").entries;
    assert_eq!((before.len(), before[0].image), (1, Some(bad.release.slot.sha256)));
    // The same image, signed anew.
    let mut again = bad.clone();
    again.release.created += 1;
    for (fault, bytes) in hostile(&good) {
        set(&world, &copies, &bytes);
        let known = Quarantine::read(&world.sys, DIRECTORY).expect(fault).entries;
        assert_eq!((known.len(), known[0].release, known[0].image), (1, before[0].release, before[0].image), "{fault}");
        world.publish(std::slice::from_ref(&bad));
        assert!(matches!(world.apply(), Ok(Done::UpToDate { .. })), "{fault}");
        assert_eq!(Quarantine::read(&world.sys, DIRECTORY).expect(fault).entries, known, "{fault}");
    }
    let written = world.written();
    world.publish(std::slice::from_ref(&again));
    set(&world, &copies, b"");
    assert!(matches!(world.apply(), Ok(Done::UpToDate { .. })));
    assert_eq!(world.written(), written, "what failed is known by its image");
    // What is taken after all, and kept, is in quarantine no more.
    let done = world.apply_with(&Options { retry: true, ..Options::default() }).expect("installed");
    assert!(matches!(done, Done::Installed { .. }));
    world.restart();
    world.settle().expect("kept");
    set(&world, &copies, b"");
    assert_eq!(Quarantine::read(&world.sys, DIRECTORY).expect("readable").entries, []);
}

#[test]
fn what_an_operator_left_is_known_by_its_version() {
    let world = gone_back();
    set(&world, &store::copies(DIRECTORY, quarantine::NAME), b"\0");
    let known = Quarantine::read(&world.sys, DIRECTORY).expect("readable").entries;
    let left = |entry: &Left| (entry.release.is_none(), entry.version.clone());
    assert_eq!(known.iter().map(left).collect::<Vec<_>>(), [(true, Some(version("2.1.0")))]);
    let list = Quarantine { entries: known };
    assert!(list.find(&Digest([1; 32]), None, &version("2.1.0")).is_some());
}

#[test]
fn lost_sequences_are_learnt_anew() {
    let copies = store::copies(DIRECTORY, trust::CHANNELS);
    let world = World::new();
    world.publish_channel(&world.channel(7, &[]));
    world.apply().expect("a look");
    let good = read(&world, &copies[0]);
    let seen: Value = serde_json::from_slice(&good).expect("JSON");
    assert_eq!(seen, json!({"format": 1, "sequences": {"stable": 7}, "keys": 1}));
    for (fault, bytes) in hostile(&good) {
        set(&world, &copies, &bytes);
        assert!(matches!(world.apply(), Ok(Done::UpToDate { .. })), "{fault}");
        assert_eq!(read(&world, &copies[1]), good, "{fault}");
        world.publish_channel(&world.channel(6, &[]));
        let error = world.apply().expect_err("older than what was seen");
        assert_eq!(error.exit_status(), error::SOURCE, "{fault}: {error}");
        world.publish_channel(&world.channel(7, &[]));
    }
}

/// What version 0.1 wrote: one copy, without a number.
#[test]
fn documents_of_the_first_version_are_read() {
    let world = World::new();
    world.sys.make_directory(DIRECTORY, 0o700).expect("made");
    world.sys.put(&format!("{DIRECTORY}/floor.json"), r#"{"format":1,"version":"1.5.0"}"#);
    world.sys.put(&format!("{DIRECTORY}/quarantine.json"), r#"{"entries":[]}"#);
    world.sys.put(&format!("{DIRECTORY}/channels.json"), r#"{"sequences":{"stable":9},"keys":1}"#);
    world.publish(&[make("1.2.0", image(2, 2 << 20))]);
    let settings = world.settings.borrow().clone();
    assert_eq!(mend(&world, &settings), Vec::<String>::new());
    let error = world.apply().expect_err("an older channel");
    assert!(error.to_string().contains("9 was seen before"), "{error}");
    assert_eq!(floor::read(&world.sys, DIRECTORY).expect("readable"), Some(version("1.5.0")));
}

/// Cut at any point of it, mending is done again.
#[test]
fn mending_that_is_cut_loses_nothing() {
    for cut in 0..12 {
        let world = gone_back();
        set(&world, &store::copies(DIRECTORY, floor::NAME), b"{");
        let settings = world.settings.borrow().clone();
        world.sys.cut.set(Some(cut));
        mend(&world, &settings);
        world.sys.cut.set(None);
        assert_eq!(
            floor::read(&world.sys, DIRECTORY).expect("readable"),
            Some(version("2.1.0")),
            "after {cut} changes"
        );
    }
}
