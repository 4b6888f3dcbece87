//! The whole stage, over the double.

use ksos_formats::config::{InterfaceKind, NodeConfig};
use ksos_formats::layout;

use super::*;
use crate::sys::double::Double;

const DATA: &str = "/etc/kubesolo/cloud-init.yaml";
const STATE: &str = "/data/ksos/config/state.json";
const SEED: &str = "/run/ksos/nocloud";
const KEY: &str = "aHR0cHM6Ly9lZGdlLmV4YW1wbGUub3Jn";

/// A machine, its command line and its image.
pub(super) struct Bench {
    pub(super) sys: Double,
    pub(super) cmdline: Cmdline,
    pub(super) image: RuntimeConfig,
    boot: u64,
}

impl Bench {
    /// Returns a node with an image whose `/etc/kubesolo` persists.
    pub(super) fn new(cmdline: &str) -> Self {
        let mut image = crate::init::test_image();
        image.data.persist = vec!["/etc/kubesolo".to_owned()];
        let sys = Double::new();
        sys.make_directory("/etc/kubesolo", 0o755).expect("made");
        sys.calls.borrow_mut().clear();
        Bench { sys, cmdline: Cmdline::parse(cmdline), image, boot: 0 }
    }

    pub(super) fn context(&self) -> Context<'_> {
        Context {
            sys: &self.sys,
            cmdline: &self.cmdline,
            image: &self.image,
            data: "/data",
            boot: self.boot,
            progress: &|| (),
        }
    }

    /// Boots: memory is empty, the data partition is as it was.
    fn boot(&mut self) -> ConfigurationStatus {
        self.boot += 1;
        let cut = self.sys.cut.take();
        for name in ["config.json", "hosts", "hostname", "ca-certificates.crt", "ssh"] {
            self.sys.remove_tree(&format!("/run/ksos/{name}")).expect("removed");
        }
        self.sys.cut.set(cut);
        self.sys.calls.borrow_mut().clear();
        set_up(&self.context())
    }

    /// Puts a NoCloud volume in; `None` pulls it.
    fn seed(&self, files: Option<&[(&str, &str)]>) {
        self.sys.remove_tree(SEED).expect("removed");
        self.sys.remove_tree("/sys/block").expect("removed");
        for (name, text) in files.unwrap_or_default() {
            self.sys.put("/sys/block/sr0/size", "9\n");
            self.sys.disks.borrow_mut().insert("/dev/sr0".to_owned(), label::tests::iso("cidata"));
            self.sys.put(&format!("{SEED}/{name}"), text);
        }
    }

    fn config(&self) -> NodeConfig {
        serde_json::from_str(&self.sys.text(layout::NODE_CONFIG)).expect("JSON")
    }

    fn host_name(&self) -> Option<String> {
        self.config().hostname
    }

    fn there(&self, path: &str) -> bool {
        self.sys.kind(path).is_some()
    }
}

fn fine(status: &ConfigurationStatus) {
    assert!(status.errors.is_empty(), "{:?}", status.errors);
}

#[test]
fn nothing_found_is_the_default_and_no_error() {
    let mut bench = Bench::new("");
    let status = bench.boot();
    fine(&status);
    assert_eq!((status.source.as_str(), status.stored, bench.config()), ("default", false, NodeConfig::default()));
    assert_eq!(bench.sys.calls_of("hostname"), ["hostname demo"]);
    bench.image.default_config = Some("/usr/lib/ksos/default.yaml".to_owned());
    bench.sys.put("/usr/lib/ksos/default.yaml", "hostname: from-image\n");
    fine(&bench.boot());
    assert_eq!(bench.host_name().as_deref(), Some("from-image"));
}

