//! `binary://`: a logger of the user's, as containerd's logging plugins are (core/runtime/v2/README.md, "Logging").
//!
//! ```text
//!   shim                         logger
//!    | posix_spawn -------------> |   CONTAINER_ID, CONTAINER_NAMESPACE; fd 3 stdout, fd 4 stderr, fd 5 ready
//!    |                            |
//!    | <----------- closes fd 5 - |   ready: the process may be started
//!    |                            |   reads what the container writes into the pipes
//!    | every writer closed -----> |   end of file on fd 3 and fd 4
//!    | <------------------- exits |   within 2 s, else SIGTERM, and SIGKILL after 12 s in all
//! ```
//! The container has the pipes' other ends: a logger that dies gives it EPIPE, as with runc's shim.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::SigSet;
use nix::sys::stat::Mode;
use runtime_core::Pid;
use runtime_core::children::{self, Child};
use tokio::io::Interest;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::warn;

use super::error::{Error, Stream};
use super::pump;
use super::uri::Program;
use super::watched::{Watched, watch};

/// A logger has to say within this time that it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a logger may work on after the end of its input before it is told to end.
const GRACE: Duration = Duration::from_secs(2);
/// And from then on before it is killed; together runc's shim's 12 s.
const TERM_TIMEOUT: Duration = Duration::from_secs(10);

/// The first descriptor that no logger expects anything at.
const FIRST_FREE: i32 = 6;

/// A running logger. Dropping it lets the logger end by itself, and ends it where it does not.
#[derive(Debug)]
pub(super) struct Logger {
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

/// The writing ends of a logger's pipes, blocking.
#[derive(Debug)]
pub(super) struct LoggerPipes {
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

impl Logger {
    /// Starts the program and waits until it is ready.
    pub(super) async fn start(program: &Program, id: &str, namespace: &str) -> Result<(Self, LoggerPipes), Error> {
        let fail = |err: Errno| Error::LoggerStart { binary: program.path.clone(), err: err.into() };
        let (out_reader, stdout) = pipe(Stream::Stdout)?;
        let (err_reader, stderr) = pipe(Stream::Stderr)?;
        let (ready, ready_writer) = pipe(Stream::Stdout)?;
        let child = spawn(program, id, namespace, [out_reader, err_reader, ready_writer]).map_err(fail)?;
        let exit = watch_exit(&child).map_err(|err| Error::LoggerStart { binary: program.path.clone(), err })?;

        if let Err(reason) = wait_ready(ready, &stdout, &child, &exit).await {
            end(&program.path, &child, &exit, Duration::ZERO).await;
            return Err(reason.for_binary(&program.path));
        }
        let (stop, stopped) = oneshot::channel();
        let ended = tokio::spawn(look_after(program.path.clone(), child, exit, stopped));
        Ok((Self { stop, ended }, LoggerPipes { stdout, stderr }))
    }

    /// Waits until the logger has ended, and ends it where it does not. The pipes have to be closed before.
    pub(super) async fn stop(self) {
        drop(self.stop);
        if let Err(err) = self.ended.await {
            warn!(error = %err, "the end of a logger was not seen");
        }
    }
}

fn pipe(stream: Stream) -> Result<(OwnedFd, OwnedFd), Error> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|err| Error::Pipe { stream, err })
}

/// Starts the logger with the three descriptors as 3, 4 and 5, and `/dev/null` below them.
fn spawn(program: &Program, id: &str, namespace: &str, fds: [OwnedFd; 3]) -> nix::Result<Child> {
    let mut actions = PosixSpawnFileActions::init()?;
    actions.add_open(0, "/dev/null", OFlag::O_RDONLY, Mode::empty())?;
    actions.add_open(1, "/dev/null", OFlag::O_WRONLY, Mode::empty())?;
    actions.add_dup2(1, 2)?;
    let mut moved = Vec::with_capacity(fds.len());
    for (fd, number) in fds.iter().zip(3..) {
        // Out of the way first: a dup2 onto 3 must not hit the one that is to become 4.
        let fd = duplicate(fd)?;
        actions.add_dup2(fd.as_raw_fd(), number)?;
        moved.push(fd);
    }
    // The shim ignores SIGPIPE, and an ignored signal stays ignored through execve(2).
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_sigdefault(&SigSet::all())?;
    attributes.set_sigmask(&SigSet::empty())?;
    attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK)?;

    let path = c_string(program.path.as_os_str())?;
    let mut args = vec![path.clone()];
    for arg in &program.args {
        args.push(c_string(arg)?);
    }
    let mut env = vec![assignment("CONTAINER_ID", id)?, assignment("CONTAINER_NAMESPACE", namespace)?];
    for (name, value) in program.env.iter().filter(|(name, _)| name != "CONTAINER_ID" && name != "CONTAINER_NAMESPACE")
    {
        env.push(assignment(name, value)?);
    }
    let mut hold = children::hold();
    let pid = posix_spawn(path.as_c_str(), &actions, &attributes, &args, &env)?;
    let pid = Pid::new(pid.as_raw()).ok_or(Errno::ECHILD)?;
    hold.register(pid).map_err(|err| Errno::from_raw(err.raw_os_error().unwrap_or(Errno::EIO as i32)))
}

