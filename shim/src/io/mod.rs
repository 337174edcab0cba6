//! A process's stdio: from the pipes or the terminal that the container has to the ends that containerd named.
//!
//! ```text
//!   container                    shim                            containerd, ctr, a log
//!   stdout ==pipe==>  splice(2), nothing is copied   ==fifo==>   client
//!   stdout ==pipe==>  read, write                    ------->    file://
//!   stdout ==pipe===================================pipe====>    binary:// (the logger has the other end)
//!   tty    <=master=> read, write                    <=fifos=>   client
//!   stdin  <==pipe==  splice(2)                      <==fifo==   client
//! ```
//! The streams are byte-exact. What nobody reads stays in the fifo and then in the pipe, and a full pipe holds the
//! container: a slow reader or one that goes away and comes back loses nothing. The client sees the end of a stream as
//! soon as the last process that had it open is gone and everything was moved.

mod binary;
mod console;
mod error;
mod fifo;
mod file;
mod input;
mod null;
mod outlet;
mod pump;
#[cfg(test)]
mod tests;
#[cfg(feature = "fuzzing")]
pub(crate) mod uri;
#[cfg(not(feature = "fuzzing"))]
mod uri;
mod watched;

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::unistd::{Gid, Uid};
use runtime_core::container::Stdio;
use tokio::io::Interest;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::warn;

use self::binary::Logger;
use self::console::Console;
pub(crate) use self::error::{Error, Stream};
pub(crate) use self::input::Feed;
use self::outlet::{Outlets, Source};
use self::uri::Target;
pub(crate) use self::watched::{Watched, watch};

/// After its stdio was opened, how long a process's output waits at Delete for a client that has not read it.
const TAKEN_WITHIN: Duration = Duration::from_secs(2);

/// What containerd asks for in Create and Exec.
#[derive(Clone, Debug, Default)]
pub(crate) struct StdioConfig {
    /// Path of a fifo, or empty: `/dev/null`.
    pub(crate) stdin: String,
    /// Path of a fifo, `file://`, `binary://`, or empty.
    pub(crate) stdout: String,
    /// Like `stdout`; unused with a terminal. Where `stdout` is a file or a logger, empty means the same.
    pub(crate) stderr: String,
    pub(crate) terminal: bool,
    /// Owner of the pipes, so that a process with this id can open `/dev/stdout` anew (`Options.IoUid`, `IoGid`).
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The shim's side of one process's stdio. Dropping it closes everything at once, output that was not yet moved
/// included, and lets a logger end; await [`Io::drained`] before.
#[derive(Debug)]
pub(crate) struct Io {
    /// What [`Io::start`] begins to move.
    stdin: Option<Stdin>,
    /// Held by the task that moves it.
    feed: Weak<Feed>,
    outlets: Outlets,
    /// Keeps stdin's fifo from ending until CloseIO.
    keeper: Option<OwnedFd>,
    /// Held by the tasks that move its bytes, which close it when they are done.
    console: Weak<Console>,
    tasks: JoinSet<()>,
    /// The streams whose output is not yet all in the client's fifo.
    undelivered: watch::Sender<usize>,
    /// Those that the client has not read to their end.
    untaken: watch::Sender<usize>,
    opened: Instant,
    logger: Option<Logger>,
}

#[derive(Debug)]
struct Stdin {
    fifo: OwnedFd,
    /// The container's stdin; `None` for a terminal.
    pipe: Option<OwnedFd>,
}

impl Io {
    /// Opens containerd's ends and makes the container's. Never blocks on a fifo, whoever opens it first; waits for a
    /// logger to say that it is ready.
    ///
    /// The returned [`Stdio`] belongs to the container: no copy of it may stay open in the shim, or the streams never
    /// end.
    pub(crate) async fn open(config: &StdioConfig, id: &str, namespace: &str) -> Result<(Self, Stdio), Error> {
        let targets = Targets::parse(config)?;
        let mut readers = Vec::new();
        for target in [&targets.stdout, &targets.stderr] {
            if let Target::Path(path) = target {
                readers.push(fifo::reader_has_come(path).await);
            }
        }
        let mut io = Self {
            stdin: None,
            feed: Weak::new(),
            outlets: Outlets::default(),
            keeper: None,
            console: Weak::new(),
            tasks: JoinSet::new(),
            undelivered: watch::Sender::new(0),
            untaken: watch::Sender::new(0),
            opened: Instant::now(),
            logger: None,
        };
        let stdin = io.open_stdin(config, &targets.stdin)?;
        let logger = match targets.logger() {
            Some(program) => {
                let (logger, pipes) = Logger::start(program, id, namespace).await?;
                io.logger = Some(logger);
                Some(pipes)
            }
            None => None,
        };
        let stdio = match config.terminal {
            true => {
                io.outlets.add_console(&targets.stdout, logger.map(|pipes| pipes.stdout))?;
                Stdio::Terminal
            }
            false => {
                let (stdout, stderr) = io.outlets.add_pipes(config, &targets, logger)?;
                let stdin = stdin.map_or_else(|| null::open_null(Stream::Stdin), Ok)?;
                Stdio::Fds { stdin, stdout, stderr }
            }
        };
        drop(readers);
        Ok((io, stdio))
    }

