//! The documents that the initramfs and tools read: boot.json, image.json, runtime.json.
#![no_main]

use libfuzzer_sys::fuzz_target;

use ksos_formats::boot::{BootConfig, SlotMetadata};
use ksos_formats::runtime::RuntimeConfig;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(config) = serde_json::from_slice::<BootConfig>(bytes) {
        let again = serde_json::to_vec(&config).expect("a document is JSON");
        assert_eq!(serde_json::from_slice::<BootConfig>(&again).expect("it was read before"), config);
    }
    if let Ok(metadata) = serde_json::from_slice::<SlotMetadata>(bytes) {
        let again = serde_json::to_vec(&metadata).expect("a document is JSON");
        assert_eq!(serde_json::from_slice::<SlotMetadata>(&again).expect("it was read before"), metadata);
    }
    let _ = serde_json::from_slice::<RuntimeConfig>(bytes);
});
