//! What somebody who owns the source, the clock or the medium can do, and what comes of it: every case ends with the node
//! as it was, and says why.

use ksos_formats::bootstate::{BootState, Slot};
use ksos_formats::update::{ChannelRelease, Envelope};
use ksos_formats::{Arch, Digest};

use super::apply::{Done, Options};
use super::error::{self, InstallError, Refusal, Untrusted, UpdateError};
use super::source::SourceError;
use super::testing::{DIRECTORY, Fault, Made, NOW, World, image, make, sign, version};
use super::{floor, history};
use crate::sys::{Space, Sys};

fn next() -> Made {
    make("2.0.0", image(2, 2 << 20))
}

/// Applies, and returns why not; the node is as it was.
fn refused(world: &World) -> UpdateError {
    let before = (world.slot_bytes(Slot::A), world.slot_bytes(Slot::B), world.copies());
    let error = world.apply().expect_err("it must not be taken");
    let after = (world.slot_bytes(Slot::A), world.slot_bytes(Slot::B), world.copies());
    assert!(before == after, "something was touched: {error}");
    assert_eq!((world.written(), world.reboots.get(), world.journal().state.name()), (0, 0, "idle"));
    error
}

/// Applies, and returns why it failed on the way: the slot that runs and the boot state are as they were.
fn failed(world: &World) -> UpdateError {
    let before = (world.slot_bytes(Slot::A), world.copies().copies);
    let error = world.apply().expect_err("it must fail");
    assert!(before == (world.slot_bytes(Slot::A), world.copies().copies), "something was touched: {error}");
    assert_eq!((world.reboots.get(), world.journal().state.name()), (0, "idle"));
    assert_eq!(world.copies().confirmed, [Some(true), Some(false)]);
    world.restart();
    assert_eq!((world.booted.get(), world.content(Slot::A)), (Slot::A, Some(version("1.0.0"))));
    error
}

#[test]
fn older_and_equal_versions_are_nothing_new() {
    let world = World::new();
    world.publish(&[make("0.9.0", image(2, 2 << 20)), make("1.0.0", image(3, 2 << 20))]);
    assert!(matches!(world.apply(), Ok(Done::UpToDate { .. })));
    let asked = Options { version: Some(version("0.9.0")), ..Options::default() };
    let error = world.apply_with(&asked).expect_err("older");
    assert!(matches!(error, UpdateError::Refused(Refusal::Older { .. })), "{error}");
    assert_eq!((error.exit_status(), world.written()), (error::REFUSED, 0));
}

#[test]
fn below_the_floor_nothing_comes() {
    let world = World::new();
    world.sys.make_directory(DIRECTORY, 0o700).expect("made");
    floor::raise(&world.sys, DIRECTORY, &version("3.0.0")).expect("written");
    floor::raise(&world.sys, DIRECTORY, &version("2.5.0")).expect("it does not fall");
    world.publish(&[next()]);
    assert!(matches!(world.apply(), Ok(Done::UpToDate { .. })));
    let asked = Options { version: Some(version("2.0.0")), ..Options::default() };
    let error = world.apply_with(&asked).expect_err("below");
    assert_eq!(error.to_string(), "2.0.0 is not newer than 3.0.0, the newest version that was ever kept");
}

#[test]
fn expired_channel_release_and_keys() {
    let world = World::new();
    let mut old = next();
    old.release.expires = Some(NOW);
    world.publish(&[old]);
    assert!(matches!(refused(&world), UpdateError::Untrusted(Untrusted::Expired { .. })));

    let world = World::new();
    let mut channel = world.channel(1, &[]);
    channel.expires = Some(NOW - 1);
    world.publish_channel(&channel);
    let error = refused(&world);
    assert_eq!(error.exit_status(), error::SOURCE);
    assert!(error.to_string().contains("channel \"stable\" has expired"), "{error}");

    let world = World::new();
    let mut keys = super::testing::key_set();
    keys.expires = Some(NOW - 1);
    world.sys.put(ksos_formats::layout::UPDATE_KEYS, serde_json::to_vec(&keys).expect("JSON"));
    world.publish(&[next()]);
    assert!(refused(&world).to_string().contains("key set 1 has expired"));
}

#[test]
fn it_expires_while_it_is_installed() {
    let world = World::new();
    let mut short = next();
    short.release.expires = Some(NOW + 5);
    world.publish(&[short]);
    // The next read of the clock is late: health takes its time.
    let slow = crate::update::testing::settings();
    let world_settings = super::settings::Settings { ..slow };
    world.settings.replace(world_settings);
    let late = Slow(&world);
    let settings = world.settings.borrow().clone();
    let error = super::apply::apply(&late, &settings, &Options::default()).expect_err("too late");
    assert!(matches!(error, UpdateError::Untrusted(Untrusted::Expired { .. })), "{error}");
    assert_eq!(world.boot(), BootState::initial());
    assert_eq!(history::read(&world.sys, DIRECTORY).expect("readable").len(), 1);
}

