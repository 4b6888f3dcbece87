#![expect(clippy::disallowed_methods, reason = "tests make and damage files of their own")]

use std::io::Cursor;
use std::path::{Path, PathBuf};

use ksos_formats::update::envelope::Envelope;
use ksos_formats::update::{Blob, CHUNKS_FILE, FORMAT, INDEX_FILE, RELEASE_FILE, Release};
use ksos_formats::{Arch, Digest};

use super::*;
use crate::artifact;
use crate::effects::progress::Silent;
use crate::ops::keys::{Rotation, new_set, rotate};
use crate::sign::tests::signer;
use crate::sign::{Signer, pem};

/// What a release is made of.
#[derive(Clone)]
struct Recipe<'a> {
    version: &'a str,
    minimum: Option<&'a str>,
    board: &'a str,
    arch: Arch,
    content: u8,
    keys: &'a [u8],
}

fn recipe(version: &str) -> Recipe<'_> {
    Recipe { version, minimum: None, board: "generic", arch: Arch::X86_64, content: 1, keys: &[1] }
}

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Place { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a release with a slot image of some random bytes and some zeros.
    fn release(&self, recipe: &Recipe<'_>) -> PathBuf {
        let mut slot: Vec<u8> = Vec::new();
        let mut state = u64::from(recipe.content);
        while slot.len() < 300_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            slot.extend_from_slice(&state.to_be_bytes()[..4]);
        }
        slot.extend_from_slice(&[0; 200_000]);
        let mut chunks = Vec::new();
        let cut = artifact::release::write(&mut Cursor::new(&slot), slot.len() as u64, &mut chunks, 1).unwrap();
        let index = cut.index.to_bytes();
        let document = Release {
            format: FORMAT,
            name: "node".to_owned(),
            version: recipe.version.parse().unwrap(),
            arch: recipe.arch,
            board: recipe.board.to_owned(),
            minimum_version: recipe.minimum.map(|text| text.parse().unwrap()),
            created: 1_700_000_000,
            expires: None,
            kernel_release: "6.12.1".to_owned(),
            slot: cut.slot,
            index: Blob { size: index.len() as u64, sha256: Digest::of(&index) },
            chunks: cut.chunks,
        };
        let mut envelope = Envelope::new(&document);
        recipe.keys.iter().for_each(|key| sign_envelope(&mut envelope, &signer(*key)).unwrap());
        let name = format!("{}-{}-{}", recipe.version, recipe.arch.name(), recipe.content);
        let path = self.path(&format!("built/{name}.update"));
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join(INDEX_FILE), index).unwrap();
        std::fs::write(path.join(CHUNKS_FILE), chunks).unwrap();
        std::fs::write(path.join(RELEASE_FILE), envelope.to_json()).unwrap();
        path
    }

    fn public(&self, key: u8) -> PathBuf {
        let path = self.path(&format!("{key}.pub"));
        std::fs::write(&path, pem::public_key_pem(signer(key).public_key())).unwrap();
        path
    }

    fn tree(&self) -> Tree<'static> {
        Tree::new(&self.path("tree"), &Silent)
    }

    fn channel(&self) -> Channel {
        let bytes = std::fs::read(self.path("tree/channels/stable/node-x86_64.json")).unwrap();
        let envelope = Envelope::parse(&bytes).unwrap();
        serde_json::from_slice(&envelope.payload).unwrap()
    }

    fn versions(&self) -> Vec<String> {
        self.channel().releases.iter().map(|release| release.version.to_string()).collect()
    }
}

fn opened(keys: &[u8]) -> Vec<OpenedKey> {
    keys.iter().map(|key| OpenedKey { signer: Box::new(signer(*key)), warning: None }).collect()
}

/// Publishes with key 1.
fn publish_all(place: &Place, releases: &[PathBuf], change: Change<'_>) -> Result<Published, OpError> {
    let signers = opened(&[1]);
    let trust = Trust::of_signers(&signers).unwrap();
    publish_as(place, releases, change, &signers, &trust)
}

fn publish_as(
    place: &Place,
    releases: &[PathBuf],
    change: Change<'_>,
    signers: &[OpenedKey],
    trust: &Trust,
) -> Result<Published, OpError> {
    let image = releases.is_empty().then_some(("node", Arch::X86_64));
    let request = Request { releases, channel: "stable", signers, trust, change, image, draft: None, drafted: None };
    publish(&place.tree(), &request)
}

