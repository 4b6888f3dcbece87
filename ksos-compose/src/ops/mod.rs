//! One function per command.

pub mod run;
