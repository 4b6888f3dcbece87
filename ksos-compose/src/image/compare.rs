//! Finds the first byte in which two parts of files or two streams differ.

use std::io::{self, Read};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::Part;
use crate::effects::fs::read_full;

const BUFFER: usize = 1 << 20;

/// Returns the first byte in which `a` and `b` differ within the size of the shorter one. What is a hole in both is
/// not read.
///
/// # Errors
/// When a file cannot be read, or ends before its part does.
pub fn first_difference(a: Part<'_>, b: Part<'_>) -> io::Result<Option<u64>> {
    let size = a.size.min(b.size);
    let (mut left, mut right) = (vec![0; BUFFER], vec![0; BUFFER]);
    let mut position = 0;
    loop {
        position = next_data(a, position)?.min(next_data(b, position)?);
        if position >= size {
            return Ok(None);
        }
        let count = (size - position).min(BUFFER as u64) as usize;
        let (left, right) = (&mut left[..count], &mut right[..count]);
        a.read_exact_at(left, position)?;
        b.read_exact_at(right, position)?;
        if let Some(offset) = differs(left, right) {
            return Ok(Some(position + offset as u64));
        }
        position += count as u64;
    }
}

/// Returns the first byte in which the streams differ, the end of the shorter one included.
///
/// # Errors
/// When a stream cannot be read.
pub fn first_difference_of(a: &mut dyn Read, b: &mut dyn Read) -> io::Result<Option<u64>> {
    let (mut left, mut right) = (vec![0; BUFFER], vec![0; BUFFER]);
    let mut position = 0;
    loop {
        let (a_count, b_count) = (read_full(a, &mut left)?, read_full(b, &mut right)?);
        let common = a_count.min(b_count);
        if let Some(offset) = differs(&left[..common], &right[..common]) {
            return Ok(Some(position + offset as u64));
        }
        position += common as u64;
        if a_count != b_count {
            return Ok(Some(position));
        }
        if common < BUFFER {
            return Ok(None);
        }
    }
}

fn differs(left: &[u8], right: &[u8]) -> Option<usize> {
    if left == right {
        return None;
    }
    left.iter().zip(right).position(|(left, right)| left != right)
}

/// Returns the first position from `position` on that is not in a hole of `part`'s file.
fn next_data(part: Part<'_>, position: u64) -> io::Result<u64> {
    match seek(part.file, SeekFrom::Data(part.start + position)) {
        Ok(start) => Ok(start.saturating_sub(part.start).max(position)),
        // "There are no more data regions past the supplied offset."
        Err(Errno::NXIO) => Ok(u64::MAX),
        // A file system that knows no holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(position),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    fn sparse(size: u64, writes: &[(u64, &[u8])]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        writes.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).unwrap());
        file
    }

    #[test]
    fn the_first_difference_is_found_whether_there_are_holes_or_not() {
        let size = 5 << 30;
        let zeros = vec![0; 3 << 20];
        let a = sparse(size, &[(4 << 30, b"x"), (size - 1, b"end")]);
        let b = sparse(size, &[(1 << 20, &zeros), (4 << 30, b"x"), (size - 1, b"e")]);
        assert_eq!(first_difference(Part::new(&a, 0, size), Part::new(&b, 0, size)).unwrap(), None);
        b.write_all_at(b"y", (2 << 30) + 7).unwrap();
        assert_eq!(first_difference(Part::new(&a, 0, size), Part::new(&b, 0, size)).unwrap(), Some((2 << 30) + 7));
        let shifted = first_difference(Part::new(&a, 1 << 30, size - (1 << 30)), Part::new(&b, 1 << 30, 2 << 30));
        assert_eq!(shifted.unwrap(), Some((1 << 30) + 7));
        assert_eq!(first_difference(Part::new(&a, 0, size), Part::new(&b, 0, 2 << 30)).unwrap(), None);
    }

    #[test]
    fn a_file_shorter_than_its_part_is_an_error() {
        let (a, b) = (sparse(10, &[(0, b"0123456789")]), sparse(20, &[(0, b"0123456789")]));
        let error = first_difference(Part::new(&a, 0, 20), Part::new(&b, 0, 20)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn streams_differ_where_the_shorter_one_ends() {
        let difference = |a: &[u8], b: &[u8]| first_difference_of(&mut &*a, &mut &*b).unwrap();
        assert_eq!(difference(b"abc", b"abc"), None);
        assert_eq!(difference(b"abc", b"abd"), Some(2));
        assert_eq!(difference(b"abc", b"abcd"), Some(3));
        assert_eq!(difference(&vec![1; BUFFER], &vec![1; BUFFER]), None);
        assert_eq!(difference(&vec![1; BUFFER], &vec![1; BUFFER + 1]), Some(BUFFER as u64));
    }
}
