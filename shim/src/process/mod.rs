//! A process of a container as containerd knows it: its init, or one made by exec.

pub(crate) mod exec;
pub(crate) mod state;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use runtime_core::children::{Child, Exit};
use runtime_core::{ErrorKind, Signal};
use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::io::{Feed, Io, StdioConfig};
use state::{State, Verb};

/// The code of a process that was asked to start and never ran.
const NEVER_RAN: u32 = 255;
/// For output that is still in the pipes when the process is deleted; longer only if somebody else holds them open.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);

/// containerd's ends of the stdio, as it named them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StdioPaths {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) terminal: bool,
}

/// Who owns the pipes of a container's processes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PipeOwner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl StdioPaths {
    pub(crate) fn config(&self, owner: PipeOwner) -> StdioConfig {
        StdioConfig {
            stdin: self.stdin.clone(),
            stdout: self.stdout.clone(),
            stderr: self.stderr.clone(),
            terminal: self.terminal,
            uid: owner.uid,
            gid: owner.gid,
        }
    }
}

/// What State and Wait answer with. Read without waiting for anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) state: State,
    /// 0 until there is a process.
    pub(crate) pid: u32,
    pub(crate) exit: Option<Exit>,
}

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) stdio: StdioPaths,
    snapshot: watch::Sender<Snapshot>,
    child: OnceLock<Arc<Child>>,
    io: Mutex<Option<Io>>,
}

impl Process {
    pub(crate) fn new(stdio: StdioPaths, state: State) -> Self {
        let snapshot = watch::Sender::new(Snapshot { state, pid: 0, exit: None });
        Self { stdio, snapshot, child: OnceLock::new(), io: Mutex::new(None) }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        *self.snapshot.borrow()
    }

    pub(crate) fn state(&self) -> State {
        self.snapshot.borrow().state
    }

    pub(crate) fn pid(&self) -> u32 {
        self.snapshot.borrow().pid
    }

    /// The child has come into being; `state` is Created for an init that waits and Running for what runs already.
    pub(crate) fn born(&self, child: &Arc<Child>, state: State) {
        // A pid is positive.
        let pid = child.pid.as_raw().unsigned_abs();
        if self.child.set(child.clone()).is_err() {
            tracing::error!(pid, "a process was born twice");
        }
        self.snapshot.send_modify(|snapshot| {
            snapshot.pid = pid;
            snapshot.state = state;
        });
    }

    /// Follows a verb that has succeeded. A process that has exited meanwhile stays what it is.
    pub(crate) fn enter(&self, state: State) {
        self.snapshot.send_if_modified(|snapshot| {
            let lives = !matches!(snapshot.state, State::Stopped | State::Deleted) || state == State::Deleted;
            if lives {
                snapshot.state = state;
            }
            lives
        });
    }

    pub(crate) fn exited(&self, exit: Exit) {
        self.snapshot.send_modify(|snapshot| {
            snapshot.state = State::Stopped;
            snapshot.exit = Some(exit);
        });
    }

    /// Start failed: whoever waits for the process must not wait for ever.
    pub(crate) fn never_ran(&self) {
        self.exited(Exit { code: NEVER_RAN, at: SystemTime::now() });
    }

    /// Resolves when the process has exited; at once if it has.
    pub(crate) fn wait(&self) -> impl Future<Output = Exit> + Send + use<> {
        let mut snapshot = self.snapshot.subscribe();
        async move {
            let exited = snapshot.wait_for(|snapshot| snapshot.exit.is_some()).await;
            // Without a sender the process was deleted; it had never run.
            let never_ran = Exit { code: NEVER_RAN, at: SystemTime::now() };
            exited.ok().and_then(|snapshot| snapshot.exit).unwrap_or(never_ran)
        }
    }

    /// Signals the process itself, through its pidfd.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let snapshot = self.snapshot();
        if snapshot.exit.is_some() {
            return Err(Error::Finished);
        }
        let child = self.child.get().ok_or(Error::NotStarted)?;
        child.signal(signal).map_err(|err| match rustix::io::Errno::from_io_error(&err) {
            Some(rustix::io::Errno::SRCH) => Error::Finished,
            _ => Error::Kill { pid: snapshot.pid, err },
        })
    }

    /// Takes the stdio over; it is closed with the process.
    pub(crate) fn attach(&self, io: Io) {
        *self.io() = Some(io);
    }

    /// Who writes its standard input, for a checkpoint.
    pub(crate) fn input(&self) -> Option<Arc<Feed>> {
        self.io().as_ref().and_then(Io::feed)
    }

    pub(crate) fn close_stdin(&self) {
        if let Some(io) = self.io().as_mut() {
            io.close_stdin();
        }
    }

    /// A process without a terminal has no size; asking for one is no error, as with containerd's shim.
    pub(crate) fn resize(&self, width: u32, height: u32) -> Result<(), crate::io::Error> {
        let clamp = |cells: u32| u16::try_from(cells).unwrap_or(u16::MAX);
        match self.io().as_ref() {
            Some(io) if self.stdio.terminal => io.resize(clamp(width), clamp(height)),
            _ => Ok(()),
        }
    }

    /// Waits until containerd's end has all output, then closes the stdio.
    pub(crate) async fn close_io(&self) {
        let Some(drained) = self.io().as_ref().map(|io| io.drained(DRAIN_WITHIN)) else { return };
        if !drained.await {
            tracing::warn!(pid = self.pid(), "output is held open by another process, it is cut off");
        }
        let io = self.io().take();
        if let Some(io) = io {
            io.close().await;
        }
    }

    /// # Errors
    /// The verb is not for the state that the process is in.
    pub(crate) fn check(&self, verb: Verb) -> Result<()> {
        Ok(self.state().allows(verb)?)
    }

    fn io(&self) -> MutexGuard<'_, Option<Io>> {
        self.io.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A kill of what is not there any more, in the words of containerd's shim.
pub(crate) fn kill_error(err: Box<runtime_core::Error>) -> Error {
    match err.kind() {
        ErrorKind::NotFound | ErrorKind::FailedPrecondition => Error::Finished,
        _ => Error::Runtime { operation: "kill", err },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: u32) -> Exit {
        Exit { code, at: SystemTime::UNIX_EPOCH }
    }

    #[test]
    fn an_exit_is_not_undone_by_a_verb_that_was_under_way() {
        let process = Process::new(StdioPaths::default(), State::Created);
        process.exited(exit(3));
        process.enter(State::Running);
        assert_eq!(process.snapshot().state, State::Stopped);
        process.enter(State::Deleted);
        assert_eq!(process.snapshot().state, State::Deleted);
    }

    #[tokio::test]
    async fn waiters_before_and_after_the_exit_see_it() {
        let process = Process::new(StdioPaths::default(), State::Running);
        let before = process.wait();
        process.exited(exit(7));
        assert_eq!(before.await.code, 7);
        assert_eq!(process.wait().await.code, 7);
    }

    #[tokio::test]
    async fn a_waiter_for_a_process_that_never_ran_returns() {
        let process = Process::new(StdioPaths::default(), State::Created);
        let waiting = process.wait();
        drop(process);
        assert_eq!(waiting.await.code, NEVER_RAN);
    }

    #[test]
    fn signals_follow_the_life_of_a_process() {
        let process = Process::new(StdioPaths::default(), State::Created);
        assert!(matches!(process.signal(Signal::TERM), Err(Error::NotStarted)));
        process.exited(exit(0));
        assert!(matches!(process.signal(Signal::TERM), Err(Error::Finished)));
    }
}
