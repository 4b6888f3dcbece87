//! Random lives of an update.

use proptest::prelude::*;

use super::*;

fn pending(target: Slot) -> Pending {
    Pending {
        purpose: Purpose::Update,
        release: Some(Digest::of(b"release")),
        image: Some(Digest::of(b"image")),
        version: Some("2.0.0".parse().expect("a version")),
        from: Some("1.0.0".parse().expect("a version")),
        from_release: None,
        target,
        started: 7,
        boot_id: "one".to_owned(),
        force_window: false,
    }
}

fn found(booted: Slot, boot: Option<BootState>, boot_id: &str) -> Found {
    Found { booted, boot, boot_id: boot_id.to_owned(), now: 9, running: "1.0.0".parse().ok() }
}

fn boot(active: Slot, trial: Option<u8>) -> Option<BootState> {
    Some(BootState { generation: 3, active, trial })
}

#[test]
fn an_update_that_goes_well() {
    let mut names = Vec::new();
    let mut state = State::Idle;
    let restarted = Event::Started(found(Slot::B, boot(Slot::A, Some(2)), "two"));
    let done = || Event::Done;
    let events = [
        Event::Chose(pending(Slot::B)),
        done(),
        done(),
        Event::Progress(1 << 20),
        done(),
        done(),
        done(),
        restarted,
        Event::Healthy,
        done(),
        done(),
    ];
    for event in events {
        (state, _) = step(state, event);
        names.push(state.name());
    }
    let expected = [
        "chosen", "clearing", "writing", "writing", "verifying", "activating", "awaiting-reboot", "on-trial",
        "committing", "committed", "idle",
    ];
    assert_eq!(names, expected);
}

#[test]
fn what_a_restart_means() {
    let on = |state: fn(Pending) -> State| state(pending(Slot::B));
    let table: [(State, Found, &str); 15] = [
        (State::Idle, found(Slot::A, boot(Slot::A, None), "x"), "idle"),
        (State::Idle, found(Slot::B, boot(Slot::A, Some(2)), "x"), "on-trial"),
        (State::Idle, found(Slot::A, boot(Slot::A, Some(0)), "x"), "fell-back"),
        (State::Idle, found(Slot::A, None, "x"), "on-trial"),
        (State::Idle, found(Slot::B, boot(Slot::A, None), "x"), "on-trial"),
        (on(State::AwaitingReboot), found(Slot::A, boot(Slot::A, Some(3)), "one"), "awaiting-reboot"),
        (on(State::AwaitingReboot), found(Slot::A, boot(Slot::A, None), "one"), "failed"),
        (on(State::AwaitingReboot), found(Slot::A, boot(Slot::A, Some(3)), "two"), "fell-back"),
        (on(State::AwaitingReboot), found(Slot::B, boot(Slot::A, Some(2)), "two"), "on-trial"),
        (on(State::AwaitingReboot), found(Slot::B, boot(Slot::B, None), "two"), "committed"),
        (on(State::OnTrial), found(Slot::B, None, "two"), "on-trial"),
        (on(State::OnTrial), found(Slot::A, boot(Slot::A, Some(0)), "two"), "fell-back"),
        (on(State::Committing), found(Slot::B, boot(Slot::A, Some(1)), "two"), "committing"),
        (on(State::Activating), found(Slot::A, boot(Slot::A, Some(3)), "one"), "awaiting-reboot"),
        (on(State::Verifying), found(Slot::A, boot(Slot::A, None), "two"), "verifying"),
    ];
    for (state, found, expected) in table {
        let text = format!("{state:?} {found:?}");
        assert_eq!(step(state, Event::Started(found)).0.name(), expected, "{text}");
    }
}