/// Returns every file below `path` with its content.
fn snapshot(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            files.push((path.clone(), std::fs::read(&path).unwrap()));
        }
    }
    files.sort();
    files
}

/// Signs by the second key.
fn sign(path: &Path) -> Result<crate::ops::sign::Signed, OpError> {
    let keys = opened(&[2]);
    crate::ops::sign::sign_document(path, &[keys[0].signer.as_ref()])
}

#[test]
fn a_tree_has_what_nodes_ask_for_and_stays_when_published_again() {
    let place = Place::new();
    let releases = [place.release(&recipe("1.0.0"))];
    let published = publish_all(&place, &releases, Change::default()).unwrap();
    assert!(published.releases[0].bytes > 300_000 && published.channels[0].changed);
    for file in [INDEX_FILE, CHUNKS_FILE, RELEASE_FILE] {
        let bytes = std::fs::read(place.path("tree/node-1.0.0-x86_64.update").join(file)).unwrap();
        assert_eq!(bytes, std::fs::read(releases[0].join(file)).unwrap(), "{file}");
    }
    assert_eq!((place.channel().sequence, place.versions()), (1, vec!["1.0.0".to_owned()]));
    let before = snapshot(&place.path("tree"));
    assert_eq!(before.len(), 4, "no temporary file stays");
    let again = publish_all(&place, &releases, Change::default()).unwrap();
    assert_eq!((again.releases[0].bytes, again.channels[0].changed), (0, false));
    assert_eq!(snapshot(&place.path("tree")), before);
    // What an interrupted command or a bad disk left is put right.
    let chunks = place.path("tree/node-1.0.0-x86_64.update/slot.chunks");
    std::fs::write(&chunks, b"torn").unwrap();
    std::fs::write(place.path("tree/node-1.0.0-x86_64.update/release.json"), b"").unwrap();
    publish_all(&place, &releases, Change::default()).unwrap();
    assert_eq!(snapshot(&place.path("tree")), before);
}

#[test]
fn stepping_stones_stay_and_versions_are_in_their_order() {
    let place = Place::new();
    let first = [place.release(&recipe("1.10.0")), place.release(&recipe("1.9.0"))];
    publish_all(&place, &first, Change::default()).unwrap();
    let stone = Recipe { minimum: Some("1.9.0"), content: 2, ..recipe("2.0.0-rc.1") };
    publish_all(&place, &[place.release(&stone)], Change::default()).unwrap();
    assert_eq!(place.versions(), ["1.9.0", "1.10.0", "2.0.0-rc.1"]);
    let channel = place.channel();
    assert_eq!((channel.sequence, channel.releases[2].minimum_version.clone()), (2, "1.9.0".parse().ok()));
    let remove = ["1.10.0".parse().unwrap()];
    let change = Change { remove: &remove, ..Change::default() };
    publish_all(&place, &[], change).unwrap();
    assert_eq!((place.channel().sequence, place.versions()), (3, vec!["1.9.0".to_owned(), "2.0.0-rc.1".to_owned()]));
    let error = publish_all(&place, &[], change).unwrap_err().to_string();
    assert!(error.contains("no version 1.10.0 to remove"), "{error}");
}

#[test]
fn a_channel_of_each_architecture_has_its_own_document() {
    let place = Place::new();
    let arm = Recipe { arch: Arch::Arm64, ..recipe("1.0.0") };
    let published = publish_all(&place, &[place.release(&recipe("1.0.0")), place.release(&arm)], Change::default());
    assert_eq!(published.unwrap().channels.len(), 2);
    assert!(place.path("tree/channels/stable/node-arm64.json").exists());
    let board = Recipe { board: "rpi", ..recipe("1.1.0") };
    let error = publish_all(&place, &[place.release(&board)], Change::default()).unwrap_err().to_string();
    assert!(error.contains("the channel is for board \"generic\", the release 1.1.0 for \"rpi\""), "{error}");
    assert_eq!(place.versions(), ["1.0.0"]);
}

