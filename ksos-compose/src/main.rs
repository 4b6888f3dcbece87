//! The `ksos-compose` command.

fn main() {}
