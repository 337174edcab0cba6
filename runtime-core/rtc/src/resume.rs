//! `rtc resume`.

use std::process::ExitCode;

use runtime_core::container::Status;

use crate::context::Context;
use crate::error::Error;

/// Resume all processes that have been paused
#[derive(Debug, clap::Args)]
pub(crate) struct Resume {
    /// The container's id
    #[arg(value_name = "container-id")]
    id: String,
}

impl Resume {
    pub(crate) fn run(self, context: &Context) -> Result<ExitCode, Error> {
        let container = context.load(&self.id)?;
        if container.status()? != Status::Paused {
            return Err(Error::NotPaused);
        }
        container.resume()?;
        Ok(ExitCode::SUCCESS)
    }
}