#[test]
fn another_release_of_the_same_version_is_refused_unless_it_shall_replace() {
    let place = Place::new();
    publish_all(&place, &[place.release(&recipe("1.0.0"))], Change::default()).unwrap();
    let other = [place.release(&Recipe { content: 9, ..recipe("1.0.0") })];
    let before = snapshot(&place.path("tree"));
    let error = publish_all(&place, &other, Change::default()).unwrap_err();
    assert!(error.to_string().contains("version 1.0.0 is"), "{error}");
    // Where the channel has forgotten it, the directory has not.
    std::fs::remove_file(place.path("tree/channels/stable/node-x86_64.json")).unwrap();
    let error = publish_all(&place, &other, Change::default()).unwrap_err();
    assert!(error.to_string().contains("is there already, with other content"), "{error}");
    assert!(!error.hints().is_empty());
    assert_eq!(snapshot(&place.path("tree")), before[1..]);
    let change = Change { replace: true, ..Change::default() };
    publish_all(&place, &other, change).unwrap();
    let chunks = std::fs::read(place.path("tree/node-1.0.0-x86_64.update/slot.chunks")).unwrap();
    assert_eq!(chunks, std::fs::read(other[0].join(CHUNKS_FILE)).unwrap());
    // Build metadata does not order versions.
    let same_rank = [place.release(&Recipe { content: 3, ..recipe("1.0.0+b") })];
    let error = publish_all(&place, &same_rank, Change::default()).unwrap_err().to_string();
    assert!(error.contains("are of the same rank"), "{error}");
}

#[test]
fn numbers_only_grow() {
    let place = Place::new();
    let releases = [place.release(&recipe("1.0.0"))];
    let with = |sequence| Change { sequence: Some(sequence), ..Change::default() };
    publish_all(&place, &releases, with(7)).unwrap();
    for sequence in [0, 6, 7] {
        let error = publish_all(&place, &releases, with(sequence)).unwrap_err().to_string();
        assert!(error.contains(&format!("sequence {sequence} is not above 7")), "{error}");
    }
    let refresh = Change { refresh: true, valid_for: Some(3600), ..Change::default() };
    publish_all(&place, &releases, refresh).unwrap();
    let channel = place.channel();
    assert_eq!((channel.sequence, channel.expires), (8, Some(channel.created + 3600)));
    // One that has ended is made anew.
    let ended = Change { refresh: true, valid_for: Some(0), ..Change::default() };
    publish_all(&place, &releases, ended).unwrap();
    assert!(publish_all(&place, &releases, Change::default()).unwrap().channels[0].changed);
    assert_eq!((place.channel().sequence, place.channel().expires), (10, None));
}

#[test]
fn what_is_not_signed_by_those_who_are_trusted_is_not_published() {
    let place = Place::new();
    for (keys, expected) in [(&[][..], "not signed"), (&[2], "0 of 1 signatures needed are valid")] {
        let release = place.release(&Recipe { keys, ..recipe("1.0.0") });
        let error = publish_all(&place, &[release], Change::default()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.problem(), crate::ops::Problem::Build);
    }
    assert!(!place.path("tree").exists(), "nothing was written");
    // A channel that somebody else has put there is not carried on.
    let other = opened(&[2]);
    let trust = Trust::of_signers(&other).unwrap();
    let theirs = place.release(&Recipe { keys: &[2], content: 5, ..recipe("9.0.0") });
    publish_as(&place, &[theirs], Change::default(), &other, &trust).unwrap();
    let error = publish_all(&place, &[place.release(&recipe("1.0.0"))], Change::default()).unwrap_err().to_string();
    assert!(error.contains("channels/stable/node-x86_64.json") && error.contains("0 of 1"), "{error}");
}

