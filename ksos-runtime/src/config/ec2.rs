//! EC2 instance metadata, asked for when the machine is on EC2 or the kernel command line has `ksos.datasource=ec2`.
//!
//! PID 1 has neither HTTP nor an address, so a child (`fetch-ec2`, see `imds`) asks and leaves its answer in a file of
//! `/run`. It has [`BUDGET_MS`] for everything; then it is killed and the boot goes on. The address of the service is
//! `http://169.254.169.254`, or what `ksos.imds=http://...` says: for tests, and for clouds that speak the same protocol
//! elsewhere.

use crate::sys::{Command, Exit, Pid, Signal, Sys, read_line};

use super::Context;
use super::imds::{self, Answer, Failure, Report};
use super::source::{Found, Gathered, Source, text_of};

/// Kernel parameter with another address of the metadata service.
pub const PARAM_IMDS: &str = "ksos.imds";
/// The address on EC2 ("Access instance metadata for an EC2 instance", EC2 User Guide).
const ADDRESS: &str = "http://169.254.169.254";
/// Time for everything, from an address for the machine to the answer, in milliseconds.
const BUDGET_MS: u64 = 20_000;
/// Time after that until the child is killed, in milliseconds.
const GRACE_MS: u64 = 1000;
/// Pause between two looks at the child, in milliseconds.
const PAUSE_MS: u64 = 20;
/// Where the child leaves its answer.
const REPORT: &str = "/run/ksos/ec2.json";

/// Asks the metadata service.
pub(super) fn look(context: &Context<'_>, insist: bool, warnings: &mut Vec<String>) -> Gathered {
    if !insist && !is_ec2(context.sys) {
        return Gathered::Absent(None);
    }
    let address = context.cmdline.value(PARAM_IMDS).unwrap_or(ADDRESS);
    match ask(context, address) {
        Report::Answer(answer) => found(answer, address, warnings),
        // Turned off by whoever runs the instance: that is no fault, unless somebody asked for it.
        Report::Failure(Failure { turned_off: true, reason }) if !insist => {
            warnings.push(format!("{address}: {reason}"));
            Gathered::Absent(None)
        }
        Report::Failure(Failure { reason, .. }) => Gathered::Absent(Some(format!("{address}: {reason}"))),
    }
}

/// Returns whether this machine is an EC2 instance ("Identify EC2 Linux instances", EC2 User Guide). Nitro machines and
/// Graviton say it in SMBIOS; on Xen the UUID begins with `ec2`, as text or with its first fields in little-endian order.
fn is_ec2(sys: &dyn Sys) -> bool {
    let fact = |name: &str| read_line(sys, &format!("/sys/class/dmi/id/{name}")).unwrap_or_default().to_lowercase();
    if fact("sys_vendor") == "amazon ec2" || fact("bios_vendor") == "amazon ec2" {
        return true;
    }
    let uuid = fact("product_uuid");
    let says_ec2 = uuid.starts_with("ec2") || (uuid.get(4..5) == Some("2") && uuid.get(6..8) == Some("ec"));
    // Chance makes one UUID in some thousands look so; only Xen's are meant.
    fact("sys_vendor") == "xen" && fact("bios_version").contains("amazon") && says_ec2
}

/// Runs the child and takes its report.
fn ask(context: &Context<'_>, address: &str) -> Report {
    let sys = context.sys;
    let arguments = [ksos_formats::layout::RUNTIME_BINARY, "fetch-ec2", address, &BUDGET_MS.to_string(), REPORT];
    let command = Command { arguments: arguments.map(str::to_owned).to_vec(), ..Command::default() };
    let spawned = sys.make_directory("/run/ksos", 0o755).and_then(|()| sys.spawn(&command));
    let ended = spawned.map_err(|error| error.to_string()).and_then(|pid| wait_for(context, pid));
    let report = sys.read(REPORT, imds::REPORT_LIMIT);
    // It holds user-data. Not being able to remove what could be read or is not there changes nothing.
    let _ = sys.remove(REPORT);
    match (report, ended) {
        (Ok(bytes), _) => serde_json::from_slice(&bytes)
            .unwrap_or_else(|error| Report::failed(format!("the child's report: {error}"))),
        (Err(_), Err(reason)) => Report::failed(reason),
        (Err(error), Ok(exit)) => Report::failed(format!("{exit}, {error}")),
    }
}

