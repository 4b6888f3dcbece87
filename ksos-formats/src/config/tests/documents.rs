//! What documents say: values, warnings, faults and their places.

use super::*;

const SSH_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPB7KXhPRB1LaHTPuSJFnVJVVgUxRZxFGk1vnVyHVcVS admin@example";

#[test]
fn every_section_is_read() {
    let text = format!(
        "#cloud-config
hostname: edge-01
ntp: {{enabled: false, servers: [192.0.2.1, time.example], pools: pool.example}}
ssh_authorized_keys:
  - {SSH_KEY}
write_files:
  - path: /etc/motd
    content: |
      Welcome
    permissions: '0600'
    owner: 1000:100
  - path: /var/lib/site/blob
    content: SGVsbG8=
    encoding: b64
    append: true
metrics: {{enabled: yes, listen: '127.0.0.1:9100'}}
kubeconfig: {{enabled: true, listen: ':8443', duration: 1h, fetches: 3, token: 0123456789abcdef}}
"
    );
    let document = good(&text);
    assert_eq!(document.hostname.as_deref(), Some("edge-01"));
    assert_eq!(document.ntp.enabled, Some(false));
    assert_eq!(document.ntp.servers.unwrap(), ["192.0.2.1", "time.example", "pool.example"]);
    assert_eq!(document.ssh_authorized_keys.unwrap(), [SSH_KEY]);
    let files = document.write_files.unwrap();
    assert_eq!(files[0].bytes().unwrap(), b"Welcome\n");
    assert_eq!((files[0].mode, files[0].owner, files[0].action), (0o600, (1000, 100), Action::Replace));
    assert_eq!(files[1].bytes().unwrap(), b"Hello");
    assert_eq!((files[1].mode, files[1].owner, files[1].action), (0o644, (0, 0), Action::Append));
    assert_eq!((document.metrics.enabled, document.metrics.listen.as_deref()), (Some(true), Some("127.0.0.1:9100")));
    let kubeconfig = document.kubeconfig;
    assert_eq!((kubeconfig.enabled, kubeconfig.duration_s, kubeconfig.fetches), (Some(true), Some(3600), Some(3)));
    assert_eq!(kubeconfig.token.as_deref(), Some("0123456789abcdef"));
}

#[test]
fn both_spellings_of_ca_certs_are_taken_and_together_they_are_an_error() {
    let pem = "-----BEGIN CERTIFICATE-----\n      MAYwBAcHBwc=\n      -----END CERTIFICATE-----";
    for (section, defaults) in [("ca_certs", "remove_defaults"), ("ca-certs", "remove-defaults")] {
        let text = format!("{section}:\n  {defaults}: true\n  trusted:\n    - |\n      {pem}\n");
        let certificates = good(&text).ca_certs;
        assert_eq!(certificates.remove_defaults, Some(true));
        assert!(certificates.trusted.unwrap()[0].starts_with("-----BEGIN CERTIFICATE-----\nMAYw"));
    }
    let both = errors("ca_certs: {remove_defaults: true}\nca-certs: {remove-defaults: true}\n");
    assert_eq!(both, ["line 2, column 1: ca-certs is another spelling of what line 1 states"]);
}

#[test]
fn an_empty_document_says_nothing() {
    for text in ["", "#cloud-config\n", "---\n", "{}\n"] {
        assert_eq!(good(text), Document::default());
    }
}

#[test]
fn unsupported_keys_are_warnings_with_their_place() {
    let parsed =
        parse_document("#cloud-config\nhostname: a\nruncmd:\n  - [reboot]\npackages: [vim]\nusers: []\n").unwrap();
    let warnings: Vec<String> = parsed.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "line 3, column 1: runcmd is not supported, ignored",
            "line 5, column 1: packages is not supported, ignored",
            "line 6, column 1: users is not supported, ignored",
        ]
    );
    assert_eq!(parsed.document.hostname.as_deref(), Some("a"));
    let inner = parse_document("ntp: {ntp_client: chrony}\nwrite_files: [{path: /a, defer: true}]\n").unwrap();
    assert_eq!(inner.warnings.len(), 2, "{:?}", inner.warnings);
}

