//! `rtc pod`: the program of `rtc migrate` under another name, as it needs containerd too.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::error::Error;
use crate::migrate;

const NAME: &str = "rtc-pod";

/// Checkpoint and restore the containers of a pod together
///
/// `rtc pod checkpoint --image-path DIR CONTAINER` writes all containers of its pod, `rtc pod restore --image-path DIR` restores
/// them. `rtc pod --help` tells more.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Pod {
    /// What it is told
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

impl Pod {
    pub(crate) fn run(self) -> Result<ExitCode, Error> {
        migrate::execute(NAME, self.arguments)
    }
}
