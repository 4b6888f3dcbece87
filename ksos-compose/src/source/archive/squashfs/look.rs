//! Looks into an image without unpacking it: the names and sizes of its files, and the content of a few.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Read;

use super::super::error::{Failure, Fault, Step};
use super::super::{ArchiveError, Limits};
use super::block::{Image, Reference};
use super::inode::{self, Body, Inode};
use super::{DEPTH, FileReader, Listing};

/// What was seen of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// Paths of regular files with their sizes in bytes; a file with several names counts once.
    pub files: Vec<(String, u64)>,
    /// Content of the files that were asked for and are there.
    pub contents: BTreeMap<String, Vec<u8>>,
    /// How many directories, links and other entries there are.
    pub others: usize,
}

/// Looks into the image in `file`. Of `wanted`, paths with the largest sizes that are read, contents are kept.
///
/// # Errors
/// [`ArchiveError`]: the image is damaged, hostile, or over a limit.
pub fn look(file: &File, name: &str, wanted: &[(&str, u64)], limits: &Limits) -> Result<Look, ArchiveError> {
    let work = || {
        let image = Image::open(file)?;
        if image.superblock.inode_count as usize > limits.entries {
            return Err(Fault::EntriesLimit { limit: limits.entries }.into());
        }
        let root = image.superblock.root;
        let mut walk = Walk { image, wanted, limits, seen: HashSet::new(), entries: 0, look: Look::default() };
        walk.visit("", root, 0)?;
        Ok(walk.look)
    };
    work().map_err(|failure: Failure| failure.named(name))
}

struct Walk<'a> {
    image: Image<'a>,
    wanted: &'a [(&'a str, u64)],
    limits: &'a Limits,
    /// Directories and files with several names that were seen.
    seen: HashSet<Reference>,
    entries: usize,
    look: Look,
}

impl Walk<'_> {
    fn visit(&mut self, path: &str, reference: Reference, depth: usize) -> Step<()> {
        let at = |fault| Failure::at(path, fault);
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(at(Fault::EntriesLimit { limit: self.limits.entries }));
        }
        let inode = Inode::read(&mut self.image, reference).map_err(at)?;
        match inode.body {
            Body::Directory(directory) => {
                if !self.seen.insert(reference) || depth > DEPTH {
                    return Err(at(Fault::Damaged("a directory is in two places, or deeper than 256")));
                }
                self.look.others += 1;
                self.children(path, &directory, depth)
            }
            Body::File(file) => {
                let size = file.size;
                if inode.links < 2 || self.seen.insert(reference) {
                    self.look.files.push((path.to_owned(), size));
                }
                if self.wanted.iter().any(|(wanted, limit)| *wanted == path && size <= *limit) {
                    let mut bytes = Vec::new();
                    let read = FileReader::new(&mut self.image, file).read_to_end(&mut bytes);
                    read.map_err(|error| at(Fault::from_read(error)))?;
                    self.look.contents.insert(path.to_owned(), bytes);
                }
                Ok(())
            }
            Body::Symlink(_) | Body::CharacterDevice { .. } | Body::BlockDevice { .. } | Body::Fifo | Body::Socket => {
                self.look.others += 1;
                Ok(())
            }
        }
    }

    fn children(&mut self, path: &str, directory: &inode::Directory, depth: usize) -> Step<()> {
        let mut listing = Listing::new(&self.image, path, directory);
        while let Some((child, reference)) = listing.next(&mut self.image)? {
            self.visit(&child, reference, depth + 1)?;
        }
        Ok(())
    }
}
