//! The client against a server that the test plays.

use super::super::lease::tests::answer;
use super::*;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
const HOUR: u64 = 3_600_000;

fn client() -> Client {
    Client::new([2, 0, 0, 0, 0, 1], Some("node".to_owned()), 7)
}

/// The message that is sent, and whether to everybody.
fn sent(actions: &[Action]) -> (&Message, bool) {
    let mut found = actions.iter().filter_map(|action| match action {
        Action::Broadcast(message) => Some((message, true)),
        Action::Unicast(server, message) => {
            assert_eq!(*server, SERVER);
            Some((message, false))
        }
        _ => None,
    });
    let first = found.next().expect("a message is sent");
    assert_eq!(found.next(), None, "one message at a time");
    first
}

fn notes(actions: &[Action]) -> Vec<&str> {
    actions
        .iter()
        .filter_map(|action| if let Action::Note(text) = action { Some(text.as_str()) } else { None })
        .collect()
}

fn configured(actions: &[Action]) -> Option<&Lease> {
    actions.iter().find_map(|action| if let Action::Configure(lease) = action { Some(lease.as_ref()) } else { None })
}

fn withdrawn(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::Withdraw(_)))
}

/// A client that is bound at `now`, in one exchange without delays.
fn bound(now: u64, options: &[(u8, &[u8])]) -> Client {
    let mut client = client();
    client.step(now, Event::Carrier(true));
    let xid = client.xid;
    client.step(now, Event::Received(&answer(Kind::Offer, xid, options)));
    let actions = client.step(now, Event::Received(&answer(Kind::Ack, xid, options)));
    assert!(configured(&actions).is_some(), "{actions:?}");
    client
}

#[test]
fn from_carrier_to_an_address() {
    let mut client = client();
    assert_eq!((client.due(), client.listens()), (None, Listen::Nowhere));
    let actions = client.step(5000, Event::Carrier(true));
    let (discover, broadcast) = sent(&actions);
    assert!(broadcast && discover.kind == Kind::Discover && !discover.reply && discover.secs == 0);
    assert_eq!(discover.options[&option::HOST_NAME], b"node");
    assert_eq!(discover.options.get(&option::REQUESTED_ADDRESS), None);
    let wanted = &discover.options[&option::PARAMETER_REQUEST_LIST];
    assert!([1, 121, 3, 6, 15, 119, 26, 42, 58, 59].iter().all(|code| wanted.contains(code)));
    assert_eq!(client.listens(), Listen::Link);

    let actions = client.step(6000, Event::Received(&answer(Kind::Offer, client.xid, &[])));
    let (request, broadcast) = sent(&actions);
    assert!(broadcast && request.kind == Kind::Request && request.ciaddr.is_unspecified());
    assert_eq!(request.address(option::REQUESTED_ADDRESS), Some(ADDRESS));
    assert_eq!(request.address(option::SERVER_IDENTIFIER), Some(SERVER));
    assert_eq!((request.xid, request.secs), (client.xid, 1));

    let actions = client.step(6500, Event::Received(&answer(Kind::Ack, client.xid, &[])));
    assert_eq!(notes(&actions), ["10.0.0.9/24 by DHCP from 10.0.0.1, lease 3600 s"]);
    assert_eq!(configured(&actions).map(|lease| lease.address), Some(ADDRESS));
    assert_eq!((client.state_name(), client.listens()), ("bound", Listen::Nowhere));
    assert_eq!(client.expires_ms(), Some(6500 + HOUR));
    let due = client.due().expect("T1");
    assert!((6500 + HOUR / 2 * 15 / 16..=6500 + HOUR / 2).contains(&due), "{due}");
}

#[test]
fn discovers_are_sent_ever_more_slowly() {
    let mut client = client();
    let (mut now, mut pauses) = (0, Vec::new());
    client.step(now, Event::Carrier(true));
    for _ in 0..10 {
        let due = client.due().expect("a timer");
        pauses.push(due - now);
        assert!(client.step(due - 1, Event::Due).is_empty(), "too early");
        now = due;
        assert_eq!(sent(&client.step(now, Event::Due)).0.kind, Kind::Discover);
    }
    for (pause, middle) in pauses.iter().zip([2000, 4000, 8000, 16_000, 32_000, 64_000, 64_000, 64_000, 64_000, 64_000])
    {
        assert!((middle * 3 / 4..=middle * 5 / 4).contains(pause), "{pauses:?}");
    }
}