#[test]
fn precedence_from_the_command_line_to_the_default() {
    let mut bench = Bench::new("");
    bench.image.default_config = Some("/default.yaml".to_owned());
    bench.sys.put("/default.yaml", "hostname: default\nkubesolo:\n  mtu: 1400\n  node-ip: 192.0.2.1\n");
    bench.seed(Some(&[("user-data", "#cloud-config\nhostname: seed\nkubesolo:\n  mtu: 1300\n")]));
    let status = bench.boot();
    fine(&status);
    assert_eq!((status.source.as_str(), status.place.as_str()), ("nocloud", "/dev/sr0"));
    let config = bench.config();
    assert_eq!(config.hostname.as_deref(), Some("seed"));
    assert_eq!(config.kubesolo.flags["mtu"], 1300);
    assert_eq!(config.kubesolo.flags["node-ip"], "192.0.2.1", "what a document leaves out comes from the default");
    bench.sys.put(DATA, "hostname: data\n");
    assert_eq!(bench.boot().source, "data");
    assert_eq!(bench.host_name().as_deref(), Some("data"));
    bench.cmdline = Cmdline::parse("ksos.hostname=line");
    fine(&bench.boot());
    assert_eq!(bench.host_name().as_deref(), Some("line"));
    assert_eq!(bench.config().kubesolo.flags["mtu"], 1400);
    bench.cmdline = Cmdline::parse("ksos.datasource=nocloud");
    fine(&bench.boot());
    assert_eq!(bench.host_name().as_deref(), Some("seed"));
}

#[test]
fn nocloud_with_meta_data_and_network() {
    let mut bench = Bench::new("");
    let network = "version: 2\nethernets:\n  eth0:\n    addresses: [192.0.2.7/24]\n";
    bench.seed(Some(&[
        ("user-data", "#cloud-config\n"),
        ("meta-data", "instance-id: node-7\nlocal-hostname: n7\n"),
        ("network-config", network),
    ]));
    let status = bench.boot();
    fine(&status);
    assert_eq!((status.instance_id.as_str(), status.applied_at_boot), ("node-7", 1));
    let config = bench.config();
    assert_eq!(config.hostname.as_deref(), Some("n7"));
    assert_eq!(config.network.interfaces[0].addresses, ["192.0.2.7/24"]);
    assert!(matches!(config.network.interfaces[0].kind, InterfaceKind::Ethernet(_)));
}

#[test]
fn ec2_through_the_childs_report() {
    let mut bench = Bench::new("");
    bench.sys.put("/sys/class/dmi/id/sys_vendor", "Amazon EC2\n");
    let key = ssh_keys::tests::key("ssh-ed25519", "aws");
    let report = |user_data: &str| {
        let name = Some("ip-10-0-0-7.ec2.internal");
        let answer = imds::Answer::new("i-0abc", name, user_data.as_bytes(), Some(key.as_str()));
        serde_json::to_string(&imds::Report::Answer(answer)).expect("JSON")
    };
    bench.sys.put("/run/ksos/ec2.json", report(""));
    bench.sys.exits.borrow_mut().push_back((101, crate::sys::Exit::Code(0)));
    let status = bench.boot();
    fine(&status);
    assert_eq!((status.source.as_str(), status.instance_id.as_str()), ("ec2", "i-0abc"));
    assert_eq!(bench.host_name().as_deref(), Some("ip-10-0-0-7"));
    assert_eq!(bench.sys.text("/run/ksos/ssh/authorized_keys"), format!("{key}\n"));
    // The service does not answer at the next boot.
    let status = bench.boot();
    fine(&status);
    assert!(status.stored && status.warnings[0].ends_with("the configuration applied at boot 1 stays in force"));
    assert_eq!(bench.host_name().as_deref(), Some("ip-10-0-0-7"));
}

#[test]
fn what_is_written_once_is_not_written_again() {
    let document = |text: &str| {
        format!(
            "write_files:\n  - path: /etc/kubesolo/once\n    content: {text}\n  - path: /run/each\n    content: {text}\n"
        )
    };
    let mut bench = Bench::new("");
    bench.sys.put(DATA, document("one"));
    fine(&bench.boot());
    assert_eq!((bench.sys.text("/etc/kubesolo/once"), bench.sys.text("/run/each")), ("one".into(), "one".into()));
    bench.sys.put("/etc/kubesolo/once", "edited");
    bench.sys.remove("/run/each").expect("removed");
    let status = bench.boot();
    assert_eq!((bench.sys.text("/etc/kubesolo/once"), bench.sys.text("/run/each")), ("edited".into(), "one".into()));
    assert_eq!(status.applied_at_boot, 1);
    bench.sys.put(DATA, document("two"));
    assert_eq!(bench.boot().applied_at_boot, 3);
    assert_eq!(bench.sys.text("/etc/kubesolo/once"), "two");
}

