//! Commands in a node: run to their end, started and held, or started on a terminal.
//!
//! A command joins the node's cgroups and then all of its namespaces. It dies with its handle: when a deadline passes
//! or a [`Running`] is dropped, the command gets SIGKILL; what it started itself lives on, as it would on a host.
//! The child that is held here is nsenter, which waits for the command outside of the node. It must not be killed: the
//! command would be an orphan of the host's PID 1 then, and a node cannot end before that one has reaped it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::Node;
use crate::{Error, Result};

/// How long [`Node::exec`] waits.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// What a command left when it ended.
#[derive(Clone, Debug)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output as text, without white space at its ends.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }

    /// Standard error as text, without white space at its ends.
    pub fn error_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim().to_owned()
    }

    /// The exit code, as a shell gives it: 128 and the signal's number for a command that was killed.
    pub fn code(&self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }
}

/// A command that runs in a node. Dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    named: String,
    child: Child,
    stdout: Capture,
    stderr: Capture,
}

impl Running {
    /// What has come out on standard output until now.
    pub fn stdout_so_far(&self) -> Vec<u8> {
        self.stdout.so_far()
    }

    /// The command's standard input; taken and dropped, it is closed.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills the command with SIGKILL and waits for its end; [`Self::wait`] tells what it had written.
    pub fn kill(&mut self) {
        kill(&mut self.child);
    }

    /// Closes its standard input, waits for it to end and for its output to be closed by all who hold it.
    ///
    /// # Errors
    /// `Timeout` after `deadline`; it is killed then, and the message has what it had written.
    pub fn wait(mut self, deadline: Duration) -> Result<Output> {
        drop(self.child.stdin.take());
        let started = Instant::now();
        let status = loop {
            let status = self.child.try_wait();
            match status.map_err(|source| Error::Spawn { command: self.named.clone(), source })? {
                Some(status) if self.stdout.is_closed() && self.stderr.is_closed() => break Some(status),
                _ if started.elapsed() > deadline => break None,
                _ => sleep(poll_interval(started)),
            }
        };
        let timed_out = status.is_none();
        if timed_out {
            self.kill();
        }
        let status = match status {
            Some(status) => status,
            None => self.child.wait().map_err(|source| Error::Spawn { command: self.named.clone(), source })?,
        };
        let (stdout, stderr) = (self.stdout.so_far(), self.stderr.so_far());
        if timed_out {
            let output = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
            return Err(Error::Timeout { command: self.named.clone(), after: deadline, output });
        }
        Ok(Output { status, stdout, stderr })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A command on a terminal of its own. Dropped, it is killed and its terminal hung up.
#[derive(Debug)]
pub struct Terminal {
    named: String,
    child: Child,
    master: File,
    /// What was read and not yet expected.
    pending: Vec<u8>,
    reader: std::sync::mpsc::Receiver<Vec<u8>>,
}

impl Terminal {
    /// Types `text`.
    pub fn send(&mut self, text: &str) -> Result<()> {
        self.master.write_all(text.as_bytes()).map_err(|source| Error::Spawn { command: self.named.clone(), source })
    }

    /// Sets the terminal's size; the foreground process gets SIGWINCH.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&self.master, size)
            .map_err(|e| Error::Spawn { command: self.named.clone(), source: e.into() })
    }

    /// Waits until `text` has come out, and returns all up to and with it. Text with line ends has them as `\r\n`.
    ///
    /// # Errors
    /// `Timeout` when it has not come, or the terminal was closed, within `deadline`.
    pub fn expect(&mut self, text: &str, deadline: Duration) -> Result<String> {
        let end = Instant::now() + deadline;
        loop {
            if let Some(at) = find(&self.pending, text.as_bytes()) {
                let rest = self.pending.split_off(at + text.len());
                return Ok(String::from_utf8_lossy(&std::mem::replace(&mut self.pending, rest)).into_owned());
            }
            match self.reader.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.pending.extend(bytes),
                Err(_) => {
                    let output = String::from_utf8_lossy(&self.pending).into_owned();
                    let command = format!("expect {text:?} of {}", self.named);
                    return Err(Error::Timeout { command, after: deadline, output });
                }
            }
        }
    }

