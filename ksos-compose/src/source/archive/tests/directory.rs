use std::os::unix::fs::PermissionsExt;

use ksos_formats::Digest;

use super::super::directory::{read, read_file};
use super::*;
use crate::effects::fs::FsError;

fn digest_of(path: &Path, _: &std::fs::Metadata) -> Result<Digest, FsError> {
    Ok(Digest::of(&fs::read(path, 1 << 20)?))
}

#[test]
fn modes_owners_and_times_of_the_host_do_not_matter() {
    let directory = tempfile::tempdir().unwrap();
    sh(directory.path(), "umask 077; mkdir -p b/c .git; echo x >b/c/f; echo y >b/run; chmod 710 b/run; ln -s /etc b/l");
    let tree = read(directory.path(), 77, &SMALL, &mut digest_of).unwrap();
    assert_eq!(paths(&tree), [".git", "b", "b/c", "b/c/f", "b/l", "b/run"]);
    let mode = |path: &str| tree.get(path).unwrap().meta.clone();
    assert_eq!(mode("b"), Meta::root(0o755, 77));
    assert_eq!(mode("b/c/f"), Meta::root(0o644, 77));
    assert_eq!(mode("b/run"), Meta::root(0o755, 77));
    assert_eq!(tree.get("b/l").unwrap().node, Node::Symlink("/etc".into()));
    assert_eq!(text_of(&tree, "b/c/f"), "x\n");
    let one = read_file(&directory.path().join("b/run"), "usr/bin/run", 77, &SMALL, &mut digest_of).unwrap();
    assert_eq!(one.get("usr/bin/run"), tree.get("b/run"));
}

#[test]
fn special_files_and_odd_names_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    sh(directory.path(), "mkdir d; mkfifo d/pipe");
    let error = read(directory.path(), 0, &SMALL, &mut digest_of).unwrap_err().to_string();
    assert!(error.ends_with("entry \"d/pipe\": FIFO not allowed here"), "{error}");
    sh(directory.path(), "rm d/pipe; touch \"$(printf 'd/\\377')\"");
    let error = read(directory.path(), 0, &SMALL, &mut digest_of).unwrap_err().to_string();
    assert!(error.contains("is not UTF-8"), "{error}");
    let missing = read(&directory.path().join("none"), 0, &SMALL, &mut digest_of).unwrap_err().to_string();
    assert!(missing.contains("cannot list"), "{missing}");
}

#[test]
fn a_file_that_changes_while_it_is_hashed_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f");
    std::fs::write(&path, "before").unwrap();
    let mut changing = |path: &Path, metadata: &std::fs::Metadata| {
        let digest = digest_of(path, metadata);
        std::fs::write(path, "after it").unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
        digest
    };
    let error = read(directory.path(), 0, &SMALL, &mut changing).unwrap_err();
    assert!(matches!(error.fault, Fault::Changed), "{error}");
}

#[test]
fn limits_hold_for_directories() {
    let directory = tempfile::tempdir().unwrap();
    sh(directory.path(), "truncate -s 2M big");
    let error = read(directory.path(), 0, &SMALL, &mut digest_of).unwrap_err();
    assert!(matches!(error.fault, Fault::FileLimit { .. }), "{error}");
    let few = Limits { entries: 3, ..SMALL };
    sh(directory.path(), "rm big; touch a b c d e");
    let error = read(directory.path(), 0, &few, &mut digest_of).unwrap_err();
    assert!(matches!(error.fault, Fault::EntriesLimit { limit: 3 }), "{error}");
}
