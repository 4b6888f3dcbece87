//! kmod's text indexes of a module directory (depmod(8)).

use std::collections::{BTreeMap, BTreeSet};

use crate::sys::{Result, Sys, read_text};

use super::glob;

/// One module file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Path of the file.
    pub path: String,
    /// Paths of all modules that must be loaded before it, the ones needed first at the end (modules.dep(5)).
    pub dependencies: Vec<String>,
}

/// Modules to load before and after a module where they exist (modprobe.d(5), `softdep`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SoftDependencies {
    /// Before it.
    pub before: Vec<String>,
    /// After it.
    pub after: Vec<String>,
}

/// What the index files of one kernel release say. Names are stored with `_` for `-`.
#[derive(Debug, Clone, Default)]
pub struct Index {
    modules: BTreeMap<String, Module>,
    aliases: Vec<(String, String)>,
    soft: BTreeMap<String, SoftDependencies>,
    builtin: BTreeSet<String>,
}

/// Returns the name of a module, as the kernel spells it, from its name or file.
pub fn canonical_name(name: &str) -> String {
    let file = name.rsplit('/').next().unwrap_or(name);
    let stem = file.split(".ko").next().unwrap_or(file);
    stem.replace('-', "_")
}

impl Index {
    /// Reads the index of `directory`. `modules.dep` must be there, the others may be missing.
    pub fn read(sys: &dyn Sys, directory: &str) -> Result<Self> {
        let optional = |name: &str| read_text(sys, &format!("{directory}/{name}")).unwrap_or_default();
        let dependencies = read_text(sys, &format!("{directory}/modules.dep"))?;
        let mut index = Index { modules: parse_dependencies(&dependencies, directory), ..Index::default() };
        index.aliases = parse_aliases(&optional("modules.alias"));
        index.soft = parse_soft(&optional("modules.softdep"));
        index.builtin = optional("modules.builtin").lines().map(canonical_name).collect();
        Ok(index)
    }

    /// Returns a module by name.
    pub fn module(&self, name: &str) -> Option<&Module> {
        self.modules.get(&canonical_name(name))
    }

    /// Returns whether the kernel has the module built in.
    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(&canonical_name(name))
    }

    /// Returns the soft dependencies of a module.
    pub fn soft(&self, name: &str) -> Option<&SoftDependencies> {
        self.soft.get(&canonical_name(name))
    }

    /// Returns the names of the modules whose alias patterns match `alias`, each once, in file order.
    pub fn by_alias(&self, alias: &str) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for (pattern, name) in &self.aliases {
            if pattern.as_bytes().first() == alias.as_bytes().first()
                && glob::matches(pattern, alias)
                && !names.contains(&name.as_str())
            {
                names.push(name);
            }
        }
        names
    }

    /// Returns whether there are no modules.
    pub fn is_empty(&self) -> bool {
        self.modules.is_empty()
    }
}

fn parse_dependencies(text: &str, directory: &str) -> BTreeMap<String, Module> {
    let absolute = |path: &str| {
        if path.starts_with('/') { path.to_owned() } else { format!("{directory}/{path}") }
    };
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let module = |(path, dependencies): (&str, &str)| {
        let dependencies = dependencies.split_whitespace().map(absolute).collect();
        (canonical_name(path), Module { path: absolute(path), dependencies })
    };
    lines.map(module).collect()
}

fn parse_aliases(text: &str) -> Vec<(String, String)> {
    let fields = |line: &str| {
        let mut words = line.split_whitespace();
        let alias = words.next().filter(|word| *word == "alias").and_then(|_| words.next())?;
        Some((alias.to_owned(), canonical_name(words.next()?)))
    };
    text.lines().filter_map(fields).collect()
}

fn parse_soft(text: &str) -> BTreeMap<String, SoftDependencies> {
    let mut soft: BTreeMap<String, SoftDependencies> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let name = words.next().filter(|word| *word == "softdep").and_then(|_| words.next());
        let Some(name) = name else { continue };
        let entry = soft.entry(canonical_name(name)).or_default();
        let mut after = false;
        for word in words {
            match word {
                "pre:" => after = false,
                "post:" => after = true,
                name if after => entry.after.push(name.to_owned()),
                name => entry.before.push(name.to_owned()),
            }
        }
    }
    soft
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::double::Double;

    #[test]
    fn reads_kmods_text_files() {
        let sys = Double::new();
        sys.put(
            "/m/modules.dep",
            "kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko kernel/fs/jbd2.ko\n# comment\nkernel/a-b.ko.xz:\n",
        );
        sys.put("/m/modules.alias", "# Aliases\nalias fs-ext4 ext4\nalias pci:v*d* a-b\nalias broken\n");
        sys.put("/m/modules.softdep", "# Soft\nsoftdep ext4 pre: crc32c post: late one\nsoftdep\n");
        sys.put("/m/modules.builtin", "kernel/drivers/block/loop.ko\n");
        let index = Index::read(&sys, "/m").expect("readable");
        let ext4 = index.module("ext4").expect("listed");
        assert_eq!(ext4.path, "/m/kernel/fs/ext4/ext4.ko");
        assert_eq!(ext4.dependencies, ["/m/kernel/lib/crc16.ko", "/m/kernel/fs/jbd2.ko"]);
        assert_eq!(index.module("a_b").map(|module| module.path.as_str()), Some("/m/kernel/a-b.ko.xz"));
        assert_eq!(index.by_alias("fs-ext4"), ["ext4"]);
        assert_eq!(index.by_alias("pci:v1d2"), ["a_b"]);
        assert!(index.by_alias("broken").is_empty());
        assert!(index.is_builtin("loop") && !index.is_builtin("ext4"));
        let soft = index.soft("ext4").expect("listed");
        assert_eq!((soft.before.as_slice(), soft.after.len()), (&["crc32c".to_owned()][..], 2));
    }

    #[test]
    fn a_missing_dependency_file_is_named() {
        let error = Index::read(&Double::new(), "/lib/modules/6.12").expect_err("nothing is there");
        assert!(error.to_string().starts_with("read /lib/modules/6.12/modules.dep: "), "{error}");
    }
}
