//! Directories: linear, hashed with one and two levels, many subdirectories, `lost+found`.

use super::super::hash::NameHash;
use super::*;

fn filled(count: usize, name: impl Fn(usize) -> String) -> Tree {
    let mut tree = tree();
    tree.insert("d", directory()).unwrap();
    for number in 0..count {
        tree.insert(&format!("d/{}", name(number)), entry(Node::Fifo)).unwrap();
    }
    tree
}

/// Looks the names up, which goes by the hash tree when there is one, and checks the number of entries.
fn assert_found(image: &Image, count: usize, name: impl Fn(usize) -> String) {
    let probes: Vec<usize> = (0..count).step_by(count.div_ceil(50)).chain([count - 1]).collect();
    let commands: Vec<String> = probes.iter().map(|number| format!("testi \"/d/{}\"", name(*number))).collect();
    let found = image.debugfs(&commands).matches("marked in use").count();
    assert_eq!(found, probes.len());
    // Inner nodes of the tree look like unused entries.
    assert_eq!(
        image.debugfs_one("ls -p /d").lines().filter(|line| line.starts_with('/') && !line.starts_with("/0/")).count(),
        count + 2
    );
}

#[test]
fn the_hash_is_that_of_debugfs() {
    let image = Image::write(&tree(), &options(8 * MIB));
    if !image.check() {
        return;
    }
    let names =
        ["a", "ab", "abcd", "kubesolo-os.gz", "x".repeat(32).as_str(), "y".repeat(33).as_str()].map(str::to_owned);
    let names = names.into_iter().chain([format!("z{}", "0123456789abcdef".repeat(15))]);
    let seed = "fedcba98-7654-4e10-8fed-cba987654321";
    for name in names {
        let (major, minor) = NameHash::new(&SEED).of(name.as_bytes());
        let text = image.debugfs_one(&format!("dx_hash -h half_md4 -s {seed} {name}"));
        assert!(text.contains(&format!("is 0x{major:x} (minor 0x{minor:x})")), "{text} {major:x} {minor:x}");
    }
}

#[test]
fn a_directory_becomes_hashed_when_one_block_is_full() {
    // 12 bytes of checksum, 24 of dots, 20 for each entry of 12 bytes: 203 entries fill the block exactly.
    let name = |number: usize| format!("name-{number:07}");
    for (count, hashed) in [(203, false), (204, true)] {
        let image = Image::write(&filled(count, name), &options(8 * MIB));
        if !image.check() {
            return;
        }
        assert_eq!(image.debugfs_one("stat /d").contains("Flags: 0x81000"), hashed);
        assert_found(&image, count, name);
    }
}

#[test]
fn sixty_thousand_entries_are_found_by_hash() {
    let name = |number: usize| format!("entry-number-{number}-é");
    let image = Image::write(&filled(60_000, name), &options(256 * MIB));
    if !image.check() {
        return;
    }
    assert!(image.debugfs_one("htree /d").contains("Indirect levels: 0"));
    assert_found(&image, 60_000, name);
}

#[test]
fn a_hash_tree_of_two_levels_is_valid() {
    let name = |number: usize| format!("{number:0>250}");
    let image = Image::write(&filled(15 * 520, name), &options(64 * MIB));
    if !image.check() {
        return;
    }
    assert!(image.debugfs_one("htree /d").contains("Indirect levels: 1"));
    assert_found(&image, 15 * 520, name);
}

#[test]
fn subdirectories_count_as_links_up_to_the_limit() {
    for (count, links) in [(0, 2), (3, 5), (64_999, 1)] {
        let mut tree = tree();
        tree.insert("d", directory()).unwrap();
        for number in 0..count {
            tree.insert(&format!("d/{number}"), directory()).unwrap();
        }
        let image = Image::write(&tree, &options(512 * MIB));
        if !image.check() {
            return;
        }
        assert!(image.debugfs_one("stat /d").contains(&format!("Links: {links} ")), "{count}");
        assert!(image.debugfs_one("stat /").contains("Links: 4 "));
    }
}

#[test]
fn lost_and_found_of_the_tree_is_kept() {
    let mut tree = tree();
    tree.insert("lost+found/kept", file("1")).unwrap();
    let image = Image::write(&tree, &options(8 * MIB));
    if !image.check() {
        return;
    }
    assert_eq!(image.dump("/lost+found/kept"), b"1");
    assert!(image.debugfs_one("stat /lost+found").starts_with("Inode: 11 "));
}

#[test]
fn an_empty_tree_has_a_root_and_lost_and_found() {
    let image = Image::write(&Tree::default(), &options(8 * MIB));
    if !image.check() {
        return;
    }
    let listing = image.debugfs_one("ls -p /");
    let names: Vec<&str> = listing.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(names, ["/2/040755/0/0/.//", "/2/040755/0/0/..//", "/11/040700/0/0/lost+found//"]);
}
