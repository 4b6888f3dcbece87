//! The network section: the simple form with one interface, and network configuration version 2, of which a subset of
//! netplan's keys is taken (<https://netplan.readthedocs.io/en/stable/netplan-yaml/>,
//! <https://docs.cloud-init.io/en/latest/reference/network-config-format-v2.html>).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use super::diagnostic::Place;
use super::document::{Mode, NetworkDocument, SimpleNetwork};
use super::forms::*;
use super::keys::{Kind, Table, key};
use super::read::{Fields, Item, Reader};
use super::types::{Interface, InterfaceKind, Match, Network, Route};
use super::yaml::{Node, NodeValue};

/// Range of MTUs: what IPv4 hosts must take (RFC 791, section 3.1), and what fits the field.
const MTU: Kind = Kind::Integer { min: 576, max: 65_535 };
/// Range of VLAN identifiers (IEEE 802.1Q, section 9.6).
const VLAN_NUMBER: Kind = Kind::Integer { min: 1, max: 4094 };

/// The simple form.
pub(super) static SIMPLE: Table = Table {
    what: "network",
    keys: &[
        key(
            "mode",
            Kind::Choice(&["dhcp", "static", "off"]),
            "How the interface gets its address (default: static when an address is stated, else dhcp).",
        ),
        key(
            "interface",
            Kind::Text(INTERFACE),
            "Name of the interface, * and ? as in a shell (default: every Ethernet interface).",
        ),
        key("address", Kind::Text(ADDRESS), "Address with prefix length, as in 192.0.2.7/24."),
        key("netmask", Kind::Text(IPV4), "Netmask, when the address has no prefix length."),
        key("prefix", Kind::Integer { min: 1, max: 128 }, "Prefix length, when the address has none."),
        key("gateway", Kind::Text(IP), "Gateway of the default route."),
        key("dns", Kind::Texts(IP), "Name servers, before those that DHCP names."),
        key("search", Kind::Texts(DOMAIN), "Search domains."),
        key("mtu", MTU, "Maximum transmission unit in bytes."),
        key("vlan", VLAN_NUMBER, "VLAN identifier; the address is on the VLAN."),
    ],
    unsupported: &[],
    required: &[],
};

/// Network configuration version 2.
pub(super) static VERSION2: Table = Table {
    what: "network",
    keys: &[
        key("version", Kind::Integer { min: 2, max: 2 }, "Version of the format: 2."),
        key("ethernets", Kind::Map(INTERFACE_ID, &Kind::Section(&ETHERNET)), "Ethernet interfaces, by name."),
        key("vlans", Kind::Map(VLAN_ID, &Kind::Section(&VLAN)), "VLANs, by the name of the interface that is made."),
    ],
    unsupported: &[
        "bonds",
        "bridges",
        "dummy-devices",
        "modems",
        "nm-devices",
        "openvswitch",
        "renderer",
        "tunnels",
        "virtual-ethernets",
        "vrfs",
        "wifis",
    ],
    required: &[],
};

macro_rules! interface_table {
    ($what:literal, $required:expr, $($own:expr),+) => {
        Table {
            what: $what,
            keys: &[
                $($own,)+
                key("dhcp4", Kind::Boolean, "Whether an address is asked for by DHCPv4 (default false)."),
                key("accept-ra", Kind::Boolean, "Whether IPv6 router advertisements are taken (default true)."),
                key("addresses", Kind::List(&Kind::Text(CIDR)), "Addresses with prefix length."),
                key("gateway4", Kind::Text(IPV4), "Gateway of the IPv4 default route; also a route to \"default\"."),
                key("gateway6", Kind::Text(IP), "Gateway of the IPv6 default route."),
                key("routes", Kind::List(&Kind::Section(&ROUTE)), "Routes."),
                key("nameservers", Kind::Section(&NAMESERVERS), "Name servers and search domains."),
                key("mtu", MTU, "Maximum transmission unit in bytes."),
                key("optional", Kind::Boolean, "Nothing waits for this interface (default false)."),
            ],
            unsupported: IGNORED,
            required: $required,
        }
    };
}

static ETHERNET: Table = interface_table!(
    "an Ethernet interface",
    &[],
    key("match", Kind::Section(&MATCH), "Which hardware it is (default: the one of this name).")
);

