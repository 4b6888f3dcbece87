use super::*;
use crate::sys::double::Double;

fn file(path: &str, content: &str, append: bool) -> FileEffect {
    let tree = format!("/{}", path.split('/').nth(1).expect("a name"));
    let content = content.as_bytes().to_vec();
    FileEffect { tree, path: path.to_owned(), content, append, mode: 0o640, owner: (7, 8) }
}

fn with_flags(flags: &[(&str, &str)]) -> NodeConfig {
    let mut config = NodeConfig::default();
    config.kubesolo.flags = flags.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
    config
}

#[test]
fn host_name_is_set_and_shown() {
    let sys = Double::new();
    sys.put("/etc/hosts", "127.0.0.1 localhost\n10.0.0.9 build");
    sys.put("/etc/hostname", "kubesolo\n");
    let mut notes = Notes::default();
    in_memory(&sys, &NodeConfig::default(), "n1.example.org", &Plan::default(), &mut notes);
    assert_eq!(notes.errors, [""; 0]);
    assert_eq!(sys.text("/run/ksos/hosts"), "127.0.0.1 localhost\n10.0.0.9 build\n127.0.1.1 n1.example.org n1\n");
    assert_eq!(sys.text("/run/ksos/hostname"), "n1.example.org\n");
    assert_eq!(sys.calls_of("hostname"), ["hostname n1.example.org"]);
    assert_eq!(sys.calls_of("bind"), ["bind /run/ksos/hosts /etc/hosts", "bind /run/ksos/hostname /etc/hostname"]);
}

#[test]
fn links_and_missing_files_of_the_image_are_left_alone() {
    let sys = Double::new();
    sys.link("../run/ksos/hosts", "/etc/hosts");
    in_memory(&sys, &NodeConfig::default(), "n1", &Plan::default(), &mut Notes::default());
    assert!(sys.calls_of("bind").is_empty());
    assert_eq!(sys.text("/run/ksos/hosts"), format!("{HOSTS}127.0.1.1 n1\n"));
    // A second run adds nothing: through the link it reads what it wrote.
    in_memory(&sys, &NodeConfig::default(), "n1", &Plan::default(), &mut Notes::default());
    assert_eq!(sys.text("/run/ksos/hosts"), format!("{HOSTS}127.0.1.1 n1\n"));
}

#[test]
fn the_document_for_the_other_processes_and_the_keys_are_roots_alone() {
    let sys = Double::new();
    let plan = Plan { keys: vec!["ssh-ed25519 A".to_owned(), "ssh-rsa B".to_owned()], ..Plan::default() };
    let config = with_flags(&[("portainer-edge-key", "SECRET")]);
    in_memory(&sys, &config, "n1", &plan, &mut Notes::default());
    let read: NodeConfig = serde_json::from_str(&sys.text(layout::NODE_CONFIG)).expect("JSON");
    assert_eq!(read, config);
    assert_eq!(sys.text("/run/ksos/ssh/authorized_keys"), "ssh-ed25519 A\nssh-rsa B\n");
    for (path, mode) in
        [(layout::NODE_CONFIG, 0o600), ("/run/ksos/ssh", 0o700), ("/run/ksos/ssh/authorized_keys", 0o600)]
    {
        assert_eq!(sys.mode(path), mode, "{path}");
    }
}

#[test]
fn authorities_are_added_or_replace_the_images() {
    let with = |remove_defaults, bundle: Option<&str>| {
        let sys = Double::new();
        bundle.iter().for_each(|text| sys.put(BUNDLE, text));
        let authorities = Some(Authorities { pem: "MINE\n".to_owned(), remove_defaults });
        let mut notes = Notes::default();
        in_memory(&sys, &NodeConfig::default(), "n1", &Plan { authorities, ..Plan::default() }, &mut notes);
        (sys.text(RUN_BUNDLE), sys.calls_of("bind").len(), notes.warnings.len())
    };
    assert_eq!(with(false, Some("IMAGE")), ("IMAGE\nMINE\n".to_owned(), 1, 0));
    assert_eq!(with(true, Some("IMAGE")), ("MINE\n".to_owned(), 1, 0));
    assert_eq!(with(false, None), ("MINE\n".to_owned(), 0, 1));
}

