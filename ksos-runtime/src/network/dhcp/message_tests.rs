//! Messages against hostile bytes, and against another implementation (`dhcproto`).

use dhcproto::v4::{self, DhcpOption};
use dhcproto::{Decodable, Encodable};

use super::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// An offer with these bytes where options are.
fn offer(options: &[u8]) -> Vec<u8> {
    let mut bytes = Message { reply: true, ..Message::request(Kind::Offer, 7, MAC) }.encode();
    bytes.truncate(FIXED);
    bytes.extend([53, 1, 2]);
    bytes.extend(options);
    bytes
}

fn decoded(options: &[u8]) -> Message {
    Message::decode(&offer(options)).expect("a message")
}

#[test]
fn another_implementation_reads_what_is_written() {
    let mut message = Message::request(Kind::Request, 0x0102_0304, MAC);
    message.secs = 3;
    message.ciaddr = Ipv4Addr::new(10, 0, 0, 9);
    message.options.insert(option::HOST_NAME, b"node-1".to_vec());
    message.options.insert(option::REQUESTED_ADDRESS, vec![10, 0, 0, 9]);
    message.options.insert(option::PARAMETER_REQUEST_LIST, vec![1, 3, 6]);
    let bytes = message.encode();
    assert!(bytes.len() >= 300);
    let foreign = v4::Message::from_bytes(&bytes).expect("readable");
    assert_eq!((foreign.xid(), foreign.secs(), foreign.ciaddr()), (0x0102_0304, 3, message.ciaddr));
    assert_eq!(foreign.chaddr(), MAC);
    assert_eq!(foreign.opts().msg_type(), Some(v4::MessageType::Request));
    assert_eq!(foreign.opts().get(v4::OptionCode::Hostname), Some(&DhcpOption::Hostname("node-1".to_owned())));
    assert_eq!(Message::decode(&bytes), Ok(message));
}

#[test]
fn what_another_implementation_writes_is_read() {
    let mut foreign = v4::Message::new(
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::new(192, 0, 2, 7),
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        &MAC,
    );
    foreign.set_opcode(v4::Opcode::BootReply).set_xid(9);
    let name = |text: &str| text.parse().expect("a name");
    let options = foreign.opts_mut();
    options.insert(DhcpOption::MessageType(v4::MessageType::Ack));
    options.insert(DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 128)));
    options.insert(DhcpOption::AddressLeaseTime(3600));
    options.insert(DhcpOption::DomainNameServer(vec![Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)]));
    options.insert(DhcpOption::InterfaceMtu(1400));
    options.insert(DhcpOption::DomainSearch(vec![name("a.example."), name("b.example.")]));
    options.insert(DhcpOption::ClasslessStaticRoute(vec![
        ("10.64.0.0/10".parse().expect("a net"), Ipv4Addr::new(192, 0, 2, 3)),
        ("0.0.0.0/0".parse().expect("a net"), Ipv4Addr::new(192, 0, 2, 1)),
    ]));
    let message = Message::decode(&foreign.to_vec().expect("bytes")).expect("a message");
    assert_eq!((message.kind, message.yiaddr, message.hardware), (Kind::Ack, Ipv4Addr::new(192, 0, 2, 7), MAC));
    assert_eq!(message.number(option::LEASE_TIME), Some(3600));
    assert_eq!(message.short(option::INTERFACE_MTU), Some(1400));
    assert_eq!(message.addresses(option::DOMAIN_NAME_SERVER).len(), 2);
    assert_eq!(message.domains(option::DOMAIN_SEARCH), ["a.example", "b.example"]);
    let gateway = |last| Some(Ipv4Addr::new(192, 0, 2, last));
    assert_eq!(
        message.routes(option::CLASSLESS_ROUTES),
        [(Ipv4Addr::new(10, 64, 0, 0), 10, gateway(3)), (Ipv4Addr::UNSPECIFIED, 0, gateway(1))]
    );
}

#[test]
fn what_is_no_message_is_named() {
    let good = offer(&[]);
    assert_eq!(Message::decode(&good[..239]), Err(MessageError::Short(239)));
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        Message::decode(&bytes)
    };
    assert_eq!(with(238, 0), Err(MessageError::Magic));
    assert_eq!(with(1, 6), Err(MessageError::Hardware(6, 6)));
    assert_eq!(with(2, 16), Err(MessageError::Hardware(1, 16)));
    assert_eq!(with(0, 3), Err(MessageError::Operation(3)));
    assert_eq!(with(242, 4), Err(MessageError::Kind), "DHCPDECLINE is no server's message");
    assert_eq!(Message::decode(&good[..240]), Err(MessageError::Kind));
}