static VLAN: Table = interface_table!(
    "a VLAN",
    &["id", "link"],
    key("id", VLAN_NUMBER, "VLAN identifier."),
    key("link", Kind::Text(INTERFACE_ID), "Name of the Ethernet interface in this document that it is on.")
);

static MATCH: Table = Table {
    what: "match",
    keys: &[
        key("name", Kind::Text(INTERFACE), "Kernel name, * and ? as in a shell."),
        key("macaddress", Kind::Text(MAC), "MAC address."),
    ],
    unsupported: &[],
    required: &[],
};

static ROUTE: Table = Table {
    what: "a route",
    keys: &[
        key("to", Kind::Text(DESTINATION), "Destination with prefix length, or \"default\"."),
        key("via", Kind::Text(IP), "Gateway."),
        key("metric", Kind::Integer { min: 0, max: u32::MAX as u64 }, "Metric; smaller wins."),
    ],
    unsupported: &[
        "on-link",
        "scope",
        "table",
        "from",
        "type",
        "mtu",
        "congestion-window",
        "advertised-receive-window",
    ],
    required: &["to", "via"],
};

static NAMESERVERS: Table = Table {
    what: "nameservers",
    keys: &[key("addresses", Kind::Texts(IP), "Name servers."), key("search", Kind::Texts(DOMAIN), "Search domains.")],
    unsupported: &[],
    required: &[],
};

/// Keys of netplan's interfaces that are passed over.
static IGNORED: &[&str] = &[
    "activation-mode",
    "critical",
    "dhcp-identifier",
    "dhcp4-overrides",
    "dhcp6",
    "dhcp6-overrides",
    "emit-lldp",
    "generic-receive-offload",
    "generic-segmentation-offload",
    "ignore-carrier",
    "ipv6-address-generation",
    "ipv6-address-token",
    "ipv6-mtu",
    "ipv6-privacy",
    "large-receive-offload",
    "link-local",
    "macaddress",
    "neigh-suppress",
    "optional-addresses",
    "ra-overrides",
    "receive-checksum-offload",
    "renderer",
    "routing-policy",
    "set-name",
    "tcp-segmentation-offload",
    "tcp6-segmentation-offload",
    "transmit-checksum-offload",
    "wakeonlan",
];

/// Reads the section in the form that it has.
pub(super) fn read(reader: &mut Reader, node: &Node, path: &str) -> Fields {
    let entries = node.entries().unwrap_or_default();
    let version = entries.iter().find(|entry| entry.key == "version");
    if let Some(entry) = version.filter(|entry| is_text(&entry.value, "1")) {
        let message = "network configuration version 1 is not supported; version 2 is";
        reader.error(entry.value.place, message);
        return Fields::default();
    }
    let of_version2 = |name: &str| VERSION2.find(name).is_some() || VERSION2.unsupported.contains(&name);
    let table = if entries.iter().any(|entry| of_version2(&entry.key)) { &VERSION2 } else { &SIMPLE };
    reader.table(node, table, path)
}

fn is_text(node: &Node, expected: &str) -> bool {
    matches!(&node.value, NodeValue::Scalar { text, .. } if text == expected)
}

/// Makes the section of what was read, and checks what belongs together.
pub(super) fn document(reader: &mut Reader, item: &Item) -> NetworkDocument {
    let fields = item.fields();
    let of_version2 = VERSION2.keys.iter().any(|key| fields.keys.contains_key(key.name));
    match of_version2 {
        true => NetworkDocument::Version2(version2(reader, &fields)),
        false => NetworkDocument::Simple(simple(reader, &fields)),
    }
}

fn simple(reader: &mut Reader, fields: &Fields) -> SimpleNetwork {
    let network = SimpleNetwork { address: simple_address(reader, fields), ..simple_values(fields) };
    let mode = network.mode;
    for name in ["address", "gateway"].into_iter().filter(|name| fields.keys.contains_key(*name)) {
        match mode {
            Some(Mode::Dhcp) => {
                reader.error(fields.key(name), format!("network.{name} is stated, and the mode is dhcp"))
            }
            Some(Mode::Off) => reader.error(fields.key(name), format!("network.{name} is stated, and the mode is off")),
            _ => continue,
        };
    }
    if !fields.keys.contains_key("address") {
        if mode == Some(Mode::Static) {
            reader.error(fields.key("mode"), "the mode is static, and network.address is not stated");
        } else if fields.keys.contains_key("gateway") && mode.is_none() {
            reader.error(fields.key("gateway"), "network.gateway is stated, and network.address is not");
        }
    }
    if let (Some(address), Some(gateway)) = (&network.address, network.gateway)
        && let Some(fault) = gateway_fault(gateway, std::slice::from_ref(address))
    {
        reader.error(fields.get("gateway").map_or(Place::default(), |item| item.place), fault);
    }
    network
}

