//! Where the node's configuration comes from, and what is done with it.
