//! What a server's answer gives: checked, so that nothing behind this has to doubt it.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::message::{Message, mask, option};

/// Shortest lease that is taken, in seconds. A shorter one would have the node ask all the time.
const SHORTEST_S: u32 = 10;
/// A lease without end (RFC 2131, section 3.3).
const INFINITE: u32 = u32::MAX;
/// Shortest prefix of an interface's network: with less, most of the internet would be on the link.
const SHORTEST_PREFIX: u8 = 8;
/// Smallest MTU that is taken, in bytes: every IPv4 host takes packets of this length (RFC 791, section 3.1).
const SMALLEST_MTU: u16 = 576;
/// Most name servers and time servers that are kept.
const SERVERS_LIMIT: usize = 8;
/// Most search domains that are kept, and their length in all: what resolvers of all ages take (resolv.conf(5)).
const SEARCH_LIMIT: (usize, usize) = (6, 256);

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// Length of its network's prefix.
    pub prefix: u8,
    /// The server that gave it.
    pub server: Ipv4Addr,
    /// How long it was given for, in seconds; `None` for ever.
    pub seconds: Option<u32>,
    /// When to renew it with its server, in seconds (T1).
    pub renew_s: u32,
    /// When to renew it with any server, in seconds (T2).
    pub rebind_s: u32,
    /// Routes, the default route among them.
    pub routes: Vec<LeaseRoute>,
    /// Name servers.
    pub nameservers: Vec<Ipv4Addr>,
    /// Search domains.
    pub search: Vec<String>,
    /// Time servers.
    pub time_servers: Vec<Ipv4Addr>,
    /// Maximum transmission unit in bytes.
    pub mtu: Option<u16>,
}

/// A route of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRoute {
    /// Network.
    pub to: Ipv4Addr,
    /// Length of its prefix.
    pub prefix: u8,
    /// Router; `None` when the network is on the link.
    pub via: Option<Ipv4Addr>,
}

/// Why an offer or an acknowledgement is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum LeaseError {
    #[error("the address {0} is no address for a host")]
    Address(Ipv4Addr),
    #[error("the network mask {0} is none for an interface")]
    Mask(Ipv4Addr),
    #[error("{0} is the network's own or its broadcast address (/{1})")]
    Reserved(Ipv4Addr, u8),
    #[error("there is no server identifier (option 54)")]
    Server,
    #[error("there is no lease time (option 51)")]
    NoTime,
    #[error("a lease of {0} s is shorter than {SHORTEST_S} s")]
    Time(u32),
}

impl Lease {
    /// Reads what an offer or an acknowledgement gives.
    pub fn read(message: &Message) -> Result<Self, LeaseError> {
        let address = message.yiaddr;
        if !is_host(address) {
            return Err(LeaseError::Address(address));
        }
        let prefix = match message.address(option::SUBNET_MASK) {
            Some(mask) => prefix_of(mask).filter(|prefix| *prefix >= SHORTEST_PREFIX).ok_or(LeaseError::Mask(mask))?,
            None => default_prefix(address),
        };
        if is_reserved(address, prefix) {
            return Err(LeaseError::Reserved(address, prefix));
        }
        let server = message.address(option::SERVER_IDENTIFIER).filter(|server| is_host(*server));
        let server = server.ok_or(LeaseError::Server)?;
        let time = message.number(option::LEASE_TIME).ok_or(LeaseError::NoTime)?;
        if time < SHORTEST_S {
            return Err(LeaseError::Time(time));
        }
        let (renew_s, rebind_s) = renewal(message, time);
        Ok(Lease {
            address,
            prefix,
            server,
            seconds: (time != INFINITE).then_some(time),
            renew_s,
            rebind_s,
            routes: routes(message, address),
            nameservers: hosts(message, option::DOMAIN_NAME_SERVER),
            search: search(message),
            time_servers: hosts(message, option::NTP_SERVERS),
            mtu: message.short(option::INTERFACE_MTU).filter(|mtu| *mtu >= SMALLEST_MTU),
        })
    }

