//! A pseudo-terminal of the container's own, with a shell on it.

use std::fs::File;
use std::io::{Read, Write};
use std::process::Command;

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcgetwinsize, tcsetwinsize};

use crate::args::Args;
use crate::rounds::{Rounds, expect};
use crate::{Error, Outcome};

/// Types lines into the shell, which counts in a variable, and reads what it answers.
pub(crate) fn pty(args: &Args) -> Outcome {
    let mut rounds = Rounds::new(args)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
    let master = openpt(flags | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let size = Winsize { ws_row: 33, ws_col: 111, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&master, size)?;
    let terminal = File::from(ioctl_tiocgptpeer(&master, flags | OpenptFlags::CLOEXEC)?);
    let mut shell = Command::new("setsid");
    shell.args(["-c", args.text("shell")?]).stdin(terminal.try_clone()?).stdout(terminal.try_clone()?).stderr(terminal);
    let _shell = shell.spawn()?;
    drop(shell);
    let mut master = File::from(master);
    loop {
        master.write_all(b"count=$((count+1)); echo \"<$count>\"\n")?;
        read_until(&mut master, &format!("<{}>", rounds.count() + 1))?;
        let size = tcgetwinsize(&master)?;
        expect("the size of the terminal", (33, 111), (size.ws_row, size.ws_col))?;
        rounds.done()?;
    }
}

fn read_until(master: &mut File, text: &str) -> Result<(), Error> {
    let mut seen = Vec::new();
    let mut buffer = [0; 1024];
    while !seen.windows(text.len()).any(|part| part == text.as_bytes()) {
        let count = master.read(&mut buffer)?;
        seen.extend_from_slice(&buffer[..count]);
        if seen.len() > 1 << 16 {
            return Err(format!("no {text} in {}", String::from_utf8_lossy(&seen)).into());
        }
    }
    Ok(())
}
