//! Modes, owners, times, devices, symbolic links, extended attributes.

use super::*;

#[test]
fn modes_owners_and_times_are_kept() {
    let mut tree = tree();
    let cases = [
        (0o0, 0, 0, 0, 1970),
        (0o7777, 70_000, 4_000_000_000, -1, 1969),
        (0o4755, 65_535, 65_536, -(1 << 31), 1901),
        (0o1644, 1, 2, 1 << 31, 2038),
        (0o640, 1, 2, (1 << 34) - (1 << 31) - 1, 2446),
    ];
    for (mode, uid, gid, mtime, _) in cases {
        let meta = Meta { uid, gid, ..Meta::root(mode, mtime) };
        tree.insert(&format!("f{mode}"), Entry { meta, node: Node::File(Content::inline(*b"1")) }).unwrap();
    }
    let image = Image::write(&tree, &options(8 * MIB));
    if !image.check() {
        return;
    }
    for (mode, uid, gid, mtime, year) in cases {
        let stat = image.debugfs_one(&format!("stat /f{mode}"));
        assert!(stat.contains(&format!("Mode:  0{mode:03o} ")), "{stat}");
        assert_eq!(owners(&stat), (uid, gid), "{stat}");
        assert!(
            stat.contains(&format!("mtime: 0x{:08x}:", mtime as u32))
                && stat.contains(&format!(
                    "{year}
"
                )),
            "{stat}"
        );
        assert!(stat.contains(&format!("crtime: 0x{EPOCH:08x}:00000000")), "{stat}");
    }
}

#[test]
fn special_files_are_kept() {
    let mut tree = tree();
    let numbers = [(1, 3), (255, 255), (256, 0), (8, 256), (4095, 1_048_575), (0, 0)];
    for (major, minor) in numbers {
        tree.insert(&format!("c{major}-{minor}"), entry(Node::CharacterDevice { major, minor })).unwrap();
        tree.insert(&format!("b{major}-{minor}"), entry(Node::BlockDevice { major, minor })).unwrap();
    }
    tree.insert("fifo", entry(Node::Fifo)).unwrap();
    tree.insert("socket", entry(Node::Socket)).unwrap();
    let image = Image::write(&tree, &options(8 * MIB));
    if !image.check() {
        return;
    }
    for (major, minor) in numbers {
        for (letter, kind) in [("c", "character special"), ("b", "block special")] {
            let stat = image.debugfs_one(&format!("stat /{letter}{major}-{minor}"));
            let number = format!("number: {major:02}:{minor:02}");
            assert!(stat.contains(kind) && stat.contains(&number), "{number} {stat}");
        }
    }
    assert!(image.debugfs_one("stat /fifo").contains("Type: FIFO"));
    assert!(image.debugfs_one("stat /socket").contains("Type: socket"));
}

#[test]
fn symbolic_links_of_every_length_are_kept() {
    let mut tree = tree();
    for length in [1, 59, 60, 61, 4095] {
        tree.insert(
            &format!("l{length}"),
            entry(Node::Symlink("é".repeat(length)[..length & !1].to_owned() + &"x".repeat(length & 1))),
        )
        .unwrap();
    }
    let image = Image::write(&tree, &options(8 * MIB));
    if !image.check() {
        return;
    }
    let out = image.folder.path().join("out");
    std::fs::create_dir_all(&out).unwrap();
    image.debugfs_one(&format!("rdump / {}", out.display()));
    for length in [1, 59, 60, 61, 4095] {
        let target = std::fs::read_link(out.join(format!("l{length}"))).unwrap();
        let Node::Symlink(expected) = &tree.get(&format!("l{length}")).unwrap().node else { unreachable!() };
        assert_eq!(target.to_str().unwrap(), expected);
    }
    assert!(image.debugfs_one("stat /l59").contains("Blockcount: 0\n"));
    assert!(image.debugfs_one("stat /l60").contains("Blockcount: 8\n"));
}

const ACCESS_LIST_OF_DEBUGFS: &[u8] = b"\x02\0\0\0\
    \x01\0\x06\0\0\0\0\0\x02\0\x07\0\xe8\x03\0\0\x04\0\x04\0\0\0\0\0\
    \x10\0\x07\0\0\0\0\0\x20\0\x04\0\0\0\0\0";

fn with_attributes(attributes: &[(&str, &[u8])]) -> Tree {
    let mut tree = tree();
    let mut node = file("1");
    node.meta.xattrs = attributes.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect();
    tree.insert("f", node).unwrap();
    tree
}

#[test]
fn attributes_are_kept_in_the_inode_and_in_a_block() {
    let large = noise(5, 3500);
    let sets: [&[(&str, &[u8])]; 6] = [
        &[("user.a", b"")],
        &[("security.capability", CAPABILITY)],
        &[("user.exactly", &[7; 64])],
        &[("user.one-more", &[7; 68])],
        &[("system.posix_acl_access", ACCESS_LIST)],
        &[
            ("user.large", &large),
            ("security.selinux", b"system_u:object_r:bin_t:s0\0"),
            ("trusted.overlay.opaque", b"y"),
            ("user.b", b"12345"),
            ("system.posix_acl_access", ACCESS_LIST),
        ],
    ];
    for attributes in sets {
        let image = Image::write(&with_attributes(attributes), &options(8 * MIB));
        if !image.check() {
            return;
        }
        for (name, value) in attributes {
            let target = image.folder.path().join("value");
            let text = image.debugfs_one(&format!("ea_get -f {} /f {name}", target.display()));
            // debugfs gives entries without a name the id 0 where the kernel gives -1.
            let expected = if name.contains("acl") { ACCESS_LIST_OF_DEBUGFS } else { value };
            assert_eq!(std::fs::read(&target).expect(name), expected, "{name} {text}");
        }
        let listed = image.debugfs_one("ea_list /f");
        assert_eq!(
            listed.lines().filter(|line| line.contains(") = ") || line.contains(" (")).count(),
            attributes.len(),
            "{listed}"
        );
    }
}

#[test]
fn attributes_that_ext4_cannot_store_are_named() {
    let acl = ("system.posix_acl_access", &b"\x02\0\0\0\x40\0\x06\0\xff\xff\xff\xff"[..]);
    let long = format!("user.{}", "n".repeat(256));
    for (name, value) in [("com.apple.x", &b"1"[..]), ("user.", b"1"), ("user.a\0b", b"1"), (&long, b"1"), acl] {
        let error = write(&with_attributes(&[(name, value)]), &mut std::io::Cursor::new(Vec::new()), &options(8 * MIB))
            .unwrap_err();
        assert!(error.to_string().contains("\"f\"") && error.to_string().contains(&format!("{name:?}")), "{error}");
    }
    let large = with_attributes(&[("user.large", &[1; 4096])]);
    let error = write(&large, &mut std::io::Cursor::new(Vec::new()), &options(8 * MIB)).unwrap_err();
    assert!(error.to_string().contains("do not fit") && error.to_string().contains("\"f\""), "{error}");
}