/// Waits for the child's end, and makes it end when its time is over.
fn wait_for(context: &Context<'_>, pid: Pid) -> Result<Exit, String> {
    let sys = context.sys;
    let deadline = sys.uptime_ms() + BUDGET_MS + GRACE_MS;
    loop {
        while let Some((ended, exit)) = sys.reap() {
            if ended == pid {
                return Ok(exit);
            }
        }
        if sys.uptime_ms() >= deadline {
            // Reaped by the loop of PID 1, like any child that it does not know.
            let _ = sys.signal(pid, Signal::Kill);
            return Err(format!("no answer in {} s", (BUDGET_MS + GRACE_MS) / 1000));
        }
        sys.sleep_ms(PAUSE_MS);
        (context.progress)();
    }
}

/// Makes a configuration of what the service said.
fn found(answer: Answer, address: &str, warnings: &mut Vec<String>) -> Gathered {
    let user_data = match answer.user_data().map_err(|reason| vec![format!("{address}: {reason}")]) {
        Ok(bytes) => text_of("user-data", &bytes),
        Err(errors) => Err(errors),
    };
    let user_data = match user_data {
        Ok(text) => text,
        Err(errors) => return Gathered::Refused(errors),
    };
    let host_name = answer.local_hostname.filter(|name| {
        let fits = imds::is_name(name);
        if !fits {
            warnings.push(format!("{address}: local-hostname is no host name"));
        }
        fits
    });
    // JSON is YAML: the same reader takes it.
    let meta_data = serde_json::json!({ "instance-id": answer.instance_id, "local-hostname": host_name });
    Gathered::Found(Found {
        user_data,
        meta_data: Some(meta_data.to_string()),
        public_keys: answer.public_key.into_iter().collect(),
        ..Found::empty(Source::Ec2, address)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::Bench;
    use super::*;

    fn answer() -> Answer {
        Answer::new("i-0123456789abcdef0", Some("ip-10-0-0-7.ec2.internal"), b"hostname: n1\n", None)
    }

    fn bench(cmdline: &str, report: Option<&Report>) -> Bench {
        let bench = Bench::new(cmdline);
        bench.sys.put("/sys/class/dmi/id/sys_vendor", "Amazon EC2\n");
        bench.sys.exits.borrow_mut().extend([(7, Exit::Code(1)), (101, Exit::Code(0))]);
        if let Some(report) = report {
            bench.sys.put(REPORT, serde_json::to_vec(report).expect("JSON"));
        }
        bench
    }

    #[test]
    fn machines_are_told_apart() {
        let cases: [(&[(&str, &str)], bool); 8] = [
            (&[], false),
            (&[("sys_vendor", "QEMU")], false),
            (&[("sys_vendor", "Amazon EC2")], true),
            (
                &[
                    ("sys_vendor", "Xen"),
                    ("bios_version", "4.11.amazon"),
                    ("product_uuid", "ec2e1916-9099-7caf-fd21-x"),
                ],
                true,
            ),
            (
                &[("sys_vendor", "Xen"), ("bios_version", "4.11.amazon"), ("product_uuid", "45E12AEC-DCD1-B213-94ED")],
                true,
            ),
            (&[("sys_vendor", "Xen"), ("bios_version", "4.11.amazon"), ("product_uuid", "1234")], false),
            (&[("sys_vendor", "Xen"), ("bios_version", "4.17"), ("product_uuid", "ec2e1916")], false),
            (&[("sys_vendor", "Dell Inc."), ("product_uuid", "ec2e1916-9099")], false),
        ];
        for (facts, expected) in cases {
            let bench = Bench::new("");
            facts.iter().for_each(|(name, text)| bench.sys.put(&format!("/sys/class/dmi/id/{name}"), text));
            assert_eq!(is_ec2(&bench.sys), expected, "{facts:?}");
        }
    }

    #[test]
    fn elsewhere_nothing_is_asked() {
        let bench = Bench::new("");
        assert_eq!(look(&bench.context(), false, &mut Vec::new()), Gathered::Absent(None));
        assert!(bench.sys.calls.borrow().is_empty());
    }

    #[test]
    fn the_childs_answer_becomes_a_configuration() {
        let bench = bench("ksos.imds=http://192.0.2.1:8000", Some(&Report::Answer(answer())));
        let Gathered::Found(found) = look(&bench.context(), false, &mut Vec::new()) else { panic!("found") };
        assert_eq!((found.source, found.user_data.as_str()), (Source::Ec2, "hostname: n1\n"));
        let meta_data = r#"{"instance-id":"i-0123456789abcdef0","local-hostname":"ip-10-0-0-7.ec2.internal"}"#;
        assert_eq!(found.meta_data.as_deref(), Some(meta_data));
        let expected = "spawn /usr/lib/ksos/ksos-runtime fetch-ec2 http://192.0.2.1:8000 20000 /run/ksos/ec2.json";
        assert_eq!(bench.sys.calls_of("spawn"), [expected]);
        assert!(bench.sys.kind(REPORT).is_none(), "user-data does not stay in /run");
    }

    #[test]
    fn a_child_that_does_not_end_is_killed_and_the_boot_goes_on() {
        let bench = Bench::new("ksos.datasource=ec2");
        let Gathered::Absent(Some(reason)) = look(&bench.context(), true, &mut Vec::new()) else { panic!("absent") };
        assert_eq!(reason, "http://169.254.169.254: no answer in 21 s");
        assert_eq!(bench.sys.calls_of("signal"), ["signal 101 Kill"]);
        assert_eq!(bench.sys.now.get(), 22_000);
        let calls = std::cell::Cell::new(0);
        let context = Context { progress: &|| calls.set(calls.get() + 1), ..bench.context() };
        look(&context, true, &mut Vec::new());
        assert!(calls.get() > 500, "the watchdog is fed meanwhile");
    }

    #[test]
    fn failures_damaged_reports_and_services_that_are_turned_off() {
        let off = Report::Failure(Failure { turned_off: true, reason: "status 403".to_owned() });
        let off = bench("", Some(&off));
        let mut warnings = Vec::new();
        assert_eq!(look(&off.context(), false, &mut warnings), Gathered::Absent(None));
        assert_eq!(warnings, ["http://169.254.169.254: status 403"]);
        let failed = bench("", Some(&Report::failed("refused".to_owned())));
        assert!(matches!(look(&failed.context(), false, &mut Vec::new()), Gathered::Absent(Some(_))));
        let silent = bench("", None);
        let Gathered::Absent(Some(reason)) = look(&silent.context(), false, &mut Vec::new()) else { panic!("absent") };
        assert!(reason.contains("exit status 0, read /run/ksos/ec2.json: "), "{reason}");
        let damaged = bench("", None);
        damaged.sys.put(REPORT, "{\"Answer\":");
        assert!(matches!(look(&damaged.context(), false, &mut Vec::new()), Gathered::Absent(Some(_))));
        let unstarted = bench("", None);
        unstarted.sys.fail("spawn", "no memory");
        assert!(matches!(look(&unstarted.context(), false, &mut Vec::new()), Gathered::Absent(Some(_))));
    }

    #[test]
    fn odd_user_data_is_refused_and_an_odd_name_is_left_out() {
        let compressed = Answer::new("i-1", None, &[0x1f, 0x8b, 8], None);
        let Gathered::Refused(errors) = found(compressed, ADDRESS, &mut Vec::new()) else { panic!("refused") };
        assert!(errors[0].starts_with("user-data:1:1: "), "{errors:?}");
        let mut warnings = Vec::new();
        let odd = Answer::new("i-1", Some("<html>"), b"", Some("ssh-ed25519 AAAA"));
        let Gathered::Found(found) = found(odd, ADDRESS, &mut warnings) else { panic!("found") };
        assert_eq!(found.meta_data.as_deref(), Some(r#"{"instance-id":"i-1","local-hostname":null}"#));
        assert_eq!((found.public_keys.len(), warnings.len()), (1, 1));
    }
}