#[test]
fn after_a_reset_that_keeps_the_configuration_it_is_written_again() {
    let mut bench = Bench::new("");
    bench.seed(Some(&[("user-data", "write_files: [{path: /etc/kubesolo/once, content: x}]\n")]));
    fine(&bench.boot());
    bench.seed(None);
    bench.sys.remove("/etc/kubesolo/once").expect("removed");
    fine(&bench.boot());
    assert!(!bench.there("/etc/kubesolo/once"), "what somebody removed stays removed");
    state::write_again(&bench.sys, "/data").expect("written");
    fine(&bench.boot());
    assert_eq!(bench.sys.text("/etc/kubesolo/once"), "x");
    bench.sys.put(STATE, "{");
    state::write_again(&bench.sys, "/data").expect("left alone");
    assert_eq!(bench.sys.text(STATE), "{");
}

#[test]
fn another_instance_with_the_same_document_is_applied_again() {
    let mut bench = Bench::new("");
    let user_data = "write_files:\n  - path: /etc/kubesolo/once\n    content: text\n";
    for (id, expected) in [("one", 1), ("one", 1), ("two", 3)] {
        let meta_data = format!("instance-id: {id}\n");
        bench.seed(Some(&[("user-data", user_data), ("meta-data", &meta_data)]));
        let status = bench.boot();
        fine(&status);
        assert_eq!((status.applied_at_boot, status.instance_id.as_str()), (expected, id));
    }
}

#[test]
fn a_source_that_disappears_leaves_its_configuration_in_force() {
    let mut bench = Bench::new("");
    bench.seed(Some(&[("user-data", "hostname: seed\n"), ("meta-data", "instance-id: i1\n")]));
    fine(&bench.boot());
    bench.seed(None);
    let status = bench.boot();
    fine(&status);
    assert_eq!((status.source.as_str(), status.stored, status.instance_id.as_str()), ("nocloud", true, "i1"));
    assert_eq!(
        status.warnings,
        ["nocloud (/dev/sr0) is not there; the configuration applied at boot 1 stays in force"]
    );
    assert_eq!(bench.host_name().as_deref(), Some("seed"));
    // Somebody wants to see the image's default; what was applied is not forgotten by that.
    bench.cmdline = Cmdline::parse("ksos.datasource=none");
    let status = bench.boot();
    assert_eq!((status.source.as_str(), bench.host_name()), ("default", None));
    bench.cmdline = Cmdline::default();
    assert!(bench.boot().stored);
    // An empty document takes it back.
    bench.sys.put(DATA, "#cloud-config\n");
    assert_eq!((bench.boot().source.as_str(), bench.host_name()), ("data", None));
}

#[test]
fn a_source_that_was_asked_for_and_never_there_is_an_error() {
    let mut bench = Bench::new("ksos.datasource=nocloud");
    let status = bench.boot();
    assert_eq!(status.errors, ["no volume is labelled cidata or CIDATA"]);
    assert_eq!((status.source.as_str(), bench.config()), ("default", NodeConfig::default()));
    bench.cmdline = Cmdline::parse("ksos.datasource=floppy");
    assert!(bench.boot().errors[0].contains("\"floppy\" is none of"));
}

