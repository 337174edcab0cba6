//! `rtc create`.

use std::process::ExitCode;

use runtime_core::container::{Container, StartBy};

use crate::bundle::Bundle;
use crate::context::Context;
use crate::error::Error;
use crate::launch::{Console, Launch, New};

/// Create a container
///
/// Everything is made but the program does not run yet: `rtc start` runs it. What is wrong with the bundle is found here.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    #[command(flatten)]
    new: New,

    #[command(flatten)]
    console: Console,
}

impl Create {
    pub(crate) fn run(self, context: &Context) -> Result<ExitCode, Error> {
        self.create(context).map_err(Error::failed("rtc create"))
    }

    fn create(self, context: &Context) -> Result<ExitCode, Error> {
        let new = self.new.absolute()?;
        let bundle = Bundle::load(new.bundle.as_deref(), new.config.as_deref())?;
        let mut launch = Launch::detached(&self.console, bundle.terminal())?;
        let mut options = new.options(context, bundle, launch.stdio()?)?;
        options.start_by = StartBy::Anyone;
        let (container, mut started) = Container::create(options)?;
        launch.attach(&mut started, "standard").inspect_err(|_| crate::launch::undo(&container))?;
        Ok(ExitCode::SUCCESS)
    }
}
