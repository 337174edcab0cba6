//! `rtc-migrate`: what `rtc migrate` executes. A program of its own, as it knows containerd and a network, of which the
//! runtime, whose size every start of a container pays for, has no need.

mod args;

use std::process::ExitCode;

use args::{Args, Command};
use migrate::Error;

fn main() -> ExitCode {
    let args = Args::parse();
    let level = if args.debug { tracing::Level::DEBUG } else { tracing::Level::WARN };
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(err) => return fail(&err.to_string()),
    };
    let done = runtime.block_on(run(args.command));
    // A read of standard input that is under way ends with the process alone.
    runtime.shutdown_background();
    done.unwrap_or_else(|err| fail(&err.chain()))
}

async fn run(command: Command) -> Result<ExitCode, Error> {
    match command {
        Command::To(command) => command.run().await,
        Command::Receive(command) => command.run().await,
        Command::Status(command) => command.run(),
        Command::Recover(command) => command.run().await,
    }
}

#[allow(clippy::print_stderr, reason = "where a command's failure goes")]
fn fail(text: &str) -> ExitCode {
    eprintln!("rtc migrate: {text}");
    ExitCode::FAILURE
}