    /// Returns the router of the default route.
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        self.routes.iter().find(|route| route.prefix == 0).and_then(|route| route.via)
    }

    /// Tells whether an address is on the lease's own network.
    pub fn is_on_link(&self, address: Ipv4Addr) -> bool {
        mask(address, self.prefix) == mask(self.address, self.prefix)
    }

    /// Checks a lease that was kept in a file: the disk is not trusted more than the network.
    pub fn is_sound(&self) -> bool {
        let prefix = (SHORTEST_PREFIX..=32).contains(&self.prefix);
        let times = self.renew_s <= self.rebind_s && self.seconds.is_none_or(|seconds| self.rebind_s <= seconds);
        let hosts = self.nameservers.iter().chain(&self.time_servers).all(|address| is_host(*address));
        let routes = self.routes.iter().all(|route| route.prefix <= 32 && route.via.is_none_or(is_host));
        prefix
            && times
            && hosts
            && routes
            && is_host(self.address)
            && is_host(self.server)
            && self.search.iter().all(|domain| is_domain(domain))
    }
}

/// Tells whether an address can be a host's: not 0/8, 127/8, multicast, reserved or broadcast (RFC 6890).
pub fn is_host(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first != 0 && first != 127 && first < 224
}

/// Returns the prefix length of a mask whose ones are all in front.
fn prefix_of(mask: Ipv4Addr) -> Option<u8> {
    let bits = u32::from(mask);
    (bits.leading_ones() + bits.trailing_zeros() == 32 || bits == u32::MAX).then(|| bits.leading_ones() as u8)
}

/// The prefix that an address has by its class, for servers that state no mask.
fn default_prefix(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..=127 => 8,
        128..=191 => 16,
        _ => 24,
    }
}

/// Tells whether the host part is all zeros or all ones, which no host has; networks of one or two addresses have none
/// of these (RFC 3021).
fn is_reserved(address: Ipv4Addr, prefix: u8) -> bool {
    let host_bits = !u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    let host = u32::from(address) & host_bits;
    prefix < 31 && (host == 0 || host == host_bits)
}

/// Returns T1 and T2 in seconds: as the server states them where they fit, otherwise half and seven eighths of the
/// lease (RFC 2131, section 4.4.5).
fn renewal(message: &Message, time: u32) -> (u32, u32) {
    let (half, later) = (time / 2, (u64::from(time) * 7 / 8) as u32);
    let renew = message.number(option::RENEWAL_TIME);
    let rebind = message.number(option::REBINDING_TIME);
    match (renew, rebind) {
        (Some(renew), Some(rebind)) if renew > 0 && renew < rebind && rebind < time => (renew, rebind),
        (Some(renew), None) if renew > 0 && renew < later => (renew, later),
        (None, Some(rebind)) if rebind > half && rebind < time => (half, rebind),
        _ => (half, later),
    }
}

/// "If the DHCP server returns both a Classless Static Routes option and a Router option, the DHCP client MUST ignore
/// the Router option" (RFC 3442).
fn routes(message: &Message, own: Ipv4Addr) -> Vec<LeaseRoute> {
    let good = |via: &Ipv4Addr| is_host(*via) && *via != own;
    let classless = message.routes(option::CLASSLESS_ROUTES);
    if !classless.is_empty() {
        let kept = classless
            .into_iter()
            .filter(|(to, prefix, via)| via.as_ref().is_none_or(good) && (*prefix == 0 || is_host(*to)));
        return kept.map(|(to, prefix, via)| LeaseRoute { to, prefix, via }).collect();
    }
    let router = message.addresses(option::ROUTER).into_iter().find(good);
    router.into_iter().map(|via| LeaseRoute { to: Ipv4Addr::UNSPECIFIED, prefix: 0, via: Some(via) }).collect()
}

fn hosts(message: &Message, code: u8) -> Vec<Ipv4Addr> {
    message.addresses(code).into_iter().filter(|address| is_host(*address)).take(SERVERS_LIMIT).collect()
}

/// The search list, or, without one, the domain name, which some servers fill with several.
fn search(message: &Message) -> Vec<String> {
    let mut domains = message.domains(option::DOMAIN_SEARCH);
    if domains.is_empty() {
        let text = message.text(option::DOMAIN_NAME).unwrap_or_default();
        domains = text.split_ascii_whitespace().map(str::to_owned).collect();
    }
    let (count, mut room) = SEARCH_LIMIT;
    let fits = domains.into_iter().filter(|domain| is_domain(domain)).take_while(|domain| {
        let enough = domain.len() < room;
        room = room.saturating_sub(domain.len() + 1);
        enough
    });
    fits.take(count).collect()
}

