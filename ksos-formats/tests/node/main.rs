//! What an image and the node that runs it agree on: golden files of each format version, and hostile ones named by their
//! fault. What reads them ignores fields that it does not know (an older initramfs, a newer slot).
#![expect(clippy::disallowed_methods, reason = "tests read fixtures")]
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

#[path = "../fixtures/node/generate.rs"]
mod generate;

use std::path::PathBuf;

use ksos_formats::boot::{BootConfig, SlotMetadata};
use ksos_formats::bootstate::{BLOCK_SIZE, BootState, Mark, Slot};
use ksos_formats::runtime::RuntimeConfig;
use serde::de::DeserializeOwned;

/// Returns where the files of format version 1 are.
fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/node/v1")
}

fn fixture(name: &str) -> Vec<u8> {
    let path = fixtures().join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_files_are_those_that_are_made() {
    let golden = generate::golden().into_iter().map(|(name, bytes)| (name.to_owned(), bytes));
    let hostile = generate::hostile().into_iter().map(|(name, bytes)| (format!("hostile/{name}"), bytes));
    let files: Vec<_> = golden.chain(hostile).collect();
    if std::env::var_os("KSOS_WRITE_FIXTURES").is_some() {
        std::fs::create_dir_all(fixtures().join("hostile")).unwrap();
        files.iter().for_each(|(name, bytes)| std::fs::write(fixtures().join(name), bytes).unwrap());
    }
    for (name, bytes) in &files {
        assert!(fixture(name) == *bytes, "{name} is no longer what is made: a new format needs a new version");
    }
    let count = |path: PathBuf| {
        std::fs::read_dir(path).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_file()).count()
    };
    assert_eq!(count(fixtures()) + count(fixtures().join("hostile")), files.len(), "a file that nothing makes");
}

#[test]
fn a_node_reads_what_was_built() {
    assert_eq!(serde_json::from_slice::<BootConfig>(&fixture("boot.json")).unwrap(), generate::boot());
    assert_eq!(serde_json::from_slice::<SlotMetadata>(&fixture("image.json")).unwrap(), generate::image());
    assert_eq!(serde_json::from_slice::<RuntimeConfig>(&fixture("runtime.json")).unwrap(), generate::runtime());
    // Before slots had names of their own, and images had engines, updates and a watchdog.
    let first: BootConfig = serde_json::from_slice(&fixture("boot-without-slots.json")).unwrap();
    assert_eq!(first, generate::boot());
    let first: RuntimeConfig = serde_json::from_slice(&fixture("runtime-of-the-first-images.json")).unwrap();
    assert_eq!(first, generate::first_runtime());
    // A later image says more than this reader knows.
    let later: SlotMetadata = serde_json::from_slice(&fixture("image-with-unknown-fields.json")).unwrap();
    assert_eq!(later, generate::image());
}

#[test]
fn a_boot_state_is_read_as_it_was_written() {
    for (name, state) in generate::states() {
        let block = fixture(name);
        assert_eq!(BootState::decode(&block), Ok(state), "{name}");
        assert_eq!(block, state.encode(), "{name}");
        assert_eq!(block.len(), BLOCK_SIZE);
    }
    for (name, confirmed) in [("mark-yes.env", true), ("mark-no.env", false)] {
        assert_eq!(Mark::decode(&fixture(name)), Ok(Mark { confirmed }), "{name}");
    }
    let trial = BootState::decode(&fixture("state-trial.env")).unwrap();
    assert_eq!((trial.active, trial.trial_slot()), (Slot::A, Some(Slot::B)));
}

fn error<T: DeserializeOwned + std::fmt::Debug>(bytes: &[u8]) -> String {
    serde_json::from_slice::<T>(bytes).unwrap_err().to_string()
}

#[test]
fn hostile_files_are_refused() {
    for (name, bytes) in generate::hostile() {
        let read = fixture(&format!("hostile/{name}"));
        assert_eq!(read, bytes);
        match name.split('-').next().unwrap() {
            "boot" => assert!(!error::<BootConfig>(&read).is_empty()),
            "image" => assert!(!error::<SlotMetadata>(&read).is_empty()),
            "runtime" => assert!(!error::<RuntimeConfig>(&read).is_empty()),
            "state" => assert!(BootState::decode(&read).is_err(), "{name}"),
            "mark" => assert!(Mark::decode(&read).is_err(), "{name}"),
            other => panic!("{other}: of what format?"),
        }
        // One damaged copy of the boot state leaves the other one in force, whichever it is.
        if name.starts_with("state") {
            let good = BootState::initial();
            let block = good.encode();
            for copies in [[Some(&read[..]), Some(&block[..])], [Some(&block[..]), Some(&read[..])]] {
                assert_eq!(BootState::select(copies), Ok(good), "{name}");
            }
        }
    }
}
