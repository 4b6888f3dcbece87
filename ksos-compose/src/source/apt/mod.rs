//! The `apt` source: packages from Debian archives, without apt, dpkg or gpg.

pub mod cleartext;
pub mod deb822;
pub mod mirror;
pub mod openpgp;
pub mod packages;
pub mod relation;
pub mod release;
pub mod version;
