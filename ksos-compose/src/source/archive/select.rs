//! Picks parts of a tree and moves them: what a component of the manifest says about its archive.

use std::collections::BTreeMap;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::tree::{Entry, Node, Tree, TreeError, check_path, parent};

/// One thing to install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Install {
    /// Path in the tree, after `strip`; a directory takes along what is below it.
    pub from: String,
    /// Where it goes; with a slash at the end, into that directory under its own name.
    pub to: String,
    /// Permission bits that it gets (not what is below it), instead of its own.
    pub mode: Option<u32>,
}

/// What to take of a tree and where to put it. Applied in the order of the fields, `prefix` last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SelectRules {
    /// Leading components taken off each path; entries with no more than that are left out, as `tar
    /// --strip-components` does.
    pub strip: usize,
    /// Globs of what to take, with all that is below it; empty: everything. `*` and `?` stop at a slash, `**` does not.
    pub include: Vec<String>,
    /// Globs of what to leave out, with all that is below it.
    pub exclude: Vec<String>,
    /// When not empty, only these things are taken.
    pub install: Vec<Install>,
    /// Directory that everything goes below; empty: none.
    pub prefix: String,
}

/// The rules do not fit each other or the tree.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// A glob that cannot be parsed.
    #[error("{glob:?} is not a valid glob: {reason}")]
    Glob {
        /// The glob.
        glob: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An `include` glob that no entry matches.
    #[error("include {glob:?} matches nothing")]
    NothingIncluded {
        /// The glob.
        glob: String,
    },
    /// An `install` path that is not there.
    #[error("install: there is no {from:?}{}", if there.is_empty() { String::new() } else { format!("; there are {}", there.join(", ")) })]
    NotThere {
        /// The path.
        from: String,
        /// What is in the nearest directory that exists.
        there: Vec<String>,
    },
    /// Two entries come to one place.
    #[error("{first:?} and {second:?} both go to {to:?}")]
    Collision {
        /// The one.
        first: String,
        /// The other.
        second: String,
        /// The place.
        to: String,
    },
    /// A path in the rules that cannot be in a tree.
    #[error(transparent)]
    Path(#[from] TreeError),
}

/// Returns what `rules` take of `tree`. Hard links whose file is left out become files.
///
/// # Errors
/// [`SelectError`].
pub fn select(tree: Tree, rules: &SelectRules) -> Result<Tree, SelectError> {
    let SelectRules { strip, include, exclude, install, prefix } = rules;
    let mut moves = stripped(&tree, *strip)?;
    filter(&mut moves, include, exclude)?;
    if !install.is_empty() {
        moves = installed(&moves, install)?;
    }
    let prefix = prefix.trim_matches('/');
    check_path(prefix)?;
    if !prefix.is_empty() {
        // The tree's own root says nothing about a directory further down.
        moves.remove("");
        moves = moves.into_iter().map(|(to, taken)| (format!("{prefix}/{to}"), taken)).collect();
    }
    build(&tree, &moves)
}

/// An entry that is taken.
#[derive(Debug, Clone)]
struct Taken {
    from: String,
    mode: Option<u32>,
}

/// New path to the entry that goes there.
type Moves = BTreeMap<String, Taken>;

fn stripped(tree: &Tree, strip: usize) -> Result<Moves, SelectError> {
    let mut moves = Moves::new();
    for (path, _) in tree.iter() {
        let kept = match strip {
            0 => Some(path),
            _ => path.match_indices('/').nth(strip - 1).map(|(slash, _)| &path[slash + 1..]),
        };
        if let Some(to) = kept {
            put(&mut moves, tree, to, Taken { from: path.to_owned(), mode: None })?;
        }
    }
    Ok(moves)
}

/// Adds a move; two directories may come to one place (the first one's metadata stays), other things may not.
fn put(moves: &mut Moves, tree: &Tree, to: &str, taken: Taken) -> Result<(), SelectError> {
    let is_directory = |path: &str| matches!(tree.get(path), Some(Entry { node: Node::Directory, .. }));
    match moves.get(to) {
        None => {
            moves.insert(to.to_owned(), taken);
            Ok(())
        }
        Some(first) if is_directory(&first.from) && is_directory(&taken.from) => Ok(()),
        Some(first) => {
            let (first, second) = (first.from.clone(), taken.from);
            Err(SelectError::Collision { first, second, to: to.to_owned() })
        }
    }
}

fn globs(globs: &[String]) -> Result<GlobSet, SelectError> {
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        let pattern = glob.trim_matches('/');
        let parsed = GlobBuilder::new(pattern).literal_separator(true).backslash_escape(true).build();
        set.add(parsed.map_err(|error| SelectError::Glob { glob: glob.clone(), reason: error.kind().to_string() })?);
    }
    set.build().map_err(|error| SelectError::Glob { glob: globs.join(", "), reason: error.to_string() })
}

