//! A process that tells what it sees of its terminal.

use std::io::{self, BufRead, IsTerminal};
use std::process::ExitCode;

use rustix::termios::tcgetwinsize;
use signal_hook::consts::SIGWINCH;
use signal_hook::iterator::Signals;

use crate::{Outcome, say};

/// Says for each of its three fds whether it is a terminal, then the size, and the size again at each SIGWINCH. Says
/// `line TEXT` for each line that is typed; `quit` ends it, as does the input's end.
pub(crate) fn terminal() -> Outcome {
    let word = |yes| if yes { "terminal" } else { "other" };
    say(&format!("stdin {}\n", word(io::stdin().is_terminal())))?;
    say(&format!("stdout {}\n", word(io::stdout().is_terminal())))?;
    say(&format!("stderr {}\n", word(io::stderr().is_terminal())))?;
    let mut signals = Signals::new([SIGWINCH])?;
    say_size()?;
    std::thread::spawn(move || {
        for _ in &mut signals {
            if say_size().is_err() {
                return;
            }
        }
    });
    for line in io::stdin().lock().lines() {
        let line = line?;
        if line == "quit" {
            break;
        }
        say(&format!("line {line}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn say_size() -> io::Result<()> {
    match tcgetwinsize(io::stdout()) {
        Ok(size) => say(&format!("size {}x{}\n", size.ws_col, size.ws_row)),
        Err(error) => say(&format!("size {error}\n")),
    }
}
