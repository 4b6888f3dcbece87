//! Trees and options that must be refused, and what must be left untouched then.

use std::io::Cursor;

use super::super::{Error, minimum_size};
use super::*;

/// Returns the error for `tree`, which must come before anything is written.
fn refused(tree: &Tree, options: &Options) -> Error {
    let mut out = Cursor::new(Vec::new());
    let error = write(tree, &mut out, options).unwrap_err();
    assert!(out.get_ref().is_empty(), "{error}");
    error
}

#[test]
fn bad_options_are_refused() {
    let good = options(8 * MIB);
    let cases = [
        (Options { size: 8 * MIB + 1, ..good.clone() }, "multiple of 4096"),
        (Options { size: 0, ..good.clone() }, "too small"),
        (Options { size: 5 * 4096, ..good.clone() }, "too small"),
        (Options { size: (1 << 44) + 4096, ..good.clone() }, "over the limit"),
        (Options { label: "seventeen bytes!!".into(), ..good.clone() }, "label"),
        (Options { uuid: [0; 16], ..good.clone() }, "nil"),
        (Options { epoch: 1 << 34, ..good.clone() }, "epoch"),
        (Options { epoch: u64::MAX, ..good.clone() }, "epoch"),
        (Options { reserved_percent: 51, ..good.clone() }, "reserved"),
        (Options { journal: Some(4096), ..good.clone() }, "journal"),
        (Options { journal: Some(4 * MIB + 1), ..good.clone() }, "journal"),
        (Options { inodes: Some(100_000), ..good.clone() }, "inodes"),
    ];
    for (options, part) in cases {
        let error = refused(&tree(), &options).to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn bad_entries_are_refused_by_path() {
    let nodes = [
        Node::CharacterDevice { major: 4096, minor: 0 },
        Node::BlockDevice { major: 0, minor: 1 << 20 },
        Node::Symlink(String::new()),
        Node::Symlink("x".repeat(4096)),
        Node::Symlink("a\0b".into()),
        Node::File(Content { size: 1 << 44, ..Content::inline(*b"") }),
    ];
    for node in nodes {
        let mut tree = tree();
        tree.insert("dir/bad", entry(node)).unwrap();
        let error = refused(&tree, &options(8 * MIB)).to_string();
        assert!(error.contains("\"dir/bad\""), "{error}");
    }
}

#[test]
fn times_that_do_not_fit_are_refused_by_path() {
    for mtime in [-(1 << 31) - 1, (1 << 34) - (1 << 31), i64::MAX, i64::MIN] {
        let mut tree = tree();
        tree.insert("bad", Entry { meta: Meta::root(0o644, mtime), node: Node::Fifo }).unwrap();
        assert!(matches!(refused(&tree, &options(8 * MIB)), Error::TimeOutOfRange { path, .. } if path == "bad"));
    }
}

#[test]
fn a_file_in_place_of_lost_and_found_is_refused() {
    let mut tree = tree();
    tree.insert("lost+found", file("1")).unwrap();
    assert!(matches!(refused(&tree, &options(8 * MIB)), Error::NotDirectory { path } if path == "lost+found"));
}

#[test]
fn more_names_than_an_inode_counts_are_refused() {
    for (count, fits) in [(65_000, true), (65_001, false)] {
        let mut tree = tree();
        tree.insert("0", file("1")).unwrap();
        for number in 1..count {
            tree.insert(&format!("{number}"), entry(Node::HardLink("0".into()))).unwrap();
        }
        if fits {
            Image::write(&tree, &options(64 * MIB)).check();
        } else {
            let error = refused(&tree, &options(64 * MIB));
            assert!(matches!(&error, Error::TooManyLinks { path, count: 65_001, .. } if path == "0"), "{error}");
        }
    }
}

#[test]
fn too_few_inodes_are_refused_with_both_numbers() {
    let mut tree = tree();
    for number in 0..30 {
        tree.insert(&format!("{number}"), file("")).unwrap();
    }
    let error = refused(&tree, &Options { inodes: Some(32), ..options(8 * MIB) });
    assert!(matches!(error, Error::TooFewInodes { needed: 41, available: 32 }), "{error}");
    Image::write(&tree, &Options { inodes: Some(41), ..options(8 * MIB) }).check();
}

#[test]
fn a_tree_whose_metadata_alone_does_not_fit_is_refused_at_once() {
    let mut tree = tree();
    for number in 0..2000 {
        tree.insert(&format!("{number}"), directory()).unwrap();
    }
    let error = refused(&tree, &options(6 * MIB));
    assert!(matches!(error, Error::NoSpace { needed_blocks, .. } if needed_blocks > 2000), "{error}");
}

#[test]
fn contents_that_do_not_fit_are_refused_with_both_numbers() {
    let mut tree = tree();
    tree.insert("large", file(noise(1, 4 << 20))).unwrap();
    tree.insert("zero", file(vec![0; 64 << 20])).unwrap();
    let mut out = Cursor::new(Vec::new());
    let error = write(&tree, &mut out, &options(8 * MIB)).unwrap_err();
    let Error::NoSpace { needed_blocks, available_blocks } = error else { panic!("{error}") };
    // Journal, the large file, root, lost+found.
    assert_eq!(needed_blocks, 1024 + 1024 + 1 + 4);
    assert!(available_blocks < needed_blocks && available_blocks > 2000, "{available_blocks}");
    assert!(out.get_ref().len() as u64 <= 8 * MIB);
    Image::write(&tree, &options((needed_blocks - available_blocks) * 4096 + 8 * MIB + 65536)).check();
}

#[test]
fn the_minimum_size_fits_and_less_does_not() {
    for files in [0, 1, 100, 3000] {
        let mut tree = tree();
        for number in 0..files {
            tree.insert(&format!("d/{number}"), file(noise(number, 1 + (number as usize * 37) % 30_000))).unwrap();
        }
        for journal in [None, Some(0)] {
            let mut options = Options { journal, ..options(0) };
            options.size = minimum_size(&tree, &options).unwrap();
            Image::write(&tree, &options).check();
            options.size -= 4096;
            write(&tree, &mut Cursor::new(Vec::new()), &options).unwrap_err();
        }
    }
}

#[test]
fn absurd_declared_sizes_are_refused_without_being_read() {
    let mut tree = tree();
    for number in 0..5000 {
        let content = Content { size: (1 << 44) - 8192, ..Content::inline(*b"") };
        tree.insert(&format!("{number}"), entry(Node::File(content))).unwrap();
    }
    let error = minimum_size(&tree, &options(0)).unwrap_err();
    assert!(matches!(error, Error::SizeTooLarge { .. }), "{error}");
}

#[test]
fn the_minimum_size_has_groups_for_all_inodes() {
    let mut tree = tree();
    for number in 0..70_000 {
        tree.insert(&format!("d{}/{number}", number % 10), entry(Node::Fifo)).unwrap();
    }
    let mut options = options(0);
    options.size = minimum_size(&tree, &options).unwrap();
    let image = Image::write(&tree, &options);
    image.check();
    assert!(image.summary.blocks > 2 * 32768 && image.summary.inodes >= 70_011);
}
