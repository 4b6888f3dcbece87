//! Factory reset on a disk and files in memory, with power cuts.

use super::super::data;
use super::super::node::tests::node;
use super::*;
use crate::disk::gpt::Table;
use crate::disk::gpt::tests::image;
use crate::disk::grow;
use crate::disk::put_little;
use crate::sys::double::{Double, MemoryDisk};

/// A node that has run for a while: its disk has a file system, and there are files on it.
fn machine() -> Double {
    let sys = Double::new();
    let disk = image(8, 1);
    let mut head = vec![0; 4096];
    put_little::<2>(&mut head, 1024 + 56, 0xef53);
    put_little::<4>(&mut head, 1024 + 24, 2);
    put_little::<4>(&mut head, 1024 + 4, 3 * 256);
    disk.bytes.borrow_mut()[4 << 20..(4 << 20) + 4096].copy_from_slice(&head);
    let partition = MemoryDisk::new(disk.bytes.borrow()[4 << 20..7 << 20].to_vec());
    sys.disks.borrow_mut().insert("/dev/vda".to_owned(), disk);
    sys.disks.borrow_mut().insert("/dev/vda4".to_owned(), partition);
    sys.put("/sys/block/vda/vda4/partition", "4\n");
    for path in FILES {
        sys.put(&format!("/data/{path}"), "x");
    }
    for program in ["mke2fs", "e2fsck"] {
        sys.put(&format!("/usr/sbin/{program}"), "");
    }
    sys
}

const FILES: [&str; 10] = [
    "ksos/machine-id",
    "ksos/boot-count",
    "ksos/imported.json",
    "ksos/instance.json",
    "etc/kubesolo/config.yaml",
    "etc/cni/net.d/10.conf",
    "var/lib/kubesolo/pki/ca.key",
    "var/lib/containerd/io/x",
    "var/log/ksos/boot.log",
    "lost+found/x",
];

fn booted<'a>(sys: &'a Double, cmdline: &str) -> (Node<'a>, Result<String, Error>) {
    let mut node = node(sys);
    node.cmdline = Cmdline::parse(cmdline);
    node.config.data.persist =
        ["/etc/kubesolo", "/var/lib/kubesolo", "/var/lib/containerd", "/var/log"].map(str::to_owned).to_vec();
    let result = data::mount(&mut node);
    (node, result)
}

fn left(sys: &Double) -> Vec<&'static str> {
    FILES.into_iter().filter(|path| sys.kind(&format!("/data/{path}")).is_some()).collect()
}

fn ask(sys: &Double, arguments: &[&str]) -> (i32, String) {
    let status = crate::init::status::Status { persistent: true, data: "/data".to_owned(), ..status::tests::status() };
    sys.put(status::PATH, serde_json::to_vec(&status).expect("JSON"));
    let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    let code = applet(sys, &arguments, &mut out, &mut errors);
    (code, String::from_utf8([out, errors].concat()).expect("text"))
}

const IDENTITY_LEFT: [&str; 2] = ["ksos/machine-id", "ksos/boot-count"];

