//! The agent that answers for system calls with SCMP_ACT_NOTIFY (OCI config-linux, "The Container Process State").

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction as Action};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect, sendmsg, socket_with,
};
use serde::Serialize;

use super::{Error, Listener};
use crate::hooks::HookState;

/// What the agent is told, with the descriptor that `fds` names.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ContainerProcessState<'a> {
    oci_version: &'a str,
    fds: [&'static str; 1],
    /// As the runtime sees it.
    pid: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a str>,
    state: &'a HookState,
}

impl<'a> ContainerProcessState<'a> {
    pub(crate) fn new(listener: &'a Listener, pid: i32, state: &'a HookState) -> Self {
        let metadata = listener.metadata.as_deref();
        Self { oci_version: &state.oci_version, fds: ["seccompFd"], pid, metadata, state }
    }
}

/// `None` if the profile notifies nobody; then `listenerPath` is ignored, as the specification demands.
pub(super) fn of(profile: &LinuxSeccomp) -> Result<Option<Listener>, Error> {
    let path = profile.listener_path().clone().filter(|path| !path.as_os_str().is_empty());
    let metadata = profile.listener_metadata().clone().filter(|metadata| !metadata.is_empty());
    if metadata.is_some() && path.is_none() {
        return Err(Error::Invalid("listenerMetadata needs a listenerPath"));
    }
    if profile.default_action() == Action::ScmpActNotify {
        // The process that is to tell the agent of the filter would wait for the agent.
        return Err(Error::Invalid("SCMP_ACT_NOTIFY cannot be the default action"));
    }
    let mut notified = profile.syscalls().iter().flatten().filter(|rule| rule.action() == Action::ScmpActNotify);
    if notified.clone().any(|rule| rule.names().iter().any(|name| name == "write")) {
        // As with runc: an agent that writes a line of log for each call would wait for itself.
        return Err(Error::Invalid("SCMP_ACT_NOTIFY cannot be used for the write syscall"));
    }
    match (notified.next(), path) {
        (None, _) => Ok(None),
        (Some(_), None) => Err(Error::Invalid("SCMP_ACT_NOTIFY needs a listenerPath")),
        (Some(_), Some(path)) => Ok(Some(Listener { path, metadata })),
    }
}

/// Sends the state and the filter's descriptor over a connection of its own, which ends with that. Blocks while the agent
/// does not take the connection.
///
/// # Errors
/// Nobody listens at the path.
pub(crate) fn notify(listener: &Listener, state: &ContainerProcessState<'_>, filter: OwnedFd) -> Result<(), Error> {
    let step = |operation| move |err| Error::Listener { operation, path: listener.path.clone(), err };
    let json = serde_json::to_vec(state).map_err(Error::Json)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(step("make a socket for"))?;
    let address = SocketAddrUnix::new(&listener.path).map_err(step("connect to"))?;
    connect(&socket, &address).map_err(step("connect to"))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [filter.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let mut left = json.as_slice();
    while !left.is_empty() {
        match sendmsg(&socket, &[IoSlice::new(left)], &mut control, SendFlags::NOSIGNAL) {
            Ok(sent) => {
                left = left.get(sent..).unwrap_or_default();
                // The descriptor goes with the first bytes alone.
                control.clear();
            }
            Err(Errno::INTR) => {}
            Err(err) => return Err(step("send the container's process state to")(err)),
        }
    }
    Ok(())
}
