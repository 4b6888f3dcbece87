//! The loop on a recorded machine.

use ksos_formats::runtime::{RestartPolicy, ServiceConfig};

use super::super::node::tests::node;
use super::*;
use crate::sys::double::Double;
use crate::sys::{Exit, Sys};

fn service(command: &str, change: impl FnOnce(&mut ServiceConfig)) -> ServiceConfig {
    let mut config = ServiceConfig {
        command: vec![command.to_owned()],
        environment: [("A".to_owned(), "b".to_owned())].into(),
        after: Vec::new(),
        restart: RestartPolicy::Always,
        restart_delay_ms: 1000,
        restart_delay_max_ms: 8000,
        stop_timeout_ms: 500,
        ready: ReadyProbe::Started,
        required: true,
        oom_score_adjust: -500,
        limit_nofile: Some(65535),
        limit_nproc: None,
        limit_core: None,
        working_directory: None,
        pre_start: Vec::new(),
        log: LogTarget::Console,
        apparmor: None,
    };
    change(&mut config);
    config
}

fn runner<'a>(sys: &'a Double, services: Vec<(&str, ServiceConfig)>) -> Runner<'a> {
    sys.put("/run/ksos/x", "");
    sys.put("/var/log/ksos/x", "");
    let node = node(sys);
    let all = services.into_iter().map(|(name, config)| (name.to_owned(), config)).collect();
    Runner::of(node, internal::Services { all, problems: Vec::new() })
}

/// Queues a request to restart the machine.
fn then_reboot(sys: &Double) {
    sys.wakes.borrow_mut().push_back(vec![Wake::Signal(Signal::Term)]);
}

#[test]
fn a_service_runs_the_node_is_ready_and_goes_down() {
    let sys = Double::new();
    let output = Wake::Output { name: "a".to_owned(), bytes: b"hello\n".to_vec() };
    sys.wakes.borrow_mut().push_back(vec![output]);
    then_reboot(&sys);
    let runner = runner(&sys, vec![("a", service("/bin/a", |_| {}))]);
    assert_eq!(runner.run().0, Down::Reboot);
    let said = sys.terminal.borrow().clone();
    let ready =
        "ksos: ready name=demo version=1.2.3 arch=x86_64 slot=a secure-boot=on lockdown=integrity boot=3 uptime=1.00\n";
    assert_eq!(said.matches("ksos: ready ").count(), 1);
    assert!(said.contains(ready), "{said}");
    assert!(said.contains("[a] hello\n"));
    assert_eq!(sys.calls_of("signal"), ["signal 101 Term"]);
    assert_eq!(sys.text("/var/log/ksos/a.log"), "hello\n");
    let status: Status = serde_json::from_str(&sys.text(status::PATH)).expect("JSON");
    assert_eq!((status.state.as_str(), status.services[0].state.as_str()), ("stopping", "stopped"));
}

#[test]
fn a_crashed_service_is_restarted_and_a_stubborn_one_killed() {
    let sys = Double::new();
    sys.obedient.set(false);
    sys.exits.borrow_mut().push_back((101, Exit::Signal(11)));
    sys.wakes.borrow_mut().push_back(vec![Wake::Child]);
    let mut runner = runner(&sys, vec![("a", service("/bin/a", |_| {}))]);
    runner.handle(Event::Begin);
    for wake in sys.wait(None) {
        runner.wake(wake);
    }
    runner.reap();
    assert_eq!(runner.timeout(), Some(1000));
    sys.now.set(sys.now.get() + 1000);
    then_reboot(&sys);
    assert_eq!(runner.run().0, Down::Reboot);
    assert_eq!(sys.calls_of("spawn"), ["spawn /bin/a", "spawn /bin/a"]);
    assert_eq!(sys.calls_of("signal"), ["signal 102 Term", "signal 102 Kill"]);
    let said = sys.terminal.borrow().clone();
    assert!(said.contains("ksos: service a: signal 11, restart in 1000 ms\n"), "{said}");
    assert!(said.contains("ksos: service a: still running 500 ms after SIGTERM, killed\n"), "{said}");
}

#[test]
fn sockets_are_tried_with_growing_pauses_only_while_starting() {
    let sys = Double::new();
    sys.fail("connect /run/s", "refused");
    let mut runner =
        runner(&sys, vec![("a", service("/bin/a", |c| c.ready = ReadyProbe::Socket("/run/s".to_owned())))]);
    runner.handle(Event::Begin);
    runner.began();
    for _ in 0..8 {
        let timeout = runner.timeout();
        sys.wait(timeout);
        runner.fire_timers();
    }
    assert_eq!(sys.calls_of("connect").len(), 8);
    assert!(sys.now.get() > 1000 + 3000, "pauses grow");
    sys.failures.borrow_mut().clear();
    sys.now.set(sys.now.get() + 1000);
    runner.fire_timers();
    assert_eq!(runner.timeout(), None, "no wake-ups once it is ready");
    assert!(sys.terminal.borrow().contains("ksos: ready "));
}