#[test]
fn an_unanswered_request_goes_back_to_looking() {
    let mut client = client();
    client.step(0, Event::Carrier(true));
    let first = client.xid;
    client.step(0, Event::Received(&answer(Kind::Offer, first, &[])));
    for _ in 1..REQUESTS {
        let due = client.due().expect("a timer");
        assert_eq!(sent(&client.step(due, Event::Due)).0.kind, Kind::Request);
    }
    let due = client.due().expect("a timer");
    assert_eq!(sent(&client.step(due, Event::Due)).0.kind, Kind::Discover);
    assert_ne!(client.xid, first, "a new transaction");
    let late = answer(Kind::Ack, first, &[]);
    assert_eq!(client.step(due, Event::Received(&late)), [], "an answer to the transaction before");
}

#[test]
fn answers_that_are_not_ours_change_nothing() {
    let mut client = client();
    client.step(0, Event::Carrier(true));
    let good = answer(Kind::Offer, client.xid, &[]);
    for (fault, message) in [
        ("wrong transaction", Message { xid: client.xid ^ 1, ..good.clone() }),
        ("wrong hardware address", Message { hardware: [2, 0, 0, 0, 0, 2], ..good.clone() }),
        ("another client's request", Message { reply: false, ..good.clone() }),
        ("acknowledges what nobody asked for", Message { kind: Kind::Ack, ..good.clone() }),
        ("refuses what nobody asked for", Message { kind: Kind::Nak, ..good.clone() }),
    ] {
        assert_eq!(client.step(1, Event::Received(&message)), [], "{fault}");
        assert_eq!(client.state, State::Selecting(1), "{fault}");
    }
    client.step(1, Event::Received(&good));
    let other: &[u8] = &[10, 0, 0, 66];
    let foreign = answer(Kind::Ack, client.xid, &[(option::SERVER_IDENTIFIER, other)]);
    let actions = client.step(2, Event::Received(&foreign));
    assert_eq!(
        notes(&actions),
        ["an answer of DHCP server 10.0.0.66 is not taken: it is not the server that was asked"]
    );
    assert_eq!(
        client.step(2, Event::Received(&answer(Kind::Nak, client.xid, &[(54, other)]))),
        [],
        "a stranger's refusal"
    );
    let elsewhere = Message { yiaddr: Ipv4Addr::new(10, 0, 0, 10), ..answer(Kind::Ack, client.xid, &[]) };
    assert_eq!(configured(&client.step(2, Event::Received(&elsewhere))), None);
    assert_eq!(client.state_name(), "requesting");
}

#[test]
fn unsound_offers_are_named_once_and_others_wanted() {
    let mut client = client();
    client.step(0, Event::Carrier(true));
    let zero = answer(Kind::Offer, client.xid, &[(option::LEASE_TIME, &[0; 4])]);
    let text = "an answer of DHCP server 10.0.0.1 is not taken: a lease of 0 s is shorter than 10 s";
    assert_eq!(notes(&client.step(1, Event::Received(&zero))), [text]);
    assert_eq!(client.step(1, Event::Received(&zero)), [], "not again");
    let nowhere = Message { yiaddr: Ipv4Addr::UNSPECIFIED, ..answer(Kind::Offer, client.xid, &[]) };
    let text = "an answer of DHCP server 10.0.0.1 is not taken: the address 0.0.0.0 is no address for a host";
    assert_eq!(notes(&client.step(1, Event::Received(&nowhere))), [text]);
    let good = client.step(2, Event::Received(&answer(Kind::Offer, client.xid, &[])));
    assert_eq!(sent(&good).0.kind, Kind::Request);
}

#[test]
fn a_lease_is_renewed_with_its_server() {
    let mut client = bound(0, &[]);
    let due = client.due().expect("T1");
    let actions = client.step(due, Event::Due);
    let (request, broadcast) = sent(&actions);
    assert!(!broadcast && request.kind == Kind::Request && request.ciaddr == ADDRESS);
    assert_eq!(request.options.get(&option::SERVER_IDENTIFIER), None);
    assert_eq!(request.options.get(&option::REQUESTED_ADDRESS), None);
    assert_eq!(client.listens(), Listen::Address);
    let actions = client.step(due + 9, Event::Received(&answer(Kind::Ack, client.xid, &[])));
    assert!(configured(&actions).is_some() && notes(&actions).is_empty(), "no news: {actions:?}");
    assert_eq!(client.expires_ms(), Some(due + 9 + HOUR));
    assert_eq!(client.state_name(), "bound");
}

