//! The only users of the file system, processes, the network and the clock.

pub mod block;
pub mod clock;
pub mod fs;
pub mod net;
pub mod process;
pub mod progress;
pub mod random;
