//! A shell, or a command, in a virtual machine.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use test_fixtures::{Tree, Vm, VmConfig, artifact};

use crate::error::{self, Error};
use crate::host;
use crate::process::say;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What it is made of: trixie (containerd 1.7) or forky (containerd 2.1)
    #[arg(long, default_value = "forky", value_parser = crate::node::tree)]
    tree: Tree,
    /// The machine's memory, in MiB
    #[arg(long, default_value = "2048")]
    memory: u32,
    /// What is run in it
    #[arg(default_value = "bash", trailing_var_arg = true)]
    command: Vec<String>,
}

/// Ends with the command's exit code.
pub(crate) fn run(args: &Args) -> ExitCode {
    match boot_and_run(args) {
        Ok(code) => ExitCode::from(code),
        Err(error) => error::exit_code(Err(error)),
    }
}

fn boot_and_run(args: &Args) -> Result<u8, Error> {
    host::prepare_for_nodes()?;
    let rtc = [artifact::SHIM, artifact::WORKLOAD].iter().all(|name| artifact::find(name).is_ok());
    let vm = Vm::boot(&VmConfig { tree: args.tree, memory_mib: args.memory, rtc, ..VmConfig::default() })?;
    let running = if io::stdin().is_terminal() {
        let what = if rtc { "rtc" } else { "no rtc: `cargo xtask build` makes it" };
        say(&format!("{} with {}, and {what}", vm.name(), vm.run(["uname", "-sr"])?));
        vm.spawn_passing_on(on_terminal(&args.command))?
    } else {
        vm.spawn_passing_on(&args.command)?
    };
    let raw = RawTerminal::of_stdin();
    let typed = running.stdin();
    // It may wait for a key that is never pressed, so nobody waits for it.
    std::thread::spawn(move || io::copy(&mut io::stdin().lock(), &mut { typed }));
    // Nobody's deadline but the user's.
    let output = running.wait_open(Duration::from_secs(u64::from(u32::MAX)))?;
    drop(raw);
    Ok(u8::try_from(output.code()).unwrap_or(255))
}

/// A command on a terminal of the machine's own, of this one's size: job control, and `ctr run --tty`, need one.
fn on_terminal(command: &[String]) -> Vec<String> {
    let (rows, columns) = tcgetwinsize(io::stdin()).map_or((24, 80), |size| (size.ws_row, size.ws_col));
    let terminal = std::env::var("TERM").unwrap_or_else(|_| "linux".to_owned());
    let line = format!("stty rows {rows} columns {columns}; exec {}", command.join(" "));
    let words = ["env", &format!("TERM={terminal}"), "script", "--quiet", "--return", "--command", &line, "/dev/null"];
    words.map(str::to_owned).to_vec()
}

/// Standard input, if it is a terminal, gives every key as it is pressed, until this is dropped: the machine's terminal
/// does the rest.
struct RawTerminal(Option<Termios>);

impl RawTerminal {
    fn of_stdin() -> Self {
        let Ok(before) = tcgetattr(io::stdin()) else { return Self(None) };
        let mut raw = before.clone();
        raw.make_raw();
        // A terminal that cannot be raw is used as it is.
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).ok();
        Self(Some(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // It may have been hung up.
            tcsetattr(io::stdin(), OptionalActions::Now, before).ok();
        }
    }
}
