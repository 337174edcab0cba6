//! `cargo xtask`: all that is done with this source tree beside compiling it.
//!
//! | module | command |
//! | --- | --- |
//! | `demo` | rtc at work, step by step |
//! | `test` | unit and end-to-end tests; the latter alone |
//! | `check` | format, lints, dependencies, and the layering of the crates |
//! | `fuzz` | libFuzzer on the parsers |
//! | `bench` | rtc beside runc's shim |
//! | `workloads` | what is carried by a checkpoint, as a table |
//! | `suites` | the public suites for OCI runtimes, against rtc and its peers |
//! | `soak` | live migration back and forth, under the eyes of a client |
//! | `node` | a shell in a test node |
//! | `vm` | a shell in a virtual machine |
//! | `build` | the static release binaries |
//! | `install` | the binaries, manual pages and completions, installed |
//! | `host` | what the host has to have, installed through apt |

mod bench;
mod build;
mod check;
mod demo;
mod error;
mod fuzz;
mod host;
mod install;
mod node;
mod process;
mod soak;
mod suites;
mod test;
mod vm;
mod workloads;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Builds, tests, measures and shows rtc")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs, executes into, pauses, checkpoints, restores and moves a container in nodes, and shows each step
    Demo(demo::Args),
    /// Runs the unit and the end-to-end tests
    Test(test::Args),
    /// Runs the end-to-end tests alone
    E2e(test::Args),
    /// Feeds all that reads bytes from outside with libFuzzer
    Fuzz(fuzz::Args),
    /// Measures rtc beside runc's shim with runc and with crun; writes target/bench.json
    Bench(bench::Args),
    /// Runs the public suites for OCI runtimes against rtc, runc and crun
    Suites(suites::Args),
    /// Moves a container back and forth between two nodes, and tells what a client noticed
    MigrateSoak(soak::Args),
    /// Checkpoints and restores workloads of all kinds with rtc and runc; writes the table of criu/README.md
    Workloads(workloads::Args),
    /// Builds the static binaries
    Build,
    /// Builds the shim and the command line and installs them, with manual pages and shell completions
    Install {
        /// The binaries go into PREFIX/bin, the rest below PREFIX/share
        #[arg(long, default_value = "/usr/local")]
        prefix: PathBuf,
    },
    /// Checks format, lints, dependencies and the layering of the crates
    Check,
    /// Starts a node and a shell in it
    Node(node::Args),
    /// Boots a virtual machine, and runs a shell or a command in it
    Vm(vm::Args),
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => test::run(&args, test::Which::All),
        Command::E2e(args) => test::run(&args, test::Which::EndToEnd),
        Command::Fuzz(args) => fuzz::run_targets(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Suites(args) => suites::run(&args),
        Command::MigrateSoak(args) => soak::run(&args),
        Command::Workloads(args) => workloads::run(&args),
        Command::Build => host::prepare().and_then(|()| build::all()).map(drop),
        Command::Install { prefix } => install::install(&prefix),
        Command::Check => check::run_checks(),
        Command::Node(args) => return node::run(&args),
        Command::Vm(args) => return vm::run(&args),
    };
    error::exit_code(result)
}
