//! The formats of updates as nodes in the field read them: golden files of each format version, hostile ones named by their
//! fault, and properties.
#![expect(clippy::disallowed_methods, reason = "tests read fixtures")]
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

#[path = "../fixtures/update/generate.rs"]
mod generate;
mod golden;
mod hostile;
mod index;
mod properties;

use std::path::PathBuf;

/// Returns where the files of format version 1 are.
fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/update/v1")
}

fn fixture(name: &str) -> Vec<u8> {
    let path = fixtures().join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn hostile(name: &str) -> Vec<u8> {
    fixture(&format!("hostile/{name}"))
}
