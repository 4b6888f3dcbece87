//! Directories: one block of entries, or a hash tree when there are more (kernel documentation, "Directory Entries").
//!
//! A tree has the root in block 0, then its inner nodes if one level is not enough, then the leaves, filled in hash
//! order. Nothing is left free in a leaf: an image is read, not written. Every block ends in a checksum.

use std::ops::Range;

use super::bytes::put;
use super::crc32c::crc32c;
use super::geometry::BLOCK;
use super::hash::NameHash;
use super::inode::Kind;

/// Bytes of a block that entries can have; the checksum has the rest.
const ROOM: usize = BLOCK - 12;
const ROOT_LIMIT: usize = (BLOCK - 32) / 8 - 1;
const NODE_LIMIT: usize = (BLOCK - 8) / 8 - 1;
/// Blocks of `lost+found`, so that e2fsck need not allocate when it puts things there; as mke2fs makes it.
pub(super) const LOST_FOUND_BLOCKS: usize = 4;
/// The hash "half MD4" as the superblock and the tree root name it.
pub(super) const HASH_HALF_MD4: u8 = 1;

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Child<'t> {
    pub(super) name: &'t str,
    pub(super) inode: u32,
    pub(super) kind: Kind,
}

/// A directory whose blocks are known, but not yet written.
#[derive(Debug)]
pub(super) struct Directory<'t> {
    children: Vec<Child<'t>>,
    /// Hash and entries of each leaf; empty when the directory has no tree.
    leaves: Vec<Leaf>,
    minimum_blocks: usize,
    /// Directories in it.
    pub(super) subdirectories: u64,
}

#[derive(Debug)]
struct Leaf {
    hash: u32,
    children: Range<usize>,
}

impl<'t> Directory<'t> {
    /// Arranges `children`. Returns `None` when they are more than two levels of a tree can hold.
    pub(super) fn new(children: Vec<Child<'t>>, hash: &NameHash, minimum_blocks: usize) -> Option<Self> {
        let subdirectories = children.iter().filter(|child| child.kind == Kind::Directory).count() as u64;
        let linear = 24 + children.iter().map(|child| entry_size(child.name)).sum::<usize>();
        let mut directory = Directory { children, leaves: Vec::new(), minimum_blocks, subdirectories };
        if linear > ROOM {
            directory.make_leaves(hash);
            if directory.leaves.len() > ROOT_LIMIT * NODE_LIMIT {
                return None;
            }
        }
        Some(directory)
    }