#[test]
fn power_button_and_signals_choose_how_to_go_down() {
    for (wake, expected) in [
        (Wake::PowerButton, Down::PowerOff),
        (Wake::Signal(Signal::Usr2), Down::PowerOff),
        (Wake::Signal(Signal::Usr1), Down::Halt),
        (Wake::Signal(Signal::Int), Down::Reboot),
    ] {
        let sys = Double::new();
        sys.wakes.borrow_mut().push_back(vec![wake]);
        assert_eq!(runner(&sys, Vec::new()).run().0, expected);
    }
}

#[test]
fn devices_load_drivers_and_damage_degrades() {
    let sys = Double::new();
    let mut runner = runner(&sys, Vec::new());
    let event = |fields: &[(&str, &str)]| Uevent {
        action: "add".to_owned(),
        device: "/devices/x".to_owned(),
        fields: fields.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
    };
    runner.wake(Wake::Uevent(event(&[("MODALIAS", "usb:v1")])));
    runner.drivers.load(&sys);
    assert_eq!(sys.calls_of("spawn"), ["spawn /usr/lib/ksos/ksos-runtime modprobe -q -a -- usb:v1"]);
    for _ in 0..2 {
        runner.wake(Wake::Uevent(event(&[("DM_VERITY_ERR_BLOCK_NR", "1,42")])));
    }
    let expected = "ksos: degraded reason=\"the root image in slot a is damaged (type,block 1,42)\"\n";
    assert_eq!(*sys.terminal.borrow(), expected, "once");
}

#[test]
fn the_console_shell_is_respawned_only_where_the_image_asks_for_it() {
    let sys = Double::new();
    sys.put("/bin/sh", "");
    let mut plain = runner(&sys, Vec::new());
    then_reboot(&sys);
    plain.node.config.console_shell = false;
    plain.run();
    assert!(sys.calls_of("spawn").is_empty());
    let mut with_shell = runner(&sys, Vec::new());
    with_shell.node.config.console_shell = true;
    sys.exits.borrow_mut().push_back((101, Exit::Code(0)));
    sys.wakes.borrow_mut().extend([vec![Wake::Child], vec![]]);
    let spawned = |sys: &Double| sys.calls_of("spawn").len();
    with_shell.shell_due = Some(0);
    with_shell.fire_timers();
    assert_eq!(spawned(&sys), 1);
    with_shell.reap();
    sys.now.set(sys.now.get() + SHELL_PAUSE_MS);
    with_shell.fire_timers();
    assert_eq!(spawned(&sys), 2);
}

#[test]
fn a_service_that_cannot_start_is_named_and_tried_again() {
    let sys = Double::new();
    sys.fail("spawn /bin/a", "No such file or directory");
    let mut runner = runner(&sys, vec![("a", service("/bin/a", |c| c.restart = RestartPolicy::OnFailure))]);
    runner.handle(Event::Begin);
    for _ in 0..5 {
        let timeout = runner.timeout();
        sys.wait(timeout);
        runner.fire_timers();
    }
    let said = sys.terminal.borrow().clone();
    assert_eq!(said.matches("ksos: degraded reason=").count(), 1, "{said}");
    assert!(said.contains("5 times in a row"), "{said}");
}

#[test]
fn the_nodes_own_services_run_beside_the_images() {
    let sys = Double::new();
    sys.put("/run/ksos/x", "");
    sys.fail("connect /run/ksos/network.socket", "refused");
    let mut node = node(&sys);
    let after = service("/bin/a", |c| c.after = vec!["network".to_owned()]);
    node.config.services = [("a".to_owned(), after), ("init".to_owned(), service("/bin/b", |_| {}))].into();
    let mut runner = Runner::new(node);
    runner.handle(Event::Begin);
    runner.began();
    assert_eq!(
        sys.calls_of("spawn"),
        ["spawn /usr/lib/ksos/ksos-runtime agent", "spawn /usr/lib/ksos/ksos-runtime network"]
    );
    sys.failures.borrow_mut().clear();
    sys.now.set(sys.now.get() + 1000);
    runner.fire_timers();
    assert_eq!(sys.calls_of("spawn").last().map(String::as_str), Some("spawn /bin/a"));
    let said = sys.terminal.borrow().clone();
    assert!(said.contains("service init of the image is not started: the name belongs to PID 1"), "{said}");
    assert!(said.contains("ksos: stage 80 services: ok 0 ms (2 started, 1 to follow)\n"), "{said}");
    assert!(said.contains("ksos: stage 90 ready: ok 1000 ms\nksos: ready name=demo"), "{said}");
}

