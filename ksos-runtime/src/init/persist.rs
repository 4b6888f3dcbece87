//! Stage 35: what of the data partition appears where.
//!
//! The partition itself is mounted `nosuid,nodev,noexec`; each path that persists is a bind mount of it with flags of its
//! own: programs can be executed below `/var/lib`, `/opt`, `/usr` and nowhere else. Overlay file systems on top of it,
//! which containers have, carry flags of their own.

use crate::sys::MountFlags;

use super::Error;
use super::node::Node;

/// Where programs may be executed from: the engines keep binaries, volumes and bundles there.
const EXECUTABLE: [&str; 3] = ["/var/lib", "/opt", "/usr"];

/// Returns whether anything persists.
pub(super) fn has_paths(node: &Node<'_>) -> bool {
    !node.config.data.persist.is_empty()
}

/// Binds what persists to its place. What the image holds there is copied to the data partition first, once.
pub(super) fn bind_all(node: &mut Node<'_>) -> Result<String, Error> {
    let mut paths = node.config.data.persist.clone();
    // A directory before what is below it.
    paths.sort();
    let results = paths.iter().map(|path| bind(node, path));
    Error::unless_empty(results.filter_map(|result| result.err().map(|error| error.to_string())).collect())?;
    Ok(format!("{} paths", paths.len()))
}

/// Returns the flags of the mount at `path`.
fn flags(path: &str) -> MountFlags {
    let below = |parent: &str| path.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let executable = EXECUTABLE.into_iter().any(below);
    MountFlags { no_suid: true, no_dev: true, no_exec: !executable, no_atime: true, read_only: false }
}

fn bind(node: &Node<'_>, path: &str) -> Result<(), Error> {
    let sys = node.sys;
    if sys.kind(path).is_none() {
        return Err(Error::NoPath(path.to_owned()));
    }
    let kept = format!("{}/{}", node.data.path.trim_end_matches('/'), path.trim_matches('/'));
    if sys.kind(&kept).is_none() {
        if let Some((parent, _)) = kept.rsplit_once('/') {
            sys.make_directory(parent, 0o755)?;
        }
        // Complete under another name first: half a copy would look like a whole one at the next boot.
        let staging = format!("{}/ksos/staging-{}", node.data.path, path.trim_matches('/').replace('/', "-"));
        sys.make_directory(&format!("{}/ksos", node.data.path), 0o755)?;
        sys.remove_tree(&staging)?;
        sys.copy_tree(path, &staging)?;
        sys.sync();
        sys.rename(&staging, &kept)?;
    }
    sys.bind(&kept, path)?;
    Ok(sys.set_mount_flags(path, flags(path))?)
}

#[cfg(test)]
mod tests {
    use super::super::node::tests::node;
    use super::*;
    use crate::sys::Sys;
    use crate::sys::double::Double;

    #[test]
    fn paths_are_seeded_from_the_image_once() {
        let sys = Double::new();
        sys.put("/data/.keep", "");
        sys.put("/etc/app/config", "default");
        sys.put("/var/lib/app/.keep", "");
        let mut node = node(&sys);
        node.config.data.persist = ["/var/lib/app", "/etc/app", "/not/there"].map(str::to_owned).to_vec();
        sys.put("/data/ksos/staging-etc-app/half", "left by a power cut");
        let error = bind_all(&mut node).expect_err("one is missing");
        assert_eq!(error.to_string(), "/not/there is not in the image");
        assert_eq!(sys.text("/data/etc/app/config"), "default");
        assert_eq!(sys.kind("/data/etc/app/half"), None);
        assert_eq!(sys.calls_of("bind"), ["bind /data/etc/app /etc/app", "bind /data/var/lib/app /var/lib/app"]);
        let flags =
            ["mount-flags /etc/app nosuid,nodev,noexec,noatime", "mount-flags /var/lib/app nosuid,nodev,noatime"];
        assert_eq!(sys.calls_of("mount-flags"), flags);
        sys.put("/data/etc/app/config", "changed");
        bind_all(&mut node).expect_err("the same");
        assert_eq!(sys.text("/data/etc/app/config"), "changed");
    }

    #[test]
    fn programs_run_below_the_engines_directories_only() {
        for (path, expected) in [("/var/lib", true), ("/var/library", false), ("/opt/cni", true), ("/root", false)] {
            assert_eq!(!flags(path).no_exec, expected, "{path}");
        }
    }
}
