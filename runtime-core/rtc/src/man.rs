//! `rtc man`: the manual pages, for whoever installs or packages rtc.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::CommandFactory;

use crate::args::Args;
use crate::error::Error;

/// Write the manual pages, one for each command
#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// An existing directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl Man {
    pub(crate) fn run(self) -> Result<ExitCode, Error> {
        let written = clap_mangen::generate_to(
            Args::command().version(env!("CARGO_PKG_VERSION")).propagate_version(true),
            &self.directory,
        );
        written.map_err(|err| Error::File { operation: "write manual pages into", path: self.directory, err })?;
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_for_every_command() {
        let directory = tempfile::tempdir().unwrap();
        Man { directory: directory.path().to_owned() }.run().unwrap();
        let page = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        assert!(page("rtc.1").contains("Open Container Initiative runtime"));
        for command in Args::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            assert!(page(&format!("rtc-{}.1", command.get_name())).contains("SYNOPSIS"), "{}", command.get_name());
        }
    }
}
