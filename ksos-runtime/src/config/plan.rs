//! What an effective configuration means for this node, checked before anything of it is done.
//!
//! Files go where they can be written: below what persists (once per configuration) or in memory (at every boot).
//! Entries for one path become one write, so that no power cut leaves a half of them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ksos_formats::config::{Action, NodeConfig, WriteFile};

use super::{certificates, ssh_keys};

/// Trees in memory that files may be written to.
const MEMORY: [&str; 3] = ["/run", "/tmp", "/dev/shm"];
/// What in them is the runtime's own.
const RESERVED: &str = "/run/ksos";

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEffect {
    /// The tree that it is in.
    pub tree: String,
    /// Absolute path.
    pub path: String,
    /// Content.
    pub content: Vec<u8>,
    /// Whether it is added at the end of what is there.
    pub append: bool,
    /// Permission bits.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
}

/// Certificate authorities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorities {
    /// Those that are trusted, PEM.
    pub pem: String,
    /// Whether the image's own are not.
    pub remove_defaults: bool,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Files on the data partition.
    pub persistent: Vec<FileEffect>,
    /// Files in memory.
    pub memory: Vec<FileEffect>,
    /// Certificate authorities, unless the image's bundle stays as it is.
    pub authorities: Option<Authorities>,
    /// Public keys that may log in.
    pub keys: Vec<String>,
    /// Keys that were left out, and why.
    pub problems: Vec<String>,
}

impl Plan {
    /// Checks a configuration; `persist` is what persists.
    ///
    /// # Errors
    /// Everything that makes the configuration unusable.
    pub fn of(config: &NodeConfig, persist: &[String]) -> Result<Self, Vec<String>> {
        let mut plan = Plan::default();
        let mut errors = Vec::new();
        for (index, file) in config.write_files.iter().enumerate() {
            match file_effect(file, persist) {
                Ok((true, effect)) => add(&mut plan.persistent, effect),
                Ok((false, effect)) => add(&mut plan.memory, effect),
                Err(error) => errors.push(format!("write_files[{index}]: {error}")),
            }
        }
        let mut pem = String::new();
        for (index, text) in config.ca_certs.trusted.iter().enumerate() {
            match certificates::parse(text) {
                Ok(found) => found.iter().for_each(|der| pem.push_str(&certificates::to_pem(der))),
                Err(error) => errors.push(format!("ca_certs.trusted[{index}]: {error}")),
            }
        }
        let remove_defaults = config.ca_certs.remove_defaults;
        plan.authorities = (remove_defaults || !pem.is_empty()).then_some(Authorities { pem, remove_defaults });
        for (index, line) in config.ssh_authorized_keys.iter().enumerate() {
            match ssh_keys::check(line) {
                Ok(key) if plan.keys.contains(&key) => {}
                Ok(key) => plan.keys.push(key),
                Err(error) => plan.problems.push(format!("ssh_authorized_keys[{index}]: {error}; left out")),
            }
        }
        if errors.is_empty() { Ok(plan) } else { Err(errors) }
    }
}

/// Returns whether a file persists, and what is to be written.
fn file_effect(file: &WriteFile, persist: &[String]) -> Result<(bool, FileEffect), String> {
    let WriteFile { path, content, mode, owner, action } = file;
    check_path(path)?;
    let content = STANDARD.decode(content).map_err(|_| format!("{path}: the content is not base64"))?;
    let below = |tree: &str| path.strip_prefix(tree.trim_end_matches('/')).is_some_and(|rest| rest.starts_with('/'));
    let kept = persist.iter().filter(|tree| below(tree)).max_by_key(|tree| tree.len());
    let memory = MEMORY.iter().find(|tree| below(tree));
    let (persistent, tree) = match (kept, memory) {
        (Some(tree), _) => (true, tree.as_str()),
        (None, Some(tree)) => (false, *tree),
        (None, None) => {
            let places: Vec<&str> = persist.iter().map(String::as_str).chain(MEMORY).collect();
            return Err(format!("{path} is on the read-only root; files can be written below {}", places.join(", ")));
        }
    };
    let (mode, owner, append) = (*mode, *owner, *action == Action::Append);
    Ok((persistent, FileEffect { tree: tree.to_owned(), path: path.clone(), content, append, mode, owner }))
}

fn check_path(path: &str) -> Result<(), String> {
    let names = path.strip_prefix('/').ok_or_else(|| format!("{path:?} is no absolute path"))?;
    if names.split('/').any(|name| matches!(name, "" | "." | "..")) {
        return Err(format!("{path:?} has an empty name, . or .. in it"));
    }
    if names.chars().any(char::is_control) {
        return Err(format!("{path:?} has a control character in it"));
    }
    if path == RESERVED || path.strip_prefix(RESERVED).is_some_and(|rest| rest.starts_with('/')) {
        return Err(format!("{path} belongs to the runtime"));
    }
    Ok(())
}

/// Adds a file to a list; what was to be written to the same path before becomes part of it.
fn add(files: &mut Vec<FileEffect>, mut file: FileEffect) {
    if let Some(index) = files.iter().position(|other| other.path == file.path) {
        let earlier = files.remove(index);
        if file.append {
            file.content.splice(0..0, earlier.content);
            file.append = earlier.append;
        }
    }
    files.push(file);
}