    fn make_leaves(&mut self, hash: &NameHash) {
        let mut hashed: Vec<((u32, u32), Child<'t>)> =
            self.children.iter().map(|child| (hash.of(child.name.as_bytes()), *child)).collect();
        hashed.sort_unstable_by_key(|(hash, child)| (*hash, child.name));
        let (mut start, mut used) = (0, 0);
        for (position, (_, child)) in hashed.iter().enumerate() {
            let size = entry_size(child.name);
            if used + size > ROOM {
                self.push_leaf(&hashed, start..position);
                (start, used) = (position, 0);
            }
            used += size;
        }
        self.push_leaf(&hashed, start..hashed.len());
        self.children = hashed.into_iter().map(|(_, child)| child).collect();
    }

    /// Adds a leaf. A leaf that starts with the hash that the one before ends with says so in the lowest bit.
    fn push_leaf(&mut self, hashed: &[((u32, u32), Child<'t>)], children: Range<usize>) {
        let major = |position: usize| hashed[position].0.0;
        let first = major(children.start);
        let continued = children.start > 0 && major(children.start - 1) == first;
        self.leaves.push(Leaf { hash: first | u32::from(continued), children });
    }

    /// Tells whether the directory has a hash tree.
    pub(super) fn indexed(&self) -> bool {
        !self.leaves.is_empty()
    }

    /// Returns the number of blocks.
    pub(super) fn blocks(&self) -> usize {
        if self.indexed() { 1 + self.inner_nodes() + self.leaves.len() } else { self.minimum_blocks.max(1) }
    }

    fn inner_nodes(&self) -> usize {
        if self.leaves.len() > ROOT_LIMIT { self.leaves.len().div_ceil(NODE_LIMIT) } else { 0 }
    }

    /// Returns all blocks of the directory with inode number `inode`, whose checksum seed is `seed`.
    pub(super) fn encode(&self, inode: u32, parent: u32, seed: u32) -> Vec<u8> {
        let mut bytes = vec![0; self.blocks() * BLOCK];
        let (blocks, _) = bytes.as_chunks_mut::<BLOCK>();
        let dots = [
            Child { name: ".", inode, kind: Kind::Directory },
            Child { name: "..", inode: parent, kind: Kind::Directory },
        ];
        if self.indexed() {
            self.put_tree(blocks, &dots, seed);
        } else {
            put_entries(&mut blocks[0], dots.iter().chain(&self.children), seed);
            for block in &mut blocks[1..] {
                put_entries(block, [].iter(), seed);
            }
        }
        bytes
    }

    fn put_tree(&self, blocks: &mut [[u8; BLOCK]], dots: &[Child<'_>; 2], seed: u32) {
        let inner = self.inner_nodes();
        let first_leaf = 1 + inner;
        for (leaf, block) in self.leaves.iter().zip(&mut blocks[first_leaf..]) {
            put_entries(block, self.children[leaf.children.clone()].iter(), seed);
        }
        let mut index: Vec<(u32, u32)> = Vec::new();
        for (position, leaf) in self.leaves.iter().enumerate() {
            index.push((leaf.hash, (first_leaf + position) as u32));
        }
        if inner > 0 {
            let mut above = Vec::new();
            for (position, entries) in index.chunks(NODE_LIMIT).enumerate() {
                let block = &mut blocks[1 + position];
                put(block, 4, (BLOCK as u16).to_le_bytes());
                put_index(block, 8, NODE_LIMIT, entries, seed);
                above.push((entries[0].0, 1 + position as u32));
            }
            index = above;
        }
        let root = &mut blocks[0];
        put_entry(root, 0, 12, &dots[0]);
        put_entry(root, 12, BLOCK - 12, &dots[1]);
        root[28] = HASH_HALF_MD4;
        root[29] = 8;
        root[30] = u8::from(inner > 0);
        put_index(root, 32, ROOT_LIMIT, &index, seed);
    }
}

/// Returns the bytes that an entry for `name` has.
fn entry_size(name: &str) -> usize {
    (8 + name.len()).next_multiple_of(4)
}

fn put_entry(block: &mut [u8; BLOCK], offset: usize, record: usize, child: &Child<'_>) {
    put(block, offset, child.inode.to_le_bytes());
    put(block, offset + 4, (record as u16).to_le_bytes());
    block[offset + 6] = child.name.len() as u8;
    block[offset + 7] = child.kind.entry_type();
    block[offset + 8..offset + 8 + child.name.len()].copy_from_slice(child.name.as_bytes());
}

/// Writes entries that fit; the last one reaches up to the checksum, a block without any has one empty entry.
fn put_entries<'a>(block: &mut [u8; BLOCK], children: impl Iterator<Item = &'a Child<'a>>, seed: u32) {
    let mut children = children.peekable();
    let mut offset = 0;
    while let Some(child) = children.next() {
        let record = if children.peek().is_some() { entry_size(child.name) } else { ROOM - offset };
        put_entry(block, offset, record, child);
        offset += record;
    }
    if offset == 0 {
        put(block, 4, (ROOM as u16).to_le_bytes());
    }
    put(block, ROOM + 4, 12u16.to_le_bytes());
    block[ROOM + 7] = 0xDE;
    let checksum = crc32c(seed, &block[..ROOM]);
    put(block, ROOM + 8, checksum.to_le_bytes());
}

/// Writes the index entries of a root or node at `offset`: the first has limit and count instead of its hash. The
/// checksum covers the block up to the last entry and then an empty tail (`struct dx_tail`).
fn put_index(block: &mut [u8; BLOCK], offset: usize, limit: usize, entries: &[(u32, u32)], seed: u32) {
    for (position, (hash, number)) in entries.iter().enumerate() {
        put(block, offset + position * 8, hash.to_le_bytes());
        put(block, offset + position * 8 + 4, number.to_le_bytes());
    }
    put(block, offset, (limit as u16).to_le_bytes());
    put(block, offset + 2, (entries.len() as u16).to_le_bytes());
    let checksum = crc32c(seed, &block[..offset + entries.len() * 8]);
    let checksum = crc32c(checksum, &[0; 8]);
    put(block, offset + limit * 8 + 4, checksum.to_le_bytes());
}
