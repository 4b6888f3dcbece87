//! Reads what a sparse file has and passes over the rest: holes by `SEEK_HOLE`, and blocks that were written as zeros.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use ksos_formats::update::chunks::is_zero;

use super::disk::copy::next_data;

/// Bytes read at once, at the least.
const BUFFER: u64 = 1 << 20;

/// Calls `each` with all `size` bytes of `source`, in order. Holes are not read: the kernel would fill a page of memory with
/// zeros for each page of them.
///
/// # Errors
/// Those of `each`; when `source` cannot be read or is shorter than `size`.
pub fn bytes(source: &File, size: u64, each: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER as usize];
    let zeros = [0; 64 << 10];
    let mut position = 0;
    while position < size {
        let (start, end) = next_data(source, position, size)?.unwrap_or((size, size));
        while position < start {
            let count = (start - position).min(zeros.len() as u64);
            each(&zeros[..count as usize])?;
            position += count;
        }
        while position < end {
            let count = (end - position).min(BUFFER);
            source.read_exact_at(&mut buffer[..count as usize], position)?;
            each(&buffer[..count as usize])?;
            position += count;
        }
    }
    Ok(())
}

/// Takes the offset and the bytes of a block.
pub type Visit<'a, E> = dyn FnMut(u64, &[u8]) -> Result<(), E> + 'a;

/// Calls `each` with the offset and the bytes of every block of `block` bytes, a power of two, that is not all zeros, in
/// order. The last block is filled up with zeros when `size` ends inside it.
///
/// # Errors
/// Those of `each`; when `source` cannot be read or is shorter than `size`.
pub fn blocks<E: From<io::Error>>(source: &File, size: u64, block: u64, each: &mut Visit<'_, E>) -> Result<(), E> {
    let mut buffer = vec![0; BUFFER.max(block) as usize];
    let mut position = 0;
    while position < size {
        let Some((start, end)) = next_data(source, position, size)? else { break };
        // Two regions can share a block: it is read once, as a whole.
        position = position.max(start / block * block);
        while position < end {
            let read = (size - position).min(buffer.len() as u64).min((end - position).next_multiple_of(block));
            let filled = read.next_multiple_of(block) as usize;
            source.read_exact_at(&mut buffer[..read as usize], position)?;
            buffer[read as usize..filled].fill(0);
            for (index, bytes) in buffer[..filled].chunks_exact(block as usize).enumerate() {
                if !is_zero(bytes) {
                    each(position + index as u64 * block, bytes)?;
                }
            }
            position += filled as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_with_data_come_once_in_order_and_zeros_never() {
        let file = tempfile::tempfile().unwrap();
        let block = 65536;
        file.set_len(5 * block + 100).unwrap();
        file.write_all_at(b"a", 0).unwrap();
        // Two regions in one block, with a hole between them.
        file.write_all_at(b"b", 2 * block + 7).unwrap();
        file.write_all_at(b"c", 3 * block - 1).unwrap();
        // Written, and zero.
        file.write_all_at(&[0; 4096], 3 * block).unwrap();
        file.write_all_at(b"d", 5 * block + 99).unwrap();
        let mut seen = Vec::new();
        blocks::<io::Error>(&file, 5 * block + 100, block, &mut |offset, bytes| {
            assert_eq!(bytes.len(), block as usize);
            let letters: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != 0).collect();
            seen.push((offset / block, String::from_utf8(letters).unwrap()));
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, [(0, "a".into()), (2, "bc".into()), (5, "d".into())]);
    }

    #[test]
    fn all_bytes_come_in_order() {
        let file = tempfile::tempfile().unwrap();
        let mut expected = vec![0; (3 << 20) + 100];
        for (offset, bytes) in [(5_usize, b"a".as_slice()), (1 << 20, &[7; (1 << 20) + 5000]), ((3 << 20) + 98, b"c")] {
            file.write_all_at(bytes, offset as u64).unwrap();
            expected[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        for (size, in_file) in [(expected.len(), expected.len() as u64), (4 << 20, 4 << 20), (0, 0)] {
            expected.resize(size, 0);
            file.set_len(in_file).unwrap();
            let mut seen = Vec::new();
            let mut keep = |bytes: &[u8]| {
                seen.extend_from_slice(bytes);
                Ok(())
            };
            bytes(&file, size as u64, &mut keep).unwrap();
            assert!(seen == expected, "{size}");
        }
    }

    #[test]
    fn a_file_that_ends_early_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 10], 0).unwrap();
        let result = blocks::<io::Error>(&file, 11, 512, &mut |_, _| Ok(()));
        // What is behind the end of a file is a hole; inside the last region it is missing.
        assert!(result.is_ok() || result.unwrap_err().kind() == io::ErrorKind::UnexpectedEof);
    }
}