#[test]
fn files_are_written_with_mode_and_owner_and_appended_once() {
    let sys = Double::new();
    sys.put("/var/old", "one\n");
    let persistent =
        vec![file("/var/a/b", "text", false), file("/var/old", "two\n", true), file("/var/new", "x", true)];
    let plan = Plan { persistent, ..Plan::default() };
    let mut notes = Notes::default();
    assert!(persistent_files(&sys, &plan, &mut notes), "{:?}", notes.errors);
    assert!(persistent_files(&sys, &plan, &mut notes), "again, as after a power cut");
    assert_eq!(
        (sys.text("/var/a/b"), sys.text("/var/old"), sys.text("/var/new")),
        ("text".into(), "one\ntwo\n".into(), "x".into())
    );
    assert_eq!(sys.mode("/var/a/b"), 0o640);
    let placed = sys.calls_of("place");
    assert_eq!(placed[0], "place /var/a/b 640 Some((7, 8))");
    assert_eq!(placed.len(), 4, "what ends the file already is not appended again");
}

#[test]
fn links_that_lead_out_stop_one_file_and_not_the_others() {
    let sys = Double::new();
    sys.put("/etc/passwd", "root");
    sys.link("/etc", "/var/out");
    let persistent = vec![file("/var/out/passwd", "evil", false), file("/var/fine", "x", false)];
    let mut notes = Notes::default();
    assert!(!persistent_files(&sys, &Plan { persistent, ..Plan::default() }, &mut notes));
    assert_eq!(notes.errors, ["write /var/out/passwd: out on the way is a symbolic link or no directory"]);
    assert_eq!((sys.text("/etc/passwd"), sys.text("/var/fine")), ("root".into(), "x".into()));
}

#[test]
fn kubesolos_file_is_written_when_it_differs_and_removed_when_it_is_ours() {
    let sys = Double::new();
    sys.put("/etc/kubesolo/x", "");
    let mut notes = Notes::default();
    kubesolo(&sys, &NodeConfig::default(), &mut notes);
    assert!(sys.kind(KUBESOLO).is_none(), "no flags, no file");
    kubesolo(&sys, &with_flags(&[("node-ip", "192.0.2.1")]), &mut notes);
    assert!(sys.text(KUBESOLO).starts_with(MARK));
    assert_eq!(sys.mode(KUBESOLO), 0o600);
    sys.cut.set(Some(0));
    kubesolo(&sys, &with_flags(&[("node-ip", "192.0.2.1")]), &mut notes);
    sys.cut.set(None);
    assert_eq!(notes.errors, [""; 0], "nothing to write");
    kubesolo(&sys, &NodeConfig::default(), &mut notes);
    assert!(sys.kind(KUBESOLO).is_none(), "flags of an earlier configuration do not stay");
    assert!(notes.warnings.is_empty());
}

#[test]
fn a_file_of_somebody_else_is_kept_or_saved_once() {
    let sys = Double::new();
    sys.put(KUBESOLO, "debug: true\n");
    let flags = with_flags(&[("node-ip", "192.0.2.1")]);
    let run = |config: &NodeConfig| {
        let mut notes = Notes::default();
        kubesolo(&sys, config, &mut notes);
        assert!(notes.errors.is_empty());
        notes.warnings.join("; ")
    };
    assert!(run(&NodeConfig::default()).contains("is kept as it is"));
    assert_eq!(sys.text(KUBESOLO), "debug: true\n");
    assert!(run(&flags).contains("saved as /etc/kubesolo/config.yaml.orig"));
    assert_eq!(sys.text("/etc/kubesolo/config.yaml.orig"), "debug: true\n");
    assert_eq!(sys.mode("/etc/kubesolo/config.yaml.orig"), 0o600);
    sys.put(KUBESOLO, "debug: false\n");
    assert!(run(&flags).contains("is from before"));
    assert_eq!(sys.text("/etc/kubesolo/config.yaml.orig"), "debug: true\n");
    assert!(sys.text(KUBESOLO).starts_with(MARK));
    assert_eq!(run(&flags), "");
}

#[test]
fn one_failure_does_not_stop_the_rest() {
    let sys = Double::new();
    sys.fail("hostname", "not permitted");
    let memory = vec![file("/run/nested/a", "x", false)];
    sys.put("/run/ksos/x", "");
    let mut notes = Notes::default();
    in_memory(&sys, &NodeConfig::default(), "n1", &Plan { memory, ..Plan::default() }, &mut notes);
    assert_eq!(notes.errors.len(), 1);
    assert_eq!(sys.text("/run/nested/a"), "x");
}
