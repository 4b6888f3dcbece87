//! Updates from a source to a slot that is kept, or not.

use std::collections::VecDeque;

use ksos_formats::bootstate::{BootState, Slot};

use super::apply::{Done, Options};
use super::error::{self, Refusal, Untrusted, UpdateError};
use super::gate::Verdicts;
use super::history;
use super::machine::Outcome;
use super::quarantine::Quarantine;
use super::settings::Settings;
use super::source::SourceSettings;
use super::status::Status;
use super::testing::{DIRECTORY, Fault, NOW, World, image, key, make, sign, version, window};
use super::{floor, rollback};
use crate::agent::health::Verdict;
use crate::sys::Sys;

fn amounts(done: &Done) -> (u64, u64, u64, u64) {
    match done {
        Done::Installed { planned_bytes, fetched_bytes, copied_bytes, kept_bytes, .. } => {
            (*planned_bytes, *fetched_bytes, *copied_bytes, *kept_bytes)
        }
        other => panic!("{other:?}"),
    }
}

fn refusal<T: std::fmt::Debug>(result: Result<T, UpdateError>) -> Refusal {
    match result {
        Err(UpdateError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

fn results(world: &World) -> Vec<(Outcome, String)> {
    let entries = history::read(&world.sys, DIRECTORY).expect("readable");
    entries.into_iter().map(|entry| (entry.result, entry.reason)).collect()
}

/// A node with 2.0.0 kept in slot B.
fn updated() -> World {
    let world = World::new();
    world.publish(&[make("2.0.0", image(2, 2 << 20))]);
    world.apply().expect("installed");
    world.restart();
    assert_eq!(world.settle().expect("settled"), Verdicts::Kept);
    world
}

#[test]
fn an_update_is_installed_tried_and_kept() {
    let world = World::new();
    world.publish(&[make("2.0.0", image(2, 2 << 20))]);
    let done = world.apply().expect("installed");
    let (planned, fetched, copied, kept) = amounts(&done);
    assert_eq!((planned, kept), (fetched, 0), "what was predicted is what was fetched");
    assert!(fetched > 0 && fetched < 700_000 && copied > 1_000_000, "{done:?}");
    assert_eq!(world.sent(), fetched);
    assert_eq!(world.content(Slot::B), Some(version("2.0.0")));
    assert_eq!(world.boot(), BootState { generation: 2, active: Slot::A, trial: Some(3) });
    assert_eq!((world.reboots.get(), world.journal().state.name()), (1, "awaiting-reboot"));

    world.restart();
    assert_eq!((world.booted.get(), world.boot().trial), (Slot::B, Some(2)));
    assert_eq!(floor::read(&world.sys, DIRECTORY).expect("readable"), None);
    assert_eq!(world.settle().expect("settled"), Verdicts::Kept);
    assert_eq!(world.boot(), BootState { generation: 3, active: Slot::B, trial: None });
    assert_eq!(world.copies().confirmed, [Some(false), Some(true)]);
    assert_eq!(floor::read(&world.sys, DIRECTORY).expect("readable"), Some(version("2.0.0")));
    assert_eq!(
        results(&world).iter().map(|(result, _)| *result).collect::<Vec<_>>(),
        [Outcome::Installed, Outcome::Succeeded]
    );
    assert_eq!(world.settle().expect("again"), Verdicts::NoTrial);
    assert!(matches!(world.apply(), Ok(Done::UpToDate { .. })));
    let status = Status::read(&world.sys);
    assert_eq!((status.available, status.last.map(|last| last.result)), (None, Some("succeeded".to_owned())));
}

#[test]
fn a_source_without_ranges_gives_the_same_slot() {
    let world = World::new();
    world.publish(&[make("2.0.0", image(2, 2 << 20))]);
    world.fault(Some(Fault::Whole));
    world.apply().expect("installed");
    assert_eq!(world.content(Slot::B), Some(version("2.0.0")));
}

#[test]
fn an_image_without_anything_in_common_is_fetched_whole() {
    let world = World::new();
    let other: Vec<u8> = image(9, 2 << 20).iter().map(|byte| byte ^ 0x35).collect();
    let made = make("2.0.0", other);
    let size = made.release.chunks.size;
    world.publish(&[made]);
    let (_, fetched, copied, _) = amounts(&world.apply().expect("installed"));
    assert_eq!((fetched, copied), (size, 0));
    assert_eq!(world.content(Slot::B), Some(version("2.0.0")));
}

#[test]
fn a_broken_connection_costs_what_was_on_its_way() {
    let world = World::new();
    let other: Vec<u8> = image(9, 2 << 20).iter().map(|byte| byte ^ 0x35).collect();
    let made = make("2.0.0", other);
    let all = made.release.chunks.size;
    world.publish(&[made]);
    world.fault(Some(Fault::BreaksAfter(all / 2)));
    let error = world.apply().expect_err("it broke");
    assert_eq!(error.exit_status(), error::SOURCE);
    assert_eq!(world.boot(), BootState::initial(), "nothing of the boot state was touched");
    assert_eq!(world.content(Slot::A), Some(version("1.0.0")));
    world.fault(None);
    let (_, fetched, _, kept) = amounts(&world.apply().expect("installed"));
    assert!(kept > 300_000, "{kept}");
    // The chunk that was on its way and the one with the first 4 KiB come again.
    assert!(fetched < all / 2 + (256 << 10), "{fetched} of {all}");
    assert_eq!(world.content(Slot::B), Some(version("2.0.0")));
    assert_eq!(results(&world)[0].0, Outcome::Failed);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the disk under test reads a file as it is")]
fn a_damaged_copy_in_the_running_slot_is_fetched_instead() {
    let world = World::new();
    let made = make("2.0.0", image(2, 2 << 20));
    world.publish(&[make("2.0.0", image(2, 2 << 20))]);
    // The slot is read once when it is cut and once when it is copied from: the second time it has rotted.
    let index = ksos_formats::update::ChunkIndex::parse(&made.index).expect("an index");
    let active = std::fs::File::open(world.slot_path(Slot::A)).expect("there");
    let active = Rotting { file: active, reads: std::cell::Cell::new(0) };
    let settings = crate::update::testing::settings();
    let mut source = super::platform::Platform::open_source(&world, &settings.source).expect("a source");
    source.open_release("edge-2.0.0-x86_64").expect("there");
    world.mark(Slot::B, false);
    let target = super::platform::Platform::places(&world).expect("places");
    let target = super::platform::Platform::open_slot(&world, target.slot(Slot::B), true).expect("open");
    let job = super::install::Job {
        active: &active,
        slot: Slot::B,
        image: made.release.slot,
        chunks: made.release.chunks,
        index: &index,
    };
    let (writer, amounts) = super::install::write(&job, target, source.as_mut(), &mut |_| Ok(())).expect("written");
    assert!(amounts.fetched > amounts.planned, "{amounts:?}");
    writer.finish().expect("what was written is right").write_head().expect("complete");
    assert_eq!(world.content(Slot::B), Some(version("2.0.0")));
}

/// The running slot, in which a few bytes change after it was cut.
struct Rotting {
    file: std::fs::File,
    reads: std::cell::Cell<u32>,
}

impl crate::sys::Disk for Rotting {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> crate::sys::Result<()> {
        use std::os::unix::fs::FileExt;
        self.reads.set(self.reads.get() + 1);
        self.file.read_exact_at(buffer, offset).expect("readable");
        // Four reads of 1 MiB: one for the size of the file system, three to cut.
        if self.reads.get() > 4 && self.reads.get().is_multiple_of(5) {
            buffer[0] ^= 1;
        }
        Ok(())
    }
    fn write_at(&self, _offset: u64, _bytes: &[u8]) -> crate::sys::Result<()> {
        panic!("the running slot is never written")
    }
    fn flush(&self) -> crate::sys::Result<()> {
        Ok(())
    }
    fn read_direct(&self, offset: u64, buffer: &mut [u8]) -> crate::sys::Result<()> {
        self.read_at(offset, buffer)
    }
    fn write_direct(&self, _offset: u64, _bytes: &[u8]) -> crate::sys::Result<()> {
        panic!("the running slot is never written")
    }
    fn size(&self) -> u64 {
        super::testing::SLOT_SIZE
    }
    fn sector_size(&self) -> u64 {
        512
    }
}

#[test]
fn a_version_that_never_becomes_healthy_is_left_and_does_not_come_again() {
    let world = World::new();
    world.publish(&[make("2.0.0", image(2, 2 << 20))]);
    world.apply().expect("installed");
    world.health.replace(VecDeque::from([Verdict::Unhealthy]));
    for left in [2, 1, 0] {
        world.restart();
        assert_eq!((world.booted.get(), world.boot().trial), (Slot::B, Some(left)));
        // PID 1 restarts the machine at the deadline.
        assert!(matches!(world.settle().expect("settled"), Verdicts::Over(_)));
    }
    world.restart();
    world.health.replace(VecDeque::from([Verdict::Healthy]));
    assert_eq!(world.booted.get(), Slot::A);
    assert_eq!(world.settle().expect("settled"), Verdicts::NoTrial);
    assert_eq!(world.boot(), BootState { generation: 3, active: Slot::A, trial: None });
    assert_eq!(world.copies().confirmed, [Some(true), Some(false)]);
    let (result, reason) = results(&world).pop().expect("an entry");
    assert_eq!(result, Outcome::RolledBack);
    assert!(reason.contains("services: app failed"), "{reason}");
    assert!(reason.contains("three times"), "{reason}");

    // Offered again, signed anew: it is not taken by itself, nor when asked for, but when it is insisted on.
    let mut again = make("2.0.0", image(2, 2 << 20));
    again.release.expires = Some(NOW + 60 * 86_400);
    world.publish(&[again]);
    assert!(matches!(world.apply(), Ok(Done::UpToDate { .. })));
    let asked = Options { version: Some(version("2.0.0")), ..Options::default() };
    let refused = refusal(world.apply_with(&asked));
    assert!(matches!(refused, Refusal::Quarantined { .. }), "{refused:?}");
    world.publish(&[make("2.0.0", image(2, 2 << 20))]);
    assert!(matches!(world.apply(), Ok(Done::UpToDate { .. })));
    let wanted = Options { version: Some(version("2.0.0")), ..Options::default() };
    assert!(matches!(refusal(world.apply_with(&wanted)), Refusal::Quarantined { .. }));
    world.apply_with(&Options { retry: true, ..wanted }).expect("installed");
    assert!(Quarantine::read(&world.sys, DIRECTORY).expect("readable").entries.is_empty());

    // The next version is not held up by it.
    let world = World::new();
    world.publish(&[make("2.0.0", image(2, 2 << 20)), make("2.0.1", image(3, 2 << 20))]);
    world.apply().expect("installed");
    assert_eq!(world.content(Slot::B), Some(version("2.0.1")));
}

#[test]
fn health_has_to_hold_without_a_break() {
    use Verdict::{Degraded, Healthy, Unhealthy};
    let table: [(Vec<Verdict>, bool); 4] = [
        (vec![Unhealthy, Unhealthy, Healthy], true),
        (vec![Healthy, Degraded, Healthy, Unhealthy, Healthy], true),
        (vec![Healthy, Healthy, Unhealthy], false),
        (vec![Degraded], true),
    ];
    for (answers, kept) in table {
        let world = World::new();
        world.publish(&[make("2.0.0", image(2, 2 << 20))]);
        world.apply().expect("installed");
        world.restart();
        world.health.replace(answers.clone().into());
        let began = world.sys.uptime_ms();
        let verdict = world.settle().expect("settled");
        assert_eq!(verdict == Verdicts::Kept, kept, "{answers:?}: {verdict:?}");
        let took = world.sys.uptime_ms() - began;
        assert!(if kept { took >= 60_000 } else { took >= 600_000 }, "{answers:?}: {took} ms");
    }
}

#[test]
fn a_lost_boot_state_is_written_anew_when_the_node_is_healthy() {
    let world = updated();
    world.set_copy(0, &[0xff; 512]);
    world.set_copy(1, &[0; 512]);
    world.publish(&[make("3.0.0", image(3, 2 << 20))]);
    assert!(matches!(refusal(world.apply()), Refusal::OnTrial(_)), "nothing is installed without a boot state");
    world.health.replace(VecDeque::from([Verdict::Unhealthy]));
    assert!(matches!(world.settle().expect("settled"), Verdicts::Over(_)));
    assert_eq!(world.copies().state(), None, "not while it is not healthy");
    world.health.replace(VecDeque::from([Verdict::Healthy]));
    world.restart();
    assert_eq!(world.booted.get(), Slot::B, "the mark says which slot");
    assert_eq!(world.settle().expect("settled"), Verdicts::Kept);
    assert_eq!(world.boot(), BootState { generation: 1, active: Slot::B, trial: None });
    assert!(world.copies().agree());
    world.apply().expect("installed");
}

#[test]
fn one_damaged_copy_is_repaired_before_anything_is_written() {
    for number in [0, 1] {
        let world = World::new();
        world.publish(&[make("2.0.0", image(2, 2 << 20))]);
        world.set_copy(number, &[0xff; 512]);
        world.apply().expect("installed");
        assert!(world.copies().agree());
        assert_eq!(world.boot(), BootState { generation: 3, active: Slot::A, trial: Some(3) });
    }
}

#[test]
fn the_operator_goes_back() {
    let world = updated();
    world.publish(&[make("2.0.0", image(2, 2 << 20)), make("2.1.0", image(4, 2 << 20))]);
    let settings = world.settings.borrow().clone();
    // A slot that came with the disk has to be a file system at least, which those of the tests are not.
    let refused = refusal(rollback::rollback(&world, &settings, &Options::default()));
    assert!(matches!(refused, Refusal::NoRollback { .. }), "{refused:?}");
    world.apply().expect("2.1.0");
    world.restart();
    assert_eq!(world.settle().expect("settled"), Verdicts::Kept);
    assert_eq!(world.booted.get(), Slot::A);

    let settings = world.settings.borrow().clone();
    let done = rollback::rollback(&world, &settings, &Options::default()).expect("a trial");
    assert!(matches!(&done, Done::Installed { version: Some(v), .. } if *v == version("2.0.0")), "{done:?}");
    assert_eq!(world.boot().trial, Some(3));
    world.restart();
    assert_eq!(world.booted.get(), Slot::B);
    assert_eq!(world.settle().expect("settled"), Verdicts::Kept);
    assert_eq!((world.boot().active, world.boot().trial), (Slot::B, None));
    assert_eq!(results(&world).pop().expect("one").1, "rolled back by the operator");
    assert!(matches!(world.apply(), Ok(Done::UpToDate { .. })), "what was left does not come by itself");
    assert_eq!(floor::read(&world.sys, DIRECTORY).expect("readable"), Some(version("2.1.0")), "the floor stays");
}

#[test]
fn a_slot_that_has_changed_is_not_gone_back_to() {
    let world = updated();
    world.publish(&[make("2.0.0", image(2, 2 << 20)), make("2.1.0", image(4, 2 << 20))]);
    world.apply().expect("2.1.0");
    world.restart();
    world.settle().expect("settled");
    let mut bytes = world.slot_bytes(Slot::B);
    bytes[1 << 20] ^= 1;
    std::io::Write::write_all(
        &mut std::fs::OpenOptions::new().write(true).open(world.slot_path(Slot::B)).expect("open"),
        &bytes,
    )
    .expect("written");
    let settings = world.settings.borrow().clone();
    let refused = refusal(rollback::rollback(&world, &settings, &Options::default()));
    assert!(refused.to_string().contains("not what has worked"), "{refused}");
    assert_eq!(world.boot().trial, None);
}

#[test]
fn stepping_stones_are_taken_one_by_one_and_named_when_one_is_asked_for() {
    let world = World::new();
    let mut far = make("3.0.0", image(4, 2 << 20));
    far.release.minimum_version = Some(version("2.0.0"));
    world.publish(&[make("2.0.0", image(2, 2 << 20)), far.clone()]);
    let asked = Options { version: Some(version("3.0.0")), ..Options::default() };
    let refused = refusal(world.apply_with(&asked));
    assert!(refused.to_string().contains("the next step is 2.0.0"), "{refused}");
    let done = world.apply().expect("the step");
    assert!(matches!(done, Done::Installed { towards: Some(towards), .. } if towards == version("3.0.0")));
    world.restart();
    world.settle().expect("kept");
    world.apply().expect("the goal");
    assert_eq!(world.content(Slot::A), Some(version("3.0.0")));

    let world = World::new();
    world.publish(&[far]);
    let refused = refusal(world.apply());
    assert!(refused.to_string().contains("no release that leads to it"), "{refused}");
}

#[test]
fn keys_rotate_and_a_revoked_key_signs_nothing_more() {
    let world = World::new();
    let mut next = super::testing::key_set();
    next.version = 2;
    next.keys = vec![key(2).1];
    world.published.borrow_mut().keys.insert(2, sign(&next, &[1, 2]));
    world.publish(&[make("2.0.0", image(2, 2 << 20))]);
    let error = world.apply().expect_err("signed by the revoked key");
    assert!(matches!(error, UpdateError::Untrusted(Untrusted::Envelope { .. })), "{error}");
    let channel = world.channel(5, &[]);
    world.published.borrow_mut().channels.insert("stable".to_owned(), sign(&channel, &[2]));
    assert!(matches!(world.apply(), Ok(Done::UpToDate { .. })));
    // The set is on the node now: a source that withholds it changes nothing.
    world.published.borrow_mut().keys.clear();
    assert!(matches!(world.apply(), Ok(Done::UpToDate { .. })));
    // A data partition that has lost it does not bring the revoked key back.
    world.sys.remove(&format!("{DIRECTORY}/keys/2.json")).expect("removed");
    let error = world.apply().expect_err("behind");
    assert!(matches!(error, UpdateError::Untrusted(Untrusted::KeysBehind { found: 1, seen: 2 })), "{error}");
    // A set that is not signed by the one before is not taken.
    world.published.borrow_mut().keys.insert(2, sign(&next, &[2]));
    assert!(matches!(world.apply(), Err(UpdateError::Untrusted(Untrusted::Keys { version: 2, .. }))));
}

#[test]
fn windows_hold_for_installing_and_for_restarting() {
    let world = World::new();
    world.publish(&[make("2.0.0", image(2, 2 << 20))]);
    // NOW is 17:46:40 UTC.
    let minute = ((NOW % 86_400) / 60) as u16;
    world.settings.borrow_mut().windows = vec![window(minute + 10, 30)];
    assert!(matches!(refusal(world.apply()), Refusal::Window { .. }));
    assert_eq!((world.written(), world.journal().state.name()), (0, "idle"));
    world.settings.borrow_mut().windows = vec![window(minute, 30)];
    world.apply_with(&Options { no_reboot: true, ..Options::default() }).expect("open");
    assert_eq!(world.reboots.get(), 0);
    world.settings.borrow_mut().windows = vec![window(minute + 10, 30)];
    assert!(matches!(world.apply(), Ok(Done::Installed { restarts: false, .. })), "not outside of a window");
    world.apply_with(&Options { force_window: true, ..Options::default() }).expect("forced");
    assert_eq!(world.reboots.get(), 1);
}

#[test]
fn a_window_that_closes_meanwhile_postpones_the_trial_and_nothing_is_fetched_twice() {
    let world = World::new();
    world.publish(&[make("2.0.0", image(2, 2 << 20))]);
    let minute = ((NOW % 86_400) / 60) as u16;
    // It closes 20 s after NOW; the clock of the test goes on by a minute when the source is asked for the release.
    let closed = window(minute + 100, 30);
    world.settings.borrow_mut().windows = vec![closed];
    let settings = world.settings.borrow().clone();
    let open = Settings { windows: Vec::new(), ..settings.clone() };
    let late = Late { world: &world, calls: std::cell::Cell::new(0) };
    let closing = Settings { windows: vec![window(minute, 1)], ..settings.clone() };
    let refused = refusal(super::apply::apply(&late, &closing, &Options::default()));
    assert!(matches!(refused, Refusal::Window { .. }), "{refused}");
    assert_eq!((world.boot(), world.journal().state.name()), (BootState::initial(), "activating"));
    let (_, fetched, _, kept) = amounts(&super::apply::apply(&world, &open, &Options::default()).expect("open"));
    assert!(kept > 1_800_000 && fetched < 200_000, "{kept} {fetched}");
    assert_eq!(world.boot().trial, Some(3));
}

/// A node on which writing a slot takes a minute.
struct Late<'a> {
    world: &'a World,
    calls: std::cell::Cell<u32>,
}

impl super::platform::Platform for Late<'_> {
    fn sys(&self) -> &dyn Sys {
        &self.world.sys
    }
    fn places(&self) -> Result<super::places::Places, super::places::PlacesError> {
        self.world.places()
    }
    fn boot_state(
        &self,
        places: &super::places::Places,
    ) -> Result<super::bootblocks::Copies, super::bootblocks::BootBlockError> {
        self.world.boot_state(places)
    }
    fn set_boot_state(
        &self,
        places: &super::places::Places,
        state: &BootState,
    ) -> Result<(), super::bootblocks::BootBlockError> {
        self.world.set_boot_state(places, state)
    }
    fn set_confirmed(
        &self,
        places: &super::places::Places,
        slot: Slot,
        confirmed: bool,
    ) -> Result<(), super::bootblocks::BootBlockError> {
        self.world.set_confirmed(places, slot, confirmed)
    }
    fn open_slot(
        &self,
        place: &super::places::SlotPlace,
        writable: bool,
    ) -> crate::sys::Result<Box<dyn crate::sys::Disk>> {
        // Once to see that it can be written, once to clear it, once to write it.
        if writable {
            self.calls.set(self.calls.get() + 1);
            if self.calls.get() == 3 {
                self.world.sys.now.set(self.world.sys.now.get() + 60_000);
            }
        }
        self.world.open_slot(place, writable)
    }
    fn open_source(
        &self,
        settings: &SourceSettings,
    ) -> Result<Box<dyn super::source::Source>, super::source::SourceError> {
        self.world.open_source(settings)
    }
    fn health(&self) -> crate::agent::health::Health {
        self.world.health()
    }
    fn lock(&self) -> crate::sys::Result<Option<super::lock::Lock>> {
        self.world.lock()
    }
    fn reboot(&self) -> crate::sys::Result<()> {
        self.world.reboot()
    }
}

#[test]
fn a_node_that_only_looks_says_what_there_is() {
    let world = World::new();
    world.settings.borrow_mut().automatic = false;
    world.publish(&[make("2.0.0", image(2, 2 << 20))]);
    let done = world.apply_with(&Options { automatic: true, ..Options::default() }).expect("looked");
    assert!(matches!(done, Done::Available { version: v, .. } if v == version("2.0.0")));
    assert_eq!(Status::read(&world.sys).available, Some(version("2.0.0")));
    assert_eq!(world.written(), 0);
    world.published.borrow_mut().channels.clear();
    world.apply_with(&Options { automatic: true, ..Options::default() }).expect_err("not found");
    let status = Status::read(&world.sys);
    assert_eq!((status.available, status.problem.as_str()), (Some(version("2.0.0")), "stable: not found (404)"));
}

#[test]
fn two_do_not_run_at_once() {
    let world = World::new();
    world.publish(&[make("2.0.0", image(2, 2 << 20))]);
    let lock = super::platform::Platform::lock(&world).expect("made").expect("free");
    assert_eq!(refusal(world.apply()), Refusal::Locked);
    drop(lock);
    world.apply().expect("installed");
}

/// A channel has a release that failed, signed anew, and an older one that is good.
#[test]
fn what_failed_and_was_signed_anew_is_left_out_for_an_older_one() {
    let world = World::new();
    let bad = make("2.1.0", image(2, 2 << 20));
    world.publish(std::slice::from_ref(&bad));
    world.apply().expect("installed");
    (0..4).for_each(|_| world.restart());
    world.settle().expect("fallen back");
    let mut again = bad.clone();
    again.release.created += 1;
    let mut renamed = make("2.2.0", image(2, 2 << 20));
    renamed.release.created += 2;
    world.publish(&[make("2.0.0", image(4, 2 << 20)), again, renamed]);
    let done = world.apply().expect("the older one");
    assert!(matches!(&done, Done::Installed { version: Some(v), .. } if *v == version("2.0.0")), "{done:?}");
    // From now on a look alone tells: their documents are known.
    let list = Quarantine::read(&world.sys, DIRECTORY).expect("readable").entries;
    assert_eq!(list.iter().filter(|entry| entry.image == Some(bad.release.slot.sha256)).count(), 3, "{list:?}");
    world.restart();
    assert_eq!(world.settle().expect("settled"), Verdicts::Kept);
    let settings = world.settings.borrow().clone();
    assert!(matches!(super::apply::check(&world, &settings, &Options::default()), Ok(Done::UpToDate { .. })));
    // Asked for by its version, it is refused, and says why.
    let asked = Options { version: Some(version("2.2.0")), ..Options::default() };
    assert!(matches!(refusal(world.apply_with(&asked)), Refusal::Quarantined { .. }));
}

/// The site follows another channel, and goes back: each has its own sequence.
#[test]
fn another_channel_is_followed_with_its_own_sequence() {
    let world = World::new();
    let (stable, beta) = (make("1.5.0", image(2, 2 << 20)), make("2.0.0", image(4, 2 << 20)));
    world.publish(&[stable.clone(), beta]);
    // What `publish` has put into `stable` is in `beta`, with sequence 9; `stable` has the older one alone.
    let all: ksos_formats::update::Channel = {
        let bytes = world.published.borrow().channels["stable"].clone();
        serde_json::from_slice(&ksos_formats::update::Envelope::parse(&bytes).expect("signed").payload).expect("JSON")
    };
    let releases = |count: usize| all.releases[..count].to_vec();
    let named = |name: &str, sequence, count| ksos_formats::update::Channel {
        channel: name.to_owned(),
        ..world.channel(sequence, &releases(count))
    };
    world.publish_channel(&named("stable", 3, 1));
    world.publish_channel(&named("beta", 9, 2));
    let look = |channel: &str| {
        let settings = Settings { channel: channel.to_owned(), ..world.settings.borrow().clone() };
        super::apply::check(&world, &settings, &Options::default())
    };
    let available = |done: Result<Done, UpdateError>| match done.expect("a look") {
        Done::Available { version, .. } => version,
        other => panic!("{other:?}"),
    };
    assert_eq!(available(look("stable")), version("1.5.0"));
    assert_eq!(available(look("beta")), version("2.0.0"));
    assert_eq!(available(look("stable")), version("1.5.0"), "sequence 3 of stable is not behind 9 of beta");
    // Of each, an older one is not believed; and one channel does not stand for another.
    world.publish_channel(&named("beta", 8, 2));
    let error = look("beta").expect_err("older");
    assert!(matches!(error, UpdateError::Untrusted(Untrusted::Sequence { found: 8, seen: 9, .. })), "{error}");
    let stable = world.published.borrow().channels["stable"].clone();
    world.published.borrow_mut().channels.insert("beta".to_owned(), stable);
    assert!(matches!(look("beta"), Err(UpdateError::Untrusted(Untrusted::Channel { .. }))));
    assert!(matches!(look("nightly"), Err(UpdateError::Source(_))));
    // The switch is only about what comes: it is installed and kept as any other.
    world.publish_channel(&named("beta", 10, 2));
    world.settings.borrow_mut().channel = "beta".to_owned();
    world.apply().expect("installed");
    world.restart();
    assert_eq!(world.settle().expect("settled"), Verdicts::Kept);
    // Back on stable, which has nothing newer, the node stays where it is.
    world.settings.borrow_mut().channel = "stable".to_owned();
    assert!(matches!(world.apply(), Ok(Done::UpToDate { .. })));
    assert_eq!(world.content(world.booted.get()), Some(version("2.0.0")));
}