#[cfg(test)]
mod tests {
    use ksos_formats::config::CaCertificates;

    use super::super::certificates::tests::der;
    use super::super::certificates::to_pem;
    use super::super::ssh_keys::tests::key;
    use super::*;

    fn file(path: &str, content: &str, action: Action) -> WriteFile {
        WriteFile { path: path.to_owned(), content: STANDARD.encode(content), mode: 0o644, owner: (0, 0), action }
    }

    fn plan(files: Vec<WriteFile>) -> Result<Plan, Vec<String>> {
        let persist = ["/etc/kubesolo", "/var/lib/kubesolo", "/var/lib/kubesolo/deep"].map(str::to_owned);
        Plan::of(&NodeConfig { write_files: files, ..NodeConfig::default() }, &persist)
    }

    #[test]
    fn places_are_told_apart() {
        let paths = ["/etc/kubesolo/a", "/var/lib/kubesolo/deep/b", "/run/c", "/tmp/d/e", "/dev/shm/f"];
        let plan = plan(paths.iter().map(|path| file(path, "x", Action::Replace)).collect()).expect("valid");
        let places = |files: &[FileEffect]| files.iter().map(|f| format!("{} {}", f.tree, f.path)).collect::<Vec<_>>();
        let persistent = ["/etc/kubesolo /etc/kubesolo/a", "/var/lib/kubesolo/deep /var/lib/kubesolo/deep/b"];
        assert_eq!(places(&plan.persistent), persistent);
        assert_eq!(places(&plan.memory), ["/run /run/c", "/tmp /tmp/d/e", "/dev/shm /dev/shm/f"]);
    }

    #[test]
    fn other_places_are_errors_that_name_them() {
        for (path, expected) in [
            ("/etc/hosts", "/etc/hosts is on the read-only root; files can be written below /etc/kubesolo, "),
            ("/etc/kubesolo-other/a", "is on the read-only root"),
            ("/etc/kubesolo", "is on the read-only root"),
            ("/run", "is on the read-only root"),
            ("/run/ksos/status.json", "/run/ksos/status.json belongs to the runtime"),
            ("/run/ksos", "belongs to the runtime"),
            ("/etc/kubesolo/../passwd", "has an empty name, . or .. in it"),
            ("/etc/kubesolo//a", "has an empty name"),
            ("/etc/kubesolo/a/", "has an empty name"),
            ("run/a", "\"run/a\" is no absolute path"),
            ("", "is no absolute path"),
            ("/run/a\nb", "has a control character"),
        ] {
            let errors = plan(vec![file("/run/x", "", Action::Replace), file(path, "", Action::Replace)]);
            let errors = errors.expect_err(path);
            assert!(errors[0].starts_with("write_files[1]: ") && errors[0].contains(expected), "{errors:?}");
        }
        let garbage = WriteFile { content: "!".to_owned(), ..file("/run/x", "", Action::Replace) };
        assert_eq!(plan(vec![garbage]).expect_err("garbage"), ["write_files[0]: /run/x: the content is not base64"]);
    }

    #[test]
    fn entries_for_one_path_become_one_write() {
        use Action::{Append, Replace};
        for (entries, expected) in [
            (vec![("a", Replace), ("b", Append)], ("ab", false)),
            (vec![("a", Append), ("b", Append)], ("ab", true)),
            (vec![("a", Append), ("b", Replace)], ("b", false)),
        ] {
            let files = entries.iter().map(|(text, action)| file("/run/x", text, *action)).collect();
            let plan = plan(files).expect("valid");
            let [file] = plan.memory.as_slice() else { panic!("one write") };
            assert_eq!((String::from_utf8_lossy(&file.content).as_ref(), file.append), expected);
        }
    }

    #[test]
    fn certificates_and_keys() {
        let trusted = vec![to_pem(&der(5)), format!("# mine\n{}{}", to_pem(&der(6)), to_pem(&der(7)))];
        let good = key("ssh-ed25519", "a");
        let mut config = NodeConfig {
            ca_certs: CaCertificates { trusted, remove_defaults: false },
            ssh_authorized_keys: vec![good.clone(), "junk".to_owned(), format!(" {good}")],
            ..NodeConfig::default()
        };
        let plan = Plan::of(&config, &[]).expect("valid");
        let pem = [der(5), der(6), der(7)].map(|der| to_pem(&der)).concat();
        assert_eq!(plan.authorities, Some(Authorities { pem, remove_defaults: false }));
        assert_eq!(plan.keys, [good]);
        assert_eq!(plan.problems, ["ssh_authorized_keys[1]: no key type in it is known; left out"]);
        config.ca_certs.trusted.push("junk".to_owned());
        let errors = Plan::of(&config, &[]).expect_err("garbage");
        assert_eq!(errors, ["ca_certs.trusted[2]: there is no certificate in it"]);
        config.ca_certs = CaCertificates { trusted: Vec::new(), remove_defaults: true };
        let nothing = Authorities { pem: String::new(), remove_defaults: true };
        assert_eq!(Plan::of(&config, &[]).expect("valid").authorities, Some(nothing));
    }
}
