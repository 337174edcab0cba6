//! The process that thaws a container whose checkpoint was killed.
//!
//! CRIU leaves a freezer as it found it, and it found it frozen by us: also when it takes its work back because this process
//! has died.

use std::io::{PipeWriter, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use crate::children::{self, Child};
use crate::container::Container;
use crate::sys::guard::{self, Orders};
use crate::{Error, Pid, Result};

/// Thaws the container if this process dies before it is dropped, as soon as CRIU has ended too.
#[derive(Debug)]
pub(super) struct Guard {
    lifeline: PipeWriter,
    child: Child,
}

impl Guard {
    /// `criu` is the pidfd of the CRIU that serves this process. `None` for a container that was paused before, and is to
    /// stay so.
    pub(super) fn new(container: &Container, criu: BorrowedFd<'_>, paused: bool) -> Result<Option<Self>> {
        let file = container.state.cgroup.thaw_file().map_err(container.cgroup_failed())?;
        let Some((file, text)) = file.filter(|_| !paused) else { return Ok(None) };
        let start = || {
            let (reader, lifeline) = std::io::pipe()?;
            let orders = Orders { lifeline: reader.as_fd(), after: criu, file: file.as_fd(), text: text.as_bytes() };
            let mut hold = children::hold();
            let (pid, pidfd) = guard::spawn(&orders)?;
            let pid = Pid::new(pid).ok_or(Errno::RANGE)?;
            Ok(Some(Self { lifeline, child: hold.adopt(pid, pidfd) }))
        };
        let failed =
            |err| Error::System { id: container.id().clone(), operation: "start the guard of a checkpoint", err };
        start().map_err(failed)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Reaped in any case: if it does not hear us, it is because it has ended.
        let told = self.lifeline.write_all(&[0]);
        if let Err(err) = told.and(self.child.wait()) {
            tracing::warn!(%err, "end the guard of a checkpoint");
        }
    }
}
