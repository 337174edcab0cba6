//! The program that runs in the containers of tests and benchmarks: one mode for each thing that a runtime has to keep
//! right. Static, without a runtime of its own to get in the way of what is tested.

mod args;
mod counter;
mod locks;
mod memory;
mod processes;
mod signals;
mod stream;
mod tcp;
mod terminal;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use args::Args;

const HELP: &str = "\
workload MODE [--NAME VALUE]...

counter    --file PATH [--interval-ms 10] [--log PATH]   counts in memory; the file has `START COUNT`, the log each count
memory     --mib N [--ready PATH] [--dirty-mib-per-s N]  fills memory, then dirties it; SIGUSR1: checks all, says `intact`
echo       --listen ADDRESS [--ready PATH]               a TCP server that sends everything back
talk       --connect ADDRESS [--count N] [--interval-ms 10] [--window 1] [--gap-ms N] [--stop PATH]
                                                         a TCP client: numbers, checked when they come back
stream     --bytes N [--seed N] [--hash PATH] [--to stdout|stderr]   pseudo-random bytes, their SHA-256 to PATH
digest                                                   the number and the SHA-256 of the bytes on standard input
lock       --file PATH [--ready PATH]                    holds a flock on PATH and a POSIX lock on PATH.posix
try-lock   --file PATH                                   says which of them can be had
threads    --count N [--file PATH]                       threads that count; the file has their counts
tree       --depth N [--width 2] [--zombies yes] [--sessions yes]   children of children; each says `process PID`
daemon                                                   leaves a process in a session of its own, and ends
signals    [--code N] [--linger-ms N]                    says `signal NAME` for each; SIGTERM: lingers, says `bye`, ends
terminal                                                 what kind its fds are, and its size at each SIGWINCH
exit       --code N
fds                                                      its open fds and what they are
sleep                                                    forever, without any signal handler
pause                                                    until SIGTERM or SIGINT, and then ends with 0
";

/// What a mode ends with.
type Outcome = Result<ExitCode, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let outcome = Args::parse(std::env::args().skip(1)).and_then(|args| run(&args));
    outcome.unwrap_or_else(|error| {
        say_error(&error.to_string());
        ExitCode::from(125)
    })
}

fn run(args: &Args) -> Outcome {
    match args.mode() {
        "counter" => counter::counter(args),
        "threads" => counter::threads(args),
        "memory" => memory::memory(args),
        "echo" => tcp::echo(args),
        "talk" => tcp::talk(args),
        "stream" => stream::stream(args),
        "digest" => stream::digest(),
        "lock" => locks::lock(args),
        "try-lock" => locks::try_lock(args),
        "tree" => processes::tree(args),
        "daemon" => processes::daemon(),
        "fds" => processes::fds(),
        "signals" => signals::signals(args),
        "pause" => signals::pause(),
        "terminal" => terminal::terminal(),
        "exit" => Ok(ExitCode::from(args.number::<u8>("code")?)),
        "sleep" => sleep_forever(),
        "help" => {
            say(HELP)?;
            Ok(ExitCode::SUCCESS)
        }
        mode => Err(format!("no mode {mode:?}; see `workload help`").into()),
    }
}

/// Writes text to standard output at once.
fn say(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

fn say_error(text: &str) {
    // There is nowhere to say that standard error is closed.
    writeln!(io::stderr(), "workload: {text}").ok();
}

/// Never returns. Short sleeps, for a checkpoint ends a long one early.
fn sleep_forever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}
