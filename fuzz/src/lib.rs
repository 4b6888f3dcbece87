//! What fuzz targets share: a key that signs, a disk in memory, and how an input is split.
//!
//! A target for several parsers takes its first byte to choose between them ([`choose`]), so that the time that CI spends
//! does not grow with their number: seeds begin with it.

use ed25519_dalek::{Signer, SigningKey};
use ksos_formats::update::{Envelope, KeySet, Payload, PublicKey};
use ksos_runtime::sys::{Disk, Error, Result};

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn public_key() -> PublicKey {
    PublicKey::from_bytes(key().verifying_key().as_bytes()).expect("a good key")
}

/// Returns the key set that trusts the key of [`sign`].
pub fn keys() -> KeySet {
    KeySet::new(vec![public_key()], 1).expect("one key")
}

/// Signs an envelope, so that a target gets behind the signature.
pub fn sign(envelope: &mut Envelope) {
    let signature = key().sign(&envelope.message()).to_bytes();
    envelope.add(&public_key(), signature);
}

/// Returns the document with these bytes, when they are one: as a node reads it, after its signature.
pub fn signed<T: Payload>(payload: &[u8]) -> Option<T> {
    // Signatures take a thousand times as long as reading: only what is a document is worth one.
    serde_json::from_slice::<T>(payload).ok()?;
    let (payload_type, payload) = (T::TYPE.to_owned(), payload.to_vec());
    let mut envelope = Envelope { payload_type, payload, signatures: Vec::new() };
    sign(&mut envelope);
    envelope.verify::<T>(&keys()).ok().map(|verified| verified.into_value())
}

/// Splits the byte that chooses one of `count` parsers off.
pub fn choose(bytes: &[u8], count: u8) -> Option<(u8, &[u8])> {
    let (first, rest) = bytes.split_first()?;
    Some((first % count, rest))
}

/// A disk in memory that takes writes and forgets them.
pub struct Sink(pub u64);

impl Disk for Sink {
    fn read_at(&self, _: u64, buffer: &mut [u8]) -> Result<()> {
        buffer.fill(0xff);
        Ok(())
    }

    fn write_at(&self, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn read_direct(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.read_at(offset, buffer)
    }

    fn write_direct(&self, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn size(&self) -> u64 {
        self.0
    }

    fn sector_size(&self) -> u64 {
        512
    }
}

/// A disk in memory.
pub struct Memory {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Size of a sector in bytes.
    pub sector: u64,
}

impl Disk for Memory {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let part = usize::try_from(offset).ok().and_then(|start| self.bytes.get(start..start.checked_add(buffer.len())?));
        let error = || Error::new("read", "disk", std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
        buffer.copy_from_slice(part.ok_or_else(error)?);
        Ok(())
    }

    fn write_at(&self, _: u64, _: &[u8]) -> Result<()> {
        panic!("a reader writes");
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn read_direct(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.read_at(offset, buffer)
    }

    fn write_direct(&self, _: u64, _: &[u8]) -> Result<()> {
        panic!("a reader writes");
    }

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn sector_size(&self) -> u64 {
        self.sector
    }
}

/// Sets the checksums of the primary partition table right, as far as its fields allow (UEFI 2.10, table 5-5).
pub fn fix_gpt(disk: &mut [u8]) {
    let number = |disk: &[u8], at: usize, size: usize| {
        disk[512 + at..512 + at + size].iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
    };
    let entries = number(disk, 72, 8).checked_mul(512);
    let size = number(disk, 80, 4).checked_mul(number(disk, 84, 4));
    let part = entries.zip(size).and_then(|(start, size)| {
        disk.get(usize::try_from(start).ok()?..usize::try_from(start.checked_add(size)?).ok()?)
    });
    if let Some(part) = part {
        let checksum = crc32fast::hash(part);
        disk[512 + 88..512 + 92].copy_from_slice(&checksum.to_le_bytes());
    }
    let header = (number(disk, 12, 4) as usize).clamp(92, 512);
    disk[512 + 16..512 + 20].fill(0);
    let checksum = crc32fast::hash(&disk[512..512 + header]);
    disk[512 + 16..512 + 20].copy_from_slice(&checksum.to_le_bytes());
}
