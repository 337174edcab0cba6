//! Commands on the host.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::Error;

/// This source tree's cargo.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(test_fixtures::artifact::workspace());
    command
}

/// Runs a command to its end with this process's output.
pub(crate) fn run(command: &mut Command) -> Result<(), Error> {
    let status = command.stdin(Stdio::null()).status();
    let status = status.map_err(|source| Error::Spawn { command: name(command), source })?;
    if status.success() { Ok(()) } else { Err(Error::Command { command: name(command), status }) }
}

/// A command's standard output; its standard error is this process's.
pub(crate) fn read(command: &mut Command) -> Result<String, Error> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|source| Error::Spawn { command: name(command), source })?;
    if !output.status.success() {
        return Err(Error::Command { command: name(command), status: output.status });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a command runs and ends well; its output is nobody's.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Tells the person who waits what goes on.
pub(crate) fn say(text: &str) {
    // Nobody waits where standard output is closed.
    writeln!(io::stdout(), "{text}").ok();
}

/// The command as a person would type it, cut where it gets long.
fn name(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let words = std::iter::once(program.file_name().unwrap_or(program.as_os_str())).chain(command.get_args());
    let line = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
