//! How the program for images is linked, which the profile `runtime` makes: without what only unwinding needs, and with small
//! relocations. Other builds (tests, which unwind) are linked as usual.
//!
//! A panic aborts in that profile, so no frame is ever unwound, but the standard library and the C library bring their
//! tables, and link-time optimisation makes them for the rest, too: `-C force-unwind-tables=no` changes nothing about it.
//! On x86_64 they were 538 of 4655 kB. A panic says what it says without them; only the list of calls that
//! `RUST_BACKTRACE` asks for is empty.
#![expect(clippy::disallowed_methods, reason = "Cargo gives a build script everything by its environment")]

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=no-unwind.ld");
    let variable = |name: &str| env::var(name).unwrap_or_default();
    // The only profile that optimises for size. Cargo names a profile that inherits from `release` after that one.
    if variable("OPT_LEVEL") != "z" || variable("CARGO_CFG_TARGET_OS") != "linux" {
        return;
    }
    let script = format!("{}/no-unwind.ld", variable("CARGO_MANIFEST_DIR"));
    // Each as compilers' drivers and linkers alike understand it.
    let mut arguments = vec!["-T", &script];
    if variable("HOST") == variable("TARGET") && has_small_relocations(&variable("CARGO_CFG_TARGET_ARCH")) {
        arguments.extend(["-z", "pack-relative-relocs"]);
    }
    for argument in arguments {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}

/// Returns whether this machine's C library applies packed relocations (`DT_RELR`) to itself in a static program, and the linker
/// makes them: glibc 2.36 and binutils 2.38 on x86_64. They were 143 kB less.
fn has_small_relocations(arch: &str) -> bool {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    let version = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let number = version.trim().strip_prefix("glibc 2.").and_then(|minor| minor.parse::<u32>().ok());
    arch == "x86_64" && number.is_some_and(|minor| minor >= 36)
}
