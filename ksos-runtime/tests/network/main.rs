//! The network process against a real kernel, a real DHCP server and a time server, in network namespaces.
//!
//! Needs root, iproute2, util-linux and dnsmasq; says what it skips without them, and fails as root where
//! `KSOS_REQUIRE_TOOLS` is 1. What the kernel itself lacks (VLANs,
//! dummy interfaces) is said as well.

#![expect(clippy::disallowed_methods, reason = "tests start programs and read their files")]

mod lab;

use std::net::UdpSocket;
use std::time::{Duration, SystemTime};

use ksos_runtime::network::status::Origin;
use lab::{lab, wait};

const OPTIONS: [&str; 6] = [
    "--dhcp-authoritative",
    "--dhcp-option=option:dns-server,10.9.0.1,10.9.0.2",
    "--dhcp-option=119,a.example,b.example",
    "--dhcp-option=26,1400",
    "--dhcp-option=121,0.0.0.0/0,10.9.0.1,192.168.77.0/24,10.9.0.3",
    "--dhcp-option=58,3",
];

fn dhcp_address(lab: &lab::Lab) -> Option<String> {
    let interface = lab.interface("eth0");
    let leased = interface.addresses.iter().find(|address| address.origin == Origin::Dhcp);
    leased.map(|address| address.address.to_string())
}

#[test]
fn a_lease_is_obtained_used_and_renewed() {
    let Some(mut lab) = lab() else { return };
    let (_server, asked) = lab.dhcp(&OPTIONS);
    let (_network, log) = lab.start(&[], &[]);
    wait("ready", 10, || lab.is_ready());
    wait("an address", 5, || dhcp_address(&lab).is_some());
    let address = dhcp_address(&lab).expect("an address");
    assert!(log.text().contains(&format!("eth0: {address}/24 by DHCP from 10.9.0.1, lease 120 s")), "{}", log.text());
    assert_eq!(lab.resolv_conf(), ["nameserver 10.9.0.1", "nameserver 10.9.0.2", "search a.example b.example"]);
    let routes = lab.node("ip -4 route");
    assert!(routes.contains(&format!("default via 10.9.0.1 dev eth0 proto dhcp src {address} metric 100")), "{routes}");
    assert!(routes.contains("192.168.77.0/24 via 10.9.0.3"), "{routes}");
    lab.node("ping -c 1 -W 2 10.9.0.1");
    let status = lab.status();
    assert!(status.online && status.ready && !status.fallback && status.problems.is_empty(), "{status:?}");
    assert_eq!(status.default_route.map(|route| (route.interface, route.metric)), Some(("eth0".to_owned(), 100)));
    let interface = lab.interface("eth0");
    assert_eq!((interface.mtu, interface.carrier, interface.mac.as_str()), (1400, true, "02:00:00:00:00:00"));
    assert_eq!(interface.gateway.map(|gateway| gateway.to_string()).as_deref(), Some("10.9.0.1"));
    assert!(interface.addresses.iter().any(|address| address.origin == Origin::LinkLocal), "IPv6 by the kernel");
    // T1 is 3 s: without a broadcast, and the address gets its time back.
    let discovered = asked.count("DHCPDISCOVER(srv0)");
    wait("renewed twice", 12, || asked.count("DHCPREQUEST(srv0)") >= 3);
    wait("its time back", 5, || {
        lab.node("ip addr show eth0").contains("valid_lft 120sec")
            || lab.node("ip addr show eth0").contains("valid_lft 119sec")
    });
    assert_eq!(asked.count("DHCPDISCOVER(srv0)"), discovered, "{}", asked.text());
    assert_eq!(log.count("by DHCP from"), 1, "a renewal is no news: {}", log.text());
}

