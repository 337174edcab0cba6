//! `rtc features`.

use std::process::ExitCode;

use crate::error::Error;
use crate::output;
use crate::preflight;

/// Show what this runtime can do, as JSON
#[derive(Debug, clap::Args)]
pub(crate) struct Features {
    /// Show what a checkpoint depends on of this host instead: its CPU, kernel and CRIU, for `rtc checkpoint --target`
    #[arg(long)]
    host: bool,
}

impl Features {
    pub(crate) fn run(self) -> Result<ExitCode, Error> {
        if self.host {
            return preflight::describe_host();
        }
        let json = output::json_pretty("the features", &runtime_core::features::features(), "    ")?;
        output::print(&(json + "\n"))?;
        Ok(ExitCode::SUCCESS)
    }
}
