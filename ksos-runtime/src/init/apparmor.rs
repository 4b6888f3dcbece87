//! Stage 55: AppArmor profiles, and what a service that is confined by one needs.
//!
//! Profiles are compiled and loaded by the image's `apparmor_parser`, without a cache: the root cannot be written, and a
//! cache on the data partition would be a way around the signed image. A service with a profile is confined from its
//! first instruction on (`Command::apparmor`) or does not start.

use crate::sys::{Sys, read_text};

use super::Error;
use super::data::find_program;
use super::node::Node;

/// The kernel's side of AppArmor (kernel `Documentation/admin-guide/LSM/apparmor.rst`).
const DIRECTORY: &str = "/sys/kernel/security/apparmor";

/// Returns whether the image has profiles.
pub(super) fn has_profiles(node: &Node<'_>) -> bool {
    !node.config.apparmor_profiles.is_empty()
}

/// Loads the profiles; goes on after one that fails.
pub(super) fn load(node: &mut Node<'_>) -> Result<String, Error> {
    let sys = node.sys;
    if sys.kind(DIRECTORY).is_none() {
        return Err(Error::NoAppArmor);
    }
    let parser = find_program(sys, "apparmor_parser")?;
    let mut failures = Vec::new();
    for path in node.config.apparmor_profiles.clone() {
        // apparmor_parser(8): replace what is loaded, and do nothing with a cache.
        match sys.run(&[&parser, "--replace", "--skip-cache", &path]) {
            Ok((exit, _)) if exit.success() => {}
            Ok((exit, output)) => {
                failures.push(Error::Program { program: format!("apparmor_parser {path}"), exit, output }.to_string());
            }
            Err(error) => failures.push(format!("{path}: {error}")),
        }
        node.progress();
    }
    Error::unless_empty(failures)?;
    Ok(format!("{} profile files", node.config.apparmor_profiles.len()))
}

/// Returns why a process cannot be confined by `profile`.
pub(super) fn missing(sys: &dyn Sys, profile: &str) -> Option<String> {
    if sys.kind(DIRECTORY).is_none() {
        return Some(format!("the kernel has no AppArmor to confine it by profile {profile}"));
    }
    // Lines are `NAME (MODE)`. Without the list the kernel has the last word when the process starts.
    let loaded = read_text(sys, &format!("{DIRECTORY}/profiles")).ok()?;
    let named = |line: &str| line.rsplit_once(" (").is_some_and(|(name, _)| name == profile);
    let unknown = !loaded.lines().any(named);
    unknown.then(|| format!("AppArmor profile {profile} is not loaded"))
}

#[cfg(test)]
mod tests {
    use super::super::node::tests::node;
    use super::*;
    use crate::sys::Exit;
    use crate::sys::double::Double;

    #[test]
    fn all_profiles_are_tried_and_the_bad_one_is_named() {
        let sys = Double::new();
        let mut node = node(&sys);
        assert!(!has_profiles(&node));
        node.config.apparmor_profiles = ["/etc/apparmor.d/a", "/etc/apparmor.d/b"].map(str::to_owned).to_vec();
        assert_eq!(load(&mut node).expect_err("no AppArmor").to_string(), "the kernel has no AppArmor");
        sys.put("/sys/kernel/security/apparmor/profiles", "");
        assert_eq!(load(&mut node).expect_err("no parser").to_string(), "apparmor_parser is not in the image");
        sys.put("/usr/sbin/apparmor_parser", "");
        let runs = [(Exit::Code(1), "syntax error in line 3".to_owned()), (Exit::Code(0), String::new())];
        sys.runs.borrow_mut().insert("/usr/sbin/apparmor_parser".to_owned(), runs.into());
        let text = load(&mut node).expect_err("one is bad").to_string();
        assert_eq!(text, "apparmor_parser /etc/apparmor.d/a: exit status 1: syntax error in line 3");
        assert_eq!(
            sys.calls_of("run")[1],
            "run /usr/sbin/apparmor_parser --replace --skip-cache /etc/apparmor.d/b",
            "the other has its turn"
        );
        assert_eq!(load(&mut node).expect("fine").as_str(), "2 profile files");
    }

    #[test]
    fn a_profile_that_is_not_there_is_told_before_the_start() {
        let sys = Double::new();
        assert_eq!(missing(&sys, "x").expect("no"), "the kernel has no AppArmor to confine it by profile x");
        sys.put("/sys/kernel/security/apparmor/profiles", "cri-containerd.apparmor.d (enforce)\na b (complain)\n");
        assert_eq!(missing(&sys, "a b"), None);
        assert_eq!(missing(&sys, "a").expect("no"), "AppArmor profile a is not loaded");
    }
}