#[test]
fn files_that_are_not_what_the_release_says_are_not_published() {
    let place = Place::new();
    type Damage = fn(&Path);
    let cases: [(Damage, &str); 5] = [
        (|path| std::fs::write(path.join(CHUNKS_FILE), b"short").unwrap(), "slot.chunks: has 5 bytes"),
        (|path| std::fs::write(path.join(INDEX_FILE), b"KSOSIDX1").unwrap(), "slot.index: has 8 bytes"),
        (|path| std::fs::remove_file(path.join(CHUNKS_FILE)).unwrap(), "slot.chunks"),
        (|path| std::fs::write(path.join(RELEASE_FILE), b"{}").unwrap(), "not a signed document"),
        (|path| flip(&path.join(CHUNKS_FILE)), "slot.chunks: has"),
    ];
    for (index, (damage, expected)) in cases.into_iter().enumerate() {
        let release = place.release(&Recipe { content: 20 + index as u8, ..recipe("1.0.0") });
        damage(&release);
        let error = publish_all(&place, std::slice::from_ref(&release), Change::default()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        if index != 3 {
            let error = sign(&release).unwrap_err().to_string();
            assert!(error.contains(expected), "nobody signs it either: {error}");
        }
    }
    assert!(!place.path("tree").exists());
}

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn names_from_outside_make_no_paths() {
    let place = Place::new();
    let release = place.release(&recipe("1.0.0"));
    let file = release.join(RELEASE_FILE);
    let envelope = Envelope::parse(&std::fs::read(&file).unwrap()).unwrap();
    let mut document: Release = serde_json::from_slice(&envelope.payload).unwrap();
    document.name = "../../etc/x".to_owned();
    let mut envelope = Envelope::new(&document);
    sign_envelope(&mut envelope, &signer(1)).unwrap();
    std::fs::write(&file, envelope.to_json()).unwrap();
    let error = publish_all(&place, &[release], Change::default()).unwrap_err().to_string();
    assert!(error.contains("cannot be the name of an image"), "{error}");
    let signers = opened(&[1]);
    let trust = Trust::of_signers(&signers).unwrap();
    for channel in ["", "../x", "A", "a/b"] {
        let request = Request {
            releases: &[],
            channel,
            signers: &signers,
            trust: &trust,
            change: Change::default(),
            image: Some(("node", Arch::X86_64)),
            draft: None,
            drafted: None,
        };
        let error = publish(&place.tree(), &request).unwrap_err();
        assert_eq!(error.problem(), crate::ops::Problem::Manifest, "{error}");
    }
}

#[test]
fn a_threshold_is_met_by_a_draft_that_goes_round() {
    let place = Place::new();
    let set = new_set(&[place.public(1), place.public(2), place.public(3)], 2, None, &[], &place.path("set.json"));
    assert_eq!(set.unwrap().set.threshold, 2);
    let trust = Trust::read(&[place.path("set.json")], &[], Path::new("/")).unwrap().unwrap();
    let releases = [place.release(&Recipe { keys: &[1, 3], ..recipe("1.0.0") })];
    let one = opened(&[1]);
    let error = publish_as(&place, &releases, Change::default(), &one, &trust).unwrap_err().to_string();
    assert!(error.contains("the new ") && error.contains("1 of 2 signatures needed are valid"), "{error}");
    let draft = place.path("draft.json");
    let request = |draft: Option<&'static str>, drafted: Option<&'static str>| {
        let path = |name: &str| place.path(name);
        let (draft, drafted) = (draft.map(path), drafted.map(path));
        let request = Request {
            releases: &releases,
            channel: "stable",
            signers: &one,
            trust: &trust,
            change: Change::default(),
            image: None,
            draft: draft.as_deref(),
            drafted: drafted.as_deref(),
        };
        publish(&place.tree(), &request)
    };
    let published = request(Some("draft.json"), None).unwrap();
    assert!(published.channels[0].draft && !place.path("tree/channels").exists());
    let error = request(None, Some("draft.json")).unwrap_err().to_string();
    assert!(error.contains("draft.json") && error.contains("1 of 2"), "{error}");
    sign(&draft).unwrap();
    request(None, Some("draft.json")).unwrap();
    assert_eq!(place.versions(), ["1.0.0"]);
    assert!(!request(None, Some("draft.json")).unwrap().channels[0].changed);
    // A draft of something else is not published.
    let two = opened(&[1, 2]);
    let newer = [place.release(&Recipe { keys: &[1, 2], content: 4, ..recipe("2.0.0") })];
    let stale = Request {
        releases: &newer,
        channel: "stable",
        signers: &two,
        trust: &trust,
        change: Change::default(),
        image: None,
        draft: None,
        drafted: Some(&draft),
    };
    let error = publish(&place.tree(), &stale).unwrap_err().to_string();
    assert!(error.contains("the draft is not what the channel would become now"), "{error}");
}

#[test]
fn keys_are_rotated_and_the_channel_goes_on() {
    let place = Place::new();
    new_set(&[place.public(1)], 1, None, &[], &place.path("set-1.json")).unwrap();
    let change = Rotation {
        add: vec![place.public(2)],
        remove: vec![signer(1).public_key().id().hex()[..10].to_owned()],
        ..Rotation::default()
    };
    let old_alone = rotate(&place.path("set-1.json"), &change, &opened(&[1]), Some(&place.path("partly.json")));
    assert_eq!(old_alone.unwrap().missing.unwrap(), "signatures are missing: 1 more of key set 2");
    sign(&place.path("partly.json")).unwrap();
    let both = rotate(&place.path("set-1.json"), &change, &opened(&[1, 2]), Some(&place.path("set-2.json")));
    assert_eq!(both.unwrap().missing, None);
    let error = rotate(&place.path("set-1.json"), &change, &opened(&[1]), Some(&place.path("set-2.json")));
    assert!(error.unwrap_err().to_string().contains("set-2.json"), "nothing is overwritten");

    let first = [place.release(&recipe("1.0.0"))];
    publish_all(&place, &first, Change::default()).unwrap();
    let sets = [place.path("set-2.json"), place.path("set-1.json")];
    let trust = Trust::read(&sets, &[], Path::new("/")).unwrap().unwrap();
    let second = [place.release(&Recipe { keys: &[2], content: 2, ..recipe("1.1.0") })];
    let published = publish_as(&place, &second, Change::default(), &opened(&[2]), &trust).unwrap();
    assert_eq!(published.key_sets, [2]);
    let bytes = std::fs::read(place.path("tree/keys/2.json")).unwrap();
    let old = Trust::read(&[place.path("set-1.json")], &[], Path::new("/")).unwrap().unwrap();
    assert_eq!(old.current().rotate(&bytes).unwrap().version, 2, "a node follows");
    assert_eq!(place.versions(), ["1.0.0", "1.1.0"]);
    // The set before signs nothing new.
    let error = publish_as(&place, &first, Change::default(), &opened(&[2]), &trust).unwrap_err().to_string();
    assert!(error.contains("0 of 1"), "{error}");
    // Another second set is refused.
    let other = Rotation { add: vec![place.public(3)], ..Rotation::default() };
    rotate(&place.path("set-1.json"), &other, &opened(&[1]), Some(&place.path("other-2.json"))).unwrap();
    let sets = [place.path("set-1.json"), place.path("other-2.json")];
    let trust = Trust::read(&sets, &[], Path::new("/")).unwrap().unwrap();
    let error = publish_as(&place, &first, Change::default(), &opened(&[1]), &trust).unwrap_err().to_string();
    assert!(error.contains("0 of 1") || error.contains("with other content"), "{error}");
    for remove in ["00000000", "nowhere.pub"] {
        let change = Rotation { remove: vec![remove.to_owned()], ..Rotation::default() };
        assert!(rotate(&place.path("set-1.json"), &change, &opened(&[1]), Some(&place.path("x.json"))).is_err());
    }
}

#[test]
fn key_sets_that_do_not_follow_one_another_are_not_trusted() {
    let place = Place::new();
    let read = |names: &[&str]| {
        let sets: Vec<PathBuf> = names.iter().map(|name| place.path(name)).collect();
        Trust::read(&sets, &[], Path::new("/")).map(|_| ()).unwrap_err().to_string()
    };
    new_set(&[place.public(1)], 1, None, &[], &place.path("one.json")).unwrap();
    new_set(&[place.public(4)], 1, None, &[], &place.path("foreign.json")).unwrap();
    let change = Rotation { add: vec![place.public(2)], ..Rotation::default() };
    rotate(&place.path("foreign.json"), &change, &opened(&[4]), Some(&place.path("foreign-2.json"))).unwrap();
    assert!(read(&["one.json", "foreign-2.json"]).contains("key set 2: 0 of 1"), "signed by others");
    assert!(read(&["one.json", "foreign.json"]).contains("two key sets of version 1"));
    assert!(read(&["one.json", "1.pub"]).contains("not trusted together"));
    assert!(Trust::read(&[], &[], Path::new("/")).unwrap().is_none());
}
