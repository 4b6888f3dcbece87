//! The multi-call runtime binary.
//!
//! The C entry point is used instead of Rust's: the standard library's start-up code opens `/dev/null` for closed
//! standard streams and aborts when that fails, and in an initramfs without a working console both are missing.
//! An abort of PID 1 is a kernel panic without a reason on the screen.

#![no_main]

use std::ffi::{c_char, c_int};

/// C entry point. The C library hands the arguments to the standard library by itself.
#[expect(unsafe_code, reason = "the symbol `main` is the program's entry point and nothing else defines it")]
#[unsafe(no_mangle)]
pub extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    ksos_runtime::main()
}
