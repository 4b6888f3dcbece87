//! The site's configuration: YAML from cloud-init sources, and the kernel command line.
#![no_main]

use libfuzzer_sys::fuzz_target;

use ksos_formats::config;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = config::document_text(bytes) else { return };
    let _ = config::parse_document(text);
    let _ = config::parse_network_config(text);
    let _ = config::parse_meta_data(text);
    let _ = config::read_texts(text);
    let parameters = text.split_ascii_whitespace().map(|word| match word.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (word, None),
    });
    let _ = config::from_cmdline(parameters);
});
