//! The output streams of a process: what they come from, where they go, and the task that moves them.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::Interest;

use super::binary::LoggerPipes;
use super::console::Console;
use super::error::{Error, Stream};
use super::uri::Target;
use super::watched::Watched;
use super::{Pending, StdioConfig, Targets, fifo, file, log_failure, null, pump, set_nonblocking, watch_fd};

/// Streams that wait for [`super::Io::start`].
#[derive(Debug, Default)]
pub(super) struct Outlets(Vec<Outlet>);

#[derive(Debug)]
pub(super) struct Outlet {
    pub(super) stream: Stream,
    /// The shim's end of the pipe; `None` for the terminal.
    pub(super) pipe: Option<OwnedFd>,
    pub(super) sink: Sink,
}

/// Where a stream goes. `F` is a non-blocking descriptor, once it is registered a [`Watched`].
#[derive(Debug)]
pub(super) enum Sink<F = OwnedFd> {
    /// Read and thrown away: a terminal without stdout.
    Null,
    Fifo(F),
    File(Arc<File>),
    /// The pipe of a logger: a terminal's output is read by the shim.
    Logger(F),
}

#[derive(Debug)]
pub(super) enum Source {
    Pipe(Watched),
    Console(Arc<Console>),
}

impl Outlets {
    pub(super) fn take(&mut self) -> Vec<Outlet> {
        std::mem::take(&mut self.0)
    }

    pub(super) fn add_console(&mut self, target: &Target, logger: Option<OwnedFd>) -> Result<(), Error> {
        let stream = Stream::Stdout;
        let sink = match (target, logger) {
            (Target::Binary(_), Some(pipe)) => {
                set_nonblocking(&pipe).map_err(|err| Error::Pipe { stream, err })?;
                Sink::Logger(pipe)
            }
            (target, _) => Sink::open(stream, target)?,
        };
        self.0.push(Outlet { stream, pipe: None, sink });
        Ok(())
    }

    /// Returns the container's stdout and stderr.
    pub(super) fn add_pipes(
        &mut self,
        config: &StdioConfig,
        targets: &Targets,
        logger: Option<LoggerPipes>,
    ) -> Result<(OwnedFd, OwnedFd), Error> {
        let (to_stdout, to_stderr) = match logger {
            Some(pipes) => (Some(pipes.stdout), Some(pipes.stderr)),
            None => (None, None),
        };
        let stdout = self.add(Stream::Stdout, config, &targets.stdout, to_stdout, None)?;
        // One open file for both, as with runc's shim; O_APPEND keeps their writes whole.
        let shared = match (targets.stdout == targets.stderr, self.0.first()) {
            (true, Some(Outlet { sink: Sink::File(file), .. })) => Some(Arc::clone(file)),
            _ => None,
        };
        let stderr = self.add(Stream::Stderr, config, &targets.stderr, to_stderr, shared)?;
        Ok((stdout, stderr))
    }

    fn add(
        &mut self,
        stream: Stream,
        config: &StdioConfig,
        target: &Target,
        logger: Option<OwnedFd>,
        shared: Option<Arc<File>>,
    ) -> Result<OwnedFd, Error> {
        match (target, logger) {
            (Target::Null, _) => return null::open_null(stream),
            // The logger reads what the container writes; the shim is not between them.
            (Target::Binary(_), Some(pipe)) => return Ok(pipe),
            _ => {}
        }
        let sink = match shared {
            Some(file) => Sink::File(file),
            None => Sink::open(stream, target)?,
        };
        let (ours, theirs) = super::pipe(stream, config)?;
        set_nonblocking(&ours).map_err(|err| Error::Pipe { stream, err })?;
        self.0.push(Outlet { stream, pipe: Some(ours), sink });
        Ok(theirs)
    }
}

impl Sink {
    fn open(stream: Stream, target: &Target) -> Result<Self, Error> {
        match target {
            Target::Path(path) => Ok(match fifo::open_output(stream, path)? {
                fifo::Output::Fifo(fifo) => Self::Fifo(fifo),
                fifo::Output::File(file) => Self::File(Arc::new(file)),
            }),
            Target::File(path) => Ok(Self::File(file::open_log(stream, path)?)),
            Target::Null | Target::Binary(_) => Ok(Self::Null),
        }
    }

    /// Registers the descriptor with the event loop.
    pub(super) fn watch(self, stream: Stream) -> Result<Sink<Watched>, Error> {
        Ok(match self {
            Self::Null => Sink::Null,
            Self::File(file) => Sink::File(file),
            Self::Fifo(fd) => Sink::Fifo(watch_fd(fd, Interest::WRITABLE, stream)?),
            Self::Logger(fd) => Sink::Logger(watch_fd(fd, Interest::WRITABLE, stream)?),
        })
    }
}

/// Moves the whole stream. `delivered` is dropped when its end was reached, `taken` when the client has read all of it.
pub(super) async fn run(stream: Stream, source: Source, sink: Sink<Watched>, delivered: Pending, taken: Pending) {
    let (result, fifo) = match (source, sink) {
        (Source::Pipe(pipe), Sink::Fifo(fifo)) => (pump::splice(&pipe, &fifo).await, Some(fifo)),
        (Source::Pipe(pipe), Sink::File(file)) => (file::append_all(pipe, file).await, None),
        (Source::Pipe(pipe), Sink::Logger(to)) => (pump::splice(&pipe, &to).await, None),
        (Source::Pipe(_), Sink::Null) => (Ok(()), None),
        (Source::Console(console), sink) => {
            let result = show(&console, &sink).await;
            (result, if let Sink::Fifo(fifo) = sink { Some(fifo) } else { None })
        }
    };
    log_failure(stream, result);
    drop(delivered);
    if let Some(fifo) = fifo {
        log_failure(stream, fifo::hand_over(fifo.into_inner(), taken).await.map_err(io::Error::from));
    }
}

/// Reads the terminal until its end.
async fn show(console: &Console, sink: &Sink<Watched>) -> io::Result<()> {
    let mut buffer = [0; pump::TTY_BUFFER];
    loop {
        let filled = console.read(&mut buffer).await?;
        if filled == 0 {
            return Ok(());
        }
        match sink {
            Sink::Null => {}
            Sink::Fifo(to) | Sink::Logger(to) => pump::write_all(to, &buffer[..filled]).await?,
            Sink::File(file) => file::append(file, buffer[..filled].to_vec()).await?,
        }
    }
}
