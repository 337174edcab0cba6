//! Commands in a machine: what the host says to the agent, and what comes back.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Vm;
use super::frame::{Frame, Kind};
use crate::{Error, Output, Result};

/// How long [`Vm::exec`] waits: emulated, everything takes several times as long as on the host.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// The most that goes to a command's standard input in one frame.
const PIECE: usize = 64 * 1024;

/// What is known of one command.
#[derive(Debug, Default)]
struct Progress {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// Whether output goes to this process's own, too, as it comes.
    passed_on: bool,
    end: Option<Result<ExitStatus, String>>,
}

#[derive(Debug, Default)]
struct Commands {
    ready: bool,
    /// The stream to the agent is at its end.
    gone: bool,
    running: BTreeMap<u32, Progress>,
}

/// The host's end of the port.
#[derive(Debug)]
pub(super) struct Link {
    stream: Mutex<UnixStream>,
    commands: Mutex<Commands>,
    changed: Condvar,
    next: AtomicU32,
}

impl Link {
    /// Takes the connection over; a thread reads from it until its end.
    pub(super) fn new(stream: UnixStream) -> io::Result<Arc<Self>> {
        let mut source = stream.try_clone()?;
        let this = Arc::new(Self {
            stream: Mutex::new(stream),
            commands: Mutex::default(),
            changed: Condvar::new(),
            next: AtomicU32::new(1),
        });
        let link = Arc::clone(&this);
        std::thread::spawn(move || {
            while let Ok(frame) = Frame::read(&mut source) {
                link.lock().take(frame);
                link.changed.notify_all();
            }
            link.lock().gone = true;
            link.changed.notify_all();
        });
        Ok(this)
    }

    /// Waits for the agent to be there; says whether it is.
    pub(super) fn wait_until_ready(&self, within: Duration) -> bool {
        let wait = self.changed.wait_timeout_while(self.lock(), within, |all| !all.ready && !all.gone);
        wait.unwrap_or_else(PoisonError::into_inner).0.ready
    }

    fn send(&self, kind: Kind, id: u32, payload: impl Into<Vec<u8>>) -> io::Result<()> {
        Frame::new(kind, id, payload).write(&mut *self.stream.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn lock(&self) -> MutexGuard<'_, Commands> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Commands {
    fn take(&mut self, frame: Frame) {
        if frame.kind == Kind::Ready {
            self.ready = true;
            return;
        }
        // Nobody waits for a command that was dropped.
        let Some(command) = self.running.get_mut(&frame.id) else { return };
        match frame.kind {
            Kind::Stdout => {
                if command.passed_on {
                    pass_on(&mut io::stdout(), &frame.payload);
                }
                command.stdout.extend(frame.payload);
            }
            Kind::Stderr => {
                if command.passed_on {
                    pass_on(&mut io::stderr(), &frame.payload);
                }
                command.stderr.extend(frame.payload);
            }
            Kind::Exited => {
                let status = frame.payload.try_into().map_or(-1, i32::from_le_bytes);
                command.end = Some(Ok(ExitStatus::from_raw(status)));
            }
            Kind::Failed => command.end = Some(Err(String::from_utf8_lossy(&frame.payload).into_owned())),
            Kind::Ready | Kind::Start | Kind::Stdin | Kind::CloseStdin | Kind::Kill => {}
        }
    }
}

fn pass_on(to: &mut impl Write, bytes: &[u8]) {
    // Nobody looks where it is closed.
    to.write_all(bytes).and_then(|()| to.flush()).ok();
}

/// A command that runs in a machine. Dropped, it is killed, with what is in its process group.
#[derive(Debug)]
pub struct VmRunning<'a> {
    vm: &'a Vm,
    named: String,
    id: u32,
}

impl VmRunning<'_> {
    /// What has come out on standard output until now.
    pub fn stdout_so_far(&self) -> Vec<u8> {
        self.vm.link().lock().running.get(&self.id).map(|progress| progress.stdout.clone()).unwrap_or_default()
    }

    /// The command's standard input. What is written to it does not wait for the command to read it.
    pub fn stdin(&self) -> VmStdin {
        VmStdin { link: Arc::clone(self.vm.link()), id: self.id }
    }

    /// Closes its standard input, waits for it to end and for its output to be closed by all who hold it.
    ///
    /// # Errors
    /// `Timeout` after `deadline`; it is killed then, and the message has what it had written. `Machine` when the machine
    /// ends before.
    pub fn wait(self, deadline: Duration) -> Result<Output> {
        drop(self.stdin());
        self.wait_open(deadline)
    }

