//! The terminal that a person sits at, while a process with a terminal of its own runs in the foreground.

use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};

use rustix::termios::{OptionalActions, OutputModes, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use crate::error::Error;

/// Gets its modes back when it is dropped.
pub(crate) struct HostTerminal {
    terminal: OwnedFd,
    modes: Termios,
    /// Of the process's terminal.
    master: Option<OwnedFd>,
}

impl HostTerminal {
    /// The first of stderr, stdout and stdin that is one, or else the controlling terminal.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn find() -> Result<Self, Error> {
        let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let found = [stderr.as_fd(), stdout.as_fd(), stdin.as_fd()].into_iter().find(IsTerminal::is_terminal);
        let terminal = match found {
            Some(fd) => fd.try_clone_to_owned().map_err(Error::system("duplicate a descriptor"))?,
            None => open_tty()?,
        };
        let modes = tcgetattr(&terminal).map_err(|err| Error::system("look at the terminal")(err.into()))?;
        Ok(Self { terminal, modes, master: None })
    }

    /// What is typed goes to the process as it is, and its output comes as it is but for line ends, which are made here.
    pub(crate) fn attach(&mut self, master: OwnedFd) -> Result<(), Error> {
        let failed = |err: rustix::io::Errno| Error::system("set up the terminal")(err.into());
        let mut theirs = tcgetattr(&master).map_err(failed)?;
        theirs.output_modes.remove(OutputModes::ONLCR);
        tcsetattr(&master, OptionalActions::Now, &theirs).map_err(failed)?;
        let mut raw = self.modes.clone();
        raw.make_raw();
        raw.output_modes.insert(OutputModes::OPOST);
        tcsetattr(&self.terminal, OptionalActions::Now, &raw).map_err(failed)?;
        self.master = Some(master);
        self.resize();
        Ok(())
    }

    /// Gives the process's terminal the size of this one. Either may be hung up by now, and then has none.
    pub(crate) fn resize(&self) {
        if let (Some(master), Ok(size)) = (&self.master, tcgetwinsize(&self.terminal))
            && let Err(err) = tcsetwinsize(master, size)
        {
            tracing::debug!("resize the terminal: {err}");
        }
    }
}

impl Drop for HostTerminal {
    fn drop(&mut self) {
        if let Err(err) = tcsetattr(&self.terminal, OptionalActions::Now, &self.modes) {
            tracing::debug!("give the terminal its modes back: {err}");
        }
    }
}

fn open_tty() -> Result<OwnedFd, Error> {
    let opened = std::fs::OpenOptions::new().read(true).write(true).open("/dev/tty");
    opened.map(Into::into).map_err(|err| Error::File { operation: "open", path: "/dev/tty".into(), err })
}