/// Leaves in `moves` what `include` and `exclude` say, and the directories that lead there.
fn filter(moves: &mut Moves, include: &[String], exclude: &[String]) -> Result<(), SelectError> {
    if include.is_empty() && exclude.is_empty() {
        return Ok(());
    }
    let (included, excluded) = (globs(include)?, globs(exclude)?);
    let mut used = vec![false; include.len()];
    // Directories come before what they hold, so their fate is known.
    let mut wanted: BTreeMap<&str, bool> = BTreeMap::new();
    let mut dropped: BTreeMap<&str, bool> = BTreeMap::new();
    for path in moves.keys() {
        let of_parent = |map: &BTreeMap<&str, bool>| parent(path).is_some_and(|parent| map.get(parent) == Some(&true));
        let matches = included.matches(path);
        matches.iter().for_each(|index| used[*index] = true);
        let (want, drop) = (
            include.is_empty() || !matches.is_empty() || of_parent(&wanted),
            excluded.is_match(path) || of_parent(&dropped),
        );
        wanted.insert(path, want);
        dropped.insert(path, drop);
    }
    if let Some(unused) = used.iter().position(|used| !used) {
        return Err(SelectError::NothingIncluded { glob: include[unused].clone() });
    }
    let mut keep: std::collections::BTreeSet<String> = std::collections::BTreeSet::new();
    for path in moves.keys().filter(|path| wanted[path.as_str()] && !dropped[path.as_str()]) {
        let mut ancestor = Some(path.as_str());
        while let Some(path) = ancestor {
            if !keep.insert(path.to_owned()) {
                break;
            }
            ancestor = parent(path);
        }
    }
    moves.retain(|path, _| path.is_empty() || keep.contains(path));
    Ok(())
}

fn installed(moves: &Moves, install: &[Install]) -> Result<Moves, SelectError> {
    let mut result = Moves::new();
    for Install { from, to, mode } in install {
        let from = from.trim_matches('/');
        let top = moves.get(from).filter(|_| !from.is_empty()).ok_or_else(|| not_there(moves, from))?;
        let to = match to.strip_suffix('/') {
            Some(directory) => format!("{directory}/{}", from.rsplit('/').next().unwrap_or(from)),
            None => to.clone(),
        };
        let to = to.trim_start_matches('/');
        check_path(to)?;
        let mut add = |to: String, taken: Taken| match result.insert(to.clone(), taken.clone()) {
            Some(first) => Err(SelectError::Collision { first: first.from, second: taken.from, to }),
            None => Ok(()),
        };
        add(to.to_owned(), Taken { from: top.from.clone(), mode: *mode })?;
        let below = format!("{from}/");
        for (path, taken) in moves.range(below.clone()..).take_while(|(path, _)| path.starts_with(&below)) {
            add(format!("{to}/{}", &path[below.len()..]), taken.clone())?;
        }
    }
    Ok(result)
}

/// Says what is in the nearest directory that exists, at most ten names.
fn not_there(moves: &Moves, from: &str) -> SelectError {
    let mut directory = parent(from).unwrap_or("");
    while !directory.is_empty() && !moves.contains_key(directory) {
        directory = parent(directory).unwrap_or("");
    }
    let children = moves.keys().filter(|path| !path.is_empty() && parent(path) == Some(directory));
    SelectError::NotThere { from: from.to_owned(), there: children.take(10).cloned().collect() }
}

fn build(tree: &Tree, moves: &Moves) -> Result<Tree, SelectError> {
    let root = tree.get("").map_or(0, |root| root.meta.mtime);
    let mut result = Tree::new(root);
    // Where each regular file of the old tree is in the new one, for the hard links.
    let mut files: BTreeMap<&str, &str> = BTreeMap::new();
    let mut links = Vec::new();
    for (to, taken) in moves {
        let Some(entry) = tree.get(&taken.from) else { continue };
        match &entry.node {
            Node::HardLink(target) => links.push((to.as_str(), target.as_str(), taken)),
            _ => {
                if matches!(entry.node, Node::File(_)) && taken.mode.is_none() {
                    files.entry(&taken.from).or_insert(to);
                }
                result.insert(to, with_mode(entry.clone(), taken.mode))?;
            }
        }
    }
    for (to, target, taken) in links {
        match files.get(target) {
            // Another mode makes it another file.
            Some(file) if taken.mode.is_none() => {
                let Some(entry) = tree.get(target) else { continue };
                let link = Entry { meta: entry.meta.clone(), node: Node::HardLink((*file).to_owned()) };
                result.insert(to, link)?;
            }
            _ => {
                let Some(entry) = tree.get(target) else { continue };
                if taken.mode.is_none() {
                    files.insert(target, to);
                }
                result.insert(to, with_mode(entry.clone(), taken.mode))?;
            }
        }
    }
    Ok(result)
}

