//! The same input gives the same bytes: in another directory, as another user, with another umask, time zone and hash
//! seed, and with an empty cache.
#![expect(clippy::disallowed_methods, reason = "tests make and change files of their own")]
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use ksos_tests::{composer, copy_project, run, runtime};

/// An identifier that belongs to nobody in particular.
const STRANGER: u32 = 65534;

/// Every format, by the end of its name.
const FORMATS: [(&str, &str); 9] = [
    ("disk", "img"),
    ("disk-zst", "img.zst"),
    ("oci-image", "oci.tar"),
    ("oci-artifact", "disk.oci.tar"),
    ("qcow2", "qcow2"),
    ("vmdk", "vmdk"),
    ("vhd", "vhd"),
    ("iso", "iso"),
    ("update", "update"),
];

/// Builds the example below `directory`, in a shell prepared by `setting`; returns the directory with the outputs.
fn built(directory: &Path, setting: &str, user: Option<u32>) -> PathBuf {
    let project = directory.join("project");
    let script = format!(
        "{setting}; cd '{}' && exec '{}' build examples/updating-node.toml --quiet --component runtime='{}' --format {}",
        project.display(),
        composer().display(),
        runtime().display(),
        FORMATS.map(|(format, _)| format).join(",")
    );
    let mut command = Command::new(if user.is_some() { "setpriv" } else { "sh" });
    if let Some(id) = user {
        command.arg(format!("--reuid={id}")).arg(format!("--regid={id}")).args(["--clear-groups", "sh"]);
    }
    run(command.arg("-c").arg(script)).expect_code(0);
    project.join("out")
}

#[test]
fn another_directory_user_umask_and_time_zone_give_the_same_bytes() {
    let first = tempfile::tempdir().unwrap();
    let second = tempfile::tempdir().unwrap();
    copy_project(&first.path().join("project"));
    let one = built(first.path(), "umask 022; export TZ=UTC", None);

    // The lock decides the versions: the second build gets the first one's.
    let deeper = second.path().join("some/where/else");
    copy_project(&deeper.join("project"));
    let lock = "project/examples/updating-node.lock";
    fs::copy(first.path().join(lock), deeper.join(lock)).unwrap();
    let root = fs::metadata("/proc/self").unwrap().uid() == 0;
    // The composer must be reachable for a stranger, whatever the modes of the directories above it.
    let other_user = root && reachable(&composer());
    if other_user {
        give_away(second.path(), STRANGER);
    } else {
        println!(
            "skipped: the second build runs as the same user (choosing another needs root and a reachable binary)"
        );
    }
    // A cache of its own: nothing of the first build is used.
    let setting = format!("umask 077; export TZ=Asia/Kathmandu HOME='{0}' KSOS_CACHE='{0}/cache'", deeper.display());
    let two = built(&deeper, &setting, other_user.then_some(STRANGER));
    for (_, suffix) in FORMATS {
        let name = format!("updating-node-0.1.0-x86_64.{suffix}");
        // A release is a directory; file names count as much as bytes.
        run(Command::new("diff").args(["--recursive", "--brief"]).arg(one.join(&name)).arg(two.join(&name)))
            .expect_code(0);
    }
}

fn reachable(path: &Path) -> bool {
    path.ancestors().all(|path| fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o005 == 0o005))
}

/// Gives a directory and all below it to `id`, with nothing for anybody else.
fn give_away(path: &Path, id: u32) {
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| give_away(&entry.unwrap().path(), id));
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
    }
    chown(path, Some(id), Some(id)).unwrap();
}
