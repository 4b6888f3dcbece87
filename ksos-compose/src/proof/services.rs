//! Rules about services: what they run is there and can be executed.

use std::collections::BTreeMap;

use ksos_formats::runtime::{ReadyProbe, ServiceConfig};

use super::files::is_program;
use super::paths::{Lead, at_run_time, entry, follow};
use super::{Finding, Place, Rule, failure};
use crate::tree::{Node, Tree};

/// Checks the executables and the working directory of every service.
pub fn services(root: &Tree, services: &BTreeMap<String, ServiceConfig>, runtime_paths: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, service) in services {
        let mut commands = vec![("command", &service.command)];
        commands.extend(service.pre_start.iter().map(|command| ("pre-start", command)));
        if let ReadyProbe::Command(command) = &service.ready {
            commands.push(("ready.command", command));
        }
        for (key, command) in commands {
            if let Some(problem) = problem(root, command) {
                let message = format!("{key}: {problem}");
                findings.push(report(name, message, "add the program to a component, or correct the path"));
            }
        }
        if let Some(directory) = &service.working_directory {
            let present = entry(root, directory).is_some_and(|entry| entry.node == Node::Directory);
            if !present && !at_run_time(directory, runtime_paths) {
                let message = format!("working-directory: {directory} is not a directory of the image");
                findings.push(report(name, message, "create it with root.directories, or correct the path"));
            }
        }
    }
    findings
}

fn report(service: &str, message: String, fix: &str) -> Finding {
    failure(Rule::Service, Place::Plan, &format!("services.{service}"), message, fix)
}

/// Returns what is wrong with a command.
fn problem(root: &Tree, command: &[String]) -> Option<String> {
    let Some(program) = command.first().filter(|program| !program.is_empty()) else {
        return Some("is empty".to_owned());
    };
    if !program.starts_with('/') {
        return Some(format!("{program:?} is not an absolute path"));
    }
    if is_program(root, program) {
        return None;
    }
    Some(match follow(root, program) {
        Lead::Found(path) => format!("{program} is not an executable file (/{path})"),
        Lead::Missing(path) if at_run_time(&path, &[]) => {
            format!("{program} would exist at run time only, in a place that programs are not run from")
        }
        Lead::Missing(path) => format!("{program} is not in the image (/{path} is missing)"),
        Lead::Loop => format!("{program} leads through too many symbolic links"),
    })
}