/// Tells whether a text can stand in `resolv.conf` as a domain: letters, digits, `-`, `_` between dots.
pub fn is_domain(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    (1..=253).contains(&text.len()) && text.split('.').all(label)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::message::Kind;
    use super::*;

    /// An acknowledgement of 10.0.0.9/24 for an hour from 10.0.0.1, which is also the router, with other options.
    pub(crate) fn answer(kind: Kind, xid: u32, options: &[(u8, &[u8])]) -> Message {
        let mut message = Message::request(kind, xid, [2, 0, 0, 0, 0, 1]);
        message.reply = true;
        message.yiaddr = Ipv4Addr::new(10, 0, 0, 9);
        let usual: [(u8, &[u8]); 4] = [
            (option::SUBNET_MASK, &[255, 255, 255, 0]),
            (option::SERVER_IDENTIFIER, &[10, 0, 0, 1]),
            (option::ROUTER, &[10, 0, 0, 1]),
            (option::LEASE_TIME, &[0, 0, 0x0e, 0x10]),
        ];
        for (code, value) in usual.iter().chain(options) {
            message.options.insert(*code, value.to_vec());
        }
        message.options.retain(|_, value| !value.is_empty());
        message
    }

    fn read(options: &[(u8, &[u8])]) -> Result<Lease, LeaseError> {
        Lease::read(&answer(Kind::Ack, 1, options))
    }

    #[test]
    fn a_usual_answer() {
        let lease = read(&[
            (option::DOMAIN_NAME_SERVER, &[127, 0, 0, 53, 10, 0, 0, 2, 0, 0, 0, 0]),
            (option::NTP_SERVERS, &[10, 0, 0, 3]),
            (option::DOMAIN_NAME, b"example.org lan"),
            (option::INTERFACE_MTU, &[5, 120]),
        ]);
        let lease = lease.expect("a lease");
        assert_eq!((lease.address, lease.prefix, lease.server), ([10, 0, 0, 9].into(), 24, [10, 0, 0, 1].into()));
        assert_eq!((lease.seconds, lease.renew_s, lease.rebind_s), (Some(3600), 1800, 3150));
        assert_eq!(lease.gateway(), Some([10, 0, 0, 1].into()));
        assert_eq!(lease.nameservers, [Ipv4Addr::new(10, 0, 0, 2)], "no loopback, no zero");
        assert_eq!(lease.search, ["example.org", "lan"]);
        assert_eq!((lease.mtu, lease.time_servers.len()), (Some(1400), 1));
        assert!(lease.is_sound());
    }

    #[test]
    fn absurd_answers_are_refused_with_the_reason() {
        let text = |options: &[(u8, &[u8])]| read(options).expect_err("refused").to_string();
        assert_eq!(text(&[(option::SUBNET_MASK, &[0, 0, 0, 0])]), "the network mask 0.0.0.0 is none for an interface");
        assert_eq!(
            text(&[(option::SUBNET_MASK, &[255, 0, 255, 0])]),
            "the network mask 255.0.255.0 is none for an interface"
        );
        assert_eq!(
            text(&[(option::SUBNET_MASK, &[254, 0, 0, 0])]),
            "the network mask 254.0.0.0 is none for an interface"
        );
        assert_eq!(text(&[(option::LEASE_TIME, &[0, 0, 0, 0])]), "a lease of 0 s is shorter than 10 s");
        assert_eq!(text(&[(option::LEASE_TIME, &[])]), "there is no lease time (option 51)");
        assert_eq!(text(&[(option::LEASE_TIME, &[1])]), "there is no lease time (option 51)");
        assert_eq!(text(&[(option::SERVER_IDENTIFIER, &[])]), "there is no server identifier (option 54)");
        assert_eq!(text(&[(option::SERVER_IDENTIFIER, &[0, 0, 0, 0])]), "there is no server identifier (option 54)");
        for bad in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255, 255, 255, 255], [0, 1, 2, 3]] {
            let message = Message { yiaddr: bad.into(), ..answer(Kind::Offer, 1, &[]) };
            assert_eq!(Lease::read(&message), Err(LeaseError::Address(bad.into())));
        }
        for bad in [[10, 0, 0, 0], [10, 0, 0, 255]] {
            let message = Message { yiaddr: bad.into(), ..answer(Kind::Offer, 1, &[]) };
            assert_eq!(Lease::read(&message), Err(LeaseError::Reserved(bad.into(), 24)));
        }
    }

    #[test]
    fn small_networks_and_missing_masks() {
        let lease = read(&[(option::SUBNET_MASK, &[255, 255, 255, 255])]).expect("a lease");
        assert_eq!(lease.prefix, 32);
        assert!(!lease.is_on_link(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(read(&[(option::SUBNET_MASK, &[255, 255, 255, 254])]).expect("a lease").prefix, 31);
        assert_eq!(read(&[(option::SUBNET_MASK, &[])]).expect("a lease").prefix, 8, "by its class");
    }

    #[test]
    fn renewal_times_that_do_not_fit_are_not_taken() {
        let times = |renew: &[u8], rebind: &[u8]| {
            let lease = read(&[(option::RENEWAL_TIME, renew), (option::REBINDING_TIME, rebind)]).expect("a lease");
            (lease.renew_s, lease.rebind_s)
        };
        assert_eq!(times(&[0, 0, 0, 3], &[0, 0, 0, 9]), (3, 9));
        assert_eq!(times(&[0, 0, 0, 3], &[]), (3, 3150));
        for (renew, rebind) in [([0, 0, 0, 0], [0, 0, 0, 9]), ([0, 0, 0, 9], [0, 0, 0, 9]), ([0, 0, 0, 9], [0xff; 4])] {
            assert_eq!(times(&renew, &rebind), (1800, 3150), "{renew:?} {rebind:?}");
        }
        let lease = read(&[(option::LEASE_TIME, &[0xff; 4])]).expect("a lease");
        assert_eq!(lease.seconds, None);
    }

    #[test]
    fn classless_routes_win_over_the_router() {
        let lease = read(&[(option::CLASSLESS_ROUTES, &[16, 10, 7, 10, 0, 0, 5, 24, 10, 8, 0, 0, 0, 0, 0])]);
        let lease = lease.expect("a lease");
        assert_eq!(lease.gateway(), None);
        assert_eq!(lease.routes.len(), 2);
        let bad = read(&[(option::CLASSLESS_ROUTES, &[40, 1])]).expect("a lease");
        assert_eq!(bad.gateway(), Some([10, 0, 0, 1].into()), "a malformed list is none");
        let own = read(&[(option::ROUTER, &[10, 0, 0, 9, 127, 0, 0, 1])]).expect("a lease");
        assert_eq!(own.gateway(), None, "neither the node itself nor loopback");
        let looped = read(&[(option::CLASSLESS_ROUTES, &[8, 127, 10, 0, 0, 5, 0, 10, 0, 0, 5])]).expect("a lease");
        assert_eq!(looped.routes.len(), 1, "127/8 goes nowhere");
    }

    #[test]
    fn nothing_gets_into_resolv_conf_that_is_no_domain() {
        for bad in ["", ".", "a..b", "a b", "a\nnameserver 6.6.6.6", "ä", "-\t", "a;b", &"x".repeat(64)] {
            assert!(!is_domain(bad), "{bad:?}");
        }
        assert!(is_domain("example.org.") && is_domain("_a.b-c"));
        let lease = read(&[(option::DOMAIN_NAME, b"good\nnameserver")]).expect("a lease");
        assert_eq!(lease.search, [] as [String; 0]);
        let long = vec!["abcdefghijklmnopqrstuvwxyz.example"; 20].join(" ");
        let lease = read(&[(option::DOMAIN_NAME, long.as_bytes())]).expect("a lease");
        assert_eq!(lease.search.len(), 6);
        let small = read(&[(option::INTERFACE_MTU, &[0, 68])]).expect("a lease");
        assert_eq!(small.mtu, None);
    }

    #[test]
    fn kept_leases_are_checked() {
        let lease = read(&[]).expect("a lease");
        let text = serde_json::to_string(&lease).expect("text");
        assert_eq!(serde_json::from_str::<Lease>(&text).expect("a lease"), lease);
        for bad in [
            Lease { prefix: 33, ..lease.clone() },
            Lease { address: Ipv4Addr::LOCALHOST, ..lease.clone() },
            Lease { search: vec!["a\nb".to_owned()], ..lease.clone() },
            Lease { rebind_s: 1, ..lease.clone() },
        ] {
            assert!(!bad.is_sound(), "{bad:?}");
        }
    }
}
