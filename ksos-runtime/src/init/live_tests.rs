use super::super::node::tests::node;
use super::*;
use crate::config::label::tests::iso;
use crate::disk::gpt::tests::image;
use crate::sys::double::Double;

fn medium(sys: &Double) -> Node<'_> {
    let mut node = node(sys);
    node.handover.medium = Some("/dev/sr0".to_owned());
    node.handover.disk = String::new();
    sys.put("/run/ksos/medium/ksos/root.squashfs", "x");
    node
}

#[test]
fn nothing_is_installed_unless_it_is_asked_for() {
    let sys = Double::new();
    let mut node = medium(&sys);
    assert_eq!(install(&mut node).expect("fine"), "not asked for");
    assert!(sys.calls_of("down").is_empty());
}

#[test]
fn what_the_medium_asks_for_is_carried_out_and_a_fault_leaves_the_system_running() {
    let sys = Double::new();
    let mut node = medium(&sys);
    sys.put("/run/ksos/medium/ksos/install.yaml", "install: {disk: /dev/vda}\n");
    sys.put("/run/ksos/medium/ksos/install.json", "{}");
    let error = install(&mut node).expect_err("no document").to_string();
    assert!(error.starts_with("/run/ksos/medium/ksos/install.json: missing field"), "{error}");
    sys.put("/run/ksos/medium/ksos/install.yaml", "install: {disk: vda}\n");
    let error = install(&mut node).expect_err("no disk").to_string();
    assert!(error.starts_with("the medium's install.yaml:1:"), "{error}");
    assert!(sys.calls_of("down").is_empty());
}

#[test]
fn a_document_that_the_volume_is_not_named_by_is_refused() {
    let sys = Double::new();
    let mut node = medium(&sys);
    node.cmdline = crate::cmdline::Cmdline::parse("ksos.live=KSOS_0123456789ABCDEF01234567 ksos.install=auto");
    let document = "{\"format\": 1, \"image\": {\"name\": \"x\", \"version\": \"1.0.0\", \"arch\": \"x86_64\", \"epoch\": 1}, \
                    \"size\": 0, \"minimum_disk\": 0, \"pieces\": [], \
                    \"sha256\": \"0000000000000000000000000000000000000000000000000000000000000000\"}";
    sys.put("/run/ksos/medium/ksos/install.json", document);
    let error = install(&mut node).expect_err("another document").to_string();
    assert_eq!(error, "the medium is damaged: its document is another than the one that its name is made of");
}

#[test]
fn the_only_disk_with_data_is_used_and_several_are_not() {
    let sys = Double::new();
    let node = medium(&sys);
    let attach = |name: &str, seed| {
        sys.put(&format!("/sys/block/{name}/size"), "1");
        sys.disks.borrow_mut().insert(format!("/dev/{name}"), image(8, seed));
    };
    assert_eq!(data_disk(&node), Err("no disk has a partition named KSOLODATA".to_owned()));
    attach("vda", 1);
    assert_eq!(data_disk(&node), Ok("/dev/vda".to_owned()));
    attach("vdb", 9);
    assert_eq!(data_disk(&node), Err("several disks have a partition named KSOLODATA: /dev/vda, /dev/vdb".to_owned()));
}

#[test]
fn the_medium_is_found_by_the_name_of_its_volume() {
    let sys = Double::new();
    sys.put("/sys/block/sr0/size", "1");
    sys.put("/sys/block/vda/size", "1");
    sys.disks.borrow_mut().insert("/dev/sr0".to_owned(), iso("KSOS_0123456789ABCDEF01234567"));
    sys.disks.borrow_mut().insert("/dev/vda".to_owned(), image(8, 1));
    assert_eq!(find_medium(&sys, "KSOS_0123456789ABCDEF01234567").expect("there"), "/dev/sr0");
    let error = find_medium(&sys, "KSOS_0123456789ABCDEF01234568").expect_err("another").to_string();
    assert_eq!(error, "no disk has the volume KSOS_0123456789ABCDEF01234568; disks: sr0, vda");
}
