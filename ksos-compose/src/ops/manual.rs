//! `completions` and `man`: what the command line says of itself.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use super::OpError;
use crate::cli::Cli;
use crate::effects::fs::{self, Context};

/// Returns the script that completes commands in `shell`.
pub fn completions(shell: Shell) -> String {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes one page for the command and one for each of its commands to `directory`: `ksos-compose.1`,
/// `ksos-compose-build.1`, ...
///
/// # Errors
/// When a file cannot be written.
pub fn pages(directory: &Path) -> Result<(), OpError> {
    let mut command = Cli::command();
    command.build();
    fs::create_dir_all(directory)?;
    write(&command, directory)
}

fn write(command: &clap::Command, directory: &Path) -> Result<(), OpError> {
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        write(below, directory)?;
    }
    let page = clap_mangen::Man::new(command.clone());
    let path = directory.join(page.get_filename());
    let mut text = Vec::new();
    page.render(&mut text).context("write", &path)?;
    Ok(fs::write_atomic(&path, &text)?)
}
