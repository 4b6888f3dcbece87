//! DHCPv4 messages as bytes (RFC 2131, section 2; options RFC 2132).
//!
//! An option that is malformed costs that option alone. Long options in several parts are joined (RFC 3396), and options
//! that overflow into the `sname` and `file` fields are found there (RFC 2132, section 9.3). No declared length is
//! trusted.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// Length of the fixed part, magic cookie included.
const FIXED: usize = 240;
/// Shortest message that old relays pass on (RFC 1542, section 2.1).
const SHORTEST: usize = 300;
/// "The first four octets of the 'options' field" (RFC 2131, section 3).
const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// BOOTREQUEST and BOOTREPLY.
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
/// Most domains that are read from one option.
const DOMAINS_LIMIT: usize = 32;
/// Most routes that are read from one option.
const ROUTES_LIMIT: usize = 64;

/// Option codes (RFC 2132; 119: RFC 3397; 121: RFC 3442).
pub mod option {
    #![expect(missing_docs, reason = "the names are those of RFC 2132")]
    pub const PAD: u8 = 0;
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DOMAIN_NAME_SERVER: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN_NAME: u8 = 15;
    pub const INTERFACE_MTU: u8 = 26;
    pub const NTP_SERVERS: u8 = 42;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER_IDENTIFIER: u8 = 54;
    pub const PARAMETER_REQUEST_LIST: u8 = 55;
    pub const MESSAGE: u8 = 56;
    pub const MAXIMUM_SIZE: u8 = 57;
    pub const RENEWAL_TIME: u8 = 58;
    pub const REBINDING_TIME: u8 = 59;
    pub const DOMAIN_SEARCH: u8 = 119;
    pub const CLASSLESS_ROUTES: u8 = 121;
    pub const END: u8 = 255;
}

/// What a message is (RFC 2132, section 9.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of RFC 2131, table 2")]
pub enum Kind {
    Discover = 1,
    Offer = 2,
    Request = 3,
    Ack = 5,
    Nak = 6,
}

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum MessageError {
    #[error("DHCP message of {0} bytes, which is less than its fixed part")]
    Short(usize),
    #[error("DHCP message without its magic cookie")]
    Magic,
    #[error("DHCP message with hardware type {0} and address length {1}: not Ethernet")]
    Hardware(u8, u8),
    #[error("DHCP message with operation {0}, which is neither request nor reply")]
    Operation(u8),
    #[error("DHCP message without a known type (option 53)")]
    Kind,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Whether it comes from a server (BOOTREPLY).
    pub reply: bool,
    /// What it is.
    pub kind: Kind,
    /// Transaction id.
    pub xid: u32,
    /// Seconds since the client began.
    pub secs: u16,
    /// The client's address, when it has one.
    pub ciaddr: Ipv4Addr,
    /// The address that the server gives.
    pub yiaddr: Ipv4Addr,
    /// The client's hardware address.
    pub hardware: [u8; 6],
    /// Options by code, without [`option::MESSAGE_TYPE`]; parts of one option are joined.
    pub options: BTreeMap<u8, Vec<u8>>,
}

/// A route (RFC 3442): network, prefix length, router; without a router it is on the link.
pub type ClasslessRoute = (Ipv4Addr, u8, Option<Ipv4Addr>);

impl Message {
    /// Returns a client's message without options.
    pub fn request(kind: Kind, xid: u32, hardware: [u8; 6]) -> Self {
        let none = Ipv4Addr::UNSPECIFIED;
        Message { reply: false, kind, xid, secs: 0, ciaddr: none, yiaddr: none, hardware, options: BTreeMap::new() }
    }