#[test]
fn a_bad_document_is_refused_whole_and_the_last_one_stays_in_force() {
    let mut bench = Bench::new("");
    bench.sys.put(DATA, "hostname: good\nnetwork:\n  mode: sometimes\n");
    let status = bench.boot();
    assert_eq!((status.source.as_str(), bench.host_name()), ("default", None));
    assert!(status.errors[0].starts_with("/etc/kubesolo/cloud-init.yaml:3:9: "), "{:?}", status.errors);
    bench.sys.put(DATA, "hostname: good\n");
    fine(&bench.boot());
    for bad in [
        "hostname: [",
        "hostname: -x-\n",
        "\0",
        "#!/bin/sh\necho\n",
        "write_files:\n  - path: /usr/bin/x\n",
        "ca_certs:\n  trusted:\n    - junk\n",
    ] {
        bench.sys.put(DATA, bad);
        let status = bench.boot();
        assert!(status.errors[0].starts_with("/etc/kubesolo/cloud-init.yaml:"), "{bad:?}: {:?}", status.errors);
        assert_eq!((status.source.as_str(), status.stored, status.applied_at_boot), ("data", true, 2), "{bad:?}");
        assert_eq!(bench.host_name().as_deref(), Some("good"), "{bad:?}");
    }
    bench.seed(Some(&[("user-data", "hostname: seed\n")]));
    assert_eq!(bench.boot().source, "data", "nothing after what is refused is looked at");
}

#[test]
fn every_part_of_a_volume_can_be_what_is_wrong() {
    for (name, text) in [("user-data", "hostname: [\n"), ("meta-data", "- a\n"), ("network-config", "version: 3\n")] {
        let mut bench = Bench::new("");
        let good = [("user-data", "hostname: seed\n"), ("meta-data", "instance-id: i\n"), (name, text)];
        bench.seed(Some(&good));
        let status = bench.boot();
        assert!(status.errors[0].starts_with(&format!("/dev/sr0:{name}:1:")), "{:?}", status.errors);
        assert_eq!((status.source.as_str(), bench.host_name()), ("default", None));
    }
}

#[test]
fn a_bad_default_a_damaged_state_and_bad_parameters_still_give_a_node() {
    let mut bench = Bench::new("ksos.hostname=-bad- ksos.mtu=1400");
    bench.image.default_config = Some("/default.yaml".to_owned());
    bench.sys.put("/default.yaml", "hostname: [");
    bench.sys.put(STATE, "{");
    let status = bench.boot();
    assert_eq!((status.errors.len(), status.warnings.len()), (2, 1), "{status:?}");
    let all = format!("{}\n{}", status.errors.join("\n"), status.warnings[0]);
    assert!(
        all.contains("kernel parameter ksos.hostname") && all.contains("/default.yaml:1:") && all.contains(STATE),
        "{all}"
    );
    assert_eq!(bench.config().network.interfaces[0].mtu, Some(1400), "the other parameter holds");
    bench.sys.put("/default.yaml", "write_files:\n  - path: /usr/x\n");
    let status = bench.boot();
    assert!(
        status.errors.iter().any(|line| line.starts_with("/default.yaml: write_files[0]: /usr/x is on the")),
        "{status:?}"
    );
    assert_eq!(bench.config().network.interfaces[0].mtu, Some(1400));
}

#[test]
fn no_secret_reaches_the_status() {
    let mut bench = Bench::new(&format!("kubesolo.portainer-edge-key={KEY} kubesolo.edge-id=id1"));
    bench.sys.put(DATA, "kubeconfig:\n  token: t0p-secret-token\n  enabled: maybe\nhostname: t0p-secret-token!\n");
    bench.sys.fail("hostname", &format!("odd {KEY}"));
    let status = bench.boot();
    let text = serde_json::to_string(&status).expect("JSON");
    assert!(status.errors.len() >= 3 && text.contains("[secret]"), "{text}");
    assert!(!text.contains(KEY) && !text.contains("t0p-secret"), "{text}");
    assert!(bench.sys.text("/etc/kubesolo/config.yaml").contains(KEY), "KubeSolo gets it");
    assert_eq!(bench.sys.mode("/etc/kubesolo/config.yaml"), 0o600);
    assert_eq!(bench.sys.mode(layout::NODE_CONFIG), 0o600);
}

