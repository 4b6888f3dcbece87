//! A chunk of a release: a zstd frame, or what is said to be one.
#![no_main]

use libfuzzer_sys::fuzz_target;

use ksos_formats::bootstate::Slot;
use ksos_formats::update::fetch::Range;
use ksos_formats::update::index::Stored;
use ksos_formats::update::{Blob, ChunkIndex};
use ksos_formats::Digest;
use ksos_fuzz::{Memory, Sink};
use ksos_runtime::update::install::{self, Job};
use ksos_runtime::update::source::{ChannelName, Served, Sink as Takes, Source, SourceError};

struct One<'a>(&'a [u8]);

impl Source for One<'_> {
    fn channel(&mut self, _: &ChannelName) -> Result<Vec<u8>, SourceError> {
        Err(SourceError::NotOpen)
    }

    fn keys(&mut self, _: u64) -> Result<Option<Vec<u8>>, SourceError> {
        Ok(None)
    }

    fn open_release(&mut self, _: &str) -> Result<Vec<u8>, SourceError> {
        Err(SourceError::NotOpen)
    }

    fn index(&mut self, _: &Blob) -> Result<Vec<u8>, SourceError> {
        Err(SourceError::NotOpen)
    }

    fn chunks(&mut self, _: &Blob, range: Range, sink: &mut Takes<'_>) -> Result<Served, SourceError> {
        let part = &self.0[range.start as usize..range.end as usize];
        sink(range.start, part).map_err(|_| SourceError::Stopped)?;
        Ok(Served::Range)
    }
}

fuzz_target!(|bytes: &[u8]| {
    // The length of the chunk is what the first two bytes say; whether its digest is right does not matter to the decoder.
    let Some((length, frame)) = bytes.split_first_chunk::<2>() else { return };
    let length = u32::from(u16::from_le_bytes(*length)).max(1);
    if frame.is_empty() || frame.len() > length as usize {
        return;
    }
    let mut index = ChunkIndex::new();
    index.push_chunk(Digest([7; 32]), length, Stored::New(frame.len() as u32));
    let blob = |size: u64| Blob { size, sha256: Digest([0; 32]) };
    let active = Memory { bytes: vec![0; 1 << 16], sector: 512 };
    let (image, chunks) = (blob(length.into()), blob(frame.len() as u64));
    let job = Job { active: &active, slot: Slot::B, image, chunks, index: &index };
    let written = install::write(&job, Box::new(Sink(1 << 16)), &mut One(frame), &mut |_| Ok(()));
    assert!(written.is_err(), "no frame has this digest");
});
