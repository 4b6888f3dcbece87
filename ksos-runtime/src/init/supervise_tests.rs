//! Tables of events and actions.

use super::*;

fn config(change: impl FnOnce(&mut ServiceConfig)) -> ServiceConfig {
    let mut config = ServiceConfig {
        command: vec!["/bin/x".to_owned()],
        environment: BTreeMap::new(),
        after: Vec::new(),
        restart: RestartPolicy::Always,
        restart_delay_ms: 1000,
        restart_delay_max_ms: 8000,
        stop_timeout_ms: 500,
        ready: ReadyProbe::Started,
        required: true,
        oom_score_adjust: 0,
        limit_nofile: None,
        limit_nproc: None,
        limit_core: None,
        working_directory: None,
        pre_start: Vec::new(),
        log: ksos_formats::runtime::LogTarget::File,
        apparmor: None,
    };
    change(&mut config);
    config
}

fn machine(services: &[(&str, ServiceConfig)]) -> Machine {
    let (machine, problems) =
        Machine::new(services.iter().map(|(name, config)| ((*name).to_owned(), config.clone())).collect());
    assert_eq!(problems, [""; 0]);
    machine
}

fn text(name: &str) -> String {
    name.to_owned()
}

/// Feeds an event and returns the actions that are not notes.
fn step(machine: &mut Machine, now: u64, event: Event) -> Vec<Action> {
    let mut actions = machine.step(now, event);
    actions.retain(|action| !matches!(action, Action::Note(_)));
    actions
}

fn spawn(name: &str, role: Role) -> Action {
    Action::Spawn(text(name), role)
}

fn set(name: &str, timer: Timer, ms: u64) -> Action {
    Action::Set(text(name), timer, ms)
}

#[test]
fn a_service_that_is_ready_when_started_makes_the_node_ready_once() {
    let mut m = machine(&[("a", config(|_| {}))]);
    assert_eq!(step(&mut m, 0, Event::Begin), [spawn("a", Role::Main)]);
    assert_eq!(step(&mut m, 1, Event::Started(text("a"), Role::Main)), [Action::NodeReady]);
    let exit = Event::Exited(text("a"), Role::Main, Exit::Signal(9));
    assert_eq!(step(&mut m, 2, exit), [Action::Cancel(text("a")), set("a", Timer::Restart, 1000)]);
    assert_eq!(step(&mut m, 1002, Event::Timer(text("a"), Timer::Restart)), [spawn("a", Role::Main)]);
    assert_eq!(step(&mut m, 1003, Event::Started(text("a"), Role::Main)), []);
}

#[test]
fn a_node_without_required_services_is_ready_at_once() {
    let mut m = machine(&[("a", config(|c| (c.required, c.ready) = (false, ReadyProbe::Tcp(80))))]);
    assert_eq!(step(&mut m, 0, Event::Begin), [spawn("a", Role::Main), Action::NodeReady]);
    assert_eq!(step(&mut machine(&[]), 0, Event::Begin), [Action::NodeReady]);
}

