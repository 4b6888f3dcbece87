//! The network section in both forms.

use std::net::IpAddr;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn default_route(via: &str) -> Route {
    Route { to: "0.0.0.0/0".to_owned(), via: ip(via), metric: None }
}

#[test]
fn no_network_and_plain_dhcp_are_dhcp_everywhere() {
    for text in ["", "network: {mode: dhcp}\n", "network:\n"] {
        let parsed = parse_document(text).unwrap().document;
        let network = resolve(None, Some(&parsed), None, &Document::default()).config.network;
        assert_eq!(network, Network::default(), "{text}");
    }
}

#[test]
fn a_static_address_has_route_and_name_servers() {
    let with_prefix = network_of(
        "network: {mode: static, interface: eth0, address: 192.168.1.100/24, gateway: 192.168.1.1, dns: [192.168.1.1, 1.1.1.1], search: site.example, mtu: 1400}\n",
    );
    let interface = &with_prefix.interfaces[0];
    assert_eq!(interface.kind, InterfaceKind::Ethernet(Match { name: Some("eth0".to_owned()), mac: None }));
    assert_eq!(interface.addresses, ["192.168.1.100/24"]);
    assert_eq!(interface.routes, [default_route("192.168.1.1")]);
    assert_eq!((interface.dhcp4, interface.mtu, interface.optional), (false, Some(1400), false));
    assert_eq!(with_prefix.nameservers, [ip("192.168.1.1"), ip("1.1.1.1")]);
    assert_eq!(with_prefix.search, ["site.example"]);
    for same in ["netmask: 255.255.255.0", "prefix: 24"] {
        let text = format!("network: {{address: 192.168.1.100, {same}, gateway: 192.168.1.1}}\n");
        let network = network_of(&text);
        assert_eq!(network.interfaces[0].addresses, ["192.168.1.100/24"], "{same}");
        assert_eq!(network.interfaces[0].kind, InterfaceKind::Ethernet(Match::default()));
    }
    let closed = network_of("network: {address: 10.0.0.5/8}\n");
    assert_eq!(closed.interfaces[0].routes, []);
}

#[test]
fn off_sets_nothing_up_and_nothing_waits() {
    let network = network_of("network: {mode: off}\n");
    let interface = &network.interfaces[0];
    assert!(!interface.dhcp4 && !interface.accept_ra && interface.addresses.is_empty() && interface.optional);
    assert_eq!(network.wait_ms, 0);
}

#[test]
fn a_vlan_has_the_address_and_its_interface_none() {
    let network =
        network_of("network: {interface: en*, vlan: 42, address: 10.1.0.2/24, gateway: 10.1.0.1, mtu: 1500}\n");
    let [below, vlan] = network.interfaces.as_slice() else { panic!("{network:?}") };
    assert_eq!((below.id.as_str(), below.addresses.len(), below.routes.len()), ("ethernet", 0, 0));
    assert_eq!(vlan.id, "vlan42");
    assert_eq!(vlan.kind, InterfaceKind::Vlan { link: "ethernet".to_owned(), vlan: 42 });
    assert_eq!((vlan.addresses.as_slice(), vlan.mtu), (&["10.1.0.2/24".to_owned()][..], Some(1500)));
    let dhcp = network_of("network: {vlan: 7}\n");
    assert!(!dhcp.interfaces[0].dhcp4 && dhcp.interfaces[1].dhcp4);
}

