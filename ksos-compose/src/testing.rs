//! What tests of several modules share.
#![expect(clippy::disallowed_methods, reason = "looks for foreign tools")]

use std::process::Command;

/// Tells whether a foreign tool is installed; says that the test is skipped when it is not. With `KSOS_REQUIRE_TOOLS` set,
/// its absence is a failure.
pub(crate) fn has_tool(name: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {name}")]).output().unwrap().status.success();
    if !found {
        assert!(std::env::var_os("KSOS_REQUIRE_TOOLS").is_none(), "{name} is not installed");
        println!("skipped: {name} is not installed");
    }
    found
}
