//! DHCP messages, and the packets around them.
#![no_main]

use libfuzzer_sys::fuzz_target;

use ksos_runtime::network::dhcp::{packet, Lease, Message};

fuzz_target!(|bytes: &[u8]| {
    if let Some((_, payload)) = packet::unwrap(bytes) {
        let _ = Message::decode(payload);
    }
    let Ok(message) = Message::decode(bytes) else { return };
    let _ = Message::decode(&message.encode());
    for code in 0..=255 {
        let _ = (message.number(code), message.short(code), message.address(code), message.addresses(code));
        let _ = (message.text(code), message.domains(code));
    }
    let _ = message.routes(121);
    if let Ok(lease) = Lease::read(&message) {
        let _ = (lease.gateway(), lease.is_sound());
    }
});
