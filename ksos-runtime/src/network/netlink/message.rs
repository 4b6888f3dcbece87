//! Netlink messages as bytes (`include/uapi/linux/netlink.h`, `rtnetlink.h`), native byte order.
//!
//! Only what is asked for is read: an attribute that this kernel adds or changes costs nothing.

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;

/// Message types and flags.
#[expect(missing_docs, reason = "the names are the kernel's")]
pub mod kernel {
    pub const ERROR: u16 = 2;
    pub const DONE: u16 = 3;
    pub const NEWLINK: u16 = 16;
    pub const GETLINK: u16 = 18;
    pub const NEWADDR: u16 = 20;
    pub const DELADDR: u16 = 21;
    pub const GETADDR: u16 = 22;
    pub const NEWROUTE: u16 = 24;
    pub const DELROUTE: u16 = 25;
    pub const GETROUTE: u16 = 26;

    pub const REQUEST: u16 = 0x1;
    pub const ACK: u16 = 0x4;
    pub const DUMP: u16 = 0x300;
    pub const REPLACE: u16 = 0x100;
    pub const EXCLUSIVE: u16 = 0x200;
    pub const CREATE: u16 = 0x400;
    pub const NESTED: u16 = 0x8000;
}

/// A request under construction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// Returns a request of a type with flags and the fixed part that belongs to the type.
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | kernel::REQUEST).to_ne_bytes());
        bytes.extend(fixed);
        pad(&mut bytes);
        Request { bytes }
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with(mut self, kind: u16, value: &[u8]) -> Self {
        append(&mut self.bytes, kind, value);
        self
    }

    /// Adds a number.
    #[must_use]
    pub fn with_number(self, kind: u16, value: u32) -> Self {
        self.with(kind, &value.to_ne_bytes())
    }

    /// Adds a text, ended by a zero byte.
    #[must_use]
    pub fn with_text(self, kind: u16, value: &str) -> Self {
        self.with(kind, &[value.as_bytes(), b"\0"].concat())
    }

    /// Returns the bytes of the request with this sequence number.
    pub fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = self.bytes.len() as u32;
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// Returns attributes as the value of a nested attribute.
pub fn nested(attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, value) in attributes {
        append(&mut bytes, *kind, value);
    }
    bytes
}

fn append(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend(((value.len() + 4) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    pad(bytes);
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A message of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Type.
    pub kind: u16,
    /// Sequence number of the request that it answers.
    pub sequence: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

/// Returns the messages in what one read gave, up to the first whose length does not fit.
pub fn messages(bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = number(rest, 0)? as usize;
        let kind = short(rest, 4)?;
        let sequence = number(rest, 8)?;
        let payload = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Message { kind, sequence, payload })
    })
}

/// Returns the attributes behind a fixed part of `skip` bytes, up to the first whose length does not fit.
pub fn attributes(payload: &[u8], skip: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = payload.get(skip..).unwrap_or(&[]);
    std::iter::from_fn(move || {
        let length = usize::from(short(rest, 0)?);
        let kind = short(rest, 2)? & 0x3fff;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

/// Returns the 32-bit number at an offset.
pub fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// Returns the 16-bit number at an offset.
pub fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// Returns a text without its zero byte.
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or(&[])).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let inner = nested(&[(1, b"vlan"), (2, &[7])]);
        let bytes =
            Request::new(kernel::NEWLINK, kernel::ACK, &[0; 16]).with_text(3, "eth0").with(18, &inner).finish(9);
        assert_eq!(bytes.len() % 4, 0);
        let found: Vec<Message<'_>> = messages(&bytes).collect();
        assert_eq!((found.len(), found[0].kind, found[0].sequence), (1, kernel::NEWLINK, 9));
        let pairs: Vec<(u16, &[u8])> = attributes(found[0].payload, 16).collect();
        assert_eq!((pairs[0].0, text(pairs[0].1).as_str()), (3, "eth0"));
        assert_eq!(attributes(pairs[1].1, 0).collect::<Vec<_>>(), [(1, &b"vlan"[..]), (2, &[7])]);
    }

    #[test]
    fn lengths_that_do_not_fit_end_the_list() {
        let good = Request::new(20, 0, &[1, 2, 3, 4]).with_number(6, 5).finish(1);
        for length in 0..good.len() {
            assert_eq!(messages(&good[..length]).count(), 0, "{length}");
        }
        for bad in [0_u32, 3, 15, 1000, u32::MAX] {
            let mut bytes = good.clone();
            bytes[..4].copy_from_slice(&bad.to_ne_bytes());
            assert_eq!(messages(&bytes).count(), 0, "{bad}");
        }
        for bad in [0_u16, 1, 3, 9, u16::MAX] {
            let bytes = [&bad.to_ne_bytes()[..], &[1, 0, 1, 1, 1, 1]].concat();
            assert_eq!(attributes(&bytes, 0).count(), 0, "{bad}");
        }
        assert_eq!(attributes(&good, 10_000).count(), 0);
    }
}
