//! How CRIU is started: as a registered child, for a restore inside the container's cgroups.

use std::ffi::CString;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use criu::{Process, Spawn};

use crate::children::{self, Child};
use crate::sys::swrk::{self, Bind};

/// For a dump, and for questions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plain;

/// For a restore: see [`swrk::prepare`].
#[derive(Debug)]
pub(crate) struct ForRestore(Mutex<Option<(Vec<OwnedFd>, Bind)>>);

impl ForRestore {
    /// `cgroups` are files that a process moves itself by; `root` is where CRIU finds the rootfs, a directory.
    pub(crate) fn new(cgroups: Vec<OwnedFd>, rootfs: &Path, root: &Path) -> io::Result<Self> {
        let bind = Bind { source: string(rootfs)?, target: string(root)? };
        Ok(Self(Mutex::new(Some((cgroups, bind)))))
    }
}

fn string(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

#[derive(Debug)]
struct Registered(Child);

impl Spawn for Plain {
    fn spawn(&self, mut command: Command) -> io::Result<Box<dyn Process>> {
        Ok(Box::new(Registered(children::spawn(&mut command)?)))
    }
}

impl Spawn for ForRestore {
    fn spawn(&self, mut command: Command) -> io::Result<Box<dyn Process>> {
        let mut prepared = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (cgroups, bind) = prepared.take().ok_or_else(|| io::Error::other("a restore starts CRIU once"))?;
        swrk::prepare(&mut command, cgroups, bind);
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
