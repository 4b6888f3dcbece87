//! `resolv.conf` (resolv.conf(5)): which name servers and search domains, and the text. Pure.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::dhcp::lease::is_domain;

/// Name servers that resolvers look at (`MAXNS`).
const SERVERS_LIMIT: usize = 3;
/// Search domains, and bytes of them in all, that resolvers of all ages look at.
const SEARCH_LIMIT: (usize, usize) = (6, 256);

/// What resolvers are to use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolvers {
    /// Name servers in order.
    pub nameservers: Vec<IpAddr>,
    /// Search domains in order.
    pub search: Vec<String>,
}

impl Resolvers {
    /// Takes name servers and domains from sources in order of their weight.
    ///
    /// Loopback addresses are left out: containers get this file too, and their loopback is another. So are link-local
    /// ones, which mean nothing without an interface.
    pub fn collect(nameservers: impl IntoIterator<Item = IpAddr>, search: impl IntoIterator<Item = String>) -> Self {
        let mut resolvers = Resolvers::default();
        for server in nameservers.into_iter().map(|server| server.to_canonical()).filter(is_usable) {
            if resolvers.nameservers.len() < SERVERS_LIMIT && !resolvers.nameservers.contains(&server) {
                resolvers.nameservers.push(server);
            }
        }
        let (count, mut room) = SEARCH_LIMIT;
        for domain in search.into_iter().filter(|domain| is_domain(domain)) {
            let new = !resolvers.search.iter().any(|other| other.eq_ignore_ascii_case(&domain));
            if new && resolvers.search.len() < count && domain.len() < room {
                room -= domain.len() + 1;
                resolvers.search.push(domain);
            }
        }
        resolvers
    }

    /// Returns the file's text.
    pub fn text(&self) -> String {
        let mut text = "# From the node's configuration and DHCP; replaced when either changes.\n".to_owned();
        for server in &self.nameservers {
            let _ = writeln!(text, "nameserver {server}");
        }
        if !self.search.is_empty() {
            let _ = writeln!(text, "search {}", self.search.join(" "));
        }
        text
    }
}

fn is_usable(server: &IpAddr) -> bool {
    let narrow = match server {
        IpAddr::V4(address) => address.is_broadcast() || address.octets()[0] == 0,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(narrow || server.is_loopback() || server.is_unspecified() || server.is_multicast())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(list: &[&str]) -> Vec<String> {
        let addresses = list.iter().map(|text| text.parse().expect("an address"));
        Resolvers::collect(addresses, []).nameservers.iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn no_loopback_no_double_and_three_at_most() {
        assert_eq!(
            servers(&["127.0.0.53", "::1", "0.0.0.0", "::", "fe80::1", "224.0.0.1", "::ffff:127.0.0.1"]),
            [""; 0]
        );
        assert_eq!(
            servers(&["10.0.0.1", "2001:db8::1", "10.0.0.1", "10.0.0.2", "10.0.0.3"]),
            ["10.0.0.1", "2001:db8::1", "10.0.0.2"]
        );
        assert_eq!(servers(&["::ffff:10.0.0.1"]), ["10.0.0.1"]);
    }

    #[test]
    fn the_text_has_no_line_that_nobody_meant() {
        let search = ["a.example", "b.example\nnameserver 6.6.6.6", "A.EXAMPLE", "lan"].map(str::to_owned);
        let resolvers = Resolvers::collect(["10.0.0.1".parse().expect("an address")], search);
        let text = resolvers.text();
        assert_eq!(text.lines().skip(1).collect::<Vec<_>>(), ["nameserver 10.0.0.1", "search a.example lan"]);
        assert_eq!(Resolvers::default().text().lines().count(), 1);
        let many = (0..50).map(|number| format!("{}{number}.example", "x".repeat(40)));
        assert!(Resolvers::collect([], many).search.join(" ").len() <= 256);
    }
}
