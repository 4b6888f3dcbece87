//! The document of a channel, behind a good signature, and what a node takes from it.
#![no_main]

use libfuzzer_sys::fuzz_target;

use ksos_formats::update::{Channel, Choice};

fuzz_target!(|bytes: &[u8]| {
    let Some(channel) = ksos_fuzz::signed::<Channel>(bytes) else { return };
    let _ = channel.has_expired(0);
    let zero = "0.0.0".parse().expect("a version");
    for current in channel.releases.iter().map(|release| &release.version).chain([&zero]).take(8) {
        match channel.choose(current, None, &|_| false) {
            Choice::Take { next, towards } => {
                assert!(next.version.is_newer_than(current) && next.is_reachable_from(current));
                assert!(towards.is_none_or(|goal| goal.version.is_newer_than(&next.version)));
            }
            Choice::Unreachable { wanted } => assert!(!wanted.is_reachable_from(current)),
            Choice::UpToDate => assert!(!channel.releases.iter().any(|release| release.version.is_newer_than(current))),
        }
        let all_refused = channel.choose(current, None, &|_| true);
        assert_eq!(all_refused, Choice::UpToDate);
    }
});