#[test]
fn modules_are_locked_once_the_node_is_ready() {
    let sys = Double::new();
    sys.put("/proc/sys/kernel/modules_disabled", "0");
    then_reboot(&sys);
    let mut locking = runner(&sys, Vec::new());
    locking.node.config.lock_modules = true;
    locking.handle(Event::Begin);
    locking.began();
    assert_eq!(sys.text("/proc/sys/kernel/modules_disabled"), "1");
    assert!(sys.terminal.borrow().ends_with("ksos: modules: locked until the next boot\n"));
    let fields = [("MODALIAS".to_owned(), "usb:v1".to_owned())].into();
    locking.wake(Wake::Uevent(Uevent { action: "add".to_owned(), device: "/devices/x".to_owned(), fields }));
    locking.drivers.load(&sys);
    assert!(sys.calls_of("spawn").is_empty(), "there is no use in trying");
    let other = Double::new();
    let mut failing = runner(&other, Vec::new());
    failing.node.config.lock_modules = true;
    failing.handle(Event::Begin);
    failing.began();
    assert!(failing.node.degraded["modules lock"].starts_with("modules are not locked: "));
}

#[test]
fn a_service_is_confined_or_does_not_start() {
    let sys = Double::new();
    let mut runner = runner(&sys, vec![("a", service("/bin/a", |c| c.apparmor = Some("p".to_owned())))]);
    runner.handle(Event::Begin);
    assert!(sys.calls_of("spawn").is_empty());
    let reason = "service a: the kernel has no AppArmor to confine it by profile p, restart in 1000 ms";
    assert!(sys.terminal.borrow().contains(reason), "{}", sys.terminal.borrow());
    sys.put("/sys/kernel/security/apparmor/profiles", "p (enforce)\n");
    sys.now.set(sys.now.get() + 1000);
    runner.fire_timers();
    assert_eq!(sys.calls_of("spawn"), ["spawn /bin/a"]);
    let command = runner.command("a", Role::Main).expect("there is one");
    assert_eq!((command.apparmor.as_deref(), command.limits.core), (Some("p"), Some(0)));
}

#[test]
fn the_watchdog_is_fed_while_the_loop_turns_and_left_to_itself_when_it_is_off() {
    let sys = Double::new();
    sys.put("/dev/watchdog", "");
    let mut runner = runner(&sys, vec![("a", service("/bin/a", |_| {}))]);
    runner.node.config.watchdog_ms = Some(30_000);
    crate::init::watchdog::start(&mut runner.node).expect("works");
    assert_eq!(runner.timeout(), Some(10_000), "the only timer");
    sys.wakes.borrow_mut().extend([vec![], vec![]]);
    let start = sys.now.get();
    // Two turns without time passing, then the machine waits for the watchdog's timer; then it is asked to end.
    let turns = 3;
    for _ in 0..turns {
        let timeout = runner.timeout();
        sys.wait(timeout);
        runner.node.progress();
    }
    assert_eq!(*sys.feeds.borrow(), [(start + 10_000).to_string()]);
    sys.wakes.borrow_mut().push_back(vec![Wake::Signal(Signal::Usr2)]);
    let (down, mut watchdog) = runner.run();
    super::super::shutdown::finish(&sys, down, &mut watchdog);
    let feeds = sys.feeds.borrow().clone();
    assert_eq!(feeds.last().map(String::as_str), Some("V"));
    assert_eq!(feeds.len(), 1 + 5 + 1, "once per step of the shutdown");
}

#[test]
fn a_trial_that_nobody_confirms_restarts_the_machine_whatever_its_services_do() {
    let sys = Double::new();
    sys.obedient.set(false);
    sys.put("/run/ksos/x", "");
    let mut node = node(&sys);
    node.on_trial = true;
    // It ends neither with SIGTERM nor with SIGKILL: the signals do not arrive.
    sys.fail("signal", "lost");
    let all = [("a".to_owned(), service("/bin/a", |_| {}))].into();
    let runner = Runner::of(node, internal::Services { all, problems: Vec::new() });
    assert_eq!(runner.run().0, Down::Reboot);
    let said = sys.terminal.borrow().clone();
    assert!(said.contains("ksos: trial: slot a was not confirmed within 660 s"), "{said}");
    assert!(said.contains("ksos: service a: cannot be killed, left behind\n"), "{said}");
    assert!(sys.now.get() >= 661_000, "{}", sys.now.get());
}
