//! Updates: from a release at its source to a committed slot.

pub mod bootblocks;
pub mod places;
pub mod source;
