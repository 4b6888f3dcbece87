//! `/etc/passwd` and `/etc/group` (passwd(5), group(5)).

use std::collections::BTreeMap;

/// One account. No account has a password: `*` in the password field admits nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id; a group of the user's name is made for it.
    pub gid: u32,
    /// Home directory.
    pub home: String,
    /// Login shell.
    pub shell: String,
}

/// Returns the text of `/etc/passwd`, ordered by user id.
pub fn passwd(users: &BTreeMap<String, User>) -> String {
    let mut lines: Vec<(u32, String)> = users
        .iter()
        .map(|(name, User { uid, gid, home, shell })| (*uid, format!("{name}:*:{uid}:{gid}::{home}:{shell}\n")))
        .collect();
    lines.sort();
    lines.into_iter().map(|(_, line)| line).collect()
}

/// Returns the text of `/etc/group`, ordered by group id; each group once, named after the first user that has it.
pub fn group(users: &BTreeMap<String, User>) -> String {
    let mut groups = BTreeMap::new();
    // Group 0 is root's, whoever else is in it.
    for (name, user) in users.iter().filter(|(name, _)| *name == "root").chain(users) {
        groups.entry(user.gid).or_insert(name);
    }
    groups.into_iter().map(|(gid, name)| format!("{name}:*:{gid}:\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_ordered_by_id() {
        let user = |id, home: &str| User { uid: id, gid: id, home: home.into(), shell: "/usr/sbin/nologin".into() };
        let users = [("nobody".to_owned(), user(65534, "/nonexistent")), ("root".to_owned(), user(0, "/root"))].into();
        let expected = "root:*:0:0::/root:/usr/sbin/nologin\nnobody:*:65534:65534::/nonexistent:/usr/sbin/nologin\n";
        assert_eq!(passwd(&users), expected);
        assert_eq!(group(&users), "root:*:0:\nnobody:*:65534:\n");
    }
}
