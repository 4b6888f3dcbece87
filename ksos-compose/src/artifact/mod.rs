//! Writers of image formats. Each takes its input, a seekable writer and an epoch, streams, keeps memory bounded
//! whatever the image size, and gives the same bytes for the same input on any host.

pub mod cpio;
pub mod disk;
pub mod ext4;
pub mod fat;
pub mod grub;
pub mod iso;
pub mod ordered;
pub mod qcow2;
pub mod release;
#[cfg(test)]
mod samples;
pub mod sparse;
pub mod squashfs;
pub mod verity;
pub mod vhd;
pub mod vmdk;
pub mod window;
pub mod zst;