#[test]
fn a_cable_that_was_out_and_a_process_that_was_killed_keep_the_address() {
    let Some(mut lab) = lab() else { return };
    let (server, asked) = lab.dhcp(&["--dhcp-authoritative"]);
    let (network, log) = lab.start(&[], &[]);
    wait("an address", 10, || dhcp_address(&lab).is_some());
    let address = dhcp_address(&lab);
    let discovered = asked.count("DHCPDISCOVER");
    lab.server("ip link set srv0 down");
    wait("no carrier", 5, || !lab.interface("eth0").carrier);
    assert_eq!(dhcp_address(&lab), address, "the address stays");
    assert!(!lab.status().online);
    lab.server("ip link set srv0 up");
    wait("confirmed", 10, || {
        asked.count("DHCPACK(srv0)") >= 2 && lab.interface("eth0").dhcp.as_deref() == Some("bound")
    });
    assert_eq!((asked.count("DHCPDISCOVER"), log.count("by DHCP from")), (discovered, 1), "{}", log.text());
    // A loss so short that it is over when the process looks.
    lab.server("ip link set srv0 down; ip link set srv0 up");
    wait("confirmed again", 10, || asked.count("DHCPACK(srv0)") >= 3);

    // Set down and up by hand while no server answers: the routes are back all the same.
    drop(server);
    lab.node("ip link set eth0 down; ip link set eth0 up");
    let has_route = || lab.node("ip route").contains("default via 10.9.0.1 dev eth0");
    wait("its routes", 3, has_route);
    // Both are over when the process looks.
    network.signal("STOP");
    lab.node("ip link set eth0 down; ip link set eth0 up");
    network.signal("CONT");
    wait("its routes once more", 3, has_route);
    let (_server, asked) = lab.dhcp(&["--dhcp-authoritative"]);
    wait("confirmed by a server that came back", 15, || lab.interface("eth0").dhcp.as_deref() == Some("bound"));
    let before = asked.count("DHCPACK(srv0)");

    drop(network);
    assert!(lab.node("ip addr show eth0").contains(&address.clone().expect("an address")));
    let (network, _) = lab.start(&[], &[]);
    wait("confirmed by the next process", 10, || asked.count("DHCPACK(srv0)") > before);
    assert_eq!(dhcp_address(&lab), address);
    // After a restart of the node: no address, but the lease that was kept.
    drop(network);
    lab.node("ip addr flush dev eth0; ip link set eth0 down");
    let (_network, _) = lab.start(&[], &[]);
    wait("asked for the same address", 10, || {
        asked.count("DHCPACK(srv0)") >= before + 2 && dhcp_address(&lab).is_some()
    });
    assert_eq!(dhcp_address(&lab), address);
}

#[test]
fn another_network_behind_the_same_cable_gives_another_address() {
    let Some(mut lab) = lab() else { return };
    let (server, _) = lab.dhcp(&["--dhcp-authoritative"]);
    let (_network, log) = lab.start(&[], &[]);
    wait("an address", 10, || dhcp_address(&lab).is_some());
    lab.server("ip link set srv0 down; ip addr flush dev srv0; ip addr add 10.77.0.1/24 dev srv0");
    drop(server);
    wait("no carrier", 5, || !lab.interface("eth0").carrier);
    let (_server, asked) = lab.dhcp(&["--dhcp-authoritative", "--dhcp-range=10.77.0.50,10.77.0.60,120"]);
    lab.server("ip link set srv0 up");
    wait("another address", 15, || dhcp_address(&lab).is_some_and(|address| address.starts_with("10.77.0.")));
    assert!(asked.count("DHCPNAK(srv0)") >= 1 && log.text().contains("refuses the address"), "{}", log.text());
    let addresses = lab.node("ip -4 addr show eth0; ip -4 route");
    assert!(!addresses.contains("10.9.0."), "nothing is left: {addresses}");
}

