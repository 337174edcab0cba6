//! The first process of a scope.
//!
//! systemd starts a scope around a process that exists, stops it when it is empty, and makes the cgroup in between. The
//! container's own process is to be cloned into that cgroup, with its limits set: so this one holds the place meanwhile. It
//! is killed once the other is in, and ends by itself if we die, upon which systemd takes the scope away.

use std::io::PipeWriter;
use std::os::fd::AsFd;

use rustix::io::Errno;

use super::{Error, Unit};
use crate::children::{self, Child};
use crate::sys::guard;
use crate::{Pid, Signal};

/// Ended and reaped when it is dropped.
#[derive(Debug)]
pub(crate) struct Placeholder {
    child: Child,
    /// What the limit of tasks is to be without it, where there is one.
    pub(crate) tasks_max: Option<i64>,
    /// Closed by the kernel when this process dies.
    _lifeline: PipeWriter,
}

impl Placeholder {
    pub(crate) fn start(unit: &Unit) -> Result<Self, Error> {
        let start = || {
            let (reader, lifeline) = std::io::pipe()?;
            let mut hold = children::hold();
            let (pid, pidfd) = guard::spawn_placeholder(reader.as_fd())?;
            let pid = Pid::new(pid).ok_or(Errno::RANGE)?;
            Ok(Self { child: hold.adopt(pid, pidfd), tasks_max: None, _lifeline: lifeline })
        };
        start().map_err(|err| Error::Placeholder { unit: unit.name.clone(), err })
    }

    pub(crate) fn pid(&self) -> Pid {
        self.child.pid
    }
}

impl Drop for Placeholder {
    fn drop(&mut self) {
        let ended = self.child.signal(Signal::KILL).and_then(|()| self.child.wait());
        if let Err(err) = ended {
            tracing::warn!(pid = %self.child.pid, %err, "end the first process of a scope");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_no_descriptor_but_its_lifeline_and_is_gone_when_dropped() {
        let unit = Unit {
            name: "x.scope".to_owned(),
            slice: "a.slice".to_owned(),
            bus: super::super::Bus::System,
            token: String::new(),
        };
        let placeholder = Placeholder::start(&unit).unwrap();
        let process = std::path::PathBuf::from(format!("/proc/{}", placeholder.pid()));
        // It closes them as its first deed.
        let descriptors = || std::fs::read_dir(process.join("fd")).unwrap().count();
        while descriptors() > 1 {
            std::thread::yield_now();
        }
        assert!(std::fs::read_to_string(process.join("comm")).unwrap().starts_with("rtc-place"));
        drop(placeholder);
        assert!(!process.exists());
    }
}
