//! How CRIU is started: as a registered child, for a restore inside the container's cgroups and in a mount namespace of
//! its own.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use criu::{Process, Spawn};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::children::{self, Child};
use crate::sys::swrk;

/// For a dump, and for questions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plain;

/// Starts CRIU once, in the cgroups of these files.
#[derive(Debug)]
pub(crate) struct InCgroups(Mutex<Vec<OwnedFd>>);

impl InCgroups {
    /// See [`swrk::join`].
    pub(crate) fn new(files: Vec<OwnedFd>) -> Self {
        Self(Mutex::new(files))
    }
}

#[derive(Debug)]
struct Registered(Child);

impl Spawn for Plain {
    fn spawn(&self, mut command: Command) -> io::Result<Box<dyn Process>> {
        Ok(Box::new(Registered(children::spawn(&mut command)?)))
    }
}

impl Spawn for InCgroups {
    fn spawn(&self, mut command: Command) -> io::Result<Box<dyn Process>> {
        let files = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        swrk::join(&mut command, files);
        Plain.spawn(command)
    }
}

impl Process for Registered {
    fn pid(&self) -> i32 {
        self.0.pid.as_raw()
    }

    fn pidfd(&self) -> BorrowedFd<'_> {
        self.0.pidfd()
    }

    fn wait(&mut self) -> io::Result<u32> {
        Ok(self.0.wait()?.code)
    }
}

/// Calls `start` where `rootfs` is bound on `root`, a directory, in a mount namespace of its own. A process that it starts
/// keeps the namespace, and when that has ended, however it did, nothing is mounted any more.
///
/// CRIU changes to its work directory through a descriptor of ours and mounts there: descriptors that it gets have to be
/// opened in `start` too, for one of another mount namespace cannot be mounted in.
pub(crate) fn with_root<T: Send>(rootfs: &Path, root: &Path, start: impl FnOnce() -> T + Send) -> io::Result<T> {
    // A thread for it alone: what it unshares it cannot have back.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("criu-root".to_owned()).spawn_scoped(scope, || {
            unshare(CloneFlags::CLONE_NEWNS)?;
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            mount(Some(rootfs), root, none, MsFlags::MS_REC | MsFlags::MS_BIND, none)?;
            Ok(start())
        })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
