//! Which interface belongs to which entry of the configuration. Pure.
//!
//! - Entries are looked at in order; an interface belongs to the first that it fits, and to that one for as long as it is
//!   there. An entry with addresses takes one interface, others take all that fit.
//! - Interfaces are hardware: Ethernet, with a device behind them, part of nothing else. What containers and their
//!   networks make is never touched. Only an entry that names an interface exactly takes it whatever it is: a node that is
//!   itself a container has nothing else.
//! - The metric of an interface's routes is [`FIRST_METRIC`] and [`ENTRY_STEP`] more for each entry before, so that the
//!   default route of the first entry wins, whichever answered first.

use std::collections::BTreeMap;

use ksos_formats::config::{Interface, InterfaceKind, Match, Network};

use super::netlink::Link;
use crate::modules::glob;

/// Metric of the first interface of the first entry.
pub const FIRST_METRIC: u32 = 100;
/// What one entry adds to the metric; interfaces of one entry count by one.
pub const ENTRY_STEP: u32 = 100;
/// Longest name of an interface (`IFNAMSIZ` less the zero byte).
pub const NAME_LIMIT: usize = 15;

/// An interface's place in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Number of the entry.
    pub entry: usize,
    /// Metric of its routes.
    pub metric: u32,
}

/// An interface that could be claimed.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// The interface.
    pub link: &'a Link,
    /// Whether there is a device behind it (`/sys/class/net/NAME/device`).
    pub device: bool,
}

/// Returns the entries of a configuration; without any, DHCPv4 and router advertisements on every Ethernet interface.
pub fn entries(network: &Network) -> Vec<Interface> {
    if !network.interfaces.is_empty() {
        return network.interfaces.clone();
    }
    vec![Interface {
        id: "default".to_owned(),
        kind: InterfaceKind::Ethernet(Match::default()),
        dhcp4: true,
        accept_ra: true,
        addresses: Vec::new(),
        routes: Vec::new(),
        nameservers: Vec::new(),
        search: Vec::new(),
        mtu: None,
        optional: false,
    }]
}

/// Returns the new claims among `candidates`, beside those that there are, by interface number.
pub fn claim(
    entries: &[Interface],
    claims: &BTreeMap<u32, Claim>,
    candidates: &[Candidate<'_>],
) -> BTreeMap<u32, Claim> {
    let mut found: BTreeMap<u32, Claim> = BTreeMap::new();
    let mut sorted = candidates.to_vec();
    // eth2 before eth10, whatever order the kernel found them in.
    sorted.sort_unstable_by(|a, b| (a.link.name.len(), &a.link.name).cmp(&(b.link.name.len(), &b.link.name)));
    for candidate in sorted {
        let index = candidate.link.index;
        if claims.contains_key(&index) {
            continue;
        }
        let of = |entry: usize| claims.values().chain(found.values()).filter(move |claim| claim.entry == entry);
        let fit = entries
            .iter()
            .enumerate()
            .find(|(number, entry)| fits(entry, candidate) && (entry.addresses.is_empty() || of(*number).count() == 0));
        if let Some((entry, _)) = fit {
            let first = FIRST_METRIC + entry as u32 * ENTRY_STEP;
            // The first number that none of the entry's other interfaces has; one that went away gives its own back.
            let free = (first..).find(|metric| of(entry).all(|claim| claim.metric != *metric));
            found.insert(index, Claim { entry, metric: free.unwrap_or(first) });
        }
    }
    found
}

fn fits(entry: &Interface, candidate: Candidate<'_>) -> bool {
    let link = candidate.link;
    let InterfaceKind::Ethernet(Match { name, mac }) = &entry.kind else { return false };
    let hardware = candidate.device && link.vlan.is_none();
    let exact = name.as_ref().is_some_and(|name| *name == link.name);
    link.ethernet
        && link.hardware.is_some()
        && link.master.is_none()
        && (hardware || exact)
        && name.as_ref().is_none_or(|name| exact || matches(name, &link.name))
        && mac.as_ref().is_none_or(|mac| mac.eq_ignore_ascii_case(&link.mac()))
}

/// `*` and `?` are wildcards, all else is literal.
fn matches(pattern: &str, name: &str) -> bool {
    glob::matches(&pattern.replace('\\', "\\\\").replace('[', "\\["), name)
}

/// A VLAN of the configuration that has to be made, or claimed where it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vlan {
    /// Number of its entry.
    pub entry: usize,
    /// Its name.
    pub name: String,
    /// Number of the interface below.
    pub parent: u32,
    /// Identifier.
    pub vlan: u16,
    /// Number of the interface, when it is there.
    pub present: Option<u32>,
}

