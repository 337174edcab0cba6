//! `load`: a container that another process made.

use std::path::Path;
use std::sync::Mutex;

use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open};

use super::Container;
use super::state::{Directory, InitId, start_time};
use crate::{ContainerId, Error, Result};

pub(super) fn load(root: &Path, id: &ContainerId) -> Result<Container> {
    let directory = Directory::new(root, id);
    let state = directory.read()?;
    let pidfd = match state.init {
        Some(init) => open(init).map_err(|err| Error::System { id: id.clone(), operation: "find the init", err })?,
        None => None,
    };
    Ok(Container { directory, state, pidfd, channel: Mutex::new(None) })
}

/// The descriptor first and then the look at the start time: a pid that is given away in between cannot deceive.
fn open(init: InitId) -> std::io::Result<Option<std::os::fd::OwnedFd>> {
    let Some(pid) = rustix::process::Pid::from_raw(init.pid.as_raw()) else { return Ok(None) };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(None),
        other => other?,
    };
    match start_time(init.pid) {
        Ok(time) => Ok((time == init.start_time).then_some(pidfd)),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(err) if err.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(None),
        Err(err) => Err(err),
    }
}