#[test]
fn unsupported_keys_are_reported_and_the_rest_holds() {
    let mut bench = Bench::new("");
    let good = ssh_keys::tests::key("ssh-ed25519", "me");
    let document = format!("#cloud-config\nhostname: n1\npackages: [vim]\nssh_authorized_keys:\n  - {good}\n");
    bench.sys.put(DATA, &document);
    let status = bench.boot();
    fine(&status);
    assert!(status.warnings.iter().any(|line| line.contains(":3:1: ") && line.contains("packages")), "{status:?}");
    assert_eq!((bench.host_name().as_deref(), status.source.as_str()), (Some("n1"), "data"));
    assert_eq!(bench.sys.text("/run/ksos/ssh/authorized_keys"), format!("{good}\n"));
    // A document with a key that nobody can log in with is as bad as any other.
    bench.sys.put(DATA, document.replace("hostname: n1", "hostname: n2").replace("ssh-ed25519 ", "ssh-rsa "));
    let status = bench.boot();
    assert!(status.errors[0].contains(":5:5: ssh_authorized_keys[0]"), "{status:?}");
    assert_eq!(bench.host_name().as_deref(), Some("n1"));
}

/// Every prefix of the writes of a change, then a boot with the source and one without it.
#[test]
fn a_power_cut_leaves_the_old_or_the_new_and_the_next_boot_completes_it() {
    let document = |text: &str| {
        format!(
            "hostname: {text}\nkubesolo:\n  portainer-edge-id: {text}\nwrite_files:\n  \
             - {{path: /etc/kubesolo/a, content: {text}}}\n  - {{path: /etc/kubesolo/log, content: {text}, append: true}}\n"
        )
    };
    let (mut old_seen, mut new_seen) = (false, false);
    let (mut reached, mut writes) = (true, 0);
    while reached {
        reached = false;
        for source_stays in [true, false] {
            let mut bench = Bench::new("");
            bench.seed(Some(&[("user-data", &document("old"))]));
            fine(&bench.boot());
            bench.seed(Some(&[("user-data", &document("new"))]));
            bench.sys.cut.set(Some(writes));
            let _ = bench.boot();
            reached |= bench.sys.cut.take() == Some(0);
            if !source_stays {
                bench.seed(None);
            }
            fine(&bench.boot());
            let name = bench.host_name().expect("a name");
            old_seen |= name == "old";
            new_seen |= !source_stays && name == "new";
            assert!(!source_stays || name == "new", "cut after {writes}");
            assert_eq!(bench.sys.text("/etc/kubesolo/a"), name, "cut after {writes}, source stays: {source_stays}");
            assert!(bench.sys.text("/etc/kubesolo/config.yaml").contains(&name), "cut after {writes}");
            let log = if name == "new" { "oldnew" } else { "old" };
            assert_eq!(bench.sys.text("/etc/kubesolo/log"), log, "cut after {writes}: appended once");
            assert!(bench.there(STATE));
        }
        writes += 1;
    }
    assert!(writes > 8 && old_seen && new_seen, "both sides of the commit were cut at");
}

#[test]
fn a_full_data_partition_keeps_the_configuration_in_memory_and_says_so() {
    let mut bench = Bench::new("");
    bench.sys.put(DATA, "hostname: n1\nwrite_files:\n  - {path: /etc/kubesolo/a, content: x}\n");
    bench.sys.fail("mkdir /data/ksos/config", "No space left on device");
    let status = bench.boot();
    assert_eq!((status.errors.len(), bench.host_name().as_deref()), (1, Some("n1")));
    assert!(!bench.there("/etc/kubesolo/a"), "not at every boot again");
    bench.sys.failures.borrow_mut().clear();
    fine(&bench.boot());
    assert_eq!(bench.sys.text("/etc/kubesolo/a"), "x");
}

#[test]
fn a_file_that_cannot_be_written_is_tried_again_at_the_next_boot() {
    let mut bench = Bench::new("");
    bench.sys.put(DATA, "hostname: n1\nwrite_files:\n  - {path: /etc/kubesolo/d/a, content: x}\n");
    bench.sys.put("/etc/kubesolo/d", "a file, not a directory");
    assert_eq!(bench.boot().errors.len(), 1);
    bench.sys.remove("/etc/kubesolo/d").expect("removed");
    fine(&bench.boot());
    assert_eq!(bench.sys.text("/etc/kubesolo/d/a"), "x");
}

#[test]
fn many_errors_are_not_all_kept() {
    let lines = shown((0..100).map(|number| number.to_string()).collect(), &Secrets::default());
    assert_eq!((lines.len(), lines.last().map(String::as_str)), (LINES_LIMIT + 1, Some("36 more")));
}
