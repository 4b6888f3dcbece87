//! What a node reads from others: requests to its agent, time servers, volumes, time zones, certificates, keys, and what an
//! API server and its kubeconfig say.
#![no_main]

use libfuzzer_sys::fuzz_target;

use ksos_formats::update::window::{self, Window};
use ksos_fuzz::Memory;
use ksos_runtime::agent;
use ksos_runtime::config::{certificates, label, ssh_keys};
use ksos_runtime::disk::probe;
use ksos_runtime::network::sntp::packet;
use ksos_runtime::sys::double::Double;

const KUBECONFIG: &str = "/kubeconfig";

thread_local! {
    static SYS: Double = Double::new();
}

fuzz_target!(|bytes: &[u8]| {
    let Some((which, bytes)) = ksos_fuzz::choose(bytes, 7) else { return };
    let text = std::str::from_utf8(bytes);
    match which {
        0 => agent::fuzz_request(bytes),
        1 => {
            // The nonce is what the answer has, so that it gets further.
            let mut nonce = [0; 8];
            nonce.copy_from_slice(bytes.get(24..32).unwrap_or(&[0; 8]));
            let _ = packet::read(bytes, u64::from_be_bytes(nonce), 1_700_000_000);
        }
        2 => {
            let _ = (probe::identify(bytes), probe::fat_label(bytes), probe::is_backup_superblock(bytes));
            let _ = label::read(&Memory { bytes: bytes.to_vec(), sector: 512 });
        }
        // A zone file.
        3 => is_open("Area/Place", bytes),
        // A POSIX TZ string, and what a person writes.
        4 => {
            let Ok(text) = text else { return };
            is_open(text, &[]);
            let _ = (window::parse_days(text), window::parse_start(text), window::parse_length(text));
        }
        5 => {
            let Ok(text) = text else { return };
            let _ = ssh_keys::check(text);
            for der in certificates::parse(text).unwrap_or_default() {
                assert_eq!(certificates::parse(&certificates::to_pem(&der)), Ok(vec![der]), "written as it was read");
            }
        }
        _ => SYS.with(|sys| {
            sys.put(KUBECONFIG, bytes);
            agent::health::fuzz_kubernetes(sys, KUBECONFIG, bytes);
        }),
    }
});

fn is_open(zone: &str, file: &[u8]) {
    let window = Window { days: Vec::new(), start_minute: 120, length_minutes: 600, time_zone: zone.to_owned() };
    for now in [0, 1_700_000_000, 1_711_846_800, 4_102_444_800] {
        let _ = window::is_open(std::slice::from_ref(&window), now, &|_| Some(file.to_vec()));
    }
}