#[test]
fn a_lease_that_nobody_renews_is_rebound_and_then_ends() {
    let mut client = bound(0, &[]);
    let (mut direct, mut all, mut last) = (0, 0, 0);
    let ended = loop {
        let due = client.due().expect("a timer");
        assert!(due == HOUR || due - last >= RENEW_PAUSE_MS || due == HOUR * 7 / 8, "too often: {last} {due}");
        last = due;
        let actions = client.step(due, Event::Due);
        if withdrawn(&actions) {
            assert_eq!(sent(&actions).0.kind, Kind::Discover);
            assert_eq!(sent(&actions).0.address(option::REQUESTED_ADDRESS), Some(ADDRESS), "it asks for the same");
            break due;
        }
        if sent(&actions).1 {
            assert!(due >= HOUR * 7 / 8);
            assert_eq!(sent(&actions).0.ciaddr, ADDRESS);
            all += 1;
        } else {
            assert!(due < HOUR * 7 / 8);
            direct += 1;
        }
    };
    assert_eq!((ended, client.lease()), (HOUR, None));
    assert!((3..10).contains(&direct) && (2..8).contains(&all), "{direct} {all}");
}

#[test]
fn any_server_may_rebind() {
    let mut client = bound(0, &[]);
    client.step(HOUR * 7 / 8, Event::Due);
    assert_eq!(client.state_name(), "rebinding");
    let other = answer(Kind::Ack, client.xid, &[(option::SERVER_IDENTIFIER, &[10, 0, 0, 2])]);
    let actions = client.step(HOUR * 7 / 8 + 1, Event::Received(&other));
    assert_eq!(notes(&actions), ["10.0.0.9/24 by DHCP from 10.0.0.2, lease 3600 s"]);
}

#[test]
fn a_cable_that_comes_back_confirms_the_lease() {
    let mut client = bound(0, &[]);
    assert_eq!(client.step(1000, Event::Carrier(false)), []);
    assert!(client.lease().is_some(), "the address stays");
    assert_eq!(client.due(), Some(HOUR), "only the end of the lease");
    let actions = client.step(60_000, Event::Carrier(true));
    let (request, broadcast) = sent(&actions);
    assert!(broadcast && request.kind == Kind::Request && request.ciaddr.is_unspecified());
    assert_eq!(request.address(option::REQUESTED_ADDRESS), Some(ADDRESS));
    assert_eq!(request.options.get(&option::SERVER_IDENTIFIER), None);
    assert_eq!(client.step(60_000, Event::Carrier(true)), [], "said twice");
    let actions = client.step(60_001, Event::Received(&answer(Kind::Ack, client.xid, &[])));
    assert!(notes(&actions).is_empty() && configured(&actions).is_some());
    assert_eq!(client.expires_ms(), Some(60_001 + HOUR));
}

#[test]
fn a_cable_in_another_network_gets_another_address() {
    // The new network's server refuses.
    let mut client = bound(0, &[]);
    client.step(1000, Event::Carrier(false));
    client.step(2000, Event::Carrier(true));
    let nak =
        answer(Kind::Nak, client.xid, &[(option::SERVER_IDENTIFIER, &[192, 168, 0, 1]), (option::MESSAGE, b"no\n")]);
    let actions = client.step(2001, Event::Received(&nak));
    assert!(withdrawn(&actions) && client.lease().is_none());
    assert_eq!(sent(&actions).0.options.get(&option::REQUESTED_ADDRESS), None);
    // It says nothing: the old address stays until there is another.
    let mut client = bound(0, &[]);
    client.step(1000, Event::Carrier(false));
    client.step(2000, Event::Carrier(true));
    for _ in 1..REBOOT_REQUESTS {
        let due = client.due().expect("a timer");
        assert_eq!(sent(&client.step(due, Event::Due)).0.kind, Kind::Request);
    }
    let due = client.due().expect("a timer");
    assert!(due < 7000, "{due}");
    assert_eq!(sent(&client.step(due, Event::Due)).0.kind, Kind::Discover);
    assert!(client.lease().is_some());
    let here = |kind, xid| Message { yiaddr: Ipv4Addr::new(10, 0, 0, 77), ..answer(kind, xid, &[]) };
    client.step(due, Event::Received(&here(Kind::Offer, client.xid)));
    let actions = client.step(due, Event::Received(&here(Kind::Ack, client.xid)));
    assert_eq!(configured(&actions).map(|lease| lease.address), Some(Ipv4Addr::new(10, 0, 0, 77)));
}