/// Takes over the values that are checked by their forms alone; the address is taken when it has a prefix length.
pub(super) fn simple_values(fields: &Fields) -> SimpleNetwork {
    SimpleNetwork {
        mode: fields.get("mode").map(|item| match item.text() {
            "static" => Mode::Static,
            "off" => Mode::Off,
            _ => Mode::Dhcp,
        }),
        interface: fields.text("interface"),
        address: fields.text("address").filter(|address| parse_cidr(address).is_some()),
        gateway: fields.parsed("gateway"),
        dns: fields.all_parsed("dns"),
        search: fields.texts("search"),
        mtu: fields.integer("mtu"),
        vlan: fields.integer("vlan"),
    }
}

/// Returns the address with its prefix length, wherever that is stated.
fn simple_address(reader: &mut Reader, fields: &Fields) -> Option<String> {
    let stated = |name: &str| fields.keys.contains_key(name);
    let item = match fields.get("address") {
        Some(item) => item,
        None => {
            for name in ["netmask", "prefix"].into_iter().filter(|name| stated(name) && !stated("address")) {
                reader.error(fields.key(name), format!("network.{name} is stated, and network.address is not"));
            }
            return None;
        }
    };
    let lengths = [item.text().contains('/'), stated("netmask"), stated("prefix")];
    match lengths.iter().filter(|stated| **stated).count() {
        0 => {
            let message = format!("network.address {} has no prefix length", item.text());
            reader.error(item.place, message).hint = Some(format!("for example {}/24", item.text()));
            return None;
        }
        1 => {}
        _ => {
            reader.error(fields.key("address"), "the prefix length of network.address is stated more than once");
            return None;
        }
    }
    if lengths[0] {
        return Some(item.text().to_owned());
    }
    let mask = fields.get("netmask");
    let prefix = match mask {
        Some(mask) => mask.text().parse::<Ipv4Addr>().ok().and_then(prefix_of_mask),
        None => fields.integer::<u8>("prefix"),
    };
    let whole = prefix.map(|prefix| format!("{}/{prefix}", item.text()));
    let fits = whole.as_ref().is_some_and(|whole| parse_cidr(whole).is_some());
    // A length that is faulty by itself has been told.
    let told = mask.is_none() && fields.get("prefix").is_none();
    if !told && (!fits || (mask.is_some() && item.text().contains(':'))) {
        reader.error(item.place, format!("network.address {} and its prefix length do not fit", item.text()));
    }
    whole
}

/// Says what is wrong with a gateway of an interface with these addresses.
pub(super) fn gateway_fault(gateway: IpAddr, addresses: &[String]) -> Option<String> {
    let networks: Vec<(IpAddr, u8)> = addresses.iter().filter_map(|address| parse_cidr(address)).collect();
    if networks.iter().any(|(address, _)| *address == gateway) {
        return Some(format!("the gateway {gateway} is the node's own address"));
    }
    // Link-local gateways are in no configured network (RFC 4861, section 6.2.1).
    if matches!(gateway, IpAddr::V6(address) if address.is_unicast_link_local()) {
        return None;
    }
    let reachable = networks.iter().any(|(address, prefix)| is_in(gateway, *address, *prefix));
    (!reachable).then(|| format!("the gateway {gateway} is in no network of the addresses {}", addresses.join(", ")))
}

