//! `rtc`: the OCI runtime as a command line, with runc's commands, options, output formats and exit codes.
//!
//! ```text
//! args -> Context (the state root, the cgroup driver) -> one file per command -> runtime_core::container
//! rtc  --clone-> init (this binary again, sealed; runtime_core::init)
//! ```
//!
//! Errors go to stderr, and with `--log` to the log as well, which is where callers such as containerd look for them.

mod args;
mod bundle;
mod checkpoint;
mod completion;
mod context;
mod create;
mod dashes;
mod delete;
mod descriptors;
mod diff;
mod error;
mod events;
mod exec;
mod fd_socket;
mod features;
mod foreground;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod host_terminal;
mod inspect;
mod kill;
mod launch;
mod list;
mod log;
mod man;
mod migrate;
mod notify;
mod output;
mod pause;
mod pod;
mod preflight;
mod progress;
mod ps;
mod relay;
mod restore;
mod resume;
mod run;
mod spec;
mod start;
mod state;
mod stats;
mod update;
mod usage;
mod version;

use std::process::ExitCode;

use args::{Args, Command};
use context::Context;
use error::Error;

/// The whole program.
pub fn main() -> ExitCode {
    // Before anything else: the init of a container must stay single-threaded and opens nothing of ours.
    if std::env::args_os().next().is_some_and(|name| name == runtime_core::init::ARGV0) {
        runtime_core::init::main();
    }
    if is_set_user_id() {
        return log::Log::default().fatal(&Error::SetUserId);
    }
    let args = match usage::parse(&std::env::args_os().collect::<Vec<_>>()) {
        Ok(args) => args,
        Err(err) => return usage::refuse(&err),
    };
    let log = match log::init(&args.global) {
        Ok(log) => log,
        Err(err) => return log::Log::default().fatal(&err),
    };
    run(args).unwrap_or_else(|err| log.fatal(&err))
}

fn is_set_user_id() -> bool {
    use rustix::process::{getegid, geteuid, getgid, getuid};
    getuid() != geteuid() || getgid() != getegid()
}

fn run(args: Args) -> Result<ExitCode, Error> {
    let context = Context::new(&args.global)?;
    match args.command {
        _ if args.global.version => version::run(),
        None => usage::help(),
        Some(Command::Checkpoint(command)) => command.run(&context),
        Some(Command::Completion(command)) => command.run(),
        Some(Command::Create(command)) => command.run(&context),
        Some(Command::Delete(command)) => command.run(&context),
        Some(Command::Diff(command)) => command.run(),
        Some(Command::Events(command)) => command.run(&context),
        Some(Command::Exec(command)) => command.run(&context),
        Some(Command::Features(command)) => command.run(),
        Some(Command::Inspect(command)) => command.run(),
        Some(Command::Kill(command)) => command.run(&context),
        Some(Command::List(command)) => command.run(&context),
        Some(Command::Man(command)) => command.run(),
        Some(Command::Migrate(command)) => command.run(),
        Some(Command::Pause(command)) => command.run(&context),
        Some(Command::Pod(command)) => command.run(),
        Some(Command::Ps(command)) => command.run(&context),
        Some(Command::Restore(command)) => command.run(&context),
        Some(Command::Resume(command)) => command.run(&context),
        Some(Command::Run(command)) => command.run(&context),
        Some(Command::Spec(command)) => command.run(),
        Some(Command::Start(command)) => command.run(&context),
        Some(Command::State(command)) => command.run(&context),
        Some(Command::Stats(command)) => command.run(&context),
        Some(Command::Update(command)) => command.run(&context),
    }
}