fn with_mode(mut entry: Entry, mode: Option<u32>) -> Entry {
    if let Some(mode) = mode {
        entry.meta.mode = mode & 0o7777;
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Content, Meta};

    fn tree(files: &[&str]) -> Tree {
        let mut tree = Tree::new(7);
        for path in files {
            let node = Node::File(Content::inline(path.as_bytes()));
            tree.insert(path, Entry { meta: Meta::root(0o644, 7), node }).unwrap();
        }
        tree
    }

    fn paths(tree: &Tree) -> Vec<&str> {
        tree.iter().map(|(path, _)| path).filter(|path| !path.is_empty()).collect()
    }

    fn strings(values: &[&str]) -> Vec<String> {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    #[test]
    fn strip_and_prefix_move_everything() {
        let rules = SelectRules { strip: 1, prefix: "/opt/cni/bin".into(), ..SelectRules::default() };
        let selected = select(tree(&["v1/bridge", "v1/sub/x", "README"]), &rules).unwrap();
        let expected = ["opt", "opt/cni", "opt/cni/bin", "opt/cni/bin/bridge", "opt/cni/bin/sub", "opt/cni/bin/sub/x"];
        assert_eq!(paths(&selected), expected);
    }

    #[test]
    fn stripping_onto_one_place_is_refused() {
        let rules = SelectRules { strip: 1, ..SelectRules::default() };
        let error = select(tree(&["a/x", "b/x"]), &rules).unwrap_err();
        assert_eq!(error.to_string(), r#""a/x" and "b/x" both go to "x""#);
    }

    #[test]
    fn include_takes_what_is_below_and_exclude_wins() {
        let files = ["usr/bin/a", "usr/bin/b", "usr/share/doc/a/x", "usr/share/man/b"];
        let rules = SelectRules {
            include: strings(&["usr/bin", "usr/share/*/a"]),
            exclude: strings(&["**/b"]),
            ..SelectRules::default()
        };
        let selected = select(tree(&files), &rules).unwrap();
        let expected =
            ["usr", "usr/bin", "usr/bin/a", "usr/share", "usr/share/doc", "usr/share/doc/a", "usr/share/doc/a/x"];
        assert_eq!(paths(&selected), expected);
        let rules = SelectRules { exclude: strings(&["usr/share"]), ..SelectRules::default() };
        assert_eq!(paths(&select(tree(&files), &rules).unwrap()), ["usr", "usr/bin", "usr/bin/a", "usr/bin/b"]);
    }

    #[test]
    fn an_include_that_matches_nothing_is_an_error() {
        let rules = SelectRules { include: strings(&["usr/bin/*", "usr/sbin/*"]), ..SelectRules::default() };
        let error = select(tree(&["usr/bin/a"]), &rules).unwrap_err();
        assert_eq!(error.to_string(), r#"include "usr/sbin/*" matches nothing"#);
        let rules = SelectRules { include: strings(&["a{b"]), ..SelectRules::default() };
        assert!(matches!(select(tree(&["x"]), &rules), Err(SelectError::Glob { .. })));
    }

    #[test]
    fn install_names_what_is_there_instead() {
        let install = |from: &str, to: &str, mode| Install { from: from.into(), to: to.into(), mode };
        let rules = |install| SelectRules { install, ..SelectRules::default() };
        let source = tree(&["kubesolo", "etc/a/b"]);
        let selected = select(
            source.clone(),
            &rules(vec![install("kubesolo", "/usr/bin/", Some(0o755)), install("etc/a", "etc/z", None)]),
        )
        .unwrap();
        assert_eq!(paths(&selected), ["etc", "etc/z", "etc/z/b", "usr", "usr/bin", "usr/bin/kubesolo"]);
        assert_eq!(selected.get("usr/bin/kubesolo").unwrap().meta.mode, 0o755);
        let error = select(source.clone(), &rules(vec![install("bin/kubesolo", "x", None)])).unwrap_err();
        assert_eq!(error.to_string(), r#"install: there is no "bin/kubesolo"; there are etc, kubesolo"#);
        let both = rules(vec![install("kubesolo", "x", None), install("etc/a/b", "x", None)]);
        assert!(matches!(select(source.clone(), &both), Err(SelectError::Collision { .. })));
        let escape = rules(vec![install("kubesolo", "../x", None)]);
        assert!(matches!(select(source, &escape), Err(SelectError::Path(_))));
    }

    #[test]
    fn hard_links_survive_when_their_file_is_left_out() {
        let mut source = tree(&["a/first"]);
        let link = |target: &str| Entry { meta: Meta::root(0, 0), node: Node::HardLink(target.into()) };
        source.insert("b/second", link("a/first")).unwrap();
        source.insert("b/third", link("a/first")).unwrap();
        let rules = SelectRules { include: strings(&["b"]), prefix: "p".into(), ..SelectRules::default() };
        let selected = select(source.clone(), &rules).unwrap();
        assert_eq!(selected.get("p/b/second"), source.get("a/first"));
        assert_eq!(selected.get("p/b/third").unwrap().node, Node::HardLink("p/b/second".into()));
    }
}