    /// Opens stdin's fifo; returns the container's end of the pipe unless there is a terminal.
    fn open_stdin(&mut self, config: &StdioConfig, target: &Target) -> Result<Option<OwnedFd>, Error> {
        let path = match target {
            Target::Null => return Ok(None),
            Target::Path(path) => path,
            Target::File(_) | Target::Binary(_) => {
                let (stream, uri) = (Stream::Stdin, config.stdin.clone());
                return Err(Error::Uri { stream, uri, reason: "stdin can only be a fifo" });
            }
        };
        let input = fifo::open_input(Stream::Stdin, path)?;
        self.keeper = Some(input.keeper);
        if config.terminal {
            self.stdin = Some(Stdin { fifo: input.reader, pipe: None });
            return Ok(None);
        }
        let (theirs, ours) = pipe(Stream::Stdin, config)?;
        set_nonblocking(&ours).map_err(|err| Error::Pipe { stream: Stream::Stdin, err })?;
        self.stdin = Some(Stdin { fifo: input.reader, pipe: Some(ours) });
        Ok(Some(theirs))
    }

    /// Begins to move bytes; `console` is the terminal's master where [`StdioConfig::terminal`] was set, and `first` is
    /// typed there before anything else. To be called once, from inside the tokio runtime, when the process exists.
    pub(crate) fn start(&mut self, console: Option<OwnedFd>, first: Vec<u8>) -> Result<(), Error> {
        let console = console.map(Console::new).transpose()?;
        match (self.stdin.take(), &console) {
            (Some(stdin), console) => self.start_stdin(stdin, console.clone(), first)?,
            (None, Some(console)) if !first.is_empty() => {
                let console = console.clone();
                self.tasks.spawn(async move { log_failure(Stream::Stdin, console.type_first(first).await) });
            }
            (None, _) => {}
        }
        if let Some(console) = &console {
            self.console = Arc::downgrade(console);
        }
        for outlet in self.outlets.take() {
            let source = match (outlet.pipe, &console) {
                (Some(pipe), _) => Source::Pipe(watch_fd(pipe, Interest::READABLE, outlet.stream)?),
                (None, Some(console)) => Source::Console(console.clone()),
                (None, None) => return Err(Error::NoTerminal),
            };
            let sink = outlet.sink.watch(outlet.stream)?;
            let (delivered, taken) = (Pending::new(&self.undelivered), Pending::new(&self.untaken));
            self.tasks.spawn(outlet::run(outlet.stream, source, sink, delivered, taken));
        }
        Ok(())
    }

    fn start_stdin(&mut self, stdin: Stdin, console: Option<Arc<Console>>, first: Vec<u8>) -> Result<(), Error> {
        let from = watch_fd(stdin.fifo, Interest::READABLE, Stream::Stdin)?;
        let feed = Arc::new(Feed::new(from, first));
        self.feed = Arc::downgrade(&feed);
        match (stdin.pipe, console) {
            (Some(pipe), _) => {
                let to = watch_fd(pipe, Interest::WRITABLE, Stream::Stdin)?;
                self.tasks.spawn(async move { log_failure(Stream::Stdin, feed.move_to_pipe(&to).await) });
            }
            (None, Some(console)) => {
                self.tasks.spawn(async move { log_failure(Stream::Stdin, console.feed(feed).await) });
            }
            (None, None) => return Err(Error::NoTerminal),
        }
        Ok(())
    }

    /// The way to the process's standard input; `None` where there is none, or it has ended.
    pub(crate) fn feed(&self) -> Option<Arc<Feed>> {
        self.feed.upgrade()
    }