/// Returns the VLANs whose lower interface is claimed and that are not claimed themselves; or why one cannot be.
pub fn vlans(
    entries: &[Interface],
    claims: &BTreeMap<u32, Claim>,
    links: &[Link],
) -> Vec<Result<Vlan, (String, String)>> {
    let claimed = |entry: usize| claims.iter().find(|(_, claim)| claim.entry == entry).map(|(index, _)| *index);
    let mut found = Vec::new();
    for (number, entry) in entries.iter().enumerate() {
        let InterfaceKind::Vlan { link, vlan } = &entry.kind else { continue };
        let name = entry.id.clone();
        if claimed(number).is_some() {
            continue;
        }
        if name.is_empty() || name.len() > NAME_LIMIT || name.contains(['/', ' ']) || !(1..=4094).contains(vlan) {
            found.push(Err((name, format!("VLAN {vlan} cannot be made under this name"))));
            continue;
        }
        let Some(below) = entries.iter().position(|other| other.id == *link && other.id != entry.id) else {
            found.push(Err((name, format!("there is no entry {link:?} for it to be on"))));
            continue;
        };
        // Not there yet: it may still come.
        let Some(parent) = claimed(below) else { continue };
        let present = links.iter().find(|link| link.name == name);
        if let Some(other) = present.filter(|present| present.vlan != Some((parent, *vlan))) {
            found.push(Err((name, format!("there is another interface of this name ({})", other.mac()))));
            continue;
        }
        let present = present.map(|link| link.index);
        found.push(Ok(Vlan { entry: number, name, parent, vlan: *vlan, present }));
    }
    found
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An entry for interfaces of this name, DHCP only.
    pub(crate) fn entry(id: &str, name: Option<&str>, mac: Option<&str>) -> Interface {
        let kind = InterfaceKind::Ethernet(Match { name: name.map(str::to_owned), mac: mac.map(str::to_owned) });
        Interface { id: id.to_owned(), kind, ..entries(&Network::default()).remove(0) }
    }

    fn link(index: u32, name: &str) -> Link {
        let hardware = Some([2, 0, 0, 0, 0, index as u8]);
        Link { index, name: name.to_owned(), hardware, ethernet: true, mtu: 1500, ..Link::default() }
    }

    fn claims(entries: &[Interface], links: &[Link]) -> Vec<(String, usize, u32)> {
        let candidates: Vec<Candidate<'_>> =
            links.iter().map(|link| Candidate { link, device: link.kind.is_none() }).collect();
        let found = claim(entries, &BTreeMap::new(), &candidates);
        let name = |index: &u32| links.iter().find(|link| link.index == *index).expect("known").name.clone();
        found.iter().map(|(index, claim)| (name(index), claim.entry, claim.metric)).collect()
    }

    #[test]
    fn without_configuration_all_hardware_is_taken_in_the_order_of_names() {
        let links = [link(2, "eth10"), link(3, "eth2"), link(4, "enp1s0")];
        let found = claims(&entries(&Network::default()), &links);
        assert_eq!(found, [("eth10".to_owned(), 0, 101), ("eth2".to_owned(), 0, 100), ("enp1s0".to_owned(), 0, 102)]);
    }

    #[test]
    fn what_containers_make_is_left_alone() {
        let kinds = [("veth12ab", "veth"), ("cni0", "bridge"), ("flannel.1", "vxlan"), ("docker0", "bridge")];
        let mut links: Vec<Link> = kinds
            .iter()
            .enumerate()
            .map(|(number, (name, kind))| Link { kind: Some((*kind).to_owned()), ..link(number as u32 + 2, name) })
            .collect();
        links.push(Link { master: Some(9), ..link(20, "eth1") });
        links.push(Link { ethernet: false, ..link(21, "lo") });
        links.push(Link { hardware: None, ..link(22, "ib0") });
        assert_eq!(claims(&entries(&Network::default()), &links), []);
        assert_eq!(claims(&[entry("all", Some("*"), None)], &links), []);
        let exact = claims(&[entry("mine", Some("veth12ab"), None)], &links);
        assert_eq!(exact, [("veth12ab".to_owned(), 0, 100)]);
        let bare = link(30, "tap0");
        let candidates = [Candidate { link: &bare, device: false }];
        assert!(claim(&entries(&Network::default()), &BTreeMap::new(), &candidates).is_empty(), "no device behind it");
    }

    #[test]
    fn the_first_entry_that_fits_has_the_interface() {
        let mut fixed = entry("fixed", Some("eth*"), None);
        fixed.addresses = vec!["192.0.2.7/24".to_owned()];
        let all = [entry("mac", None, Some("02:00:00:00:00:05")), fixed, entry("rest", Some("eth?"), None)];
        let links = [link(5, "eth3"), link(2, "eth0"), link(3, "eth1"), link(4, "eth10")];
        assert_eq!(
            claims(&all, &links),
            [("eth0".to_owned(), 1, 200), ("eth1".to_owned(), 2, 300), ("eth3".to_owned(), 0, 100)]
        );
    }

    #[test]
    fn what_comes_later_does_not_move_what_is_there() {
        let all = entries(&Network::default());
        let (first, second) = (link(7, "eth7"), link(1, "eth0"));
        let before = claim(&all, &BTreeMap::new(), &[Candidate { link: &first, device: true }]);
        let both = [Candidate { link: &first, device: true }, Candidate { link: &second, device: true }];
        let after = claim(&all, &before, &both);
        assert_eq!(before[&7].metric, 100);
        assert_eq!(after.into_iter().collect::<Vec<_>>(), [(1, Claim { entry: 0, metric: 101 })]);
    }

    #[test]
    fn brackets_in_names_are_literal() {
        assert!(matches("e[0]*", "e[0]x") && !matches("e[0]*", "e0x") && matches("en?", "en1"));
    }

    fn vlan_entry(id: &str, link: &str, vlan: u16) -> Interface {
        Interface { kind: InterfaceKind::Vlan { link: link.to_owned(), vlan }, ..entry(id, None, None) }
    }

    #[test]
    fn vlans_wait_for_what_is_below_them() {
        let all = [entry("lan", Some("eth0"), None), vlan_entry("lan.7", "lan", 7)];
        assert_eq!(vlans(&all, &BTreeMap::new(), &[]), []);
        let mut claims = BTreeMap::from([(2, Claim { entry: 0, metric: 100 })]);
        let wanted = Vlan { entry: 1, name: "lan.7".to_owned(), parent: 2, vlan: 7, present: None };
        assert_eq!(vlans(&all, &claims, &[link(2, "eth0")]), [Ok(wanted.clone())]);
        let there = Link { vlan: Some((2, 7)), ..link(3, "lan.7") };
        assert_eq!(vlans(&all, &claims, &[there]), [Ok(Vlan { present: Some(3), ..wanted })]);
        let error = vlans(&all, &claims, &[link(3, "lan.7")]).remove(0).expect_err("in the way");
        assert_eq!(error.1, "there is another interface of this name (02:00:00:00:00:03)");
        claims.insert(3, Claim { entry: 1, metric: 200 });
        assert_eq!(vlans(&all, &claims, &[]), []);
    }

    #[test]
    fn vlans_that_cannot_be_are_named() {
        for (entry, reason) in [
            (vlan_entry("a-name-of-16-bytes", "lan", 7), "VLAN 7 cannot be made under this name"),
            (vlan_entry("v", "lan", 0), "VLAN 0 cannot be made under this name"),
            (vlan_entry("v", "lan", 4095), "VLAN 4095 cannot be made under this name"),
            (vlan_entry("v", "wan", 7), "there is no entry \"wan\" for it to be on"),
            (vlan_entry("v", "v", 7), "there is no entry \"v\" for it to be on"),
        ] {
            let all = [super::tests::entry("lan", Some("eth0"), None), entry];
            let claims = BTreeMap::from([(2, Claim { entry: 0, metric: 100 })]);
            assert_eq!(vlans(&all, &claims, &[]).remove(0).expect_err("refused").1, reason);
        }
    }
}
