//! A process that tells which signals reach it.

use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use signal_hook::consts::{SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::Signals;

use crate::args::Args;
use crate::{Outcome, say};

/// Says `ready`, then `signal NAME` for each that comes. SIGTERM lets it linger, say `bye` and end with the code given.
pub(crate) fn signals(args: &Args) -> Outcome {
    let code: u8 = args.number_or("code", 143)?;
    let linger = Duration::from_millis(args.number_or("linger-ms", 0)?);
    let all = [SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH];
    let mut signals = Signals::new(all)?;
    say("ready\n")?;
    for signal in &mut signals {
        say(&format!("signal {}\n", signal_hook::low_level::signal_name(signal).unwrap_or("?")))?;
        if signal == SIGTERM {
            sleep(linger);
            say("bye\n")?;
            return Ok(ExitCode::from(code));
        }
    }
    Ok(ExitCode::FAILURE)
}

/// What runs in a pod's sandbox.
pub(crate) fn pause() -> Outcome {
    Signals::new([SIGTERM, SIGINT])?.forever().next();
    Ok(ExitCode::SUCCESS)
}