#[test]
fn a_malformed_option_costs_that_option_alone() {
    // Name servers of five bytes, a lease of two, then good ones.
    let message =
        decoded(&[6, 5, 1, 2, 3, 4, 5, 51, 2, 0, 1, 3, 4, 10, 0, 0, 1, 15, 3, 0xff, 0xfe, b'x', 26, 2, 5, 220]);
    assert_eq!(message.addresses(option::DOMAIN_NAME_SERVER), [] as [Ipv4Addr; 0]);
    assert_eq!(message.number(option::LEASE_TIME), None);
    assert_eq!(message.text(option::DOMAIN_NAME), None);
    assert_eq!(message.addresses(option::ROUTER), [Ipv4Addr::new(10, 0, 0, 1)]);
    assert_eq!(message.short(option::INTERFACE_MTU), Some(1500));
}

#[test]
fn options_that_claim_more_than_there_is_end_the_list() {
    let message = decoded(&[3, 4, 10, 0, 0, 1, 6, 200, 1, 2, 3, 4]);
    assert_eq!(message.addresses(option::ROUTER).len(), 1);
    assert_eq!(message.options.get(&option::DOMAIN_NAME_SERVER), None);
    assert_eq!(decoded(&[6]).options.len(), 0, "a code without a length");
    assert_eq!(decoded(&[0, 0, 255, 3, 4, 1, 1, 1, 1]).options.len(), 0, "what is behind the end");
}

#[test]
fn long_options_are_joined_and_split() {
    let message = decoded(&[15, 3, b'e', b'x', b'a', 0, 15, 4, b'm', b'p', b'l', b'e']);
    assert_eq!(message.text(option::DOMAIN_NAME).as_deref(), Some("example"));
    let mut long = Message::request(Kind::Discover, 1, MAC);
    long.options.insert(option::MESSAGE, vec![b'x'; 600]);
    assert_eq!(Message::decode(&long.encode()), Ok(long));
}

#[test]
fn overloaded_fields_hold_options() {
    let mut bytes = offer(&[52, 1, 3, 255]);
    bytes[108..115].copy_from_slice(&[3, 4, 10, 0, 0, 1, 255]);
    bytes[44..51].copy_from_slice(&[1, 4, 255, 255, 255, 0, 255]);
    let message = Message::decode(&bytes).expect("a message");
    assert_eq!(message.address(option::ROUTER), Some(Ipv4Addr::new(10, 0, 0, 1)));
    assert_eq!(message.address(option::SUBNET_MASK), Some(Ipv4Addr::new(255, 255, 255, 0)));
    bytes[242] = 2;
    bytes[245] = 0;
    assert_eq!(Message::decode(&bytes).expect("a message").options.len(), 0, "not overloaded");
}

#[test]
fn search_lists_with_pointers() {
    let list = [
        &[3, b'e', b'n', b'g', 5, b'a', b'p', b'p', b'l', b'e', 3, b'c', b'o', b'm', 0][..],
        &[2, b'h', b'q', 0xc0, 4],
    ];
    let value = list.concat();
    assert_eq!(read_domains(&value), Some(vec!["eng.apple.com".to_owned(), "hq.apple.com".to_owned()]));
    for (fault, value) in [
        ("points at itself", &[0xc0, 0][..]),
        ("points forward", &[0xc0, 2, 0]),
        ("points in a circle", &[1, b'a', 0xc0, 0]),
        ("ends within a pointer", &[1, b'a', 0xc0]),
        ("ends within a label", &[9, b'a']),
        ("has no end", &[1, b'a']),
        ("has a label type of 1990", &[0x40, 0]),
        ("is not text", &[1, 0xff, 0]),
    ] {
        let found = read_domains(value);
        // A pointer back to its own beginning repeats the labels between until there are too many.
        assert_eq!(found, None, "{fault}");
    }
    let many: Vec<u8> = [1, b'a', 0].repeat(80);
    assert_eq!(read_domains(&many).map(|found| found.len()), Some(DOMAINS_LIMIT));
}

#[test]
fn malformed_routes_are_none() {
    for (fault, value) in [
        ("a prefix of 33", &[33, 1, 2, 3, 4, 1, 2, 3, 4][..]),
        ("too few octets", &[24, 10, 0]),
        ("half a router", &[8, 10, 1, 2]),
        ("a good one and a bad one", &[0, 10, 0, 0, 1, 32, 1]),
    ] {
        assert_eq!(read_routes(value), None, "{fault}");
    }
    assert_eq!(read_routes(&[12, 10, 0xff, 0, 0, 0, 0]), Some(vec![(Ipv4Addr::new(10, 0xf0, 0, 0), 12, None)]));
}

#[test]
fn no_bytes_make_it_panic() {
    // A fixed sequence of noise: 8,000 messages with a plausible head and random options.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    for round in 0..8000_u32 {
        let options: Vec<u8> = (0..round % 64).map(|_| noise() & if round & 64 == 0 { 0x7f } else { 0xff }).collect();
        if let Ok(message) = Message::decode(&offer(&options)) {
            let again = message.encode();
            assert_eq!(Message::decode(&again).map(|found| found.options), Ok(message.options.clone()));
            for code in 0..=255 {
                message.domains(code);
                message.routes(code);
                message.text(code);
                message.addresses(code);
            }
        }
    }
}
