//! What the composer reads from mirrors, registries and repositories of manifests: indexes and signatures of Debian archives,
//! documents of OCI registries, locks, kernel configurations, keys. The first byte chooses the parser.
#![no_main]

use std::io::Read;
use std::path::Path;

use ksos_compose::kernel::config::{KernelConfig, Requirement};
use ksos_compose::lock::Lock;
use ksos_compose::manifest::keys::KeyFile;
use ksos_compose::oci::document::Document;
use ksos_compose::registry::manifest::{Index, Manifest};
use ksos_compose::registry::Location;
use ksos_compose::source::apt::packages::Packages;
use ksos_compose::source::apt::release::Release;
use ksos_compose::source::apt::{Keyring, cleartext, deb, deb822, mirror, openpgp, relation, version};
use libfuzzer_sys::fuzz_target;

/// Keys of the archive whose indexes are read.
const KEYS: &[u8] = include_bytes!("../../../manifests/keys/debian-archive-trixie.asc");
const NOW: u64 = 1_750_000_000;

thread_local! {
    static KEYRING: Keyring = Keyring::parse("keys", KEYS).expect("the keys in this repository");
}

fuzz_target!(|bytes: &[u8]| {
    let Some((which, bytes)) = bytes.split_first() else { return };
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    match which % 12 {
        0 => drop(deb822::parse(text)),
        1 => {
            let Ok(message) = cleartext::split(bytes) else { return };
            KEYRING.with(|keyring| assert!(openpgp::verify(&message, keyring, NOW).is_err(), "nobody else can sign"));
        }
        2 => drop(Keyring::parse("keys", bytes)),
        3 => {
            let Ok(release) = Release::parse(text) else { return };
            let _ = (release.check("trixie", NOW), release.check_offer("main", "amd64"));
        }
        4 => {
            let Ok(packages) = Packages::read(bytes) else { return };
            for package in packages.iter() {
                let _ = (package.name(), package.version(), package.size(), package.digest(), package.source());
            }
        }
        5 => drop(relation::parse(text, "amd64")),
        6 => {
            let (left, right) = text.split_once('\n').unwrap_or((text, ""));
            let order = version::compare(left, right);
            assert_eq!(version::compare(right, left), order.reverse(), "an order");
        }
        7 => drop((mirror::list_uris(text), mirror::deb822_uris(text), Location::parse(text))),
        8 => drop((Document::parse(bytes, ""), Manifest::parse(bytes), Index::parse(bytes))),
        9 => drop(Lock::parse(text, Path::new("x.lock"))),
        10 => drop((KernelConfig::parse("x", text), Requirement::parse_list("x", text), KeyFile::parse(bytes))),
        _ => {
            let Ok(package) = deb::open(bytes) else { return };
            let _ = package.control.field("Package");
            // Whoever unpacks it limits what comes.
            let _ = std::io::copy(&mut package.data.take(1 << 20), &mut std::io::sink());
        }
    }
});