#[test]
fn contradictions_in_the_simple_form_are_errors() {
    for (section, expected) in [
        ("mode: static", "line 1, column 11: the mode is static, and network.address is not stated"),
        ("mode: dhcp, address: 10.0.0.1/8", "network.address is stated, and the mode is dhcp"),
        ("mode: off, gateway: 10.0.0.1", "network.gateway is stated, and the mode is off"),
        ("gateway: 10.0.0.1", "network.gateway is stated, and network.address is not"),
        ("address: 10.0.0.1", "has no prefix length (for example 10.0.0.1/24)"),
        ("address: 10.0.0.1/8, prefix: 8", "stated more than once"),
        ("address: 10.0.0.1, netmask: 255.0.255.0", "network.address 10.0.0.1 and its prefix length do not fit"),
        ("address: 10.0.0.1, prefix: 33", "do not fit"),
        ("netmask: 255.0.0.0", "network.netmask is stated, and network.address is not"),
        (
            "address: 10.0.0.2/24, gateway: 10.0.1.1",
            "line 1, column 42: the gateway 10.0.1.1 is in no network of the addresses 10.0.0.2/24",
        ),
        ("address: 10.0.0.2/24, gateway: 10.0.0.2", "is the node's own address"),
        ("address: 10.0.0.2/24, gateway: 'fd00::1'", "is in no network"),
        ("address: 10.0.0.256/24", "expected an IP address"),
        ("address: 10.0.0.1/024x", "expected an IP address"),
        ("vlan: 4095", "from 1 to 4094"),
        ("vlan: 0", "from 1 to 4094"),
        ("mtu: 100", "from 576 to 65535"),
        ("mtu: '1500'", "remove the quotes"),
        ("interface: eth0:1", "the name of an interface"),
        ("interface: averyverylongname", "the name of an interface"),
        ("dns: {a: b}", "expected a list"),
        ("dns: ns.example", "expected an IP address"),
        ("adress: 10.0.0.1/8", "did you mean address?"),
    ] {
        let found = errors(&format!("network: {{{section}}}\n"));
        assert!(found.iter().any(|error| error.contains(expected)), "{section}: {found:?}");
    }
}

const NETPLAN: &str = "version: 2
ethernets:
  lan:
    match: {macaddress: '52:54:00:AB:CD:EF'}
    addresses: [192.0.2.10/24, '2001:db8::10/64']
    gateway4: 192.0.2.1
    routes:
      - {to: 198.51.100.0/24, via: 192.0.2.254, metric: 50}
      - {to: default, via: 'fe80::1'}
    nameservers: {addresses: [192.0.2.53], search: [site.example]}
    mtu: 9000
  enp2s0: {dhcp4: true, accept-ra: false, optional: true}
vlans:
  storage: {id: 100, link: lan, addresses: [10.100.0.2/24]}
";

#[test]
fn version_2_is_read_with_and_without_its_top_key() {
    let bare = parse_network_config(NETPLAN).unwrap();
    let wrapped = format!("network:\n{}", NETPLAN.lines().map(|line| format!("  {line}\n")).collect::<String>());
    assert_eq!(parse_network_config(&wrapped).unwrap(), bare);
    assert_eq!(good(&wrapped).network, Some(bare.network.clone()));
    let NetworkDocument::Version2(network) = bare.network else { panic!("version 2") };
    let [lan, second, storage] = network.interfaces.as_slice() else { panic!("{network:?}") };
    let hardware = Match { name: None, mac: Some("52:54:00:ab:cd:ef".to_owned()) };
    assert_eq!(lan.kind, InterfaceKind::Ethernet(hardware));
    assert_eq!(lan.addresses, ["192.0.2.10/24", "2001:db8::10/64"]);
    let routes: Vec<String> =
        lan.routes.iter().map(|route| format!("{} {} {:?}", route.to, route.via, route.metric)).collect();
    assert_eq!(routes, ["0.0.0.0/0 192.0.2.1 None", "198.51.100.0/24 192.0.2.254 Some(50)", "::/0 fe80::1 None"]);
    assert_eq!(
        (lan.nameservers.as_slice(), lan.search.as_slice()),
        (&[ip("192.0.2.53")][..], &["site.example".to_owned()][..])
    );
    assert_eq!((lan.mtu, lan.dhcp4, lan.accept_ra, lan.optional), (Some(9000), false, true, false));
    assert_eq!(second.kind, InterfaceKind::Ethernet(Match { name: Some("enp2s0".to_owned()), mac: None }));
    assert_eq!((second.dhcp4, second.accept_ra, second.optional), (true, false, true));
    assert_eq!(storage.kind, InterfaceKind::Vlan { link: "lan".to_owned(), vlan: 100 });
}

