//! Every child of this process, known by pidfd from before it can be reaped.
//!
//! Exits are taken through the pidfd of the child alone; nothing in this program calls `waitpid(-1)`, which would steal
//! the exits of others. As a subreaper the process also inherits orphans: [`sweep_orphans`] reaps those, and only those,
//! because [`register`] runs under the same lock as the `clone3` that made a child.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Command;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open};

use crate::sys::process::{Whose, pidfd_signal, try_wait};
use crate::{Pid, Signal};

/// The pids that a [`Child`] stands for and that are not reaped yet.
static REGISTERED: LazyLock<Mutex<HashSet<i32>>> = LazyLock::new(Mutex::default);

fn registered() -> MutexGuard<'static, HashSet<i32>> {
    // A set of numbers is whole at every moment, whatever panicked.
    REGISTERED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a process ended, as containerd reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit code, or 128 plus the number of the signal that ended it.
    pub code: u32,
    pub at: SystemTime,
}

/// A child of this process. Dropping it forgets the child without ending it; it is then reaped as an orphan.
#[derive(Debug)]
pub struct Child {
    pub pid: Pid,
    pidfd: OwnedFd,
    exit: Mutex<Option<Exit>>,
}

/// Keeps [`sweep_orphans`] and every other maker of children out while a child comes into being by somebody else's hand
/// (CRIU makes the restored process ours).
#[derive(Debug)]
pub struct Hold {
    registered: MutexGuard<'static, HashSet<i32>>,
}

/// No child is made or swept until the guard is dropped.
pub fn hold() -> Hold {
    Hold { registered: registered() }
}

impl Hold {
    /// Registers a process that has become a child of this one since [`hold`].
    ///
    /// # Errors
    /// pidfd_open(2)'s: ESRCH when there is no such process.
    pub fn register(&mut self, pid: Pid) -> io::Result<Child> {
        let raw = rustix::process::Pid::from_raw(pid.as_raw()).ok_or(Errno::SRCH)?;
        let pidfd = pidfd_open(raw, PidfdFlags::empty())?;
        Ok(self.adopt(pid, pidfd))
    }

    /// Registers a child of which the caller has the pidfd.
    pub(crate) fn adopt(&mut self, pid: Pid, pidfd: OwnedFd) -> Child {
        self.registered.insert(pid.as_raw());
        Child { pid, pidfd, exit: Mutex::new(None) }
    }
}

/// Starts a command as a registered child. Its pipes are to be given as `Stdio` of the caller's own.
///
/// # Errors
/// As [`Command::spawn`].
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    let mut hold = hold();
    let child = command.spawn()?;
    // A pid is never negative or zero, and never above 2^22.
    let pid = i32::try_from(child.id()).ok().and_then(Pid::new).ok_or(Errno::RANGE)?;
    hold.register(pid)
}

impl Child {
    /// Readable (poll(2)) once the process has exited (pidfd_open(2)).
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Sends a signal to this process and never to another that was given its pid later.
    ///
    /// # Errors
    /// pidfd_send_signal(2)'s: ESRCH once it has exited and is reaped.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(pidfd_signal(self.pidfd.as_fd(), signal.as_raw())?)
    }

    /// Reaps the process if it has exited. Never blocks. After it has returned `Some` once, it returns the same again.
    ///
    /// # Errors
    /// waitid(2)'s, which a caller that owns the child never sees.
    pub fn try_reap(&self) -> io::Result<Option<Exit>> {
        let mut exit = self.exit.lock().unwrap_or_else(PoisonError::into_inner);
        if exit.is_some() {
            return Ok(*exit);
        }
        // One lock over reaping and forgetting: the pid may be given to a new child as soon as it is reaped.
        let mut registered = registered();
        if let Some(exited) = try_wait(Whose::Pidfd(self.pidfd.as_fd()), false)? {
            registered.remove(&self.pid.as_raw());
            *exit = Some(Exit { code: exited.code, at: SystemTime::now() });
        }
        Ok(*exit)
    }

    /// Blocks until the process has exited, and reaps it.
    ///
    /// # Errors
    /// As [`Child::try_reap`].
    pub fn wait(&self) -> io::Result<Exit> {
        loop {
            if let Some(exit) = self.try_reap()? {
                return Ok(exit);
            }
            self.exited(None)?;
        }
    }

    /// Blocks until the process has exited or the time is over; reaps nothing. Whether it has exited.
    pub(crate) fn exited(&self, timeout: Option<std::time::Duration>) -> io::Result<bool> {
        let timeout =
            timeout.map(|time| Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() });
        loop {
            match poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], timeout.as_ref()) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::INTR) => {}
                Err(err) => return Err(err.into()),
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let reaped = self.exit.get_mut().unwrap_or_else(PoisonError::into_inner).is_some();
        if !reaped {
            registered().remove(&self.pid.as_raw());
        }
    }
}

/// Reaps the exited children of this process that no [`Child`] stands for: orphans that came to it as a subreaper.
/// Called on SIGCHLD. Returns how many.
pub fn sweep_orphans() -> usize {
    let registered = registered();
    let mut swept = 0;
    // The kernel names one exited child at a time and does not go on behind one that is left to be reaped by its owner.
    loop {
        match try_wait(Whose::Any, true) {
            Ok(Some(exited)) if registered.contains(&exited.pid) => break,
            Ok(Some(exited)) => swept += usize::from(reap(exited.pid)),
            Ok(None) | Err(_) => return swept,
        }
    }
    swept + children().into_iter().filter(|pid| !registered.contains(pid) && reap(*pid)).count()
}

fn reap(pid: i32) -> bool {
    matches!(try_wait(Whose::Pid(pid), false), Ok(Some(_)))
}

/// Every child of every thread of this process.
fn children() -> Vec<i32> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that is a child of this one without being registered, and has exited.
    fn orphan() -> i32 {
        let pid = Command::new("true").spawn().unwrap().id() as i32;
        // Another test's sweep may have been first.
        while try_wait(Whose::Pid(pid), true) == Ok(None) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        pid
    }

    #[test]
    fn a_sweep_takes_orphans_and_leaves_children() {
        let child = spawn(Command::new("sh").args(["-c", "exit 7"])).unwrap();
        assert!(child.exited(None).unwrap());
        let orphan = orphan();
        sweep_orphans();
        assert_eq!(try_wait(Whose::Pid(orphan), true), Err(Errno::CHILD));
        assert_eq!(child.wait().unwrap().code, 7);
        assert_eq!(child.try_reap().unwrap(), Some(child.wait().unwrap()));
    }

    #[test]
    fn a_signal_is_128_and_its_number_real_time_signals_too() {
        for signal in [9, 40] {
            let child = spawn(Command::new("sleep").arg("60")).unwrap();
            crate::sys::process::pidfd_signal(child.pidfd(), signal).unwrap();
            assert_eq!(child.wait().unwrap().code, 128 + signal as u32);
        }
    }

    #[test]
    fn a_forgotten_child_is_swept_as_an_orphan() {
        let child = spawn(Command::new("sh").args(["-c", "exit 0"])).unwrap();
        child.exited(None).unwrap();
        let pid = child.pid.as_raw();
        drop(child);
        sweep_orphans();
        assert_eq!(try_wait(Whose::Pid(pid), true), Err(Errno::CHILD));
    }
}