    /// As [`Self::wait`], with its standard input left open.
    pub fn wait_open(self, deadline: Duration) -> Result<Output> {
        let link = self.vm.link();
        let under_way =
            |all: &mut Commands| !all.gone && all.running.get(&self.id).is_some_and(|one| one.end.is_none());
        let waited = link.changed.wait_timeout_while(link.lock(), deadline, under_way);
        let (mut all, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let gone = all.gone;
        let Progress { stdout, stderr, end, .. } = match all.running.get_mut(&self.id) {
            // One that goes on is killed when this is dropped, for which it has to be known.
            Some(Progress { end: None, stdout, stderr, .. }) => {
                Progress { stdout: std::mem::take(stdout), stderr: std::mem::take(stderr), ..Progress::default() }
            }
            _ => all.running.remove(&self.id).unwrap_or_default(),
        };
        drop(all);
        match end {
            Some(Ok(status)) => Ok(Output { status, stdout, stderr }),
            Some(Err(why)) => Err(Error::Spawn { command: self.named.clone(), source: io::Error::other(why) }),
            None => {
                let output = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
                if gone {
                    return Err(self
                        .vm
                        .error(&format!("ended while `{}` ran, which had said:\n{output}\n", self.named)));
                }
                Err(Error::Timeout { command: self.named.clone(), after: deadline, output })
            }
        }
    }

    fn say(&self, kind: Kind, payload: impl Into<Vec<u8>>) -> Result<()> {
        let sent = self.vm.link().send(kind, self.id, payload);
        sent.map_err(|source| Error::Spawn { command: self.named.clone(), source })
    }
}

impl Drop for VmRunning<'_> {
    fn drop(&mut self) {
        let link = self.vm.link();
        let ended = link.lock().running.remove(&self.id).is_none_or(|progress| progress.end.is_some());
        if !ended {
            // Without its machine it does not run either.
            link.send(Kind::Kill, self.id, []).ok();
        }
    }
}

/// A command's standard input; closed when it is dropped.
#[derive(Debug)]
pub struct VmStdin {
    link: Arc<Link>,
    id: u32,
}

impl Write for VmStdin {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(PIECE)];
        self.link.send(Kind::Stdin, self.id, piece)?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for VmStdin {
    fn drop(&mut self) {
        // Without its machine there is none.
        self.link.send(Kind::CloseStdin, self.id, []).ok();
    }
}

impl Vm {
    /// Runs a command in the machine, as root, and waits for its end, for at most [`DEADLINE`]. Its standard input is
    /// empty.
    ///
    /// # Errors
    /// When it cannot be started, or does not end. A command that fails is no error here: see [`Self::run`].
    pub fn exec<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Output> {
        self.exec_within(DEADLINE, arguments)
    }

    /// As [`Self::exec`], with another deadline.
    pub fn exec_within<A: AsRef<OsStr>>(
        &self,
        deadline: Duration,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Output> {
        self.spawn(arguments)?.wait(deadline)
    }

    /// As [`Self::exec`], for a command that has to succeed; returns its standard output, trimmed.
    ///
    /// # Errors
    /// `Command` with all output when its exit code is not 0.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<String> {
        let running = self.spawn(arguments)?;
        let named = running.named.clone();
        let output = running.wait(DEADLINE)?;
        if output.status.success() {
            return Ok(output.text());
        }
        let text = format!("{}\n{}", output.text(), output.error_text());
        Err(Error::Command { command: named, status: output.status.to_string(), output: text })
    }

    /// Runs a shell script with [`Self::run`].
    pub fn sh(&self, script: &str) -> Result<String> {
        self.run(["sh", "-euc", script])
    }

    /// Starts a command in the machine and returns at once. Its output is collected while it runs.
    pub fn spawn<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<VmRunning<'_>> {
        self.start_command(arguments, false)
    }

    /// As [`Self::spawn`]; its output goes to this process's own as well, as it comes.
    pub fn spawn_passing_on<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<VmRunning<'_>> {
        self.start_command(arguments, true)
    }

    fn start_command<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
        passed_on: bool,
    ) -> Result<VmRunning<'_>> {
        let mut words = Vec::new();
        for argument in arguments {
            words.extend(argument.as_ref().as_bytes());
            words.push(0);
        }
        let link = self.link();
        let id = link.next.fetch_add(1, Ordering::Relaxed);
        link.lock().running.insert(id, Progress { passed_on, ..Progress::default() });
        let named = String::from_utf8_lossy(&words).trim_end_matches('\0').replace('\0', " ");
        let running = VmRunning { vm: self, named, id };
        running.say(Kind::Start, words)?;
        Ok(running)
    }
}
