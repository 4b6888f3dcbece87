//! Runs cargo and rustc with exactly the given environment.
#![expect(clippy::disallowed_methods, reason = "this is where the cargo source starts programs")]

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::CargoError;

/// How many of a failed program's last lines the error shows.
const LINES: usize = 40;

/// Finds `program` in the `PATH` of `variables`.
pub(super) fn find(program: &str, variables: &[(OsString, OsString)]) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let path = variables.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value)?;
    let executable = |path: &PathBuf| {
        path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(path).map(|directory| directory.join(program)).find(executable)
}

fn prepare(
    program: &str,
    arguments: &[OsString],
    variables: &[(OsString, OsString)],
    directory: &Path,
) -> Result<Command, CargoError> {
    let missing = || CargoError::MissingTool {
        program: program.to_owned(),
        needed_for: "building a component from source".to_owned(),
    };
    let path =
        if program.contains('/') { PathBuf::from(program) } else { find(program, variables).ok_or_else(missing)? };
    let mut command = Command::new(path);
    command.args(arguments).env_clear().envs(variables.iter().cloned()).current_dir(directory).stdin(Stdio::null());
    Ok(command)
}

fn shown(program: &str, arguments: &[OsString]) -> String {
    let arguments = arguments.iter().map(|argument| argument.to_string_lossy());
    std::iter::once(program.into()).chain(arguments).collect::<Vec<_>>().join(" ")
}

/// Runs a program to its end; `progress` gets each line of its standard error.
pub(super) fn run(
    program: &str,
    arguments: &[OsString],
    variables: &[(OsString, OsString)],
    directory: &Path,
    progress: &dyn Fn(&str),
) -> Result<(), CargoError> {
    let start = |source| CargoError::Start { program: program.to_owned(), source };
    let mut command = prepare(program, arguments, variables, directory)?;
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(start)?;
    let mut last = VecDeque::new();
    let stderr = child.stderr.take().expect("standard error is piped");
    for line in BufReader::new(stderr).split(b'\n') {
        let line = String::from_utf8_lossy(&line.map_err(start)?).into_owned();
        progress(&line);
        if last.len() == LINES {
            last.pop_front();
        }
        last.push_back(line);
    }
    let status = child.wait().map_err(start)?;
    if !status.success() {
        let output = Vec::from(last).join("\n");
        return Err(CargoError::Failed { program: shown(program, arguments), status: status.to_string(), output });
    }
    Ok(())
}

/// Runs a program and returns what it wrote to standard output, trimmed.
pub(super) fn output(
    program: &str,
    arguments: &[&str],
    variables: &[(OsString, OsString)],
    directory: &Path,
) -> Result<String, CargoError> {
    let arguments: Vec<OsString> = arguments.iter().map(OsStr::new).map(OsStr::to_owned).collect();
    let mut command = prepare(program, &arguments, variables, directory)?;
    let output = command.output().map_err(|source| CargoError::Start { program: program.to_owned(), source })?;
    if !output.status.success() {
        return Err(CargoError::Failed {
            program: shown(program, &arguments),
            status: output.status.to_string(),
            output: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}