fn duplicate(fd: &OwnedFd) -> nix::Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, FIRST_FREE).map_err(|err| Errno::from_raw(err.raw_os_error()))
}

fn assignment(name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> nix::Result<CString> {
    c_string(&[name.as_ref(), value.as_ref()].join(OsStr::new("=")))
}

fn c_string(text: &OsStr) -> nix::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| Errno::EINVAL)
}

/// Why a logger cannot be used.
enum Unready {
    Ended(u32),
    TimedOut,
    Watch(io::Error),
}

impl Unready {
    fn for_binary(self, binary: &Path) -> Error {
        let binary = binary.to_owned();
        match self {
            Self::Ended(status) => Error::LoggerEnded { binary, status },
            Self::TimedOut => Error::LoggerNotReady { binary, timeout: READY_TIMEOUT },
            Self::Watch(err) => Error::LoggerStart { binary, err },
        }
    }
}

/// Waits for the end of file that says "ready", or for the byte that some loggers write instead.
async fn wait_ready(ready: OwnedFd, stdout: &OwnedFd, child: &Child, exit: &Watched) -> Result<(), Unready> {
    fcntl(&ready, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|err| Unready::Watch(err.into()))?;
    let ready = watch(ready, Interest::READABLE).map_err(Unready::Watch)?;
    match timeout(READY_TIMEOUT, pump::read(&ready, &mut [0])).await {
        Err(_) => Err(Unready::TimedOut),
        Ok(Err(err)) => Err(Unready::Watch(err)),
        // Death closes the descriptor too.
        Ok(Ok(0)) if is_dying(child) => match timeout(READY_TIMEOUT, reap(child, exit)).await {
            Err(_) => Err(Unready::TimedOut),
            Ok(Err(err)) => Err(Unready::Watch(err)),
            Ok(Ok(status)) if !has_reader(stdout) => Err(Unready::Ended(status)),
            // It has left a child that reads on.
            Ok(Ok(_)) => Ok(()),
        },
        Ok(Ok(_)) => Ok(()),
    }
}

/// The kernel takes the descriptors from a process that ends before it closes them (kernel/exit.c, `exit_files`), so
/// whoever has seen one closed by death finds none left.
fn is_dying(child: &Child) -> bool {
    std::fs::read_dir(format!("/proc/{}/fd", child.pid)).map_or(true, |mut fds| fds.next().is_none())
}

fn has_reader(pipe: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO) != Ok(1)
}

/// The logger's life after it was ready.
async fn look_after(binary: PathBuf, child: Child, exit: Watched, stopped: oneshot::Receiver<()>) {
    tokio::select! {
        status = reap(&child, &exit) => {
            let status = status.map_or_else(|err| err.to_string(), |status| status.to_string());
            warn!(binary = %binary.display(), status, "logger ended before its container");
        }
        // Nothing is ever sent: the sender was dropped.
        _ = stopped => end(&binary, &child, &exit, GRACE).await,
    }
}

/// Waits for the logger's end, and forces it.
async fn end(binary: &Path, child: &Child, exit: &Watched, grace: Duration) {
    use rustix::process::Signal;
    for (wait, then) in [(grace, Signal::TERM), (TERM_TIMEOUT, Signal::KILL)] {
        match timeout(wait, reap(child, exit)).await {
            Ok(Ok(_)) => return,
            Ok(Err(err)) => return warn!(binary = %binary.display(), error = %err, "wait for logger"),
            Err(_) => {}
        }
        if then == Signal::KILL {
            warn!(binary = %binary.display(), "logger did not end, killing it");
        }
        // ESRCH: it has ended in this moment.
        if let Err(err) = rustix::process::pidfd_send_signal(child.pidfd(), then)
            && err != rustix::io::Errno::SRCH
        {
            warn!(binary = %binary.display(), error = %err, "signal logger");
        }
    }
    if let Err(err) = reap(child, exit).await {
        warn!(binary = %binary.display(), error = %err, "wait for logger");
    }
}

fn watch_exit(child: &Child) -> io::Result<Watched> {
    watch(child.pidfd().try_clone_to_owned()?, Interest::READABLE)
}

/// Waits for the exit status.
async fn reap(child: &Child, exit: &Watched) -> io::Result<u32> {
    loop {
        let mut guard = exit.readable().await?;
        match child.try_reap()? {
            Some(exit) => return Ok(exit.code),
            None => guard.clear_ready(),
        }
    }
}
