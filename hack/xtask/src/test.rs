//! Runs the tests, with nextest: each in a process of its own, which is what ends a node that a test left.

use test_fixtures::{Tree, programs, vm};

use crate::error::Error;
use crate::process::{self, cargo, say, succeeds};
use crate::{build, host};

/// What runs in nodes, or beside real cgroups; `.config/nextest.toml` has the same packages and binaries.
const END_TO_END: &str = "package(test-fixtures) & kind(test) | binary(checkpoint) | binary(lifecycle)";

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
    prepare(args)?;
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

/// Builds the binaries, meanwhile makes the root trees and the programs' image, and then the machines' disks: none of it belongs into a test's time.
fn prepare(args: &Args) -> Result<(), Error> {
    std::thread::scope(|scope| {
        let trees = Tree::ALL.map(|tree| scope.spawn(move || tree.ensure(say)));
        let programs = scope.spawn(|| programs::ensure(say));
        if !args.no_build {
            build::all()?;
        }
        for tree in trees {
            tree.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        programs.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok::<(), Error>(())
    })?;
    // Some hosts cannot have them, and the tests that need them say so.
    for tree in [Tree::Forky, Tree::Trixie] {
        if let Err(error) = vm::prepare(tree, &say) {
            say(&format!("the tests in virtual machines are skipped: {error}"));
        }
    }
    Ok(())
}

fn install_nextest() -> Result<(), Error> {
    if succeeds(cargo().args(["nextest", "--version"])) {
        return Ok(());
    }
    say("installing cargo-nextest (some minutes, once)");
    // Not optimized: that takes far longer than it could ever save.
    process::run(cargo().args(["install", "cargo-nextest", "--locked", "--debug"]))
}
