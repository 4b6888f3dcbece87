use std::io::Write;

use super::*;

const TAR: Format = Format::Tar(Compression::None);

/// Makes one header block as POSIX describes it.
pub(super) fn header(name: &[u8], kind: u8, size: u64, link: &[u8]) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name);
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..116].copy_from_slice(b"0001750\0");
    block[116..124].copy_from_slice(b"0001750\0");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[136..148].copy_from_slice(b"00000000007\0");
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    sealed(block)
}

fn sealed(mut block: Vec<u8>) -> Vec<u8> {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

pub(super) fn padded(content: &[u8]) -> Vec<u8> {
    let mut bytes = content.to_vec();
    bytes.resize(content.len().next_multiple_of(512), 0);
    bytes
}

pub(in crate::source) fn member(name: &str, kind: u8, content: &[u8], link: &str) -> Vec<u8> {
    [header(name.as_bytes(), kind, content.len() as u64, link.as_bytes()), padded(content)].concat()
}

fn file(name: &str, content: &str) -> Vec<u8> {
    member(name, b'0', content.as_bytes(), "")
}

fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    member("PaxHeaders/x", b'x', &pax_body(records), "")
}

fn pax_body(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        body.extend_from_slice(format!("{length} {key}=").as_bytes());
        body.extend_from_slice(value);
        body.push(b'\n');
    }
    body
}

pub(in crate::source) fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    [members.concat(), vec![0; 1024]].concat()
}

fn refused(members: &[Vec<u8>]) -> String {
    error(&archive(members), TAR, &OPEN)
}

#[test]
fn paths_that_lead_out_are_refused() {
    for name in ["../x", "a/../../x", "/etc/passwd", "a//b", "./../x", ".//x", "a/./b"] {
        let message = refused(&[file(name, "x")]);
        assert!(message.contains("is not a valid path"), "{name}: {message}");
    }
    let long = format!("{}/x", "n".repeat(256));
    let message = refused(&[pax(&[("path", long.as_bytes())]), file("x", "x")]);
    assert!(message.contains("longer than 255 bytes"), "{message}");
}

#[test]
fn a_customary_dot_is_normalised() {
    let members = [member("./", b'5', b"", ""), member("./etc/", b'5', b"", ""), file("./etc/a", "A")];
    let unpacked = place().unpack(&archive(&members), TAR, &STRICT).unwrap();
    assert_eq!(paths(&unpacked.tree), ["etc", "etc/a"]);
    assert_eq!(unpacked.tree.get("etc/a").unwrap().meta, Meta::root(0o644, 7));
}