#[test]
fn all_errors_come_in_one_run_in_the_order_of_the_document() {
    let text = "hostnme: a
network:
  mode: dchp
  dns: [1.1.1.1, 1.1.1]
kubesolo:
  debug: maybe
  mtu: 99999
  portainer-edge-asinc: true
metrics: :9100
";
    let found = errors(text);
    let expected = [
        "line 1, column 1: unknown key \"hostnme\" in the document (did you mean hostname?)",
        "line 3, column 9: network.mode: expected one of dhcp, static, off, found \"dchp\" (did you mean dhcp?)",
        "line 4, column 18: network.dns[1]: expected an IP address, found \"1.1.1\"",
        "line 6, column 10: kubesolo.debug: expected true or false, found \"maybe\"",
        "line 7, column 8: kubesolo.mtu: expected a number from 0 to 65535, found \"99999\"",
        "line 8, column 3: unknown key \"portainer-edge-asinc\" in kubesolo (did you mean portainer-edge-async?)",
        "line 9, column 10: metrics: expected a mapping, found a text",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_key_in_the_wrong_section_is_told_where_it_belongs() {
    let found = errors("portainer-edge-id: a\nkubesolo:\n  hostname: b\n");
    assert_eq!(
        found,
        [
            "line 1, column 1: unknown key \"portainer-edge-id\" in the document (portainer-edge-id belongs under kubesolo)",
            "line 3, column 3: unknown key \"hostname\" in kubesolo (hostname belongs at the beginning of a line, outside of kubesolo)",
        ]
    );
}

#[test]
fn diagnostics_have_the_length_of_the_value() {
    let errors = parse_document("kubesolo:\n  node-ip: 10.0.0.300\n").unwrap_err();
    assert_eq!((errors[0].line, errors[0].column, errors[0].length), (2, 12, Some(10)));
}

/// YAML 1.1 makes booleans of these, YAML 1.2 texts; both mean the same here.
#[test]
fn booleans_are_what_yaml_users_write() {
    for (text, expected) in
        [("true", true), ("yes", true), ("on", true), ("False", false), ("NO", false), ("off", false)]
    {
        assert_eq!(good(&format!("metrics: {{enabled: {text}}}\n")).metrics.enabled, Some(expected), "{text}");
    }
    for text in ["\"true\"", "y", "1", "enabled", "[true]", "{}"] {
        assert!(errors(&format!("metrics:\n  enabled: {text}\n"))[0].contains("expected true or false"), "{text}");
    }
    assert!(errors("metrics: {enabled: 'yes'}\n")[0].contains("remove the quotes"));
}

#[test]
fn permissions_are_octal_however_they_are_written_or_refused() {
    let mode = |text: &str| parse_document(&format!("write_files: [{{path: /a, permissions: {text}}}]\n"));
    for (text, expected) in [
        ("\"0644\"", 0o644),
        ("'644'", 0o644),
        ("0644", 0o644),
        ("0o755", 0o755),
        ("'0o600'", 0o600),
        ("\"4755\"", 0o4755),
    ] {
        assert_eq!(mode(text).unwrap().document.write_files.unwrap()[0].mode, expected, "{text}");
    }
    for text in ["644", "420", "0888", "u+x", "\"\"", "'07777777'", "-1", "0x1ff"] {
        assert!(mode(text).is_err(), "{text}");
    }
    assert!(mode("644").unwrap_err()[0].hint.as_ref().unwrap().contains("write \"0644\""));
}

#[test]
fn host_names_are_taken_as_written_and_checked() {
    // A YAML reader would make 101, 83 and 1000 of these.
    for name in ["\"0101\"", "0123", "1e3", "node-1.site.example", "a"] {
        assert_eq!(good(&format!("hostname: {name}\n")).hostname.unwrap(), name.trim_matches('"'));
    }
    for name in ["Edge-01", "edge_01", "-edge", "edge-", "a..b", "\"\"", "é", "a b", &"x".repeat(64)] {
        assert!(errors(&format!("hostname: {name}\n"))[0].contains("RFC 1123"), "{name}");
    }
    assert!(errors("hostname: on\n")[0].contains("put it in quotes"));
    assert!(errors("hostname:\nntp: {}\n")[0].contains("hostname has no value"));
    assert!(errors("hostname: ~\n")[0].contains("hostname has no value"));
    assert!(errors("hostname: [a]\n")[0].contains("found a list"));
}

#[test]
fn the_host_name_can_come_from_the_full_name() {
    assert_eq!(good("fqdn: edge-01.site.example\n").hostname.as_deref(), Some("edge-01"));
    assert_eq!(good("fqdn: a.example\nhostname: b\n").hostname.as_deref(), Some("b"));
    assert!(errors("fqdn: Edge.example\n")[0].contains("its first part is the host name"));
}

#[test]
fn sections_and_lists_without_value_are_warned_about() {
    let parsed = parse_document("kubesolo:\n#  debug: true\nssh_authorized_keys:\nhostname: a\n").unwrap();
    let warnings: Vec<String> = parsed.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "line 1, column 1: kubesolo has no value, ignored",
            "line 3, column 1: ssh_authorized_keys has no value, ignored",
        ]
    );
}

