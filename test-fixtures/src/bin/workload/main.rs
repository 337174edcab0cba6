//! The program that runs in the containers of tests and benchmarks: one mode for each thing that a runtime has to keep
//! right. Static, without a runtime of its own to get in the way of what is tested.

mod args;
mod counter;
mod events;
mod files;
mod in_flight;
mod locks;
mod lockstep;
mod memory;
mod outside;
mod processes;
mod pty;
mod rounds;
mod signals;
mod stream;
mod tcp;
mod terminal;
mod udp;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use args::Args;

const HELP: &str = "\
workload MODE [--NAME VALUE]...

Most modes go round after round, and check each; `--file` has `START COUNT` of the rounds, and `FILE.error` what was wrong.

counter    --file PATH [--interval-ms 10] [--log PATH]   counts in memory; the file has `START COUNT`, the log each count
memory     --mib N [--ready PATH] [--dirty-mib-per-s N] [--verdict PATH]
                                                         fills memory, then dirties it; SIGUSR1: checks all, says `intact`
echo       --listen ADDRESS [--ready PATH]               a TCP server that sends everything back
talk       --connect ADDRESS [--count N] [--interval-ms 10] [--window 1] [--gap-ms N] [--stop PATH] [--file PATH]
                                                         a TCP client: numbers, checked when they come back
lockstep   --file PATH --slot 0|1 [--interval-ms 2]      two of them count in turns, in a file that both have mapped
stream     --bytes N [--seed N] [--hash PATH] [--to stdout|stderr]   pseudo-random bytes, their SHA-256 to PATH
digest                                                   the number and the SHA-256 of the bytes on standard input
lock       --file PATH [--ready PATH]                    holds a flock on PATH and a POSIX lock on PATH.posix
try-lock   --file PATH                                   says which of them can be had
threads    --count N [--file PATH]                       threads that count; the file has their counts
tree       --depth N [--width 2] [--zombies yes] [--sessions yes]   children of children; each says `process PID`
daemon                                                   leaves a process in a session of its own, and ends
pipes      --file PATH                                   numbers through another process and back
fifo       --file PATH --fifo PATH                       numbers through a FIFO
unix       --file PATH --socket PATH                     numbers through unix sockets of all kinds
loopback   --file PATH                                   numbers over a TCP connection to itself
memfd      --file PATH                                   a sealed memfd
deleted    --file PATH --scratch PATH                    a file without a name
unlinked   --file PATH --scratch PATH --other PATH       a file that lost the name by which it was opened
events     --file PATH --watched PATH                    epoll with eventfd, timerfd, signalfd and inotify
pty        --file PATH --shell PROGRAM                   a shell on a pseudo-terminal of its own
udp        --file PATH --listen ADDRESS                  answers each datagram with its count of them
report     --file PATH --socket PATH --kind stream|datagram     numbers to somebody outside
collect    --file PATH --socket PATH --kind … --ready PATH      who gets them, and checks that they follow one another
signals    [--code N] [--linger-ms N]                    says `signal NAME` for each; SIGTERM: lingers, says `bye`, ends
terminal                                                 what kind its fds are, and its size at each SIGWINCH
exit       --code N
fds                                                      its open fds and what they are
sleep                                                    forever, without any signal handler
pause                                                    until SIGTERM or SIGINT, and then ends with 0
";

type Error = Box<dyn std::error::Error>;

/// What a mode ends with.
type Outcome = Result<ExitCode, Error>;

fn main() -> ExitCode {
    let outcome = Args::parse(std::env::args().skip(1)).and_then(|args| {
        let outcome = run(&args);
        if let (Err(error), Some(file)) = (&outcome, args.get("file")) {
            // A restored process's standard error may be nobody's.
            std::fs::write(format!("{file}.error"), error.to_string())?;
        }
        outcome
    });
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
        "lockstep" => lockstep::lockstep(args),
        "lock" => locks::lock(args),
        "try-lock" => locks::try_lock(args),
        "tree" => processes::tree(args),
        "daemon" => processes::daemon(),
        "fds" => processes::fds(),
        "pipes" => in_flight::pipes(args),
        "relay" => in_flight::relay(),
        "fifo" => in_flight::fifo(args),
        "unix" => in_flight::unix(args),
        "loopback" => in_flight::loopback(args),
        "memfd" => files::memfd(args),
        "deleted" => files::deleted(args),
        "unlinked" => files::unlinked(args),
        "events" => events::events(args),
        "pty" => pty::pty(args),
        "udp" => udp::udp(args),
        "report" => outside::report(args),
        "collect" => outside::collect(args),
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