#[test]
fn a_router_advertisement_gives_an_address_and_a_route_with_forwarding_on() {
    let Some(mut lab) = lab() else { return };
    lab.node("echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
    lab.server("ip -6 addr add fd00:9::1/64 dev srv0 nodad");
    let (_server, _asked) =
        lab.dhcp(&["--dhcp-authoritative", "--enable-ra", "--dhcp-range=fd00:9::,ra-only,64", "--ra-param=srv0,4"]);
    let (_network, log) = lab.start(&[], &[]);
    let advertised = |lab: &lab::Lab| {
        let addresses = lab.interface("eth0").addresses;
        addresses
            .into_iter()
            .find(|address| address.origin == Origin::Ra)
            .map(|address| (address.address, address.prefix))
    };
    wait("an advertised address", 10, || advertised(&lab).is_some());
    let (address, prefix) = advertised(&lab).expect("an address");
    assert!(address.to_string().starts_with("fd00:9::") && prefix == 64, "{address}/{prefix}");
    wait("an advertised route", 5, || lab.node("ip -6 route").contains("default via fe80::"));
    wait("a way to the router", 5, || lab.try_node("ping -6 -c 1 -W 2 fd00:9::1"));
    assert!(lab.status().problems.is_empty(), "{:?}\n{}", lab.status(), log.text());
}

#[test]
fn of_two_interfaces_the_first_has_the_better_route() {
    let Some(mut lab) = lab() else { return };
    lab.plug(1);
    lab.server("ip addr add 10.8.0.1/24 dev srv1");
    let second = ["--interface=srv1", "--dhcp-range=10.8.0.50,10.8.0.60,120", "--dhcp-authoritative"];
    let (_server, _) = lab.dhcp(&second);
    let (_network, _) = lab.start(&[], &[]);
    let leased = |name: &str| lab.interface(name).lease.is_some();
    wait("both addresses", 10, || leased("eth0") && leased("eth1"));
    let routes = lab.node("ip -4 route show default");
    assert!(routes.contains("via 10.9.0.1 dev eth0") && routes.contains("metric 100"), "{routes}");
    assert!(routes.contains("via 10.8.0.1 dev eth1") && routes.contains("metric 101"), "{routes}");
    lab.server("ip link set srv1 down");
    wait("one cable is out", 5, || !lab.interface("eth1").carrier);
    assert!(lab.status().online && lab.interface("eth0").carrier, "{:?}", lab.status());
}

#[test]
fn static_addresses_routes_mtu_and_names() {
    let Some(mut lab) = lab() else { return };
    lab.plug(1);
    lab.node("ip link add veth9 type veth peer name veth8");
    let interfaces = r#"[
        {"id": "lan", "kind": {"ethernet": {"name": "eth0", "mac": null}}, "dhcp4": false, "accept_ra": false,
         "addresses": ["10.9.0.7/24", "2001:db8:9::7/64"], "nameservers": ["127.0.0.1", "10.9.0.1"], "search": ["lan.example"],
         "routes": [{"to": "0.0.0.0/0", "via": "10.9.0.1", "metric": null},
                    {"to": "192.168.5.0/24", "via": "172.31.0.9", "metric": 7},
                    {"to": "::/0", "via": "fe80::1", "metric": null}], "mtu": 1300, "optional": false},
        {"id": "spare", "kind": {"ethernet": {"name": null, "mac": "02:00:00:00:00:01"}}, "dhcp4": false, "accept_ra": true,
         "addresses": ["10.8.0.7/24"], "nameservers": ["2001:db8::53"], "search": [],
         "routes": [{"to": "0.0.0.0/0", "via": "10.8.0.1", "metric": null}], "mtu": null, "optional": true}]"#;
    lab.configure(&format!(
        r#"{{"network": {{"interfaces": {interfaces}, "nameservers": ["192.0.2.53"], "search": ["example"], "wait_ms": 15000}},
            "ntp": {{"enabled": false, "servers": []}}}}"#
    ));
    let (network, log) = lab.start(&[], &[]);
    wait("ready", 5, || lab.is_ready());
    wait("both", 5, || lab.interface("eth1").addresses.iter().any(|address| address.origin == Origin::Static));
    assert_eq!(
        lab.resolv_conf(),
        ["nameserver 192.0.2.53", "nameserver 10.9.0.1", "nameserver 2001:db8::53", "search example lan.example"]
    );
    let routes = lab.node("ip -4 route; ip -6 route");
    for expected in [
        "default via 10.9.0.1 dev eth0 proto static metric 100",
        "default via 10.8.0.1 dev eth1 proto static metric 200",
        "192.168.5.0/24 via 172.31.0.9 dev eth0 proto static metric 7 onlink",
        "default via fe80::1 dev eth0 proto static metric 100",
    ] {
        assert!(routes.contains(expected), "{expected}: {routes}");
    }
    let status = lab.status();
    assert!(status.problems.is_empty(), "{status:?}");
    assert_eq!(status.default_route.map(|route| route.interface).as_deref(), Some("eth0"), "the first entry wins");
    let first = lab.interface("eth0");
    assert_eq!((first.mtu, first.id.as_deref(), first.dhcp, first.lease), (1300, Some("lan"), None, None));
    assert_eq!(first.addresses.iter().filter(|address| address.origin == Origin::Static).count(), 2);
    assert!(lab.node("cat /proc/sys/net/ipv6/conf/eth0/accept_ra /proc/sys/net/ipv6/conf/eth1/accept_ra") == "0\n2\n");
    assert!(lab.node("ip link show veth9").contains("state DOWN"), "not the node's");
    assert!(log.text().contains("eth0: 10.9.0.7/24, 2001:db8:9::7/64 by configuration"), "{}", log.text());
    // An operator's set-down takes routes and IPv6 addresses; set up again, all is as it was.
    lab.node("ip link set eth0 down; ip link set eth0 up");
    wait("routes are back", 5, || {
        let now = lab.node("ip -4 route; ip -6 route; ip -6 addr show eth0");
        now.contains("default via 10.9.0.1 dev eth0") && now.contains("2001:db8:9::7/64") && now.contains("fe80::1")
    });
    drop(network);
    let (_network, _) = lab.start(&[], &[]);
    wait("ready again", 5, || lab.is_ready());
    assert!(lab.status().problems.is_empty(), "what is there already is no problem: {:?}", lab.status());
}

