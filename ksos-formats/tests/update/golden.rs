use ksos_formats::Digest;
use ksos_formats::update::chunks::{self, MAX_CHUNK, MIN_CHUNK, Piece};
use ksos_formats::update::{Channel, Choice, ChunkIndex, Envelope, KeySet, Release};

use super::{fixture, fixtures, generate};

#[test]
fn the_files_are_those_that_are_made() {
    let golden = generate::golden().into_iter().map(|(name, bytes)| (name.to_owned(), bytes));
    let hostile = generate::hostile().into_iter().map(|(name, bytes)| (format!("hostile/{name}"), bytes));
    let files: Vec<_> = golden.chain(hostile).collect();
    if std::env::var_os("KSOS_WRITE_FIXTURES").is_some() {
        std::fs::create_dir_all(fixtures().join("hostile")).unwrap();
        files.iter().for_each(|(name, bytes)| std::fs::write(fixtures().join(name), bytes).unwrap());
    }
    for (name, bytes) in &files {
        assert!(fixture(name) == *bytes, "{name} is no longer what is made: a new format needs a new version");
    }
    let count = |path: std::path::PathBuf| {
        std::fs::read_dir(path).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_file()).count()
    };
    assert_eq!(count(fixtures()) + count(fixtures().join("hostile")), files.len(), "a file that nothing makes");
}

#[test]
fn a_node_reads_what_was_published() {
    let first = KeySet::from_trusted(&fixture("keys-1.json")).unwrap();
    assert_eq!(first, generate::first_set());
    let release = Envelope::parse(&fixture("release.json")).unwrap().verify::<Release>(&first).unwrap();
    assert_eq!(*release.value(), generate::release());
    assert_eq!(release.keys(), [generate::public(1).id()]);
    let channel = Envelope::parse(&fixture("channel.json")).unwrap().verify::<Channel>(&first).unwrap().into_value();
    assert_eq!(channel, generate::channel());
    let Choice::Take { next, towards: None } = channel.choose(&"1.0.3".parse().unwrap(), None, &|_| false) else {
        panic!("there is a release")
    };
    assert_eq!(next.release, release.digest(), "the channel leads to the release");
    let index = fixture("slot.index");
    assert_eq!(Digest::of(&index), release.value().index.sha256);
    let index = ChunkIndex::parse(&index).unwrap();
    let Release { slot, chunks, .. } = release.value();
    assert_eq!((index.slot_size(), index.chunks_size()), (slot.size, chunks.size));
    assert_eq!(fixture("slot.chunks.sha256"), format!("{}\n", chunks.sha256).into_bytes());
}

#[test]
fn keys_are_rotated_as_published() {
    let first = generate::first_set();
    let second = first.rotate(&fixture("keys-2.json")).unwrap();
    assert_eq!(second, generate::second_set());
    assert!(second.has_expired(4_000_000_000) && !second.has_expired(3_999_999_999));
    let envelope = Envelope::parse(&fixture("release-two-keys.json")).unwrap();
    assert!(envelope.verify::<Release>(&generate::threshold_set()).is_ok());
    assert!(envelope.verify::<Release>(&second).is_err(), "one of two keys is revoked");
}

/// The cuts are part of the format: a node that cuts otherwise finds nothing in its own slot.
#[test]
fn noise_is_cut_where_it_always_was() {
    let noise = generate::noise(1 << 20);
    let mut lengths = Vec::new();
    let mut rest = &noise[..];
    while !rest.is_empty() {
        let Piece::Data(bytes) = chunks::first(rest) else { panic!("noise is not zeros") };
        lengths.push(bytes.len());
        rest = &rest[bytes.len()..];
    }
    assert_eq!(lengths, CUTS);
    assert_eq!(lengths.iter().sum::<usize>(), noise.len());
    let (last, others) = lengths.split_last().unwrap();
    assert!(others.iter().all(|length| (MIN_CHUNK..=MAX_CHUNK).contains(length)) && *last <= MAX_CHUNK);
}

const CUTS: &[usize] = &[
    46130, 44390, 46310, 19104, 95783, 60066, 44676, 57521, 51509, 29244, 65212, 49141, 33722, 40301, 50427, 51902,
    44069, 51341, 8663, 31121, 38695, 56166, 13987, 19096,
];

#[test]
fn the_ends_are_cut_as_they_must() {
    let (zeros, ones) = (vec![0; MAX_CHUNK + 9], vec![1; MAX_CHUNK + 9]);
    assert_eq!(chunks::first(&zeros), Piece::Zeros(MAX_CHUNK));
    assert_eq!(chunks::first(&ones), Piece::Data(&ones[..MAX_CHUNK]), "what never cuts is cut at the limit");
    assert_eq!(chunks::first(&ones[..1]), Piece::Data(&[1]));
    assert_eq!(chunks::first(&zeros[..MIN_CHUNK]), Piece::Zeros(MIN_CHUNK));
    assert!(chunks::first(&[]).is_empty());
    // What lies behind the largest chunk plays no part.
    let noise = generate::noise(MAX_CHUNK * 2);
    assert_eq!(chunks::first(&noise), chunks::first(&noise[..MAX_CHUNK]));
}
