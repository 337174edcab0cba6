//! A command that stays with its process: signals go on to it, a terminal is relayed, and its end is awaited.

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;

use nix::errno::Errno as NixErrno;
use nix::libc::{SIGCHLD, SIGURG, SIGWINCH};
use nix::sys::signal::{SigSet, Signal as NixSignal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use runtime_core::Signal;
use runtime_core::children::{Child, sweep_orphans};
use runtime_core::container::Stdio;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::error::Error;
use crate::host_terminal::HostTerminal;
use crate::relay::{self, Output};

/// A stream of ours that is a terminal: the process gets a pipe in its place, as it has not asked for a terminal.
enum Copied {
    Input(OwnedFd),
    Output(OwnedFd, OwnedFd),
}

pub(crate) struct Foreground {
    signals: SignalFd,
    subreaper: bool,
    terminal: Option<HostTerminal>,
    copied: Vec<Copied>,
    outputs: Vec<Output>,
}

impl Foreground {
    /// Holds all signals back until [`Foreground::wait`].
    pub(crate) fn new(terminal: bool, subreaper: bool) -> Result<Self, Error> {
        if subreaper {
            rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
                .map_err(|err| Error::system("become a subreaper")(err.into()))?;
        }
        let mut all = SigSet::all();
        // A broken pipe is our own affair.
        all.remove(NixSignal::SIGPIPE);
        let held = |err: NixErrno| Error::system("hold signals back")(err.into());
        all.thread_block().map_err(held)?;
        let signals = SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(held)?;
        let terminal = terminal.then(HostTerminal::find).transpose()?;
        Ok(Self { signals, subreaper, terminal, copied: Vec::new(), outputs: Vec::new() })
    }

    /// Our own, but for what is a terminal.
    pub(crate) fn stdio(&mut self) -> Result<Stdio, Error> {
        let stdin = match std::io::stdin().is_terminal() {
            true => {
                let (reader, writer) = pipe()?;
                self.copied.push(Copied::Input(writer));
                reader
            }
            false => own(std::io::stdin().as_fd())?,
        };
        let stdout = self.output(std::io::stdout().is_terminal(), std::io::stdout().as_fd())?;
        let stderr = self.output(std::io::stderr().is_terminal(), std::io::stderr().as_fd())?;
        Ok(Stdio::Fds { stdin, stdout, stderr })
    }

    fn output(&mut self, is_terminal: bool, fd: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
        let ours = own(fd)?;
        if !is_terminal {
            return Ok(ours);
        }
        let (reader, writer) = pipe()?;
        self.copied.push(Copied::Output(reader, ours));
        Ok(writer)
    }

    /// Begins to copy. `master` is of the process's terminal.
    pub(crate) fn attach(&mut self, master: Option<OwnedFd>) -> Result<(), Error> {
        if let (Some(master), Some(terminal)) = (master, &mut self.terminal) {
            let (source, sink) = (own(master.as_fd())?, own(master.as_fd())?);
            // First: what comes before it would have its line ends made twice.
            terminal.attach(master)?;
            relay::input(sink);
            self.outputs.push(Output::start(source, File::from(own(std::io::stdout().as_fd())?))?);
        }
        for copied in self.copied.drain(..) {
            match copied {
                Copied::Input(writer) => relay::input(writer),
                Copied::Output(reader, ours) => self.outputs.push(Output::start(reader, File::from(ours))?),
            }
        }
        Ok(())
    }

    /// Returns when the process has ended and all its output has been written.
    pub(crate) fn wait(self, child: &Child) -> Result<ExitCode, Error> {
        loop {
            let mut fds = [PollFd::from_borrowed_fd(child.pidfd(), PollFlags::IN), {
                let signals = self.signals.as_fd();
                PollFd::from_borrowed_fd(signals, PollFlags::IN)
            }];
            match poll(&mut fds, None) {
                Err(Errno::INTR) => continue,
                other => other.map_err(|err| Error::system("wait for the process")(err.into()))?,
            };
            if fds.first().is_some_and(|fd| !fd.revents().is_empty()) {
                break;
            }
            self.take_signals(child)?;
        }
        let exit = child.wait().map_err(Error::system("wait for the process"))?;
        for output in self.outputs {
            output.finish();
        }
        // 128 and a signal's number fit.
        Ok(ExitCode::from(u8::try_from(exit.code).unwrap_or(u8::MAX)))
    }

    fn take_signals(&self, child: &Child) -> Result<(), Error> {
        let failed = |err: NixErrno| Error::system("take a signal")(err.into());
        while let Some(info) = self.signals.read_signal().map_err(failed)? {
            match info.ssi_signo.cast_signed() {
                SIGCHLD if self.subreaper => {
                    sweep_orphans();
                }
                // For Go's runtime in runc, and so for nobody in a container.
                SIGCHLD | SIGURG => {}
                SIGWINCH => {
                    if let Some(terminal) = &self.terminal {
                        terminal.resize();
                    }
                }
                number => {
                    if let Some(signal) = Signal::new(number)
                        && let Err(err) = child.signal(signal)
                    {
                        // It may have ended in this moment.
                        tracing::debug!(number, "forward a signal: {}", runtime_core::error::chain(&err));
                    }
                }
            }
        }
        Ok(())
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|err| Error::system("make a pipe")(err.into()))
}

fn own(fd: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    fd.try_clone_to_owned().map_err(Error::system("duplicate a descriptor"))
}
