//! `rtc-migrate`: what `rtc migrate` executes. A program of its own, as it knows containerd and a network, of which the
//! runtime, whose size every start of a container pays for, has no need. Under the name `rtc-pod` it is `rtc pod`, for the same
//! reason.

mod args;
mod pod_args;
mod view;

use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser as _;
use migrate::Error;
use pod_args::Pod;

/// What `rtc pod` executes this program as.
const POD: &str = "rtc-pod";

fn main() -> ExitCode {
    if std::env::args_os().next().is_some_and(|name| name == POD) {
        let pod = Pod::parse();
        return start("rtc pod", pod.debug, pod.run());
    }
    let args = Args::parse();
    start("rtc migrate", args.debug, run(args.command))
}

fn start(name: &str, debug: bool, work: impl Future<Output = Result<ExitCode, Error>>) -> ExitCode {
    let level = if debug { tracing::Level::DEBUG } else { tracing::Level::WARN };
    tracing_subscriber::fmt().with_max_level(level).with_writer(|| view::Stderr).with_target(false).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(err) => return fail(name, &err.to_string()),
    };
    let done = runtime.block_on(work);
    view::end();
    // A read of standard input that is under way ends with the process alone.
    runtime.shutdown_background();
    done.unwrap_or_else(|err| fail(name, &err.chain()))
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
fn fail(name: &str, text: &str) -> ExitCode {
    eprintln!("{name}: {text}");
    ExitCode::FAILURE
}