    /// Reads a message.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let (fixed, rest) = bytes.split_first_chunk::<FIXED>().ok_or(MessageError::Short(bytes.len()))?;
        if fixed[236..] != MAGIC {
            return Err(MessageError::Magic);
        }
        if (fixed[1], fixed[2]) != (1, 6) {
            return Err(MessageError::Hardware(fixed[1], fixed[2]));
        }
        let reply = match fixed[0] {
            REQUEST => false,
            REPLY => true,
            other => return Err(MessageError::Operation(other)),
        };
        let mut options = BTreeMap::new();
        take_options(rest, &mut options);
        // "the 'file' field MUST be interpreted next ... followed by the 'sname' field" (RFC 2131, section 4.1).
        let overload = options.remove(&option::OVERLOAD).and_then(|value: Vec<u8>| value.first().copied()).unwrap_or(0);
        if overload & 1 != 0 {
            take_options(&fixed[108..236], &mut options);
        }
        if overload & 2 != 0 {
            take_options(&fixed[44..108], &mut options);
        }
        let kind = match options.remove(&option::MESSAGE_TYPE).as_deref() {
            Some([1]) => Kind::Discover,
            Some([2]) => Kind::Offer,
            Some([3]) => Kind::Request,
            Some([5]) => Kind::Ack,
            Some([6]) => Kind::Nak,
            _ => return Err(MessageError::Kind),
        };
        // An option without content says nothing (RFC 2132 has none of length 0 that a server sends).
        options.retain(|_, value| !value.is_empty());
        let mut hardware = [0; 6];
        hardware.copy_from_slice(&fixed[28..34]);
        Ok(Message {
            reply,
            kind,
            xid: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            secs: u16::from_be_bytes([fixed[8], fixed[9]]),
            ciaddr: Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]),
            yiaddr: Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]),
            hardware,
            options,
        })
    }

    /// Returns the message as bytes. Options longer than 255 bytes are written in parts.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; FIXED];
        bytes[0] = if self.reply { REPLY } else { REQUEST };
        bytes[1] = 1;
        bytes[2] = 6;
        bytes[4..8].copy_from_slice(&self.xid.to_be_bytes());
        bytes[8..10].copy_from_slice(&self.secs.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.ciaddr.octets());
        bytes[16..20].copy_from_slice(&self.yiaddr.octets());
        bytes[28..34].copy_from_slice(&self.hardware);
        bytes[236..240].copy_from_slice(&MAGIC);
        bytes.extend([option::MESSAGE_TYPE, 1, self.kind as u8]);
        for (code, value) in &self.options {
            for part in value.chunks(255) {
                bytes.extend([*code, part.len() as u8]);
                bytes.extend(part);
            }
        }
        bytes.push(option::END);
        bytes.resize(bytes.len().max(SHORTEST), option::PAD);
        bytes
    }

    /// Returns a 32-bit number.
    pub fn number(&self, code: u8) -> Option<u32> {
        Some(u32::from_be_bytes(self.options.get(&code)?.as_slice().try_into().ok()?))
    }

    /// Returns a 16-bit number.
    pub fn short(&self, code: u8) -> Option<u16> {
        Some(u16::from_be_bytes(self.options.get(&code)?.as_slice().try_into().ok()?))
    }

    /// Returns one address.
    pub fn address(&self, code: u8) -> Option<Ipv4Addr> {
        self.number(code).map(Ipv4Addr::from)
    }

    /// Returns the addresses of a list; none when its length is no multiple of four.
    pub fn addresses(&self, code: u8) -> Vec<Ipv4Addr> {
        let value = self.options.get(&code).filter(|value| value.len() % 4 == 0);
        let chunks = value.into_iter().flat_map(|value| value.chunks_exact(4));
        chunks.map(|part| Ipv4Addr::new(part[0], part[1], part[2], part[3])).collect()
    }

    /// Returns a text without the zero bytes that some servers add; `None` when it is not ASCII.
    pub fn text(&self, code: u8) -> Option<String> {
        let text = std::str::from_utf8(self.options.get(&code)?).ok()?.trim_end_matches('\0');
        text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ').then(|| text.to_owned())
    }

    /// Returns the domains of a search list (RFC 3397); none when any part is malformed.
    pub fn domains(&self, code: u8) -> Vec<String> {
        self.options.get(&code).and_then(|value| read_domains(value)).unwrap_or_default()
    }

    /// Returns classless routes (RFC 3442); none when any part is malformed.
    pub fn routes(&self, code: u8) -> Vec<ClasslessRoute> {
        self.options.get(&code).and_then(|value| read_routes(value)).unwrap_or_default()
    }
}

/// Reads options up to the end mark, or up to the first whose length leads past the end.
fn take_options(mut rest: &[u8], options: &mut BTreeMap<u8, Vec<u8>>) {
    while let Some((code, after)) = rest.split_first() {
        rest = match *code {
            option::PAD => after,
            option::END => return,
            code => {
                let Some((length, after)) = after.split_first() else { return };
                let Some((value, after)) = after.split_at_checked(usize::from(*length)) else { return };
                options.entry(code).or_default().extend(value);
                after
            }
        };
    }
}

/// Reads names as DNS writes them (RFC 1035, section 4.1.4), with pointers into the option itself.
fn read_domains(value: &[u8]) -> Option<Vec<String>> {
    let (mut domains, mut at) = (Vec::new(), 0);
    while at < value.len() && domains.len() < DOMAINS_LIMIT {
        let (name, next) = read_name(value, at)?;
        domains.push(name);
        at = next;
    }
    Some(domains)
}

/// Returns the name at `start` and where the next begins.
fn read_name(value: &[u8], start: usize) -> Option<(String, usize)> {
    let (mut labels, mut at, mut next) = (Vec::new(), start, None);
    loop {
        let length = *value.get(at)?;
        match length {
            0 => return Some((labels.join("."), next.unwrap_or(at + 1))),
            1..=63 => {
                let label = value.get(at + 1..at + 1 + usize::from(length))?;
                labels.push(std::str::from_utf8(label).ok()?.to_owned());
                at += 1 + usize::from(length);
            }
            0xc0.. => {
                let target = usize::from(length & 0x3f) << 8 | usize::from(*value.get(at + 1)?);
                // Only backwards: a name that points at itself ends here.
                if target >= at {
                    return None;
                }
                next = next.or(Some(at + 2));
                at = target;
            }
            _ => return None,
        }
        // A name has at most 255 bytes (RFC 1035, section 2.3.4); 128 labels are more than fit.
        if labels.len() > 127 {
            return None;
        }
    }
}

fn read_routes(mut rest: &[u8]) -> Option<Vec<ClasslessRoute>> {
    let mut routes = Vec::new();
    while let Some((prefix, after)) = rest.split_first() {
        // "the width of the subnet mask ... 0 to 32", then as many octets as the mask needs (RFC 3442).
        if *prefix > 32 {
            return None;
        }
        let (significant, after) = after.split_at_checked(usize::from(prefix.div_ceil(8)))?;
        let (router, after) = after.split_first_chunk::<4>()?;
        let mut network = [0; 4];
        network.get_mut(..significant.len())?.copy_from_slice(significant);
        let router = Ipv4Addr::from(*router);
        if routes.len() < ROUTES_LIMIT {
            routes.push((mask(network.into(), *prefix), *prefix, (!router.is_unspecified()).then_some(router)));
        }
        rest = after;
    }
    Some(routes)
}

/// Returns the network that an address with a prefix length belongs to.
pub fn mask(address: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    let bits = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
    Ipv4Addr::from(u32::from(address) & bits)
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
