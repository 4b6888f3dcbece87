//! The stage and the deadline on a recorded machine.

use ksos_formats::layout::BOOT_STATE;
use ksos_formats::runtime::UpdateConfig;

use super::super::node::tests::node;
use super::*;
use crate::cmdline::Cmdline;
use crate::disk::gpt::Guid;
use crate::disk::gpt::tests::image as disk;
use crate::sys::double::Double;
use crate::update::bootblocks::tests::image as esp;

fn machine(slot: &str) -> Double {
    let sys = Double::new();
    sys.put("/run/ksos/x", "");
    sys.put("/sys/block/vda/size", "1");
    sys.put("/proc/cmdline", format!("ksos.slot={slot} ksos.esp={}", Guid([10; 16])));
    sys.disks.borrow_mut().insert("/dev/vda".to_owned(), disk(8, 10));
    sys.disks.borrow_mut().insert("/dev/vda1".to_owned(), esp());
    sys
}

fn blocks(sys: &Double) -> BootBlocks {
    BootBlocks::open(sys, "/dev/vda1").expect("a volume")
}

fn write(sys: &Double, active: Slot, trial: Option<u8>) {
    blocks(sys).write(&BootState { generation: 7, active, trial }).expect("written");
}

fn booted<'a>(sys: &'a Double, slot: &str) -> Node<'a> {
    let mut node = node(sys);
    node.cmdline = Cmdline::parse(&sys.text("/proc/cmdline"));
    node.handover.slot = if slot == "b" { 'b' } else { 'a' };
    node
}

#[test]
fn what_is_found_is_said_and_published() {
    let cases = [
        ("a", Slot::A, None, "slot a is active, generation 7", false),
        ("b", Slot::A, Some(2), "slot b is on trial, 2 tries left; slot a is active", true),
        ("b", Slot::A, Some(0), "slot b is on trial, 0 tries left; slot a is active", true),
        ("a", Slot::A, Some(0), "slot b did not start, 0 tries left; slot a is active", false),
    ];
    for (slot, active, trial, expected, on_trial) in cases {
        let sys = machine(slot);
        write(&sys, active, trial);
        let mut node = booted(&sys, slot);
        assert!(has_boot_state(&node));
        assert_eq!(look(&mut node).expect("works"), expected);
        assert_eq!(node.on_trial, on_trial, "{expected}");
        assert!(sys.text(BOOT_STATE).contains(&format!("\"booted\":\"{slot}\"")));
        assert!(node.degraded.is_empty());
    }
    let sys = machine("b");
    write(&sys, Slot::A, None);
    let mut node = booted(&sys, "b");
    look(&mut node).expect("works");
    assert_eq!(node.degraded["boot slot"], "slot a is active and does not boot; slot b runs");
    let sys = Double::new();
    assert!(!has_boot_state(&super::super::node::tests::node(&sys)), "started in another way");
}

#[test]
fn one_bad_copy_is_repaired_two_are_reported() {
    let sys = machine("a");
    // Where the blocks are on the volume that the tests make.
    let at: Vec<usize> = {
        let disks = sys.disks.borrow();
        let bytes = disks["/dev/vda1"].bytes.borrow();
        (0..bytes.len()).step_by(512).filter(|at| bytes[*at..].starts_with(b"# GRUB")).collect()
    };
    assert_eq!(at.len(), 4);
    let damage = |at: usize| sys.disks.borrow()["/dev/vda1"].bytes.borrow_mut()[at..at + 512].fill(0xff);
    damage(at[0]);
    let mut one = booted(&sys, "a");
    assert_eq!(look(&mut one).expect("works"), "slot a is active, generation 1");
    assert!(blocks(&sys).read().expect("read").agree());
    assert!(sys.terminal.borrow().contains("boot state repaired: copy 1 of the boot state: "));
    damage(at[0]);
    damage(at[1]);
    let mut two = booted(&sys, "a");
    let error = look(&mut two).expect_err("degraded").to_string();
    assert!(error.starts_with("neither copy of the boot state is valid: "), "{error}");
    assert!(sys.text(BOOT_STATE).contains("neither copy"));
    assert!(!two.on_trial);
}

#[test]
fn an_unreadable_partition_is_a_failure_of_the_stage_alone() {
    let sys = machine("a");
    sys.disks.borrow_mut().remove("/dev/vda1");
    let error = look(&mut booted(&sys, "a")).expect_err("degraded").to_string();
    assert!(error.starts_with("EFI system partition: open /dev/vda1: "), "{error}");
    let twin = machine("a");
    twin.put("/sys/block/vdb/size", "1");
    twin.disks.borrow_mut().insert("/dev/vdb".to_owned(), disk(8, 10));
    let error = look(&mut booted(&twin, "a")).expect_err("degraded").to_string();
    assert!(error.contains("vda, vdb") || error.contains("vdb, vda"), "{error}");
}

fn on_trial(sys: &Double) -> Node<'_> {
    write(sys, Slot::A, Some(2));
    let mut node = booted(sys, "b");
    look(&mut node).expect("works");
    node
}

#[test]
fn a_trial_that_is_not_confirmed_ends_at_the_deadline() {
    let sys = machine("b");
    let mut node = on_trial(&sys);
    let mut trial = Trial::begin(&node, 1000);
    assert_eq!(trial.due_ms(), Some(1000 + DEADLINE_MS));
    sys.now.set(1000 + DEADLINE_MS);
    assert!(trial.is_over(&mut node, &["kubesolo"]));
    let said = sys.terminal.borrow().clone();
    let line = "ksos: trial: slot b was not confirmed within 660 s; not ready: kubesolo; restarting\n";
    assert!(said.contains(line), "{said}");
    assert!(!trial.is_over(&mut node, &[]), "once");
    assert_eq!(trial.due_ms(), None);
}

#[test]
fn the_image_sets_the_deadline_and_a_version_that_was_kept_stays() {
    let sys = machine("b");
    let mut node = on_trial(&sys);
    node.config.update = Some(UpdateConfig {
        board: "generic".to_owned(),
        source: None,
        channel: "stable".to_owned(),
        automatic: false,
        interval_ms: 1,
        gate_ms: 20_000,
        hold_ms: 3000,
        windows: Vec::new(),
    });
    let mut trial = Trial::begin(&node, 0);
    assert_eq!(trial.due_ms(), Some(23_000));
    write(&sys, Slot::B, None);
    sys.now.set(23_000);
    assert!(!trial.is_over(&mut node, &[]));
    // What cannot be read was not confirmed either.
    let mut trial = Trial::begin(&node, 0);
    sys.disks.borrow_mut().remove("/dev/vda1");
    trial.deadline_ms = Some(0);
    assert!(trial.is_over(&mut node, &[]));
    assert!(sys.terminal.borrow().contains("(EFI system partition: open /dev/vda1: "));
    node.on_trial = false;
    assert_eq!(Trial::begin(&node, 0).due_ms(), None);
}
