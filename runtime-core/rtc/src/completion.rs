//! `rtc completion`.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Args;
use crate::error::Error;
use crate::output;

/// Print the completions for a shell
///
/// For bash: rtc completion bash >/usr/share/bash-completion/completions/rtc
#[derive(Debug, clap::Args)]
pub(crate) struct Completion {
    /// bash, zsh, fish, elvish or powershell
    shell: Shell,
}

impl Completion {
    pub(crate) fn run(self) -> Result<ExitCode, Error> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Args::command(), "rtc", &mut script);
        output::print(&String::from_utf8_lossy(&script))?;
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_completed() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "rtc", &mut script);
            let script = String::from_utf8(script).unwrap();
            for command in Args::command().get_subcommands().filter(|command| !command.is_hide_set()) {
                assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
            }
        }
    }
}
