//! The document of a release, behind a good signature.
#![no_main]

use libfuzzer_sys::fuzz_target;

use ksos_formats::update::Release;

fuzz_target!(|bytes: &[u8]| {
    let Some(release) = ksos_fuzz::signed::<Release>(bytes) else { return };
    let again = serde_json::to_vec(&release).expect("a release is JSON");
    assert_eq!(ksos_fuzz::signed::<Release>(&again), Some(release.clone()));
    let _ = release.has_expired(u64::MAX);
    let text = release.version.to_string();
    assert_eq!(text.parse(), Ok(release.version));
});