#[test]
fn a_lease_ends_also_without_a_cable_or_while_looking() {
    let mut client = bound(0, &[]);
    client.step(1000, Event::Carrier(false));
    let actions = client.step(HOUR, Event::Due);
    assert!(withdrawn(&actions) && !actions.iter().any(|action| matches!(action, Action::Broadcast(_))));
    assert_eq!(client.due(), None);
    let mut client = bound(0, &[]);
    client.step(1000, Event::Carrier(false));
    client.step(HOUR - 100, Event::Carrier(true));
    let actions = client.step(HOUR, Event::Due);
    assert!(withdrawn(&actions));
    assert_eq!(client.state_name(), "rebooting", "it goes on");
}

#[test]
fn a_server_that_always_refuses_is_asked_ever_more_slowly() {
    let mut client = client();
    client.remember(ADDRESS);
    let mut now = 0;
    let mut actions = client.step(now, Event::Carrier(true));
    let mut waits = Vec::new();
    for _ in 0..9 {
        if sent(&actions).0.kind == Kind::Discover {
            actions = client.step(now, Event::Received(&answer(Kind::Offer, client.xid, &[])));
        }
        assert_eq!(sent(&actions).0.kind, Kind::Request);
        actions = client.step(now, Event::Received(&answer(Kind::Nak, client.xid, &[])));
        if !actions.iter().any(|action| matches!(action, Action::Broadcast(_))) {
            let due = client.due().expect("a timer");
            assert_eq!(client.step(now, Event::Received(&answer(Kind::Offer, client.xid, &[]))), [], "not asked yet");
            waits.push(due - now);
            now = due;
            actions = client.step(now, Event::Due);
        }
    }
    assert_eq!(waits, [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
}

#[test]
fn an_adopted_lease_is_confirmed_and_ends_in_time() {
    let lease = bound(0, &[]).lease().expect("a lease").clone();
    let mut client = client();
    client.adopt(5000, lease.clone(), Some(20_000));
    assert_eq!(client.expires_ms(), Some(25_000));
    let actions = client.step(5000, Event::Carrier(true));
    assert_eq!(sent(&actions).0.address(option::REQUESTED_ADDRESS), Some(ADDRESS));
    let mut unanswered = client;
    while unanswered.lease().is_some() {
        let due = unanswered.due().expect("a timer");
        unanswered.step(due, Event::Due);
    }
    assert_eq!(unanswered.state_name(), "selecting");
}

#[test]
fn a_lease_for_ever_sets_no_timer() {
    let client = bound(0, &[(option::LEASE_TIME, &[0xff; 4])]);
    assert_eq!((client.due(), client.expires_ms()), (None, None));
}

#[test]
fn no_sequence_of_events_makes_it_panic_or_forget_its_timer() {
    let mut random = Random::new(42);
    for _ in 0..300 {
        let (mut client, mut now) = (client(), 0);
        for _ in 0..200 {
            let xid = client.xid.wrapping_add(u32::from(random.number().is_multiple_of(8)));
            let kind = [Kind::Offer, Kind::Ack, Kind::Nak, Kind::Discover][(random.number() % 4) as usize];
            let lease = (random.number() as u32 % 5000).to_be_bytes();
            let mut message = answer(kind, xid, &[(option::LEASE_TIME, &lease)]);
            message.yiaddr = Ipv4Addr::new(10, 0, 0, (random.number() % 3) as u8);
            let actions = match random.number() % 8 {
                0 => client.step(now, Event::Carrier(!random.number().is_multiple_of(4))),
                1..=4 => client.step(now, Event::Received(&message)),
                _ => {
                    now = client.due().unwrap_or(now).max(now);
                    client.step(now, Event::Due)
                }
            };
            assert!(actions.len() <= 4);
            if client.state != State::Stopped && client.lease().is_none() {
                assert!(client.due().is_some(), "{:?} would wait for ever", client.state);
            }
            now += random.number() % 3000;
        }
    }
}