#[test]
fn write_files_are_checked() {
    for (file, expected) in [
        ("{content: x}", "the key path is missing"),
        ("{path: etc/motd}", "an absolute path"),
        ("{path: /etc/../shadow}", "an absolute path"),
        ("{path: /}", "an absolute path"),
        ("{path: /run//a}", "an absolute path"),
        ("{path: /run/a/}", "an absolute path"),
        ("{path: /a, encoding: gz+b64, content: H4sI}", "compressed content is not supported"),
        ("{path: /a, encoding: b64, content: '!!!'}", "is not base64"),
        ("{path: /a, encoding: utf-16}", "expected one of text/plain"),
        ("{path: /a, owner: admin}", "there are no other users"),
        ("{path: /a, owner: 1000:users}", "there are no other users"),
        ("/a", "expected a mapping"),
    ] {
        let found = errors(&format!("write_files:\n  - {file}\n"));
        assert!(found[0].contains(expected), "{file}: {found:?}");
    }
    let file = &good("write_files: [{path: /a, encoding: base64, content: \"SGVs\\n bG8\", owner: '7'}]\n")
        .write_files
        .unwrap()[0];
    assert_eq!((file.bytes().unwrap(), file.owner), (b"Hello".to_vec(), (7, 0)));
}

#[test]
fn ssh_keys_are_checked() {
    let long = format!("from=\"192.0.2.0/24\",no-pty {SSH_KEY}");
    assert_eq!(good(&format!("ssh_authorized_keys: ['{long}']\n")).ssh_authorized_keys.unwrap(), [long]);
    for key in [
        "ssh-ed25519",
        "ssh-ed25519 AAAA",
        "ssh-dss AAAAB3NzaC1kc3MAAACB",
        "AAAAC3NzaC1lZDI1NTE5AAAAIPB7KXhPRB1LaHTPuSJFnVJVVgUxRZxFGk1vnVyHVcVS",
        // The blob is of another type than the word before it.
        "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIPB7KXhPRB1LaHTPuSJFnVJVVgUxRZxFGk1vnVyHVcVS",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
    ] {
        assert!(
            errors(&format!("ssh_authorized_keys:\n  - \"{key}\"\n"))[0].contains("a public key in one line"),
            "{key}"
        );
    }
}

#[test]
fn certificates_are_checked() {
    for text in [
        "/etc/ssl/ca.pem",
        "-----BEGIN CERTIFICATE-----\\nMIIB",
        "-----BEGIN CERTIFICATE-----\\nSGVs\\n-----END CERTIFICATE-----",
        // Cut off in the middle.
        "-----BEGIN CERTIFICATE-----\\nMAYwBAcH\\n-----END CERTIFICATE-----",
    ] {
        assert!(errors(&format!("ca_certs: {{trusted: [\"{text}\"]}}\n"))[0].contains("certificates in PEM"), "{text}");
    }
}

#[test]
fn addresses_to_listen_on_are_checked() {
    for listen in ["':9100'", "127.0.0.1:9100", "'[::1]:9100'"] {
        good(&format!("metrics: {{listen: {listen}}}\n"));
    }
    for listen in ["9100", "':0'", "':99999'", "localhost:9100", "'::1:9100'", "127.0.0.1"] {
        assert!(errors(&format!("metrics: {{listen: {listen}}}\n"))[0].contains("an address and a port"), "{listen}");
    }
}

#[test]
fn durations_have_units() {
    for (text, seconds) in [("600", 600), ("90s", 90), ("10m", 600), ("2h", 7200), ("1d", 86_400), ("0", 0)] {
        assert_eq!(good(&format!("kubeconfig: {{duration: {text}}}\n")).kubeconfig.duration_s, Some(seconds), "{text}");
    }
    for text in ["10 m", "1.5h", "-1", "m", "1w", "99999999999999999999", "99999999999d"] {
        assert!(errors(&format!("kubeconfig: {{duration: {text}}}\n"))[0].contains("s, m, h or d"), "{text}");
    }
}

#[test]
fn meta_data_is_yaml_or_json() {
    let yaml = parse_meta_data("instance-id: i-0123\nlocal-hostname: Edge-01.site.example\npublic-keys: []\n").unwrap();
    let json = parse_meta_data("{\"instance-id\": \"i-0123\", \"local-hostname\": \"edge-01\"}").unwrap();
    assert_eq!(yaml, json);
    assert_eq!(yaml.instance_id.as_deref(), Some("i-0123"));
    assert_eq!(yaml.local_hostname.as_deref(), Some("edge-01"));
    // Identifiers are compared as text: nothing may be made of them.
    assert_eq!(parse_meta_data("instance-id: 00012\n").unwrap().instance_id.as_deref(), Some("00012"));
    assert_eq!(parse_meta_data("").unwrap(), MetaData::default());
    assert_eq!(parse_meta_data("instance-id:\n").unwrap(), MetaData::default());
    for text in ["instance-id: [a]\n", "- a\n", "a\n", "local-hostname: a_b\n", "instance-id: \"\n"] {
        assert!(parse_meta_data(text).is_err(), "{text}");
    }
}
