//! Random trees come back the same.

use proptest::prelude::*;

use super::*;

fn name() -> impl Strategy<Value = String> {
    prop_oneof![8 => "[a-zA-Z0-9._-]{1,12}", 1 => "[a-z]{200,255}", 1 => "[à-ÿ]{1,20}"]
        .prop_filter("dots are no names", |name| name != "." && name != "..")
}

fn node() -> impl Strategy<Value = Node> {
    let block = prop_oneof![Just(0u64), 1..1000u64];
    let content = (prop::collection::vec(block, 0..12), 0..4096usize).prop_map(|(blocks, tail)| {
        let mut bytes = Vec::new();
        for seed in blocks {
            bytes.extend(if seed == 0 { vec![0; 4096] } else { noise(seed, 4096) });
        }
        bytes.extend(noise(tail as u64, tail));
        Node::File(Content::inline(bytes))
    });
    prop_oneof![
        5 => content,
        2 => Just(Node::Directory),
        2 => "[a-z/.]{1,300}".prop_map(Node::Symlink),
        1 => (0..4096u32, 0..1_048_576u32).prop_map(|(major, minor)| Node::CharacterDevice { major, minor }),
        1 => (0..4096u32, 0..1_048_576u32).prop_map(|(major, minor)| Node::BlockDevice { major, minor }),
        1 => Just(Node::Fifo),
        1 => Just(Node::Socket),
    ]
}

fn meta() -> impl Strategy<Value = Meta> {
    let attributes = prop::collection::btree_map(
        "(user|trusted|security)\\.[a-z]{1,20}",
        prop::collection::vec(any::<u8>(), 0..150),
        0..4,
    );
    (0..0o10000u32, any::<u32>(), any::<u32>(), -(1i64 << 31)..(1 << 33), attributes)
        .prop_map(|(mode, uid, gid, mtime, xattrs)| Meta { mode, uid, gid, mtime, xattrs })
}

/// A tree that prints without its contents when a case fails.
struct Sample(Tree);

impl std::fmt::Debug for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map()
            .entries(
                self.0.iter().map(|(path, entry)| (path, format!("{entry:.0?}").chars().take(200).collect::<String>())),
            )
            .finish()
    }
}

/// Entries below random earlier directories, and hard links to random files.
fn trees() -> impl Strategy<Value = Sample> {
    let entries = prop::collection::vec((any::<prop::sample::Index>(), name(), meta(), node()), 0..60);
    let links = prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), name()), 0..5);
    (entries, links).prop_map(|(entries, links)| {
        let mut tree = tree();
        let mut directories = vec![String::new()];
        let mut files = Vec::new();
        let join =
            |parent: &str, name: &str| if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") };
        for (parent, name, meta, node) in entries {
            let path = join(parent.get::<String>(&directories), &name);
            if path.len() > 1000 || tree.get(&path).is_some() {
                continue;
            }
            match node {
                Node::Directory => directories.push(path.clone()),
                Node::File(_) => files.push(path.clone()),
                _ => {}
            }
            tree.insert(&path, Entry { meta, node }).unwrap();
        }
        for (target, parent, name) in links {
            let path = join(parent.get::<String>(&directories), &name);
            if !files.is_empty() && tree.get(&path).is_none() {
                tree.insert(&path, entry(Node::HardLink(target.get(&files).clone()))).unwrap();
            }
        }
        Sample(tree)
    })
}

/// Compares what debugfs says of each entry.
fn assert_same(tree: &Tree, image: &Image) {
    let out = image.folder.path().join("out");
    std::fs::create_dir_all(&out).unwrap();
    image.debugfs_one(&format!("rdump / {}", out.display()));
    let paths: Vec<&str> = tree.iter().map(|(path, _)| path).collect();
    let commands: Vec<String> = paths.iter().map(|path| format!("stat \"/{path}\"")).collect();
    let text = image.debugfs(&commands);
    let stats: Vec<&str> = text.split("debugfs: stat ").skip(1).collect();
    assert_eq!(stats.len(), paths.len());
    for (path, stat) in paths.into_iter().zip(stats) {
        let entry = tree.resolve_link(tree.get(path).unwrap());
        let host = out.join(path);
        let (kind, mode) = match &entry.node {
            Node::Directory => ("directory", std::fs::symlink_metadata(&host).unwrap().is_dir()),
            Node::File(content) => ("regular", std::fs::read(&host).unwrap() == content.read(1 << 20).unwrap()),
            Node::Symlink(target) => ("symlink", std::fs::read_link(&host).unwrap().to_str() == Some(target)),
            Node::CharacterDevice { major, minor } => {
                ("character special", stat.contains(&format!("number: {major:02}:{minor:02}")))
            }
            Node::BlockDevice { major, minor } => {
                ("block special", stat.contains(&format!("number: {major:02}:{minor:02}")))
            }
            Node::Fifo => ("FIFO", true),
            Node::Socket => ("socket", true),
            Node::HardLink(_) => unreachable!(),
        };
        assert!(mode && stat.contains(&format!("Type: {kind}")), "{path} {stat}");
        let meta = &entry.meta;
        assert!(stat.contains(&format!("Mode:  0{:03o} ", meta.mode)), "{path} {stat}");
        assert_eq!(owners(stat), (meta.uid, meta.gid), "{path}");
        assert!(stat.contains(&format!("mtime: 0x{:08x}:", meta.mtime as u32)), "{path} {stat}");
        assert_attributes(path, &meta.xattrs, image);
    }
}

fn assert_attributes(path: &str, attributes: &BTreeMap<String, Vec<u8>>, image: &Image) {
    let target = |number: usize| image.folder.path().join(format!("value-{number}"));
    let commands: Vec<String> = attributes
        .keys()
        .enumerate()
        .map(|(number, name)| format!("ea_get -f {} \"/{path}\" {name}", target(number).display()))
        .collect();
    if !commands.is_empty() {
        image.debugfs(&commands);
    }
    for (number, (name, value)) in attributes.iter().enumerate() {
        assert_eq!(&std::fs::read(target(number)).unwrap(), value, "{path} {name}");
        std::fs::remove_file(target(number)).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 50, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_random_tree_comes_back(tree in trees(), size in 2000..6000u64) {
        let image = Image::write(&tree.0, &options(size * 4096));
        if image.check() {
            assert_same(&tree.0, &image);
        }
    }
}