#[test]
fn an_older_channel_is_not_believed_again() {
    let world = World::new();
    world.publish_channel(&world.channel(7, &[]));
    assert!(matches!(world.apply(), Ok(Done::UpToDate { .. })));
    world.publish_channel(&world.channel(6, &[]));
    assert!(matches!(refused(&world), UpdateError::Untrusted(Untrusted::Sequence { found: 6, seen: 7, .. })));
}

#[test]
fn another_channel_under_this_name() {
    let world = World::new();
    let mut channel = world.channel(1, &[]);
    channel.channel = "beta".to_owned();
    world.published.borrow_mut().channels.insert("stable".to_owned(), sign(&channel, &[1]));
    assert!(matches!(refused(&world), UpdateError::Untrusted(Untrusted::Channel { .. })));
}

#[test]
fn wrong_name_architecture_and_board() {
    type Change = fn(&mut Made);
    let table: [(Change, &str); 3] = [
        (|made| made.release.board = "rpi".to_owned(), "for board \"rpi\""),
        (|made| made.release.name = "other".to_owned(), "for image \"other\""),
        (|made| made.release.arch = Arch::Arm64, "is for arm64"),
    ];
    for (change, expected) in table {
        let world = World::new();
        let mut made = next();
        change(&mut made);
        // Under the name of the right one, named by a channel that is right.
        let envelope = sign(&made.release, &[1]);
        let digest = Digest::of(&Envelope::parse(&envelope).expect("an envelope").payload);
        let entry = ChannelRelease { version: version("2.0.0"), minimum_version: None, release: digest };
        world.publish_channel(&world.channel(1, &[entry]));
        world.published.borrow_mut().releases.insert("edge-2.0.0-x86_64".to_owned(), (envelope, made));
        let error = refused(&world);
        assert_eq!(error.exit_status(), error::REFUSED);
        assert!(error.to_string().contains(expected), "{error}");
    }
    let world = World::new();
    let mut channel = world.channel(1, &[]);
    channel.board = "rpi".to_owned();
    world.publish_channel(&channel);
    assert!(matches!(refused(&world), UpdateError::Refused(Refusal::Board { document: "the channel", .. })));
}

#[test]
fn another_release_than_the_channel_names() {
    let world = World::new();
    world.publish(&[next()]);
    let other = make("2.0.0", image(7, 2 << 20));
    let swapped = (sign(&other.release, &[1]), other);
    world.published.borrow_mut().releases.insert("edge-2.0.0-x86_64".to_owned(), swapped);
    assert!(matches!(refused(&world), UpdateError::Untrusted(Untrusted::Mixed { .. })));
}

#[test]
fn unsigned_and_signed_by_a_stranger() {
    for seeds in [&[][..], &[9][..]] {
        let world = World::new();
        world.publish(&[next()]);
        let made = next();
        let envelope = sign(&made.release, seeds);
        world.published.borrow_mut().releases.insert("edge-2.0.0-x86_64".to_owned(), (envelope, made));
        let error = refused(&world);
        assert_eq!(error.exit_status(), error::SOURCE);
        assert!(matches!(error, UpdateError::Untrusted(Untrusted::Envelope { .. })), "{error}");
    }
}

#[test]
fn metadata_of_one_and_blobs_of_another_release() {
    // The index of another release: the digest in the signed document finds it.
    let world = World::new();
    let mut mixed = next();
    mixed.index = make("2.0.0", image(7, 2 << 20)).index;
    world.publish(&[mixed]);
    assert!(matches!(refused(&world), UpdateError::Source(SourceError::Digest { .. })));
    // The chunk file of another release: the digests in the index find it.
    let world = World::new();
    let mut mixed = next();
    mixed.chunks = make("2.0.0", image(7, 2 << 20).iter().map(|byte| byte ^ 3).collect()).chunks;
    mixed.chunks.resize(next().chunks.len(), 0);
    world.publish(&[mixed]);
    assert!(matches!(failed(&world), UpdateError::Install(InstallError::Chunk { .. })));
    // An index that is signed along with the image of another: the digest of the whole slot finds it.
    let world = World::new();
    let mut lying = next();
    lying.release.slot.sha256 = Digest::of(b"another");
    world.publish(&[lying]);
    let error = failed(&world);
    assert!(matches!(error, UpdateError::Install(InstallError::Medium { .. })), "{error}");
    assert!(world.slot_bytes(Slot::B)[..4096].iter().all(|byte| *byte == 0), "it is no file system");
}