    /// CloseIO: from now on stdin ends when every client has closed its side. What the clients wrote still arrives. May
    /// be called again.
    pub(crate) fn close_stdin(&mut self) {
        self.keeper = None;
    }

    /// Sets the terminal's size in characters.
    pub(crate) fn resize(&self, width: u16, height: u16) -> Result<(), Error> {
        self.console.upgrade().ok_or(Error::NoTerminal)?.resize(width, height)
    }

    /// Resolves to true when all output was moved to containerd's end: every process that had the streams open is gone.
    /// To false when that takes longer than `timeout`. The future does not borrow from `self`.
    pub(crate) fn drained(&self, timeout: Duration) -> impl Future<Output = bool> + Send + use<> {
        let mut undelivered = self.undelivered.subscribe();
        async move {
            let all = undelivered.wait_for(|streams| *streams == 0);
            matches!(tokio::time::timeout(timeout, all).await, Ok(Ok(_)))
        }
    }

    /// Closes everything and waits for the logger, which is given the time to write what it has read: at most 12 s.
    ///
    /// A client that is slow to open its fifos gives that up when Delete has returned (containerd's, and ctr), and the output
    /// of a process that was faster with it: one that is young is waited for.
    pub(crate) async fn close(mut self) {
        let mut untaken = self.untaken.subscribe();
        let taken = untaken.wait_for(|streams| *streams == 0);
        if tokio::time::timeout_at((self.opened + TAKEN_WITHIN).into(), taken).await.is_err() {
            tracing::debug!("output is left to who reads it later, if anybody does");
        }
        self.tasks.shutdown().await;
        if let Some(logger) = self.logger.take() {
            logger.stop().await;
        }
    }
}

/// Counts a stream until it is dropped.
#[derive(Debug)]
struct Pending(watch::Sender<usize>);

impl Pending {
    fn new(streams: &watch::Sender<usize>) -> Self {
        streams.send_modify(|count| *count += 1);
        Self(streams.clone())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// The three parsed ends.
#[derive(Debug)]
struct Targets {
    stdin: Target,
    stdout: Target,
    stderr: Target,
}

impl Targets {
    fn parse(config: &StdioConfig) -> Result<Self, Error> {
        let stdin = Target::parse(Stream::Stdin, &config.stdin)?;
        let stdout = Target::parse(Stream::Stdout, &config.stdout)?;
        let stderr = match (&stdout, config.stderr.as_str()) {
            _ if config.terminal => Target::Null,
            (Target::File(_) | Target::Binary(_), "") => stdout.clone(),
            (_, uri) => Target::parse(Stream::Stderr, uri)?,
        };
        if let (Target::Binary(out), Target::Binary(err)) = (&stdout, &stderr)
            && out != err
        {
            let (stream, uri) = (Stream::Stderr, config.stderr.clone());
            return Err(Error::Uri { stream, uri, reason: "stdout has another logger; one serves both" });
        }
        Ok(Self { stdin, stdout, stderr })
    }

    fn logger(&self) -> Option<&uri::Program> {
        [&self.stdout, &self.stderr].into_iter().find_map(|target| match target {
            Target::Binary(program) => Some(program),
            Target::Null | Target::Path(_) | Target::File(_) => None,
        })
    }
}

/// A pipe, read end first, that belongs to the process's user. Both ends block; ours is changed by its owner.
fn pipe(stream: Stream, config: &StdioConfig) -> Result<(OwnedFd, OwnedFd), Error> {
    let fail = |err| Error::Pipe { stream, err };
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(fail)?;
    if (config.uid, config.gid) != (0, 0) {
        let (uid, gid) = (Uid::from_raw(config.uid), Gid::from_raw(config.gid));
        nix::unistd::fchown(&reader, Some(uid), Some(gid)).map_err(fail)?;
    }
    Ok((reader, writer))
}

/// Only our end's open file description changes: the container's, the pipe's other end, still blocks.
fn set_nonblocking(fd: &OwnedFd) -> nix::Result<()> {
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop)
}

fn watch_fd(fd: OwnedFd, interest: Interest, stream: Stream) -> Result<Watched, Error> {
    watch(fd, interest).map_err(|err| Error::Watch { stream, err })
}

fn log_failure(stream: Stream, result: std::io::Result<()>) {
    match result {
        // The reader is gone: the process has closed its stdin, or its logger has died, which is logged there.
        Err(err) if err.kind() == std::io::ErrorKind::BrokenPipe => {}
        Err(err) => warn!(%stream, error = %err, "stream broke off"),
        Ok(()) => {}
    }
}