#[test]
fn order_follows_readiness() {
    let socket = config(|c| c.ready = ReadyProbe::Socket(text("/run/s")));
    let mut m = machine(&[("a", config(|c| c.after = vec![text("b")])), ("b", socket)]);
    assert_eq!(step(&mut m, 0, Event::Begin), [spawn("b", Role::Main)]);
    assert_eq!(step(&mut m, 0, Event::Started(text("b"), Role::Main)), [set("b", Timer::Probe, 50)]);
    let mut pauses = Vec::new();
    for _ in 0..7 {
        assert_eq!(step(&mut m, 9, Event::Timer(text("b"), Timer::Probe)), [Action::Connect(text("b"))]);
        match step(&mut m, 9, Event::Probed(text("b"), false)).as_slice() {
            [Action::Set(_, Timer::Probe, ms)] => pauses.push(*ms),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(pauses, [50, 100, 200, 400, 800, 1000, 1000]);
    let ready = step(&mut m, 10, Event::Probed(text("b"), true));
    assert_eq!(ready, [Action::Cancel(text("b")), spawn("a", Role::Main)]);
    assert_eq!(step(&mut m, 11, Event::Started(text("a"), Role::Main)), [Action::NodeReady]);
}

#[test]
fn pre_start_commands_run_in_order_and_a_failure_restarts_from_the_first() {
    let mut m = machine(&[("a", config(|c| c.pre_start = vec![vec![text("/1")], vec![text("/2")]]))]);
    assert_eq!(step(&mut m, 0, Event::Begin), [spawn("a", Role::PreStart(0))]);
    step(&mut m, 0, Event::Started(text("a"), Role::PreStart(0)));
    let exit = |index, code| Event::Exited(text("a"), Role::PreStart(index), Exit::Code(code));
    assert_eq!(step(&mut m, 0, exit(0, 0)), [spawn("a", Role::PreStart(1))]);
    assert_eq!(step(&mut m, 0, exit(1, 4)), [set("a", Timer::Restart, 1000)]);
    assert_eq!(step(&mut m, 0, Event::Timer(text("a"), Timer::Restart)), [spawn("a", Role::PreStart(0))]);
    step(&mut m, 0, exit(0, 0));
    assert_eq!(step(&mut m, 0, exit(1, 0)), [spawn("a", Role::Main)]);
}

/// Starts and ends the service once, `ran` milliseconds apart; returns the restart delay and whether it degraded.
fn crash(m: &mut Machine, now: &mut u64, ran: u64) -> (u64, bool) {
    step(m, *now, Event::Started(text("a"), Role::Main));
    *now += ran;
    let actions = step(m, *now, Event::Exited(text("a"), Role::Main, Exit::Code(1)));
    step(m, *now, Event::Timer(text("a"), Timer::Restart));
    let delay = actions.iter().find_map(|action| match action {
        Action::Set(_, Timer::Restart, ms) => Some(*ms),
        _ => None,
    });
    (delay.expect("restarts"), actions.iter().any(|action| matches!(action, Action::Degraded(..))))
}

#[test]
fn delays_double_up_to_the_limit_and_start_over_after_a_stable_run() {
    let mut m = machine(&[("a", config(|c| c.ready = ReadyProbe::Tcp(1)))]);
    let mut now = 0;
    step(&mut m, now, Event::Begin);
    let crashes: Vec<(u64, bool)> = (0..6).map(|_| crash(&mut m, &mut now, 10)).collect();
    let expected = [(1000, false), (2000, false), (4000, false), (8000, false), (8000, true), (8000, false)];
    assert_eq!(crashes, expected, "degraded once, after {DEGRADED_AFTER} failures");
    step(&mut m, now, Event::Started(text("a"), Role::Main));
    let ready = step(&mut m, now, Event::Probed(text("a"), true));
    assert_eq!(ready, [Action::Cancel(text("a")), Action::Recovered(text("a")), Action::NodeReady]);
    now += STABLE_MS;
    let ended = step(&mut m, now, Event::Exited(text("a"), Role::Main, Exit::Code(0)));
    assert_eq!(ended[1], set("a", Timer::Restart, 1000), "an exit with status 0 restarts too under `always`");
}

#[test]
fn policies_decide_what_follows_an_end() {
    use RestartPolicy::{Always, Never, OnFailure};
    let (exited, tcp) = (ReadyProbe::Exited, ReadyProbe::Tcp(1));
    for (policy, ready, code, phase, degraded) in [
        (Always, ReadyProbe::Started, 0, Phase::Backoff, false),
        (Always, exited.clone(), 0, Phase::Done, false),
        (Always, exited.clone(), 1, Phase::Backoff, false),
        (OnFailure, ReadyProbe::Started, 0, Phase::Done, false),
        (OnFailure, ReadyProbe::Started, 1, Phase::Backoff, false),
        (OnFailure, tcp.clone(), 0, Phase::Backoff, false),
        (Never, ReadyProbe::Started, 0, Phase::Done, false),
        (Never, ReadyProbe::Started, 1, Phase::Failed, true),
        (Never, exited, 1, Phase::Failed, true),
        (Never, tcp, 0, Phase::Failed, true),
    ] {
        let case = format!("{policy:?} {ready:?} {code}");
        let mut m = machine(&[("a", config(|c| (c.restart, c.ready) = (policy, ready)))]);
        step(&mut m, 0, Event::Begin);
        step(&mut m, 0, Event::Started(text("a"), Role::Main));
        let actions = step(&mut m, 5, Event::Exited(text("a"), Role::Main, Exit::Code(code)));
        assert_eq!(m.services()["a"].phase, phase, "{case}");
        assert_eq!(actions.iter().any(|action| matches!(action, Action::Degraded(..))), degraded, "{case}");
    }
}

#[test]
fn a_service_that_cannot_be_started_backs_off() {
    let mut m = machine(&[("a", config(|_| {}))]);
    step(&mut m, 0, Event::Begin);
    let event = Event::NotStarted(text("a"), Role::Main, text("start /bin/x: No such file"));
    assert_eq!(step(&mut m, 0, event), [set("a", Timer::Restart, 1000)]);
}

#[test]
fn probe_commands_run_once_a_second_and_are_ended_when_they_hang() {
    let mut m = machine(&[("a", config(|c| c.ready = ReadyProbe::Command(vec![text("/p")])))]);
    step(&mut m, 0, Event::Begin);
    step(&mut m, 0, Event::Started(text("a"), Role::Main));
    assert_eq!(step(&mut m, 0, Event::Timer(text("a"), Timer::Probe)), [spawn("a", Role::Probe)]);
    assert_eq!(step(&mut m, 0, Event::Started(text("a"), Role::Probe)), [set("a", Timer::Probe, COMMAND_LIMIT_MS)]);
    assert_eq!(step(&mut m, 0, Event::Timer(text("a"), Timer::Probe)), [Action::KillProbe(text("a"))]);
    let killed = Event::Exited(text("a"), Role::Probe, Exit::Signal(9));
    assert_eq!(step(&mut m, 0, killed), [set("a", Timer::Probe, 1000)]);
    step(&mut m, 0, Event::Timer(text("a"), Timer::Probe));
    step(&mut m, 0, Event::Started(text("a"), Role::Probe));
    let fine = Event::Exited(text("a"), Role::Probe, Exit::Code(0));
    assert_eq!(step(&mut m, 0, fine), [Action::Cancel(text("a")), Action::NodeReady]);
}

#[test]
fn stopping_goes_from_dependents_to_what_they_need() {
    let mut m = machine(&[("a", config(|_| {})), ("b", config(|c| c.after = vec![text("a")]))]);
    step(&mut m, 0, Event::Begin);
    step(&mut m, 0, Event::Started(text("a"), Role::Main));
    step(&mut m, 0, Event::Started(text("b"), Role::Main));
    let stop = step(&mut m, 0, Event::Stop);
    let cancels = [Action::Cancel(text("a")), Action::Cancel(text("b"))];
    assert_eq!(stop[..2], cancels);
    assert_eq!(stop[2..], [Action::Terminate(text("b")), set("b", Timer::Kill, 500)]);
    let exited = |name| Event::Exited(text(name), Role::Main, Exit::Signal(15));
    let next = step(&mut m, 0, exited("b"));
    let expected =
        [Action::Cancel(text("b")), Action::Kill(text("b")), Action::Terminate(text("a")), set("a", Timer::Kill, 500)];
    assert_eq!(next, expected);
    assert_eq!(
        step(&mut m, 0, Event::Timer(text("a"), Timer::Kill)),
        [Action::Kill(text("a")), set("a", Timer::Kill, 5000)]
    );
    let last = step(&mut m, 0, exited("a"));
    assert_eq!(last, [Action::Cancel(text("a")), Action::Kill(text("a")), Action::AllStopped]);
    assert_eq!(step(&mut m, 0, Event::Timer(text("a"), Timer::Kill)), []);
}

#[test]
fn stopping_ends_although_a_service_cannot_be_killed_or_waits() {
    let mut m = machine(&[("a", config(|_| {})), ("b", config(|c| c.ready = ReadyProbe::Tcp(1)))]);
    step(&mut m, 0, Event::Begin);
    step(&mut m, 0, Event::Started(text("a"), Role::Main));
    step(&mut m, 0, Event::NotStarted(text("b"), Role::Main, text("no")));
    step(&mut m, 0, Event::Stop);
    assert_eq!(m.services()["b"].phase, Phase::Stopped);
    step(&mut m, 0, Event::Timer(text("a"), Timer::Kill));
    assert_eq!(step(&mut m, 0, Event::Timer(text("a"), Timer::Kill)), [Action::AllStopped]);
    assert_eq!(step(&mut m, 0, Event::Stop).last(), Some(&Action::Cancel(text("b"))), "a second stop changes nothing");
    let restart = step(&mut m, 0, Event::Timer(text("b"), Timer::Restart));
    assert_eq!(restart, [], "nothing starts again");
}

#[test]
fn wrong_orders_are_reported() {
    let after = |names: &[&str]| config(|c| c.after = names.iter().map(|name| text(name)).collect());
    let configs = [
        (text("a"), after(&["b"])),
        (text("b"), after(&["a"])),
        (text("c"), after(&["nobody"])),
        (text("d"), after(&["b"])),
    ];
    let (mut m, problems) = Machine::new(configs.into());
    assert_eq!(problems, ["service c is after nobody, which does not exist", "services wait for each other: a, b, d"]);
    assert_eq!(step(&mut m, 0, Event::Begin), [spawn("c", Role::Main)]);
}

#[test]
fn events_of_unknown_services_and_late_events_are_ignored() {
    let mut m = machine(&[("a", config(|_| {}))]);
    step(&mut m, 0, Event::Begin);
    for event in [
        Event::Started(text("z"), Role::Main),
        Event::Exited(text("a"), Role::PreStart(7), Exit::Code(0)),
        Event::Probed(text("z"), true),
        Event::Timer(text("a"), Timer::Restart),
        Event::Timer(text("a"), Timer::Kill),
    ] {
        assert_eq!(step(&mut m, 0, event), []);
    }
}

#[test]
fn an_internal_service_that_keeps_failing_is_told_and_no_longer_waited_for() {
    let network = config(|c| {
        c.required = false;
        c.ready = ReadyProbe::Socket("/run/s".to_owned());
    });
    let app = config(|c| c.after = vec![text("network")]);
    let mut machine = machine(&[("app", app), ("network", network)]);
    machine.own("network");
    assert_eq!(step(&mut machine, 0, Event::Begin), [spawn("network", Role::Main)]);
    for attempt in 1..=DEGRADED_AFTER {
        step(&mut machine, 0, Event::Started(text("network"), Role::Main));
        let actions = step(&mut machine, 0, Event::Exited(text("network"), Role::Main, Exit::Code(1)));
        let told = actions.iter().any(|action| matches!(action, Action::Degraded(..)));
        assert_eq!((told, actions.contains(&spawn("app", Role::Main))), (attempt == 5, attempt == 5));
        step(&mut machine, 0, Event::Timer(text("network"), Timer::Restart));
    }
    step(&mut machine, 0, Event::Started(text("network"), Role::Main));
    let actions = step(&mut machine, 0, Event::Probed(text("network"), true));
    assert!(actions.contains(&Action::Recovered(text("network"))), "{actions:?}");
}

#[test]
fn a_follower_runs_with_each_start_of_its_leader() {
    let one_shot = || {
        config(|config| {
            config.ready = ReadyProbe::Exited;
            config.restart = RestartPolicy::OnFailure;
        })
    };
    let engine = config(|config| config.ready = ReadyProbe::Tcp(1));
    let user = config(|config| config.after = vec![text("engine"), text("import")]);
    let mut m = machine(&[("engine", engine), ("import", one_shot()), ("user", user)]);
    m.follow("import", "engine");
    m.follow("import", "nobody");
    let engine_exits = || Event::Exited(text("engine"), Role::Main, Exit::Code(1));
    let import_exits = |code| Event::Exited(text("import"), Role::Main, Exit::Code(code));
    // It does not wait for the engine to be ready: the engine may not be ready before it has its images.
    assert_eq!(step(&mut m, 0, Event::Begin), [spawn("engine", Role::Main)]);
    assert!(step(&mut m, 1, Event::Started(text("engine"), Role::Main)).contains(&spawn("import", Role::Main)));
    step(&mut m, 1, Event::Started(text("import"), Role::Main));
    assert!(step(&mut m, 2, Event::Probed(text("engine"), true)).contains(&Action::Cancel(text("engine"))));
    // The engine may have dropped what was found before it was ready: once more, before anything that is after both.
    let actions = step(&mut m, 3, import_exits(0));
    assert!(actions.contains(&spawn("import", Role::Main)) && !actions.contains(&spawn("user", Role::Main)));
    step(&mut m, 3, Event::Started(text("import"), Role::Main));
    assert!(step(&mut m, 3, import_exits(0)).contains(&spawn("user", Role::Main)));
    step(&mut m, 3, Event::Started(text("user"), Role::Main));
    // The engine ends: nothing happens until it runs again.
    assert!(!step(&mut m, 10, engine_exits()).contains(&spawn("import", Role::Main)));
    assert_eq!(m.services()["import"].phase, Phase::Done);
    assert_eq!(step(&mut m, 11, Event::Timer(text("engine"), Timer::Restart)), [spawn("engine", Role::Main)]);
    assert!(step(&mut m, 12, Event::Started(text("engine"), Role::Main)).contains(&spawn("import", Role::Main)));
    step(&mut m, 12, Event::Started(text("import"), Role::Main));
    // The engine ends while it runs: it fails, and tries again by itself, once.
    step(&mut m, 13, engine_exits());
    assert!(step(&mut m, 14, import_exits(1)).contains(&set("import", Timer::Restart, 1000)));
    step(&mut m, 15, Event::Timer(text("engine"), Timer::Restart));
    assert_eq!(m.services()["import"].phase, Phase::Backoff);
    assert!(!step(&mut m, 16, Event::Started(text("engine"), Role::Main)).contains(&spawn("import", Role::Main)));
    assert_eq!(step(&mut m, 17, Event::Timer(text("import"), Timer::Restart)), [spawn("import", Role::Main)]);
}