#[test]
fn the_journal_can_hold_every_state() {
    let reason = "because".to_owned();
    let all = [
        State::Idle,
        State::Chosen(pending(Slot::A)),
        State::Clearing(pending(Slot::A)),
        State::Writing { pending: pending(Slot::B), progress: u64::MAX },
        State::Verifying(pending(Slot::A)),
        State::Activating(pending(Slot::A)),
        State::AwaitingReboot(pending(Slot::A)),
        State::OnTrial(pending(Slot::A)),
        State::Committing(pending(Slot::A)),
        State::Failed { pending: pending(Slot::A), reason: reason.clone() },
        State::Committed(pending(Slot::A)),
        State::FellBack { pending: pending(Slot::A), reason },
    ];
    for state in all {
        let journal = crate::update::journal::Journal { state, ..Default::default() };
        let text = serde_json::to_string(&journal).expect("JSON");
        assert_eq!(serde_json::from_str::<crate::update::journal::Journal>(&text).expect(&text), journal);
    }
}

#[test]
fn a_rollback_is_kept_and_what_was_left_is_quarantined() {
    let mut wanted = pending(Slot::B);
    wanted.purpose = Purpose::Rollback;
    let (state, _) = step(State::Idle, Event::Chose(wanted.clone()));
    let (state, actions) = step(state, Event::Done);
    assert_eq!((state.name(), actions), ("activating", vec![Action::Activate(Slot::B)]));
    let actions = actions_of(&State::Committed(wanted));
    assert!(actions.iter().any(|action| matches!(action, Action::Quarantine { .. })), "{actions:?}");
    assert!(!actions_of(&State::Committed(pending(Slot::B))).iter().any(|a| matches!(a, Action::Quarantine { .. })));
}

fn actions_of(state: &State) -> Vec<Action> {
    actions(state)
}

fn any_slot() -> impl Strategy<Value = Slot> {
    prop_oneof![Just(Slot::A), Just(Slot::B)]
}

fn any_found() -> impl Strategy<Value = Found> {
    let trial = prop_oneof![Just(None), (0_u8..4).prop_map(Some)];
    let boot = prop_oneof![1 => Just(None), 6 => (any_slot(), trial).prop_map(|(active, trial)| boot(active, trial))];
    (any_slot(), boot, prop_oneof![Just("one"), Just("two")]).prop_map(|(booted, boot, id)| found(booted, boot, id))
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => any_found().prop_map(Event::Started),
        2 => any_slot().prop_map(|slot| Event::Chose(pending(slot))),
        6 => Just(Event::Done),
        1 => (0_u64..9).prop_map(Event::Progress),
        1 => Just(Event::Failed("x".to_owned())),
        2 => Just(Event::Healthy),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens: what writes a slot is asked for only on the way to a trial, never after it was given one; what
    /// ended is recorded; and a restart asked for twice says the same.
    #[test]
    fn any_life(events in proptest::collection::vec(any_event(), 1..60)) {
        let mut state = State::Idle;
        for event in events {
            let before = state.clone();
            let (next, asked) = step(state, event.clone());
            for action in &asked {
                match action {
                    Action::Clear(slot) | Action::Write(slot) | Action::Prove(slot) | Action::Activate(slot) => {
                        prop_assert!(next.is_installing());
                        prop_assert_eq!(Some(*slot), next.pending().map(|pending| pending.target));
                    }
                    Action::RaiseFloor(_) => prop_assert!(matches!(next, State::Committed(_))),
                    _ => {}
                }
            }
            if matches!(before, State::OnTrial(_) | State::AwaitingReboot(_) | State::Committing(_)) {
                prop_assert!(!next.is_installing(), "{:?} {:?}", before, event);
            }
            if let Event::Started(_) = &event {
                let (again, _) = step(next.clone(), event);
                prop_assert_eq!(&again, &next);
            }
            if next.name() != before.name() && next == State::Idle {
                let ended = matches!(before, State::Failed { .. } | State::Committed(_) | State::FellBack { .. });
                prop_assert!(ended, "{:?}", before);
            }
            state = next;
        }
    }
}
