//! Reading module files, compressed or not, and doing so on every processor.

use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::MODULE_LIMIT;
use crate::tree::Content;

/// Reads a module whole, decompressed according to the suffix of `path`: the bytes that the kernel loads, with the
/// signature that is appended to them.
pub(super) fn read_module(path: &str, content: &Content) -> io::Result<Vec<u8>> {
    let reader = io::BufReader::with_capacity(64 << 10, content.open()?);
    if path.ends_with(".xz") {
        // 64 MiB covers every preset of xz; kernels use a 1 or 2 MiB dictionary.
        let stream = liblzma::stream::Stream::new_stream_decoder(80 << 20, liblzma::stream::CONCATENATED)?;
        read_limited(liblzma::bufread::XzDecoder::new_stream(reader, stream))
    } else if path.ends_with(".zst") {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(reader)?;
        decoder.window_log_max(27)?;
        read_limited(decoder)
    } else if path.ends_with(".gz") {
        read_limited(flate2::bufread::MultiGzDecoder::new(reader))
    } else {
        read_limited(reader)
    }
}

fn read_limited(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let count = reader.take(MODULE_LIMIT + 1).read_to_end(&mut bytes)? as u64;
    if count > MODULE_LIMIT {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {MODULE_LIMIT} bytes")));
    }
    Ok(bytes)
}

/// Applies `work` to every item on all processors; results are in the order of the items. Returns the error of the
/// first item, in that order, that failed.
pub(super) fn parallel<T: Sync, R: Send, E: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let workers = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(items.len().max(1));
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(items.len()));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((index, item)) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    items.get(index).map(|item| (index, item))
                } {
                    let result = work(item);
                    done.lock().expect("no worker panics while it holds the lock").push((index, result));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no worker panics while it holds the lock");
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}