    /// Waits for the command to end; returns its status and all that came out and was not expected yet.
    pub fn wait(mut self, deadline: Duration) -> Result<(ExitStatus, String)> {
        let started = Instant::now();
        loop {
            self.pending.extend(self.reader.try_iter().flatten());
            let status = self.child.try_wait();
            match status.map_err(|source| Error::Spawn { command: self.named.clone(), source })? {
                Some(status) => {
                    // The last output is still on its way through the reader; it ends when the terminal is hung up.
                    while let Ok(bytes) = self.reader.recv_timeout(Duration::from_millis(200)) {
                        self.pending.extend(bytes);
                    }
                    return Ok((status, String::from_utf8_lossy(&self.pending).into_owned()));
                }
                None if started.elapsed() > deadline => {
                    let output = String::from_utf8_lossy(&self.pending).into_owned();
                    return Err(Error::Timeout { command: self.named.clone(), after: deadline, output });
                }
                None => sleep(poll_interval(started)),
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        kill(&mut self.child);
    }
}

impl Node {
    /// Runs a command in the node and waits for its end, for at most [`DEADLINE`]. Its standard input is empty.
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
        let arguments: Vec<A> = arguments.into_iter().collect();
        let named = name(&arguments);
        let output = self.exec(arguments)?;
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

    /// Starts a command in the node and returns at once. Its output is collected while it runs.
    pub fn spawn<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Running> {
        let arguments: Vec<A> = arguments.into_iter().collect();
        let named = name(&arguments);
        let mut command = self.command(arguments, false);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|source| Error::Spawn { command: named.clone(), source })?;
        let stdout = Capture::of(child.stdout.take());
        let stderr = Capture::of(child.stderr.take());
        Ok(Running { named, child, stdout, stderr })
    }

    /// Starts a command in the node on a new terminal of 80 by 24, as its session's leader.
    pub fn spawn_tty<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Terminal> {
        let arguments: Vec<A> = arguments.into_iter().collect();
        let named = name(&arguments);
        let broken = |source: std::io::Error| Error::Spawn { command: named.clone(), source };
        let (master, terminal) = open_terminal().map_err(|e| broken(e.into()))?;
        let mut command = self.command(arguments, true);
        command
            .stdin(terminal.try_clone().map_err(broken)?)
            .stdout(terminal.try_clone().map_err(broken)?)
            .stderr(terminal)
            .env("TERM", "xterm");
        let child = command.spawn().map_err(broken)?;
        drop(command);
        let mut source = master.try_clone().map_err(broken)?;
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The read fails with EIO once the last process has closed the terminal.
            while let Ok(count @ 1..) = source.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Ok(Terminal { named, child, master, pending: Vec::new(), reader: receiver })
    }

    /// The command line that runs `arguments` in the node, in a new session on its standard input's terminal if asked.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>, new_session: bool) -> Command {
        let cgroups: Vec<String> = self.cgroups.of_commands().map(|path| path.display().to_string()).collect();
        let mut command = Command::new("sh");
        command
            .arg("-euc")
            .arg(format!(
                "for d in $1; do echo 0 >\"$d/cgroup.procs\"; done; shift; exec nsenter --target {} \
                 --mount --uts --ipc --net --pid --cgroup -- {} \"$@\"",
                self.pid,
                // In the node's pid namespace, where a shell has to find its process group.
                if new_session { "setsid --ctty" } else { "" },
            ))
            .args(["sh", &cgroups.join(" ")])
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .env("LC_ALL", "C.UTF-8");
        command
    }
}

/// Kills the command that nsenter waits for, and waits for nsenter.
pub(super) fn kill(nsenter: &mut Child) {
    while matches!(nsenter.try_wait(), Ok(None)) {
        for command in children(nsenter.id()) {
            if let Some(pid) = rustix::process::Pid::from_raw(command) {
                // It may end at this very moment; its number is not given away before nsenter has reaped it.
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
            }
        }
        sleep(Duration::from_millis(1));
    }
}

fn children(parent: u32) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_child = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Field 4, behind the command in parentheses.
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok()) == Some(parent)
    };
    pids.filter(is_child).collect()
}

fn open_terminal() -> rustix::io::Result<(File, OwnedFd)> {
    let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::pty::grantpt(&master)?;
    rustix::pty::unlockpt(&master)?;
    let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&master, size)?;
    let terminal =
        rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    Ok((File::from(master), terminal))
}

fn name<A: AsRef<OsStr>>(arguments: &[A]) -> String {
    let words: Vec<_> = arguments.iter().map(|a| a.as_ref().to_string_lossy()).collect();
    words.join(" ")
}

/// Reads a pipe in a thread of its own, so that the writer never waits.
#[derive(Debug)]
struct Capture {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    fn of(source: Option<impl Read + Send + 'static>) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&bytes);
        let thread = source.map(|mut source| {
            std::thread::spawn(move || {
                let mut buffer = [0; 16 * 1024];
                while let Ok(count @ 1..) = source.read(&mut buffer) {
                    sink.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..count]);
                }
            })
        });
        Self { bytes, thread }
    }

    fn is_closed(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn so_far(&self) -> Vec<u8> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len().max(1)).position(|window| window == part)
}

/// Fine at first, for commands of a few milliseconds; coarse for long ones.
fn poll_interval(started: Instant) -> Duration {
    if started.elapsed() < Duration::from_millis(200) { Duration::from_millis(1) } else { Duration::from_millis(10) }
}