#[test]
fn names_that_are_not_utf8_are_refused_with_the_name() {
    let message = refused(&[[header(b"etc/\xff\n", b'0', 0, b"")].concat()]);
    assert_eq!(message, r#"entry "etc/\\xff\\n": name "etc/\xff\n" is not UTF-8"#);
    let message = refused(&[header(b"link", b'2', 0, b"\xfe")]);
    assert!(message.contains("is not UTF-8"), "{message}");
}

#[test]
fn symlink_then_write_through_is_refused() {
    let message = refused(&[member("a", b'2', b"", "/etc"), file("a/passwd", "x")]);
    assert_eq!(message, r#"entry "a/passwd": its parent "a" is a symbolic link"#);
    let message = refused(&[member("a", b'2', b"", "etc"), member("a/b/c", b'5', b"", "")]);
    assert_eq!(message, r#"entry "a/b/c": its parent "a" is a symbolic link"#);
}

#[test]
fn a_second_entry_of_another_kind_is_refused() {
    let message = refused(&[member("a", b'2', b"", "etc"), file("a", "x")]);
    assert_eq!(message, r#"entry "a": comes a second time as another kind of file (symbolic link, then file)"#);
    assert!(refused(&[file("a", "x"), member("a", b'2', b"", "etc")]).contains("file, then symbolic link"));
    assert!(refused(&[member("a", b'5', b"", ""), member("a", b'2', b"", "x")]).contains("directory, then symbolic"));
    assert!(refused(&[file("a", "x"), file("a/b", "x")]).contains(r#"its parent "a" is not a directory"#));
}

#[test]
fn the_last_of_two_files_wins_and_links_keep_the_first() {
    let members = [file("a", "old"), member("b", b'1', b"", "a"), member("c", b'1', b"", "./b"), file("a", "new")];
    let place = place();
    let tree = place.unpack(&archive(&members), TAR, &STRICT).unwrap().tree;
    assert_eq!(
        (text_of(&tree, "a"), text_of(&tree, "b"), text_of(&tree, "c")),
        ("new".into(), "old".into(), "old".into())
    );
    assert_eq!(tree.get("c").unwrap().node, Node::HardLink("b".into()));
}

#[test]
fn hard_links_out_or_ahead_are_refused() {
    for target in ["/etc/passwd", "../x", "later", "self", "dir", "sym", ""] {
        let members = [
            member("dir", b'5', b"", ""),
            member("sym", b'2', b"", "later"),
            member("self", b'1', b"", target),
            file("later", "x"),
        ];
        let message = refused(&members);
        assert!(message.contains("which is not a regular file earlier in the archive"), "{target}: {message}");
    }
}

#[test]
fn what_the_policy_forbids_is_refused() {
    let device = |kind| {
        let mut block = header(b"dev/x", kind, 0, b"");
        block[329..337].copy_from_slice(b"0000010\0");
        block[337..345].copy_from_slice(b"0000003\0");
        sealed(block)
    };
    for (kind, name) in [(b'3', "character device"), (b'4', "block device"), (b'6', "FIFO")] {
        let bytes = archive(&[device(kind)]);
        assert_eq!(error(&bytes, TAR, &STRICT), format!("entry \"dev/x\": {name} not allowed here"));
        assert!(place().unpack(&bytes, TAR, &OPEN).is_ok());
    }
    let tree = place().unpack(&archive(&[device(b'4')]), TAR, &OPEN).unwrap().tree;
    assert_eq!(tree.get("dev/x").unwrap().node, Node::BlockDevice { major: 8, minor: 3 });
    let mut block = header(b"su", b'0', 0, b"");
    block[100..108].copy_from_slice(b"0004755\0");
    let message = error(&archive(&[sealed(block)]), TAR, &STRICT);
    assert_eq!(message, r#"entry "su": set-user-ID or set-group-ID file not allowed here"#);
    let capability = pax(&[("SCHILY.xattr.security.capability", b"\x01\0\0\x02")]);
    let message = error(&archive(&[capability, file("ping", "x")]), TAR, &STRICT);
    assert_eq!(message, r#"entry "ping": file with capabilities not allowed here"#);
}

#[test]
fn truncation_at_every_boundary_is_seen() {
    let members = [pax(&[("path", b"long/name"), ("mtime", b"5.5")]), file("x", &"y".repeat(700)), file("z", "z")];
    let bytes = archive(&members);
    // Every block boundary, and a place inside each block; without the last of the two end blocks nothing is lost.
    let cuts = (1..bytes.len() - 1024).filter(|at| at % 512 == 0 || at % 512 == 77).chain([bytes.len() - 1024]);
    truncated_everywhere(&bytes, cuts, TAR);
    assert!(place().unpack(&bytes[..bytes.len() - 512], TAR, &OPEN).is_ok());
}

#[test]
fn truncated_compressed_data_is_seen() {
    let plain = archive(&[file("x", &"y".repeat(70_000))]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&plain).unwrap();
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(&plain).unwrap();
    let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    zstd.include_checksum(true).unwrap();
    zstd.write_all(&plain).unwrap();
    let compressed = [
        (gzip.finish().unwrap(), Compression::Gzip),
        (xz.finish().unwrap(), Compression::Xz),
        (zstd.finish().unwrap(), Compression::Zstd),
    ];
    for (bytes, compression) in compressed {
        let format = Format::Tar(compression);
        let place = place();
        assert_eq!(text_of(&place.unpack(&bytes, format, &OPEN).unwrap().tree, "x").len(), 70_000);
        truncated_everywhere(&bytes, (1..bytes.len()).step_by(17).chain([bytes.len() - 1]), format);
        let mut damaged = bytes.clone();
        let last = damaged.len() - 6;
        damaged[last] ^= 1;
        assert!(place.unpack(&damaged, format, &OPEN).is_err(), "{compression:?}");
        assert_eq!(
            error(&[bytes.clone(), b"junk".to_vec()].concat(), format, &OPEN),
            "data behind the end of the archive"
        );
        // Several streams one after another are one, as gzip, xz and zstd say; zero padding behind is customary.
        let twice = place.unpack(&[bytes.clone(), vec![0; 512]].concat(), format, &OPEN);
        assert!(twice.is_ok(), "{compression:?}");
    }
}

#[test]
fn compressed_streams_one_after_another_are_one() {
    let plain = archive(&[file("x", "hello")]);
    for compression in [Compression::Gzip, Compression::Zstd] {
        let part = |bytes: &[u8]| match compression {
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            _ => zstd::encode_all(bytes, 1).unwrap(),
        };
        let bytes = [part(&plain[..600]), part(&plain[600..])].concat();
        let place = place();
        let unpacked = place.unpack(&bytes, Format::Tar(compression), &OPEN).unwrap();
        assert_eq!(text_of(&unpacked.tree, "x"), "hello");
    }
}

#[test]
fn declared_sizes_cost_nothing() {
    // 8 GiB declared, nothing there.
    let mut block = header(b"big", b'0', 0, b"");
    block[124..136].copy_from_slice(b"77777777777\0");
    assert!(error(&sealed(block), TAR, &OPEN).contains("truncated"));
    let mut block = header(b"x", b'x', 0, b"");
    block[124..136].copy_from_slice(b"77777777777\0");
    assert_eq!(error(&sealed(block.clone()), TAR, &OPEN), "damaged: an extended header is larger than 1 MiB");
    block[156] = b'L';
    assert_eq!(error(&sealed(block), TAR, &OPEN), "damaged: an extended header is larger than 1 MiB");
}

#[test]
fn bombs_stop_at_the_limits() {
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    bomb.write_all(&header(b"bomb", b'0', 1 << 30, b"")).unwrap();
    for _ in 0..64 {
        bomb.write_all(&vec![0; 1 << 20]).unwrap();
    }
    let bytes = bomb.finish().unwrap();
    let message = error(&bytes, Format::Tar(Compression::Gzip), &OPEN);
    assert_eq!(message, "entry \"bomb\": larger than the limit of 1048576 bytes for one file");
    let half = "x".repeat(600_000);
    let message = refused(&[file("a", &half), file("b", &half)]);
    assert_eq!(message, "entry \"b\": unpacks to more than the limit of 1048576 bytes");
    let many: Vec<_> = (0..1001).map(|index| file(&format!("f{index}"), "")).collect();
    assert!(refused(&many).contains("more than the limit of 1000 entries"));
    let deep = pax(&[("path", "d/".repeat(1500).as_bytes())]);
    assert!(refused(&[deep, file("x", "")]).contains("more than the limit of 1000 entries"));
    // A gigabyte of zero bytes behind the end.
    let mut tail = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    tail.write_all(&archive(&[file("a", "a")])).unwrap();
    for _ in 0..64 {
        tail.write_all(&vec![0; 1 << 20]).unwrap();
    }
    let message = error(&tail.finish().unwrap(), Format::Tar(Compression::Gzip), &OPEN);
    assert_eq!(message, "unpacks to more than the limit of 1048576 bytes");
}

#[test]
fn a_pax_size_counts_over_the_header() {
    // CVE-2025-62518: a reader that takes the header's 0 sees the content, an inner archive, as entries.
    let inner = archive(&[file("evil", "evil")]);
    let members = [
        pax(&[("size", inner.len().to_string().as_bytes())]),
        header(b"inner.tar", b'0', 0, b""),
        padded(&inner),
        file("after", "x"),
    ];
    let place = place();
    let tree = place.unpack(&archive(&members), TAR, &OPEN).unwrap().tree;
    assert_eq!(paths(&tree), ["after", "inner.tar"]);
    let Node::File(content) = &tree.get("inner.tar").unwrap().node else { panic!() };
    assert_eq!(content.read(1 << 20).unwrap(), inner);
    // The size belongs to the entry, not to the extended header between them.
    let members = [
        pax(&[("size", b"5")]),
        member("././@LongLink", b'L', b"long\0", ""),
        header(b"x", b'0', 0, b""),
        padded(b"hello"),
    ];
    let tree = place.unpack(&archive(&members), TAR, &OPEN).unwrap().tree;
    assert_eq!(text_of(&tree, "long"), "hello");
}

#[test]
fn ambiguous_archives_are_refused() {
    let with_content = |kind: u8| [header(b"d", kind, 512, b"x"), vec![1; 512]].concat();
    for kind in [b'1', b'2', b'5', b'6'] {
        assert_eq!(
            refused(&[with_content(kind)]),
            "entry \"d\": damaged: an entry that can have no content declares some"
        );
    }
    let twice = [pax(&[("path", b"a")]), pax(&[("path", b"b")]), file("x", "x")];
    assert_eq!(refused(&twice), "damaged: two extended headers of one kind for one entry");
    let global = [member("g", b'g', &pax_body(&[("size", b"9")]), ""), file("x", "x")];
    assert_eq!(refused(&global), "damaged: a global PAX header sets what only one entry can have");
    assert_eq!(refused(&[pax(&[("path", b"a")])]), "truncated");
    let behind = [archive(&[file("a", "a")]), archive(&[file("b", "b")])].concat();
    assert_eq!(error(&behind, TAR, &OPEN), "data behind the end of the archive");
}

#[test]
fn damaged_headers_are_refused() {
    let patched = |at: std::ops::Range<usize>, value: &[u8]| {
        let mut block = header(b"x", b'0', 0, b"");
        block[at].copy_from_slice(value);
        [file("first", "x"), sealed(block), vec![0; 1024]].concat()
    };
    assert_eq!(error(&patched(124..136, b"-0000000001\0"), TAR, &OPEN), "damaged: size in a tar header");
    assert_eq!(
        error(&patched(124..136, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), TAR, &OPEN),
        "damaged: size in a tar header"
    );
    assert_eq!(
        error(&patched(124..136, b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), TAR, &OPEN),
        "damaged: size in a tar header"
    );
    assert_eq!(
        error(&patched(108..116, b"\x80\0\0\x01\0\0\0\0"), TAR, &OPEN),
        "entry \"x\": damaged: user ID over 4294967294"
    );
    assert_eq!(error(&patched(156..157, b"S"), TAR, &OPEN), "entry \"x\": sparse files are not supported");
    assert_eq!(error(&patched(156..157, b"Q"), TAR, &OPEN), "entry \"x\": this kind of tar entry is not supported");
    let mut wrong = patched(0..1, b"x");
    wrong[1024] ^= 1;
    assert_eq!(error(&wrong, TAR, &OPEN), "checksum of a tar header does not match");
    for body in
        [b"5 a=b\n".as_slice(), b"99 path=x\n", b"x path=x\n", b"7 path\n", b"0 \n", b"18446744073709551615 a=b\n"]
    {
        let message = error(&archive(&[member("x", b'x', body, ""), file("x", "x")]), TAR, &OPEN);
        assert_eq!(message, "damaged: a PAX record", "{}", String::from_utf8_lossy(body));
    }
    let sparse = refused(&[pax(&[("GNU.sparse.major", b"1")]), file("x", "x")]);
    assert_eq!(sparse, "entry \"x\": sparse files are not supported");
}

#[test]
fn pax_and_gnu_records_are_taken() {
    let long = format!("{}/{}", "d".repeat(150), "f".repeat(150));
    let records: [(&str, &[u8]); 6] = [
        ("path", long.as_bytes()),
        ("uid", b"3000000000"),
        ("mtime", b"-1.5"),
        ("SCHILY.xattr.user.note", b"a\0\n="),
        ("comment", b"x"),
        ("atime", b"1"),
    ];
    let mut big = header(b"big", b'0', 0, b"");
    big[108..116].copy_from_slice(b"\x80\0\0\0\xb2\xd0\x5e\0");
    big[136..148].copy_from_slice(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff");
    let members = [
        pax(&records),
        file("short", "x"),
        member("././@LongLink", b'K', &[&b"t".repeat(300)[..], b"\0"].concat(), ""),
        member("link", b'2', b"", "short"),
        sealed(big),
    ];
    let place = place();
    let tree = place.unpack(&archive(&members), TAR, &OPEN).unwrap().tree;
    let meta = &tree.get(&long).unwrap().meta;
    assert_eq!((meta.uid, meta.gid, meta.mtime), (3_000_000_000, 1000, 0));
    assert_eq!(meta.xattrs["user.note"], b"a\0\n=");
    assert_eq!(tree.get("link").unwrap().node, Node::Symlink("t".repeat(300)));
    let big = &tree.get("big").unwrap().meta;
    assert_eq!((big.uid, big.mtime), (3_000_000_000, i64::from(u32::MAX)));
}
