//! Device announcements of the kernel (netlink family `KOBJECT_UEVENT`, kernel `lib/kobject_uevent.c`).

use std::collections::BTreeMap;

/// One announcement: `ACTION@DEVPATH`, then `KEY=VALUE` fields, each ended by a zero byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uevent {
    /// `add`, `change`, `remove`, ...
    pub action: String,
    /// Path below `/sys`.
    pub device: String,
    /// The fields.
    pub fields: BTreeMap<String, String>,
}

impl Uevent {
    /// Reads one message; `None` for messages of other senders (libudev's begin with `libudev`).
    pub fn parse(message: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(message).ok()?;
        let mut parts = text.split('\0');
        let (action, device) = parts.next()?.split_once('@')?;
        let fields =
            parts.filter_map(|part| part.split_once('=')).map(|(key, value)| (key.to_owned(), value.to_owned()));
        Some(Uevent { action: action.to_owned(), device: device.to_owned(), fields: fields.collect() })
    }

    /// Returns a field.
    pub fn field(&self, key: &str) -> Option<&str> {
        self.fields.get(key).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_messages_only() {
        let message = b"add@/devices/pci0000:00/0000:00:04.0\0ACTION=add\0MODALIAS=pci:v00001AF4\0SEQNUM=7\0";
        let event = Uevent::parse(message).expect("a kernel message");
        assert_eq!((event.action.as_str(), event.field("MODALIAS")), ("add", Some("pci:v00001AF4")));
        assert_eq!(event.device, "/devices/pci0000:00/0000:00:04.0");
        for foreign in [&b"libudev\0\xfe\xed\xca\xfe"[..], b"", b"\0\0", b"add", b"\xff\xfe@x\0"] {
            assert_eq!(Uevent::parse(foreign), None);
        }
    }
}
