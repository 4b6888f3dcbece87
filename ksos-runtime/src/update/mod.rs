//! Updates: from a release at its source to a committed slot.

pub mod source;
