//! Runs the tests, with nextest: each in a process of its own, which is what ends a node that a test left.

use crate::error::Error;
use crate::process::{self, cargo, say, succeeds};
use crate::{build, host};

/// Integration tests of these packages run in nodes; `.config/nextest.toml` has the same expression.
const END_TO_END: &str = "kind(test) & (package(containerd-shim-rtc-v2) | package(test-fixtures))";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only tests whose name contains one of these
    filters: Vec<String>,
    /// Take the binaries that are there
    #[arg(long)]
    no_build: bool,
}

pub(crate) enum Which {
    All,
    EndToEnd,
}

pub(crate) fn run(args: &Args, which: Which) -> Result<(), Error> {
    host::prepare_for_nodes()?;
    install_nextest()?;
    if !args.no_build {
        build::all()?;
    }
    // Made here, one after the other, and not within a test's time.
    for tree in test_fixtures::Tree::ALL {
        tree.ensure(say)?;
    }
    let mut command = cargo();
    command.args(["nextest", "run", "--workspace"]);
    if std::env::var_os("CI").is_some() {
        command.args(["--profile", "ci"]);
    }
    if matches!(which, Which::EndToEnd) {
        command.args(["-E", END_TO_END]);
    }
    process::run(command.args(&args.filters))
}

fn install_nextest() -> Result<(), Error> {
    if succeeds(cargo().args(["nextest", "--version"])) {
        return Ok(());
    }
    say("installing cargo-nextest (some minutes, once)");
    process::run(cargo().args(["install", "cargo-nextest", "--locked"]))
}
