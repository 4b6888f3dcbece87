//! What an update source answers: heads of HTTP, chunked bodies, redirects, challenges, tokens, OCI manifests and indexes.
//! A byte 0xff ends one answer and begins the next.
#![no_main]

use libfuzzer_sys::fuzz_target;

use ksos_runtime::update::source::fuzzing;

fuzz_target!(|bytes: &[u8]| {
    let Some((which, rest)) = ksos_fuzz::choose(bytes, 2) else { return };
    let answers = rest.split(|byte| *byte == 0xff).map(<[u8]>::to_vec).collect();
    fuzzing::ask(answers, which == 1);
});