#[test]
fn a_chunk_file_that_changes_while_it_is_fetched() {
    let size = next().release.chunks.size;
    let (mut caught, mut unneeded) = (0, 0);
    for place in (0..16).map(|part| (size - 1) * part / 15) {
        let world = World::new();
        world.publish(&[next()]);
        world.fault(Some(Fault::Flips(place)));
        match world.apply() {
            Ok(done) => {
                // That chunk was not needed.
                unneeded += 1;
                assert!(matches!(done, Done::Installed { .. }));
                assert_eq!(world.content(Slot::B), Some(version("2.0.0")));
            }
            Err(error) => {
                caught += 1;
                assert!(matches!(error, UpdateError::Install(InstallError::Chunk { .. })), "{error}");
                assert_eq!(world.boot(), BootState::initial());
                // The next attempt has a source that does not lie.
                world.fault(None);
                world.apply().expect("installed");
                assert_eq!(world.content(Slot::B), Some(version("2.0.0")));
            }
        }
    }
    assert!(caught > 0 && unneeded > 0, "{caught} caught, {unneeded} not needed");
}

#[test]
fn a_source_that_sends_something_else_or_nothing() {
    for (fault, expected) in [(Fault::WrongRange, "came in its place"), (Fault::Empty, "did not come")] {
        let world = World::new();
        world.publish(&[next()]);
        world.fault(Some(fault));
        let error = failed(&world);
        assert_eq!(error.exit_status(), error::SOURCE);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn the_slot_changes_after_it_was_written() {
    let world = World::new();
    world.publish(&[next()]);
    // From now on a byte in the middle of slot B reads as another one: the digest of the medium finds it.
    world.rot(Some(1_300_001));
    assert!(matches!(failed(&world), UpdateError::Install(InstallError::Medium { .. } | InstallError::Chunk { .. })));
    // And one in the first 4 KiB, which are written last.
    let world = World::new();
    world.publish(&[next()]);
    world.rot(Some(100));
    assert!(matches!(failed(&world), UpdateError::Install(InstallError::Head(Slot::B))));
}

#[test]
fn a_release_that_moves_is_asked_for_once() {
    let world = World::new();
    world.publish(&[next()]);
    world.apply().expect("installed");
    assert_eq!(*world.published.borrow().asked.borrow(), ["edge-2.0.0-x86_64"], "a tag is resolved once");
}

#[test]
fn a_clock_of_1970_or_of_before_the_release() {
    let world = World::new();
    world.publish(&[next()]);
    world.sys.now.set(5000);
    let error = refused(&world);
    assert!(matches!(error, UpdateError::Refused(Refusal::Clock { what: "the running image", .. })), "{error}");
    assert_eq!(error.exit_status(), error::REFUSED);

    let world = World::new();
    let mut later = next();
    later.release.created = NOW + 3 * 86_400;
    world.publish(&[later]);
    assert!(matches!(refused(&world), UpdateError::Refused(Refusal::Clock { what: "the release", .. })));
}

#[test]
fn the_edges_of_a_window() {
    let start = (NOW % 86_400) / 60;
    for (second, open) in [(0, true), (59, true), (60, false)] {
        let world = World::new();
        world.publish(&[next()]);
        world.settings.borrow_mut().windows = vec![super::testing::window(start as u16, 1)];
        world.sys.now.set((NOW - NOW % 60 + second) * 1000);
        let applied = world.apply();
        assert_eq!(applied.is_ok(), open, "{second}: {applied:?}");
    }
}

#[test]
fn a_full_data_partition() {
    let world = World::new();
    world.publish(&[next()]);
    world.sys.room.set(Space { total: 1 << 30, available: 0, free: 4096 });
    assert!(matches!(refused(&world), UpdateError::Refused(Refusal::Space { free: 4096, .. })));
    // It was not full when it was asked, and is when it is written.
    let world = World::new();
    world.publish(&[next()]);
    world.sys.put("/reserve", "");
    world.sys.full_while.replace(Some("/reserve".to_owned()));
    let error = refused(&world);
    assert!(matches!(&error, UpdateError::Sys(error) if error.is_full()), "{error}");
}

#[test]
fn a_full_data_partition_does_not_keep_a_good_version_from_being_kept() {
    let world = World::new();
    world.publish(&[next()]);
    world.apply().expect("installed");
    world.restart();
    world.sys.put("/reserve", "");
    world.sys.full_while.replace(Some("/reserve".to_owned()));
    assert_eq!(world.settle().expect("settled"), super::gate::Verdicts::Kept);
    assert_eq!((world.boot().active, world.boot().trial), (Slot::B, None));
    // When there is room again, what was not written down is.
    world.sys.full_while.replace(None);
    world.restart();
    world.settle().expect("settled");
    assert_eq!(floor::read(&world.sys, DIRECTORY).expect("readable"), Some(version("2.0.0")));
    let results: Vec<_> =
        history::read(&world.sys, DIRECTORY).expect("readable").into_iter().map(|entry| entry.result).collect();
    assert_eq!(results, [super::machine::Outcome::Installed, super::machine::Outcome::Succeeded]);
}

#[test]
fn a_medium_that_fails_or_is_read_only() {
    let world = World::new();
    world.publish(&[next()]);
    world.bad_sector(1_000_000);
    let error = failed(&world);
    assert_eq!(error.exit_status(), error::FAILED);
    assert!(error.to_string().contains("os error 5"), "{error}");

    for errno in [libc::EROFS, libc::EACCES] {
        let world = World::new();
        world.publish(&[next()]);
        world.read_only.set(Some(errno));
        let error = refused(&world);
        assert_eq!(error.exit_status(), error::FAILED);
    }
}

#[test]
fn an_image_larger_than_the_slot() {
    let world = World::new();
    world.publish(&[make("2.0.0", image(2, 4 << 20))]);
    let error = refused(&world);
    assert!(matches!(error, UpdateError::Refused(Refusal::Large { slot: Slot::B, .. })), "{error}");
}

#[test]
fn a_node_that_is_not_well_or_not_where_it_should_be() {
    let world = World::new();
    world.publish(&[next()]);
    world.health.replace([crate::agent::health::Verdict::Unhealthy].into());
    assert!(matches!(refused(&world), UpdateError::Refused(Refusal::Unhealthy(_))));

    let world = World::new();
    world.publish(&[next()]);
    world.settings.borrow_mut().persistent = false;
    assert!(matches!(refused(&world), UpdateError::Refused(Refusal::NoData)));
}

#[test]
fn a_boot_state_of_which_one_copy_cannot_be_written() {
    // Copy 1 took the trial, copy 2 did not: the boot loader would use copy 1, so it counts.
    let world = World::new();
    world.publish(&[next()]);
    world.bad_copy.set(Some(1));
    world.apply().expect("a trial all the same");
    assert_eq!(world.boot().trial, Some(3));
    // Neither took it: it failed, and the old state stays.
    let world = World::new();
    world.publish(&[next()]);
    world.bad_copy.set(Some(0));
    let error = failed(&world);
    assert!(matches!(error, UpdateError::Install(InstallError::BootState(_))), "{error}");
}

/// A node whose health takes ten seconds to tell.
struct Slow<'a>(&'a World);

impl super::platform::Platform for Slow<'_> {
    fn sys(&self) -> &dyn Sys {
        &self.0.sys
    }
    fn places(&self) -> Result<super::places::Places, super::places::PlacesError> {
        self.0.places()
    }
    fn boot_state(
        &self,
        places: &super::places::Places,
    ) -> Result<super::bootblocks::Copies, super::bootblocks::BootBlockError> {
        self.0.boot_state(places)
    }
    fn set_boot_state(
        &self,
        places: &super::places::Places,
        state: &BootState,
    ) -> Result<(), super::bootblocks::BootBlockError> {
        self.0.set_boot_state(places, state)
    }
    fn set_confirmed(
        &self,
        places: &super::places::Places,
        slot: Slot,
        confirmed: bool,
    ) -> Result<(), super::bootblocks::BootBlockError> {
        if !confirmed {
            self.0.sys.now.set(self.0.sys.now.get() + 10_000);
        }
        self.0.set_confirmed(places, slot, confirmed)
    }
    fn open_slot(
        &self,
        place: &super::places::SlotPlace,
        writable: bool,
    ) -> crate::sys::Result<Box<dyn crate::sys::Disk>> {
        if writable && self.0.journal().state.name() == "writing" {
            self.0.sys.now.set(self.0.sys.now.get() + 10_000);
        }
        self.0.open_slot(place, writable)
    }
    fn open_source(
        &self,
        settings: &super::source::SourceSettings,
    ) -> Result<Box<dyn super::source::Source>, SourceError> {
        self.0.open_source(settings)
    }
    fn health(&self) -> crate::agent::health::Health {
        self.0.health()
    }
    fn lock(&self) -> crate::sys::Result<Option<super::lock::Lock>> {
        self.0.lock()
    }
    fn reboot(&self) -> crate::sys::Result<()> {
        self.0.reboot()
    }
}
