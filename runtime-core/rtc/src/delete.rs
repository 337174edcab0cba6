//! `rtc delete`.

use std::io::ErrorKind;
use std::process::ExitCode;

use runtime_core::container::Status;

use crate::context::{self, Context};
use crate::error::Error;

/// Delete any resources held by a container
#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    /// The container's id
    #[arg(value_name = "container-id")]
    id: String,

    /// Kill the container first if it still runs; it is no error if there is none
    #[arg(short, long)]
    force: bool,
}

impl Delete {
    pub(crate) fn run(self, context: &Context) -> Result<ExitCode, Error> {
        let container = match context.load(&self.id) {
            Err(Error::NotExist) => return self.remove_remains(context),
            container => container?,
        };
        match container.status()? {
            status @ (Status::Creating | Status::Running | Status::Paused) if !self.force => {
                return Err(Error::NotStopped { id: self.id, status });
            }
            Status::Creating | Status::Created | Status::Running | Status::Paused | Status::Stopped => {
                container.delete(self.force)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The directory of a create that was cut off before it wrote anything.
    fn remove_remains(self, context: &Context) -> Result<ExitCode, Error> {
        let path = context.root.join(context::parse_id(&self.id)?.as_str());
        match std::fs::remove_dir_all(&path) {
            Err(err) if err.kind() != ErrorKind::NotFound => Err(Error::File { operation: "remove", path, err }),
            _ if self.force => Ok(ExitCode::SUCCESS),
            _ => Err(Error::NotExist),
        }
    }
}