#[test]
fn an_interface_that_comes_later_is_set_up_and_one_that_goes_is_forgotten() {
    let Some(mut lab) = lab() else { return };
    lab.node("ip link delete eth0");
    let (_network, log) = lab.start(&[], &[]);
    wait("ready without any interface", 8, || lab.is_ready());
    assert!(log.text().contains("no interface has had a carrier for 5000 ms"), "{}", log.text());
    assert_eq!(lab.status().reason, "there is no interface that the configuration claims");
    lab.plug(0);
    lab.server("ip addr add 10.9.0.1/24 dev srv0");
    let (_server, _) = lab.dhcp(&["--dhcp-authoritative"]);
    wait("an address", 15, || dhcp_address(&lab).is_some());
    assert!(lab.status().online);
    lab.node("ip link delete eth0");
    wait("forgotten", 5, || lab.status().interfaces.is_empty());
    assert!(!lab.status().online && log.text().contains("eth0: the interface is gone"), "{}", log.text());
    assert_eq!(lab.resolv_conf(), [""; 0]);
}

#[test]
fn without_a_server_the_wait_ends_and_the_fallback_route_is_made() {
    let Some(mut lab) = lab() else { return };
    // Where the kernel has no dummy interfaces, a bridge of the name shows all but the making.
    let dummy = lab.try_node("ip link add probe type dummy && ip link delete probe");
    if !dummy {
        eprintln!("skipped in part: the kernel has no dummy interfaces");
        lab.node("ip link add ksos-fallback type bridge");
    }
    lab.configure(r#"{"network": {"wait_ms": 2000}}"#);
    let (_network, log) = lab.start(&[], &[]);
    std::thread::sleep(Duration::from_millis(1000));
    assert!(!lab.is_ready(), "it waits");
    wait("ready", 5, || lab.is_ready());
    assert!(log.text().contains("network: ready: after 2000 ms without default"), "{}", log.text());
    wait("the fallback", 5, || log.text().contains("network: no default route: fallback"));
    let seen = lab.node("ip -4 route; ip -4 addr show ksos-fallback");
    assert!(seen.contains("default via 203.0.113.255 dev ksos-fallback proto static metric 2147483647"), "{seen}");
    assert!(seen.contains("203.0.113.254/31"), "{seen}");
    wait("said", 5, || lab.status().fallback);
    let status = lab.status();
    assert!(
        !status.online && status.default_route.is_none() && status.reason == "eth0 has no address yet",
        "{status:?}"
    );
    assert_eq!(lab.resolv_conf(), [""; 0], "there, and empty");
    // A server that comes late: its route wins, the fallback stays.
    let (_server, _) = lab.dhcp(&["--dhcp-authoritative"]);
    wait("online", 40, || lab.status().online);
    wait("its route", 5, || lab.status().default_route.is_some_and(|route| route.interface == "eth0"));
    assert!(lab.node("ip route get 192.0.2.1").contains("dev eth0"));
    assert!(lab.status().fallback);
}

#[test]
fn vlans_are_made_on_what_is_below_them() {
    let Some(mut lab) = lab() else { return };
    let interfaces = r#"[
        {"id": "lan", "kind": {"ethernet": {"name": "eth*", "mac": null}}, "dhcp4": false, "accept_ra": false,
         "addresses": [], "nameservers": [], "search": [], "routes": [], "mtu": 1500, "optional": false},
        {"id": "lan.7", "kind": {"vlan": {"link": "lan", "vlan": 7}}, "dhcp4": false, "accept_ra": false,
         "addresses": ["10.7.0.7/24"], "nameservers": [], "search": [],
         "routes": [{"to": "0.0.0.0/0", "via": "10.7.0.1", "metric": null}], "mtu": 1400, "optional": false}]"#;
    lab.configure(&format!(
        r#"{{"network": {{"interfaces": {interfaces}, "nameservers": [], "search": [], "wait_ms": 3000}}}}"#
    ));
    let vlans = lab.try_node("ip link add link eth0 name probe type vlan id 9 && ip link delete probe");
    let (network, log) = lab.start(&[], &[]);
    wait("ready", 8, || lab.is_ready());
    if !vlans {
        eprintln!("skipped in part: the kernel has no VLANs");
        let text = "lan.7: create lan.7 as VLAN 7 on eth0: Operation not supported (os error 95)";
        assert_eq!(log.count(text), 1, "{}", log.text());
        assert!(lab.status().problems.iter().any(|problem| problem == text), "{:?}", lab.status());
        return;
    }
    lab.server(
        "ip link add link srv0 name srv0.7 type vlan id 7; ip addr add 10.7.0.1/24 dev srv0.7; ip link set srv0.7 up",
    );
    lab.node("ping -c 1 -W 5 10.7.0.1");
    let seen = lab.node("ip -d link show lan.7; ip route");
    assert!(seen.contains("vlan protocol 802.1Q id 7") && seen.contains("mtu 1400"), "{seen}");
    assert!(seen.contains("default via 10.7.0.1 dev lan.7"), "{seen}");
    drop(network);
    let (_network, _) = lab.start(&[], &[]);
    wait("taken over", 8, || lab.is_ready());
    assert!(lab.status().problems.is_empty(), "{:?}", lab.status());
}

