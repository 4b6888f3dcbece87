//! Sources against a server on this machine that does what a test tells it.
