//! Stage 45: the node's configuration; see `config`.

use std::cell::RefCell;

use crate::config::{self, ConfigurationStatus, Context};

use super::Error;
use super::node::Node;

/// Most lines of diagnostics on the console; all of them are in the status.
const CONSOLE_LINES: usize = 10;

/// Finds the configuration and applies it. Errors leave the node with what the errors did not touch.
pub(super) fn set_up(node: &mut Node<'_>) -> Result<String, Error> {
    let sys = node.sys;
    let watchdog = RefCell::new(&mut node.watchdog);
    // A device that cannot be fed says so again at the end of the stage.
    let progress = || drop(watchdog.borrow_mut().progress(sys));
    let (cmdline, image, data) = (&node.cmdline, &node.config, node.data.path.as_str());
    let context = Context { sys, cmdline, image, data, boot: node.boot, progress: &progress };
    let status = config::set_up(&context);
    let errors = status.errors.iter().map(|line| format!("configuration: error: {line}"));
    let warnings = status.warnings.iter().map(|line| format!("configuration: warning: {line}"));
    let mut lines: Vec<String> = errors.chain(warnings).collect();
    if let Some(more) = lines.len().checked_sub(CONSOLE_LINES).filter(|more| *more > 0) {
        lines.truncate(CONSOLE_LINES);
        lines.push(format!("configuration: {more} more lines in the status"));
    }
    lines.iter().for_each(|line| node.say(line));
    let summary = summary(&status, node.boot);
    let result = match status.errors.first() {
        None => Ok(summary),
        Some(first) => {
            let count = status.errors.len();
            let errors = if count == 1 { first.clone() } else { format!("{count} errors, the first: {first}") };
            Err(Error::Several(vec![format!("{errors}; in force: {summary}")]))
        }
    };
    node.configuration = status;
    result
}

/// Returns what is in force, in a few words.
fn summary(status: &ConfigurationStatus, boot: u64) -> String {
    let source = match status.source.as_str() {
        "default" => "the image's default".to_owned(),
        source => format!("{source} {}, instance {}", status.place, status.instance_id),
    };
    let when = if status.applied_at_boot == boot {
        "applied now".to_owned()
    } else {
        format!("applied at boot {}", status.applied_at_boot)
    };
    format!("{source}, {when}")
}

#[cfg(test)]
mod tests {
    use super::super::node::tests::node;
    use super::*;
    use crate::sys::double::Double;

    #[test]
    fn without_anything_the_default_is_in_force_and_costs_no_time() {
        let sys = Double::new();
        let mut node = node(&sys);
        assert_eq!(set_up(&mut node).expect("fine"), "the image's default, applied now");
        assert_eq!((sys.now.get(), sys.terminal.borrow().as_str()), (1000, ""));
        assert!(sys.text(ksos_formats::layout::NODE_CONFIG).starts_with('{'));
        node.boot += 1;
        assert_eq!(set_up(&mut node).expect("fine"), "the image's default, applied at boot 3");
    }

    #[test]
    fn errors_are_said_and_fail_the_stage_but_not_the_boot() {
        let sys = Double::new();
        sys.put("/etc/kubesolo/cloud-init.yaml", [0xff, 0xfe, 0]);
        let mut node = node(&sys);
        let error = set_up(&mut node).expect_err("bad").to_string();
        assert!(error.contains("cloud-init.yaml:1:1: ") && error.contains("in force: the image's default"), "{error}");
        assert!(sys.terminal.borrow().starts_with("ksos: configuration: error: /etc/kubesolo/cloud-init.yaml:1:1: "));
        assert_eq!(node.configuration.errors.len(), 1);
        assert!(sys.text(ksos_formats::layout::NODE_CONFIG).starts_with('{'), "the other processes have a document");
    }
}
