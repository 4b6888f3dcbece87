use std::io::Write;

use super::*;

const CPIO: Format = Format::Cpio(Compression::None);

struct Member<'a> {
    magic: &'a str,
    inode: u32,
    mode: u32,
    links: u32,
    name: &'a [u8],
    content: &'a [u8],
    sum: u32,
}

fn bytes(member: &Member<'_>) -> Vec<u8> {
    let Member { magic, inode, mode, links, name, content, sum } = member;
    let mut bytes = magic.as_bytes().to_vec();
    let sizes = (content.len() as u32, name.len() as u32 + 1);
    for field in [*inode, *mode, 0, 0, *links, 7, sizes.0, 8, 1, 5, 1, sizes.1, *sum] {
        bytes.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    bytes.extend_from_slice(name);
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn file<'a>(name: &'a str, content: &'a str) -> Member<'a> {
    let (name, content) = (name.as_bytes(), content.as_bytes());
    Member { magic: "070701", inode: 0, mode: 0o100644, links: 1, name, content, sum: 0 }
}

fn archive(members: &[Member<'_>]) -> Vec<u8> {
    let trailer = Member { mode: 0, ..file("TRAILER!!!", "") };
    members.iter().chain([&trailer]).flat_map(bytes).collect()
}

fn refused(member: Member<'_>) -> String {
    error(&archive(&[member]), CPIO, &OPEN)
}

#[test]
fn paths_that_lead_out_are_refused() {
    for name in ["../x", "/init", "a/../b", "a//b", ""] {
        let message = refused(file(name, "x"));
        let expected = if name.is_empty() { "comes a second time" } else { "is not a valid path" };
        assert!(message.contains(expected), "{name}: {message}");
    }
    assert!(refused(Member { name: b"\xff", ..file("", "") }).contains("is not UTF-8"));
    let through = [Member { mode: 0o120777, ..file("a", "/etc") }, file("a/x", "x")];
    assert!(error(&archive(&through), CPIO, &OPEN).contains("is a symbolic link"));
}

#[test]
fn the_last_name_of_a_hard_link_has_the_content() {
    let link = |name, content| Member { inode: 9, links: 3, ..file(name, content) };
    let empty = |name| Member { inode: 10, links: 2, ..file(name, "") };
    let place = place();
    let bytes = archive(&[link("a", ""), empty("e1"), link("b", ""), link("c", "text"), empty("e2")]);
    let tree = place.unpack(&bytes, CPIO, &STRICT).unwrap().tree;
    for path in ["a", "b", "c"] {
        assert_eq!(text_of(&tree, path), "text");
    }
    assert_eq!(tree.link_counts(), BTreeMap::from([("c", 3), ("e1", 2)]));
}

#[test]
fn names_that_wait_for_their_content_count_at_once() {
    let names: Vec<String> = (0..=SMALL.entries).map(|number| format!("f{number}")).collect();
    fn waiting(name: &str, inode: u32) -> Member<'_> {
        Member { inode, links: 2, ..file(name, "") }
    }
    let members: Vec<Vec<u8>> = names.iter().zip(0..).map(|(name, number)| bytes(&waiting(name, number))).collect();
    // There is no trailer: what counts at the end only would be told as truncated.
    assert_eq!(error(&members.concat(), CPIO, &OPEN), "entry \"f1000\": more than the limit of 1000 entries");
    let full: Vec<Member<'_>> = names.iter().zip(0..1000).map(|(name, number)| waiting(name, number)).collect();
    assert_eq!(paths(&place().unpack(&archive(&full), CPIO, &OPEN).unwrap().tree).len(), 1000);
}

#[test]
fn the_checksum_variant_is_checked() {
    let summed = |sum| Member { magic: "070702", sum, ..file("x", "ab") };
    let place = place();
    assert!(place.unpack(&archive(&[summed(0x61 + 0x62)]), CPIO, &OPEN).is_ok());
    assert_eq!(refused(summed(1)), "entry \"x\": checksum of the content does not match");
}

#[test]
fn segments_one_after_another_are_one_tree() {
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let (a, b) = (archive(&[file("a", "A")]), archive(&[file("b", "B")]));
    let (c, d) = (archive(&[file("c", "C")]), archive(&[file("d", "D")]));
    let mut bytes = a.clone();
    bytes.resize(1024, 0);
    bytes.extend(gzip(&b));
    bytes.extend([0; 3]);
    bytes.extend(zstd::encode_all([c, vec![0; 8], d].concat().as_slice(), 1).unwrap());
    let place = place();
    let tree = place.unpack(&bytes, CPIO, &STRICT).unwrap().tree;
    assert_eq!(paths(&tree), ["a", "b", "c", "d"]);
    bytes.extend(b"garbage");
    assert_eq!(error(&bytes, CPIO, &OPEN), "data behind the end of the archive");
    let packed_garbage = gzip(&[a, b"garbage".to_vec()].concat());
    let message = error(&packed_garbage, Format::Cpio(Compression::Gzip), &OPEN);
    assert_eq!(message, "not a cpio archive (newc): it begins with \"garbage\"");
}

#[test]
fn truncation_everywhere_is_seen() {
    let bytes = archive(&[file("a", "hello"), Member { mode: 0o120777, ..file("l", "target") }]);
    truncated_everywhere(&bytes, 1..bytes.len() - 1, CPIO);
}

#[test]
fn damaged_headers_are_refused() {
    let good = archive(&[file("a", "hello")]);
    let patched = |at: usize, value: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        error(&bytes, CPIO, &OPEN)
    };
    assert_eq!(patched(6, b"0000000g"), "damaged: a number in a cpio header");
    assert_eq!(patched(54, b"+0000005"), "damaged: a number in a cpio header");
    assert_eq!(patched(94, b"00000000"), "damaged: the length of a name in a cpio header");
    assert_eq!(patched(94, b"ffffffff"), "damaged: the length of a name in a cpio header");
    assert_eq!(patched(111, b"x"), "damaged: a cpio name does not end with NUL");
    assert_eq!(patched(54, b"ffffffff"), "entry \"a\": truncated");
    assert!(patched(0, b"070707").starts_with("not a cpio archive (newc)"));
    assert!(patched(14, b"000041ed").contains("can have no content declares some"));
    assert!(refused(Member { mode: 0o170755, ..file("x", "") }).contains("the kind of file in a cpio header"));
    let second = good.len() - bytes(&file("TRAILER!!!", "")).len();
    assert_eq!(patched(second, b"070703"), "damaged: a cpio header does not begin with its magic");
}

#[test]
fn devices_keep_their_numbers_or_are_refused() {
    let device = || Member { mode: 0o020600, ..file("console", "") };
    let tree = place().unpack(&archive(&[device()]), CPIO, &OPEN).unwrap().tree;
    assert_eq!(tree.get("console").unwrap().node, Node::CharacterDevice { major: 5, minor: 1 });
    let message = error(&archive(&[device()]), CPIO, &STRICT);
    assert_eq!(message, "entry \"console\": character device not allowed here");
}
