//! `criu lazy-pages`: brings memory to restored processes as they touch it. There is no request for it, it is a command.
//!
//! ```text
//!   source of pages <── PS_IOV_GET ── criu lazy-pages <── userfaultfd of each process ── criu restore
//!                   ─── pages ──────>                 ─── pages ──> the restored processes
//! ```
//! It ends with 0 when all memory is there. When it ends before, for whatever reason, the kernel gives the processes pages of
//! zeros in the place of those that have not come: they must not run on then. [`LazyPages::keep`] holds on to what the kernel
//! waits for, so that they stand still until somebody has ended them.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

use crate::binary::Criu;
use crate::error::{Error, Failure, Result};
use crate::log;
use crate::spawn::{Process, Spawn};
use crate::sys;

const OPERATION: &str = "lazy-pages";

/// Until it listens for the restore.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// What /proc/PID/fd calls a userfaultfd.
const USERFAULTFD: &str = "anon_inode:[userfaultfd]";

/// For a restore with [`crate::Common::lazy_pages`].
#[derive(Debug)]
pub struct LazyPagesOptions {
    pub images_dir: OwnedFd,
    /// The restore's, with the socket on which it finds the daemon; the log is there too.
    pub work_dir: OwnedFd,
    pub log_file: String,
    /// A connected stream socket to who has the pages: a page server of CRIU's, or who speaks its protocol.
    pub source: OwnedFd,
}

/// A running `criu lazy-pages`. Dropping it ends it.
#[derive(Debug)]
pub struct LazyPages {
    process: Box<dyn Process>,
    options: LazyPagesOptions,
    ended: bool,
    kept: HashMap<String, OwnedFd>,
}

impl Criu {
    /// Starts `criu lazy-pages` and returns when a restore can connect to it.
    ///
    /// # Errors
    /// [`Error::Spawn`], or [`Error::Died`] with its last words.
    pub fn lazy_pages(&self, options: LazyPagesOptions, spawn: &dyn Spawn) -> Result<LazyPages> {
        let failed = |err| Error::Spawn { path: self.path().to_owned(), err };
        let (mut ready, theirs) = io::pipe().map_err(failed)?;
        let path = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
        let mut command = Command::new(self.path());
        command.args([
            "lazy-pages",
            "--images-dir",
            &path(&options.images_dir),
            "--work-dir",
            &path(&options.work_dir),
        ]);
        command.args(["--page-server", "--ps-socket", &options.source.as_raw_fd().to_string()]);
        command.args(["--status-fd", &theirs.as_raw_fd().to_string(), "-v4", "--log-file", &options.log_file]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let fds = [options.images_dir.as_fd(), options.work_dir.as_fd(), options.source.as_fd(), theirs.as_fd()];
        sys::inherit(&mut command, fds.iter().map(AsRawFd::as_raw_fd).collect());
        let process = spawn.spawn(command).map_err(failed)?;
        drop(theirs);
        let mut daemon = LazyPages { process, options, ended: false, kept: HashMap::new() };
        let listens = poll(&mut [PollFd::new(&ready, PollFlags::IN)], Some(&PATIENCE));
        // One zero byte; an end without it if it has died.
        if matches!(listens, Ok(1)) && matches!(ready.read(&mut [1]), Ok(1)) { Ok(daemon) } else { Err(daemon.kill()) }
    }
}

impl LazyPages {
    /// Readable once it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.process.pidfd()
    }

    /// Takes hold of what the kernel asks for pages by, as far as the daemon has it now, and lets go of what it has no more.
    /// A process whose memory is all there must not wait for somebody who does not answer: call it often.
    pub fn keep(&mut self) {
        let directory = format!("/proc/{}/fd", self.process.pid());
        let mut kept = HashMap::new();
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == USERFAULTFD)
                && let Some(number) = entry.file_name().to_str()
                // It has just been closed otherwise, or the daemon is gone.
                && let Ok(raw) = number.parse()
                && let Ok(fd) = pidfd_getfd(self.process.pidfd(), raw, PidfdGetfdFlags::empty())
            {
                kept.insert(number.to_owned(), fd);
            }
        }
        if self.has_ended(Duration::ZERO) {
            // What a daemon had that was killed is kept until this is dropped.
            self.kept.extend(kept);
        } else {
            self.kept = kept;
        }
    }

    /// How many processes wait for pages.
    pub fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Waits so long for its end; whether it has ended.
    pub fn has_ended(&self, limit: Duration) -> bool {
        let limit = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        };
        matches!(poll(&mut [PollFd::from_borrowed_fd(self.pidfd(), PollFlags::IN)], Some(&limit)), Ok(1))
    }

    /// After it has ended: whether all memory has come.
    ///
    /// # Errors
    /// [`Error::Died`]: it has not, and the processes must end before this is dropped.
    pub fn outcome(&mut self) -> Result<()> {
        let status = self.reap();
        if status == 0 {
            self.kept.clear();
            return Ok(());
        }
        Err(Error::Died { operation: OPERATION, status, failure: self.failure() })
    }

    fn kill(&mut self) -> Error {
        // It may be gone.
        rustix::process::pidfd_send_signal(self.process.pidfd(), rustix::process::Signal::KILL).ok();
        let status = self.reap();
        Error::Died { operation: OPERATION, status, failure: self.failure() }
    }

    fn reap(&mut self) -> u32 {
        self.ended = true;
        self.process.wait().unwrap_or(u32::MAX)
    }

    fn failure(&self) -> Failure {
        log::of_file(self.options.work_dir.as_fd(), &self.options.log_file)
    }
}

impl Drop for LazyPages {
    fn drop(&mut self) {
        if !self.ended {
            self.kill();
        }
    }
}
