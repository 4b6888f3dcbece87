//! GRUB's own reader finds the files of a slot: it loads kernel and initramfs from it.

use super::*;

#[test]
fn grub_reads_the_same_bytes() {
    let mut with_holes = noise(1, 9 << 20);
    for number in [3, 4, 100, 2000] {
        with_holes[number * 4096..(number + 1) * 4096].fill(0);
    }
    let mut tree = tree();
    tree.insert("vmlinuz", file(with_holes)).unwrap();
    tree.insert("kubesolo-os.gz", file(noise(2, (5 << 20) + 13))).unwrap();
    tree.insert("link", entry(Node::Symlink("many/name-1234".into()))).unwrap();
    for number in 0..3000 {
        tree.insert(&format!("many/name-{number}"), file(format!("{number}"))).unwrap();
    }
    let image = Image::write(&tree, &options(512 * MIB));
    for path in ["vmlinuz", "kubesolo-os.gz", "link", "many/name-0", "many/name-2999"] {
        let Node::File(content) = &tree.get(&tree.canonicalize(path).unwrap()).unwrap().node else { unreachable!() };
        let expected = image.folder.path().join("expected");
        std::fs::write(&expected, content.read(1 << 30).unwrap()).unwrap();
        let (image, expected) = (image.path(), expected.to_str().unwrap().to_owned());
        let arguments = [image.to_str().unwrap(), "cmp", &format!("(loop0)/{path}"), &expected];
        let Some(output) = run("grub-fstest", &arguments) else { return };
        assert!(output.success && !output.text.contains("error"), "{path}: {}", output.text);
    }
}
