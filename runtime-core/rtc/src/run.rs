//! `rtc run`.

use std::process::ExitCode;

use runtime_core::container::Container;

use crate::bundle::Bundle;
use crate::context::Context;
use crate::error::Error;
use crate::launch::{Console, Launch, New, remove, undo};
use crate::notify::Host;

/// Create and run a container
///
/// Signals go on to its program, its exit code is this command's, and then it is deleted.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    #[command(flatten)]
    new: New,

    #[command(flatten)]
    console: Console,

    /// Return once the program runs
    #[arg(short, long)]
    detach: bool,

    /// Do not delete the container at the end
    #[arg(long)]
    keep: bool,

    /// Do not reap the orphans of the container
    #[arg(long)]
    no_subreaper: bool,
}

impl Run {
    pub(crate) fn run(self, context: &Context) -> Result<ExitCode, Error> {
        self.execute(context).map_err(Error::failed("rtc run"))
    }

    fn execute(self, context: &Context) -> Result<ExitCode, Error> {
        let new = self.new.absolute()?;
        let bundle = Bundle::load(new.bundle.as_deref(), new.config.as_deref())?;
        let mut launch = match self.detach {
            true => Launch::detached(&self.console, bundle.terminal())?,
            false => Launch::foreground(&self.console, bundle.terminal(), !self.no_subreaper)?,
        };
        let options = new.options(context, bundle, launch.stdio()?)?;
        let (container, mut started) = Container::create(options)?;
        // Before the start: what comes first must not be lost.
        let notify = match Host::given() {
            Some(host) => {
                container.bind_notify_socket().inspect_err(|_| undo(&container))?.map(|socket| (host, socket))
            }
            None => None,
        };
        launch.attach(&mut started, "standard").inspect_err(|_| undo(&container))?;
        container.start().inspect_err(|_| undo(&container))?;
        if let Some((host, socket)) = notify {
            launch.notify(host, socket, &started);
        }
        let code = launch.wait(&started.child).inspect_err(|_| undo(&container))?;
        if !self.detach && !self.keep {
            remove(&container);
        }
        Ok(code)
    }
}
