//! IPv4 (RFC 791) and UDP (RFC 768) headers around DHCP messages, for interfaces without an address.

use std::net::Ipv4Addr;

use super::{CLIENT_PORT, SERVER_PORT};

/// Length of an IPv4 header without options.
const IP_HEADER: usize = 20;
/// Length of a UDP header.
const UDP_HEADER: usize = 8;
/// UDP's protocol number.
const UDP: u8 = 17;

/// Returns the packet that carries `payload` from a client's port to every server on the link.
pub fn wrap(source: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let udp_length = UDP_HEADER + payload.len();
    let total = IP_HEADER + udp_length;
    let mut packet = vec![0; total];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    packet[8] = 64;
    packet[9] = UDP;
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&Ipv4Addr::BROADCAST.octets());
    let header_sum = !fold(sum(&packet[..IP_HEADER]));
    packet[10..12].copy_from_slice(&header_sum.to_be_bytes());
    packet[20..22].copy_from_slice(&CLIENT_PORT.to_be_bytes());
    packet[22..24].copy_from_slice(&SERVER_PORT.to_be_bytes());
    packet[24..26].copy_from_slice(&(udp_length as u16).to_be_bytes());
    packet[28..].copy_from_slice(payload);
    let udp_sum = !fold(pseudo_header(&packet, udp_length) + sum(&packet[IP_HEADER..]));
    // "If the computed checksum is zero, it is transmitted as all ones" (RFC 768).
    packet[26..28].copy_from_slice(&(if udp_sum == 0 { 0xffff } else { udp_sum }).to_be_bytes());
    packet
}

/// Returns source address and payload of a packet from a server's port to a client's; `None` for all others and for
/// those with wrong lengths or checksums.
pub fn unwrap(packet: &[u8]) -> Option<(Ipv4Addr, &[u8])> {
    let first = *packet.first()?;
    let header = usize::from(first & 0x0f) * 4;
    if first >> 4 != 4 || header < IP_HEADER {
        return None;
    }
    let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    // Ethernet pads short frames: what is behind the total length is not part of the packet.
    let packet = packet.get(..total)?;
    let (ip, udp) = packet.split_at_checked(header)?;
    let fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff != 0;
    if ip[9] != UDP || fragment || fold(sum(ip)) != 0xffff {
        return None;
    }
    let (udp_header, _) = udp.split_first_chunk::<UDP_HEADER>()?;
    let field = |at: usize| u16::from_be_bytes([udp_header[at], udp_header[at + 1]]);
    let length = usize::from(field(4));
    let udp = udp.get(..length)?;
    let payload = udp.get(UDP_HEADER..)?;
    if (field(0), field(2)) != (SERVER_PORT, CLIENT_PORT) || !udp_sum_fits(packet, udp, field(6)) {
        return None;
    }
    Some((Ipv4Addr::new(ip[12], ip[13], ip[14], ip[15]), payload))
}

/// Tells whether the UDP checksum is right, absent, or left to a network card that never saw the packet: a server on
/// the same machine (a hypervisor's, for one) sends with the sum of the pseudo header alone.
fn udp_sum_fits(packet: &[u8], udp: &[u8], stated: u16) -> bool {
    let pseudo = pseudo_header(packet, udp.len());
    stated == 0 || fold(pseudo + sum(udp)) == 0xffff || stated == fold(pseudo)
}

/// The sum over addresses, protocol and length (RFC 768).
fn pseudo_header(packet: &[u8], udp_length: usize) -> u32 {
    sum(packet.get(12..20).unwrap_or(&[])) + u32::from(UDP) + udp_length as u32
}

/// The sum of 16-bit words, an odd byte padded with zero. Packets have less than 64 KiB: it cannot overflow.
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0))).sum()
}

/// The ones' complement sum in 16 bits (RFC 1071).
fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet as a server sends it.
    fn reply(payload: &[u8]) -> Vec<u8> {
        let mut packet = wrap(Ipv4Addr::new(10, 0, 0, 1), payload);
        packet.swap(20, 22);
        packet.swap(21, 23);
        packet
    }

    #[test]
    fn what_is_wrapped_is_unwrapped() {
        for payload in [&b""[..], b"odd", b"even"] {
            assert_eq!(unwrap(&reply(payload)), Some((Ipv4Addr::new(10, 0, 0, 1), payload)));
            let padded = [reply(payload), vec![0; 30]].concat();
            assert_eq!(unwrap(&padded).map(|found| found.1), Some(payload), "Ethernet's padding");
        }
        assert_eq!(unwrap(&wrap(Ipv4Addr::UNSPECIFIED, b"x")), None, "a client's packet is for servers");
    }

    #[test]
    fn checksums_that_are_absent_or_partial_are_taken() {
        let good = reply(b"payload");
        for stated in [0, fold(pseudo_header(&good, 15))] {
            let mut packet = good.clone();
            packet[26..28].copy_from_slice(&stated.to_be_bytes());
            assert!(unwrap(&packet).is_some(), "{stated:#x}");
        }
    }

    #[test]
    fn damaged_packets_are_refused() {
        let good = reply(b"payload");
        for length in 0..good.len() {
            assert_eq!(unwrap(&good[..length]), None, "truncated to {length}");
        }
        // Every single byte: headers by checksum or by their meaning, payload by the UDP checksum.
        for at in 0..good.len() {
            let mut packet = good.clone();
            packet[at] ^= 0x55;
            assert_eq!(unwrap(&packet), None, "byte {at}");
        }
        let mut fragment = good.clone();
        fragment[6] = 0x20;
        let sum = u16::from_be_bytes([fragment[10], fragment[11]]) - 0x2000;
        fragment[10..12].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(unwrap(&fragment), None, "a fragment");
    }
}