/// Answers time requests on the server's side, `ahead` seconds ahead; returns how many came.
fn time_server(lab: &lab::Lab, ahead: u64) -> std::sync::Arc<std::sync::atomic::AtomicUsize> {
    let namespace = std::fs::File::open(lab.server_namespace()).expect("a namespace");
    let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = count.clone();
    let (opened, is_open) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        use std::os::fd::AsFd;
        rustix::thread::move_into_link_name_space(namespace.as_fd(), None).expect("in the namespace");
        let socket = UdpSocket::bind("10.9.0.1:123").expect("bound");
        opened.send(()).expect("told");
        let mut request = [0; 100];
        while let Ok((length, sender)) = socket.recv_from(&mut request) {
            assert_eq!((length, request[0]), (48, 0x23), "version 4, client");
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
            let seconds = now.as_secs() + ahead + 2_208_988_800;
            let stamp = ((seconds << 32) | ((u64::from(now.subsec_nanos()) << 32) / 1_000_000_000)).to_be_bytes();
            let mut answer = [0; 48];
            (answer[0], answer[1]) = (0x24, 3);
            answer[24..32].copy_from_slice(&request[40..48]);
            answer[32..40].copy_from_slice(&stamp);
            answer[40..48].copy_from_slice(&stamp);
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            socket.send_to(&answer, sender).expect("sent");
        }
    });
    is_open.recv().expect("the server runs");
    count
}