fn version2(reader: &mut Reader, fields: &Fields) -> Network {
    let mut network = Network::default();
    let mut places: BTreeMap<String, Place> = BTreeMap::new();
    let ethernets = fields.get("ethernets").map(Item::map).unwrap_or_default();
    let vlans = fields.get("vlans").map(Item::map).unwrap_or_default();
    for (id, item) in ethernets {
        let inner = item.fields();
        let kind = InterfaceKind::Ethernet(hardware(id, &inner));
        network.interfaces.push(interface(reader, id, kind, &inner));
        places.insert(id.clone(), item.place);
    }
    for (id, item) in vlans {
        let inner = item.fields();
        if places.insert(id.clone(), item.place).is_some() {
            reader.error(item.place, format!("network.vlans.{id} has the name of an Ethernet interface"));
        }
        let link = inner.text("link").unwrap_or_default();
        if let Some(place) = inner.get("link").map(|link| link.place)
            && !ethernets.iter().any(|(id, _)| *id == link)
        {
            reader.error(
                place,
                format!("network.vlans.{id}.link: there is no Ethernet interface {link} in this document"),
            );
        }
        let kind = InterfaceKind::Vlan { link, vlan: inner.integer("id").unwrap_or_default() };
        network.interfaces.push(interface(reader, id, kind, &inner));
    }
    twice(reader, &network, &places);
    network
}

/// Finds addresses that two interfaces have.
fn twice(reader: &mut Reader, network: &Network, places: &BTreeMap<String, Place>) {
    let mut owners: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for interface in &network.interfaces {
        for (address, _) in interface.addresses.iter().filter_map(|address| parse_cidr(address)) {
            if let Some(other) = owners.insert(address, &interface.id) {
                let place = places.get(&interface.id).copied().unwrap_or_default();
                reader.error(place, format!("{} and {other} both have the address {address}", interface.id));
            }
        }
    }
}

/// Says which hardware an interface is: without `match`, the one that has its name.
fn hardware(id: &str, fields: &Fields) -> Match {
    if !fields.keys.contains_key("match") {
        return Match { name: Some(id.to_owned()), ..Match::default() };
    }
    let fields = fields.section("match");
    Match { name: fields.text("name"), mac: fields.text("macaddress").map(|mac| mac.to_lowercase()) }
}

fn interface(reader: &mut Reader, id: &str, kind: InterfaceKind, fields: &Fields) -> Interface {
    let nameservers = fields.section("nameservers");
    let dhcp4 = fields.boolean("dhcp4").unwrap_or(false);
    let addresses = fields.texts("addresses").unwrap_or_default();
    let mut routes = Vec::new();
    for (name, default) in [("gateway4", "0.0.0.0/0"), ("gateway6", "::/0")] {
        let Some(via) = fields.parsed::<IpAddr>(name) else { continue };
        let item = fields.get(name).map_or(Place::default(), |item| item.place);
        routes.push((item, Route { to: default.to_owned(), via, metric: None }));
    }
    let items = fields.get("routes").map(Item::items).unwrap_or_default();
    routes.extend(items.iter().filter_map(|item| Some((item.place, route(&item.fields())?))));
    for (place, route) in &routes {
        if let Some(fault) = route_fault(route, dhcp4, &addresses) {
            reader.error(*place, format!("{id}: {fault}"));
        }
    }
    Interface {
        id: id.to_owned(),
        kind,
        dhcp4,
        accept_ra: fields.boolean("accept-ra").unwrap_or(true),
        addresses,
        routes: routes.into_iter().map(|(_, route)| route).collect(),
        nameservers: nameservers.all_parsed("addresses").unwrap_or_default(),
        search: nameservers.texts("search").unwrap_or_default(),
        mtu: fields.integer("mtu"),
        optional: fields.boolean("optional").unwrap_or(false),
    }
}

fn route(fields: &Fields) -> Option<Route> {
    let via: IpAddr = fields.parsed("via")?;
    let to = match fields.text("to")?.as_str() {
        "default" if via.is_ipv4() => "0.0.0.0/0".to_owned(),
        "default" => "::/0".to_owned(),
        to => to.to_owned(),
    };
    Some(Route { to, via, metric: fields.integer("metric") })
}

fn route_fault(route: &Route, dhcp4: bool, addresses: &[String]) -> Option<String> {
    let (to, _) = parse_cidr(&route.to)?;
    if to.is_ipv4() != route.via.is_ipv4() {
        return Some(format!("the route to {} has the gateway {} of another IP version", route.to, route.via));
    }
    // What DHCP or router advertisements will give is not known here.
    let unknown = dhcp4 || route.via.is_ipv6();
    if unknown { None } else { gateway_fault(route.via, addresses) }
}
