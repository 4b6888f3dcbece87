//! Rules about the kernel command line.

use std::collections::BTreeMap;

use ksos_formats::Arch;
use ksos_formats::layout::PARAM_ROOT;

use super::{Finding, Place, Rule, failure};
use crate::boot::{BootConfigError, check_parameter};
use crate::manifest::cmdline::{forbidden, identity};

/// Checks the parameters.
pub fn cmdline(arch: Arch, parameters: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut report = |parameter: &str, message: String, fix: &str| {
        findings.push(failure(Rule::CommandLine, Place::Plan, &format!("kernel.cmdline {parameter:?}"), message, fix));
    };
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    let mut consoles = Vec::new();
    for parameter in parameters {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match check_parameter(parameter) {
            Ok(()) => {}
            Err(BootConfigError::Reserved(_)) => report(parameter, "is set by the boot loader".to_owned(), "remove it"),
            Err(error) => report(parameter, error.to_string(), "write one plain parameter per string"),
        }
        if let Some(reason) = forbidden(name) {
            report(parameter, format!("must not be given: {reason}"), "remove it");
        }
        if name == PARAM_ROOT && !["slot", "ram"].contains(&value) {
            report(parameter, "is neither slot nor ram".to_owned(), "use ksos.root=slot or ksos.root=ram");
        }
        if name == "console" {
            consoles.push(value);
        }
        match seen.insert(identity(parameter), parameter) {
            Some(first) if first == parameter => report(parameter, "is given twice".to_owned(), "remove one"),
            Some(first) => {
                report(parameter, format!("contradicts {first:?}: the kernel takes the last one"), "remove one");
            }
            None => {}
        }
    }
    if consoles.is_empty() {
        let fix = match arch {
            Arch::X86_64 => "add \"console=ttyS0,115200\" or \"console=tty0\"",
            Arch::Arm64 => "add \"console=ttyAMA0\" or \"console=tty0\"",
        };
        report("console=", "no console is given: nobody would see why a boot fails".to_owned(), fix);
    } else if arch == Arch::X86_64 && consoles.iter().all(|console| console.starts_with("ttyAMA")) {
        report("console=", format!("{arch} machines have no ttyAMA port"), "add \"console=ttyS0,115200\"");
    }
    findings
}
