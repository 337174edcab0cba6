//! `rtc migrate`: another program, beside this one. It knows containerd and a network, and every start of a container would
//! pay for its size: an init is executed from a copy of the runtime's binary.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use crate::error::Error;

const PROGRAM: &str = "rtc-migrate";

/// Move a running container to another node
///
/// `rtc migrate CONTAINER --to TARGET` moves it; `rtc migrate receive`, `status` and `recover` are the other side, what is
/// under way, and what was left behind. `rtc migrate --help` tells more.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Migrate {
    /// What `rtc-migrate` is told
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

impl Migrate {
    pub(crate) fn run(self) -> Result<ExitCode, Error> {
        execute(PROGRAM, self.arguments)
    }
}

/// Becomes that program, which goes by what it is called.
pub(crate) fn execute(name: &str, arguments: Vec<OsString>) -> Result<ExitCode, Error> {
    let own = std::env::current_exe().map_err(Error::system("find this program's file"))?;
    let path = own.with_file_name(PROGRAM);
    let err = Command::new(&path).arg0(name).args(arguments).exec();
    Err(Error::File { operation: "execute", path, err })
}
