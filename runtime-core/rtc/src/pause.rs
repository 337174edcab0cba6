//! `rtc pause`.

use std::process::ExitCode;

use runtime_core::container::Status;

use crate::context::Context;
use crate::error::Error;

/// Suspend all processes of a container
#[derive(Debug, clap::Args)]
pub(crate) struct Pause {
    /// The container's id
    #[arg(value_name = "container-id")]
    id: String,
}

impl Pause {
    pub(crate) fn run(self, context: &Context) -> Result<ExitCode, Error> {
        let container = context.load(&self.id)?;
        match container.status()? {
            Status::Created | Status::Running => container.pause()?,
            Status::Creating | Status::Paused | Status::Stopped => return Err(Error::NotRunning),
        }
        Ok(ExitCode::SUCCESS)
    }
}