/// The clock is the whole machine's, so the process runs without the right to set it, and says what it wanted.
#[test]
fn the_clock_is_asked_for_and_moved() {
    let Some(mut lab) = lab() else { return };
    let count = time_server(&lab, 3600);
    let (_server, _) = lab.dhcp(&["--dhcp-authoritative", "--dhcp-option=option:ntp-server,10.9.0.1"]);
    let (_network, log) = lab.start(&["setpriv", "--bounding-set=-sys_time"], &[]);
    wait("asked", 10, || count.load(std::sync::atomic::Ordering::SeqCst) == 1);
    wait("refused by the kernel", 5, || log.text().contains("Operation not permitted"));
    assert_eq!(log.count("time: move clock: Operation not permitted"), 1, "{}", log.text());
    wait("said", 5, || lab.status().time.problem.is_some());
    let time = lab.status().time;
    assert!(time.enabled && !time.synchronised && time.stratum == Some(3), "{time:?}");
    assert_eq!(time.server.as_deref(), Some("10.9.0.1"));
    assert!(time.offset_ms.is_some_and(|offset| (offset - 3_600_000.0).abs() < 1000.0), "{time:?}");
}

#[test]
fn time_servers_are_found_by_name() {
    let Some(mut lab) = lab() else { return };
    let count = time_server(&lab, 0);
    let (_server, _) = lab.dhcp(&["--port=53", "--address=/time.example/10.9.0.1", "--address=/missing.example/"]);
    lab.node("echo nameserver 10.9.0.1 > /run/resolv && mount --bind /run/resolv /etc/resolv.conf");
    lab.configure(r#"{"ntp": {"enabled": true, "servers": ["missing.example", "time.example"]}}"#);
    let (_network, log) = lab.start(&["setpriv", "--bounding-set=-sys_time"], &[]);
    wait("asked", 15, || count.load(std::sync::atomic::Ordering::SeqCst) == 1);
    wait("said", 5, || lab.status().time.server.is_some());
    let time = lab.status().time;
    assert_eq!(time.server.as_deref(), Some("time.example"), "{}", log.text());
    assert!(time.offset_ms.is_some_and(|offset| offset.abs() < 100.0), "the same clock: {time:?}");
}

#[test]
fn once_brings_up_an_interface_and_the_next_process_takes_it_over() {
    let Some(mut lab) = lab() else { return };
    let (mut once, log) = lab.start(&[], &["--once", "1500"]);
    assert_eq!(once.0.wait().expect("it ends").code(), Some(1));
    assert!(log.text().contains("network: no interface got an address within 1500 ms"), "{}", log.text());
    let (_server, asked) = lab.dhcp(&["--dhcp-authoritative"]);
    let (mut once, log) = lab.start(&[], &["--once", "10000"]);
    assert_eq!(once.0.wait().expect("it ends").code(), Some(0), "{}", log.text());
    assert!(lab.node("ip -4 addr show eth0").contains("10.9.0."));
    let discovered = asked.count("DHCPDISCOVER");
    assert!(!lab.is_ready(), "others wait for the process that stays");
    let (_network, _) = lab.start(&[], &[]);
    wait("ready", 5, || lab.is_ready());
    wait("confirmed", 5, || asked.count("DHCPACK(srv0)") >= 2);
    assert_eq!(asked.count("DHCPDISCOVER"), discovered, "{}", asked.text());
}

/// Between events nothing happens: no context switch in ten seconds.
#[test]
fn an_idle_process_sleeps() {
    let Some(mut lab) = lab() else { return };
    let (_server, _) = lab.dhcp(&["--dhcp-authoritative", "--dhcp-range=10.9.0.50,10.9.0.60,12h"]);
    lab.configure(r#"{"ntp": {"enabled": false, "servers": []}}"#);
    let (network, _) = lab.start(&[], &[]);
    wait("ready", 10, || lab.is_ready());
    // The kernel's own IPv6 doings (duplicate address detection) are events; they end within seconds.
    std::thread::sleep(Duration::from_secs(4));
    let switches = || {
        let text = std::fs::read_to_string(format!("/proc/{}/status", network.0.id())).expect("its status");
        let line = text.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).expect("a line");
        line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("a number")
    };
    let before = switches();
    std::thread::sleep(Duration::from_secs(10));
    assert_eq!(switches(), before);
}