#[test]
fn configuration_stays_unless_it_is_not_asked_for() {
    let with = |more: &[&'static str]| [&IDENTITY_LEFT[..], more, &["lost+found/x"]].concat();
    for (arguments, expected) in [
        (&["--yes"][..], with(&["ksos/instance.json", "etc/kubesolo/config.yaml"])),
        (&["--yes", "--keep="], with(&[])),
        (&["--yes", "--keep", "logs"], with(&["var/log/ksos/boot.log"])),
        (
            &["--yes", "--keep", "logs,configuration", "--no-reboot"],
            with(&["ksos/instance.json", "etc/kubesolo/config.yaml", "var/log/ksos/boot.log"]),
        ),
    ] {
        let sys = machine();
        assert_eq!(ask(&sys, arguments).0, 0, "{arguments:?}");
        assert_eq!(sys.calls_of("signal 1 Term").len(), usize::from(!arguments.contains(&"--no-reboot")));
        let (node, result) = booted(&sys, "");
        let detail = result.expect("works");
        assert!(detail.contains(", factory reset: removed "), "{detail}");
        assert_eq!(left(&sys), expected, "{arguments:?}");
        assert!(node.degraded.is_empty() && node.data.persistent);
        assert_eq!(sys.kind("/data/ksos/factory-reset.json"), None);
        assert_eq!(booted(&sys, "").1.expect("works"), "/dev/vda4", "once");
    }
}

#[test]
fn all_formats_the_partition_whatever_it_holds() {
    let sys = machine();
    assert_eq!(ask(&sys, &["--all", "--yes"]).0, 0);
    let (node, result) = booted(&sys, "");
    assert_eq!(result.expect("works"), "/dev/vda4, factory reset, formatted");
    assert!(left(&sys).is_empty() && node.data.persistent);
    let sys = machine();
    sys.disks.borrow()["/dev/vda4"].bytes.borrow_mut()[..8].copy_from_slice(b"LUKS\xba\xbe\0\0");
    sys.disks.borrow()["/dev/vda4"].bytes.borrow_mut()[1024..2048].fill(0);
    assert!(!booted(&sys, "").0.data.persistent, "foreign data is left alone");
    let (node, result) = booted(&sys, "ksos.factory-reset=all");
    assert_eq!(result.expect("works"), "/dev/vda4, formatted, factory reset");
    assert!(node.data.persistent);
}

#[test]
fn the_command_line_resets_and_a_bad_value_is_told() {
    let sys = machine();
    let detail = booted(&sys, "ksos.factory-reset=data").1.expect("works");
    let removed = "removed /etc/cni /ksos/imported.json /var; kept configuration, machine-id";
    assert_eq!(detail, format!("/dev/vda4, factory reset: {removed}"));
    let sys = machine();
    let (node, _) = booted(&sys, "ksos.factory-reset=yes");
    let expected = "factory reset: ksos.factory-reset=yes on the kernel command line: expected data or all";
    assert_eq!(node.degraded["factory reset"], expected);
    assert_eq!(left(&sys).len(), FILES.len());
}

/// Cuts the power after every number of changes; each time the boots after it must end where an undisturbed one does.
#[test]
fn a_power_cut_between_any_two_changes_is_made_good() {
    for (arguments, cmdline) in [
        (&["--yes"][..], ""),
        (&["--yes", "--all"], ""),
        (&[], "ksos.factory-reset=data"),
        (&[], "ksos.factory-reset=all"),
    ] {
        let prepared = || {
            let sys = machine();
            if !arguments.is_empty() {
                assert_eq!(ask(&sys, arguments).0, 0);
            }
            sys
        };
        let reference = prepared();
        booted(&reference, cmdline).1.expect("works");
        let expected = left(&reference);
        for changes in 0.. {
            let sys = prepared();
            sys.cut.set(Some(changes));
            let (_, first) = booted(&sys, cmdline);
            let survived = sys.cut.get() != Some(0) && first.is_ok();
            sys.cut.set(None);
            // The parameter may be for one boot only. It need not have taken effect when nothing was written yet.
            let untouched = left(&sys).len() == FILES.len() && !has_trace(&sys);
            let (node, result) = booted(&sys, if untouched { cmdline } else { "" });
            result.expect("the next boot works");
            assert!(node.degraded.is_empty(), "{:?}", node.degraded);
            assert_eq!(left(&sys), expected, "{arguments:?} {cmdline} cut after {changes}");
            assert_eq!(sys.kind("/data/ksos/factory-reset.json"), None);
            assert!(!marked(&sys));
            if survived {
                assert!(changes > 2, "there was something to cut");
                break;
            }
            assert!(changes < 500, "it ends");
        }
    }
}

fn marked(sys: &Double) -> bool {
    let table = Table::read(&sys.disks.borrow()["/dev/vda"]).expect("valid");
    let data = table.by_name("KSOLODATA").expect("there");
    grow::is_formatting(data) || grow::is_wiping(data)
}

fn has_trace(sys: &Double) -> bool {
    sys.kind("/data/ksos/factory-reset.json").is_some() || marked(sys)
}

#[test]
fn what_cannot_be_removed_is_named_and_tried_again() {
    let sys = machine();
    assert_eq!(ask(&sys, &["--yes"]).0, 0);
    sys.put("/data/ksos/factory-reset.json", "{");
    let (node, result) = booted(&sys, "");
    result.expect("the partition is in use");
    assert!(node.degraded["factory reset"].starts_with("factory reset: /data/ksos/factory-reset.json: EOF"));
    assert_eq!(left(&sys).len(), FILES.len());
}

#[test]
fn a_format_that_fails_leaves_memory_and_is_tried_again() {
    let sys = machine();
    assert_eq!(ask(&sys, &["--yes", "--all"]).0, 0);
    let failure = [(crate::sys::Exit::Code(1), "bad blocks".to_owned())];
    sys.runs.borrow_mut().insert("/usr/sbin/mke2fs".to_owned(), failure.into());
    let (node, result) = booted(&sys, "");
    assert_eq!(result.expect_err("degraded").to_string(), "mke2fs: exit status 1: bad blocks");
    assert!(!node.data.persistent);
    assert_eq!(sys.calls_of("mount").last().map(String::as_str), Some("mount tmpfs /data tmpfs rw mode=0755"));
    let (node, result) = booted(&sys, "");
    assert_eq!(result.expect("works"), "/dev/vda4, formatted");
    assert!(node.data.persistent && left(&sys).is_empty());
}

#[test]
fn the_applet_refuses_what_it_does_not_know_and_asks_first() {
    let sys = machine();
    for (arguments, expected, code) in [
        (&["--keep", "pods"][..], "pods cannot be kept by name; what can be: configuration, logs", 2),
        (&["--all", "--keep", "logs"], "--all keeps nothing", 2),
        (&["--keep"], "--keep needs a list", 2),
        (&["--force"], "unknown argument --force", 2),
        (&["--all"], "nothing was done\nhint: --yes does it", 2),
        (&[], "removed; kept: configuration, machine-id", 2),
    ] {
        let (found, text) = ask(&sys, arguments);
        assert!(found == code && text.contains(expected), "{arguments:?}: {text}");
    }
    assert_eq!(sys.kind("/data/ksos/factory-reset.json"), None);
    assert!(sys.calls_of("signal").is_empty());
    let status = crate::init::status::Status { persistent: false, ..status::tests::status() };
    sys.put(status::PATH, serde_json::to_vec(&status).expect("JSON"));
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    assert_eq!(applet(&sys, &["--yes".to_owned()], &mut out, &mut errors), 1);
    let text = String::from_utf8(errors).expect("text");
    assert_eq!(text, "factory-reset: data is in memory only and ends with the next restart\n");
}
