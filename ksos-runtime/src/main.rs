//! The multi-call runtime binary.

fn main() {}