#[test]
fn other_versions_and_forms_are_refused_by_name() {
    for (text, expected) in [
        ("version: 1\nconfig:\n  - type: physical\n    name: eth0\n", "version 1 is not supported"),
        ("network:\n  version: 1\n  config: []\n", "version 1 is not supported"),
        ("version: 3\n", "from 2 to 2"),
        ("address: 10.0.0.1/8\n", "the key version is missing"),
        ("- eth0\n", "found a list"),
        ("", "is empty"),
    ] {
        let found = parse_network_config(text).unwrap_err();
        assert!(found[0].message.contains(expected), "{text}: {found:?}");
    }
    assert!(errors("network: {version: 1, config: []}\n")[0].contains("version 1 is not supported"));
}

#[test]
fn contradictions_in_version_2_are_errors() {
    for (section, expected) in [
        ("vlans: {v1: {id: 5, link: eth9}}", "there is no Ethernet interface eth9 in this document"),
        ("vlans: {v1: {link: eth0}}\nethernets: {eth0: {}}", "network.vlans.v1: the key id is missing"),
        ("vlans: {eth0: {id: 5, link: eth0}}\nethernets: {eth0: {}}", "has the name of an Ethernet interface"),
        ("vlans: {averyverylongname: {id: 5, link: eth0}}\nethernets: {eth0: {}}", "at most 15"),
        ("ethernets: {eth0: {addresses: [10.0.0.1]}}", "with prefix length"),
        ("ethernets: {eth0: {addresses: [10.0.0.1/8], gateway4: 192.0.2.1}}", "is in no network"),
        ("ethernets: {eth0: {addresses: [10.0.0.2/8], routes: [{to: default}]}}", "the key via is missing"),
        ("ethernets: {eth0: {addresses: [10.0.0.2/8], routes: [{to: '::/0', via: 10.0.0.1}]}}", "another IP version"),
        (
            "ethernets: {eth0: {addresses: [10.0.0.2/8], routes: [{to: 10.1.2.3, via: 10.0.0.1}]}}",
            "a network with prefix",
        ),
        (
            "ethernets: {eth0: {addresses: [10.0.0.2/8]}, eth1: {addresses: [10.0.0.2/24]}}",
            "both have the address 10.0.0.2",
        ),
        ("ethernets: {eth0: {match: {driver: virtio}}}", "unknown key \"driver\""),
        ("ethernets: {eth0: {match: {macaddress: 52-54-00-12-34-56}}}", "a MAC address"),
        ("ethernets: {eth0: {}, eth0: {}}", "stated twice"),
        ("ethernets: [eth0]", "expected a mapping"),
        ("ethernets: {'a b': {}}", "a name of letters"),
        ("ethernets: {eth0: {dhcp: true}}", "did you mean dhcp4?"),
    ] {
        let found = parse_network_config(&format!("version: 2\n{section}\n")).unwrap_err();
        assert!(found.iter().any(|error| error.to_string().contains(expected)), "{section}: {found:?}");
    }
    // What DHCP gives is not known, so that a gateway beside it may fit.
    parse_network_config("version: 2\nethernets: {eth0: {dhcp4: true, routes: [{to: 10.9.0.0/16, via: 10.0.0.9}]}}\n")
        .unwrap();
}

#[test]
fn keys_of_netplan_that_have_no_effect_are_warnings() {
    let text =
        "version: 2\nrenderer: networkd\nbonds: {}\nethernets: {eth0: {dhcp4: true, dhcp6: true, set-name: lan}}\n";
    let found: Vec<String> = parse_network_config(text).unwrap().warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "line 2, column 1: network.renderer is not supported, ignored",
            "line 3, column 1: network.bonds is not supported, ignored",
            "line 4, column 33: network.ethernets.eth0.dhcp6 is not supported, ignored",
            "line 4, column 46: network.ethernets.eth0.set-name is not supported, ignored",
        ]
    );
}
