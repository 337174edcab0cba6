//! `rtc features`.

use std::process::ExitCode;

use crate::error::Error;
use crate::output;

/// Show what this runtime can do, as JSON
#[derive(Debug, clap::Args)]
pub(crate) struct Features {}

impl Features {
    pub(crate) fn run(self) -> Result<ExitCode, Error> {
        let json = output::json_pretty("the features", &runtime_core::features::features(), "    ")?;
        output::print(&(json + "\n"))?;
        Ok(ExitCode::SUCCESS)
    }
}
