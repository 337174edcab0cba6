//! `rtc start`.

use std::process::ExitCode;

use runtime_core::container::Status;

use crate::context::Context;
use crate::error::Error;
use crate::notify::Host;

/// Start the program of a created container
#[derive(Debug, clap::Args)]
pub(crate) struct Start {
    /// The container's id
    #[arg(value_name = "container-id")]
    id: String,
}

impl Start {
    pub(crate) fn run(self, context: &Context) -> Result<ExitCode, Error> {
        let container = context.load(&self.id)?;
        match container.status()? {
            Status::Created => {}
            Status::Creating => return Err(Error::Start("cannot start a container in the creating state")),
            Status::Stopped => return Err(Error::Start("cannot start a container that has stopped")),
            Status::Running => return Err(Error::Start("cannot start an already running container")),
            Status::Paused => return Err(Error::Start("cannot start a container in the paused state")),
        }
        let notify = match Host::given() {
            Some(host) => container.bind_notify_socket()?.map(|socket| (host, socket)),
            None => None,
        };
        container.start()?;
        if let (Some((host, socket)), Some(pid), Some(pidfd)) = (notify, container.pid(), container.pidfd()) {
            host.pass_on(&socket, pid, pidfd)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
