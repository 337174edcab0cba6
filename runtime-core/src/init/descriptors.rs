//! What an init has been passed beside its socket, and which descriptors its program gets.
//!
//! They come as 3 (the socket), then the mount namespace and the start socket if there are such, then those to preserve.
//! These the program wants from 3 on, so all others make room for them.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use super::channel::Channel;
use super::message::Passed;
use crate::sys::clone::{PASSED_FD, SOCKET_FD};
use crate::sys::fd;

#[derive(Debug, Default)]
pub(super) struct Descriptors {
    pub(super) mount_namespace: Option<OwnedFd>,
    pub(super) start_socket: Option<OwnedFd>,
    preserved: i32,
}

impl Descriptors {
    /// To be called once, before anything is opened. All are close-on-exec afterwards: hooks get none of them.
    pub(super) fn take(channel: &mut Channel, passed: Passed) -> Result<Self, Errno> {
        let preserved = i32::try_from(passed.preserved).map_err(|_| Errno::OVERFLOW)?;
        let mut next = PASSED_FD;
        let mut take = |given: bool| {
            given.then(|| {
                next += 1;
                fd::inherited(next - 1).ok_or(Errno::BADF)
            })
        };
        let mount_namespace = take(passed.mount_namespace).transpose()?;
        let start_socket = take(passed.start_socket).transpose()?;
        let mut this = Self { mount_namespace, start_socket, preserved };
        if preserved > 0 {
            let end = next.checked_add(preserved).ok_or(Errno::OVERFLOW)?;
            let raise = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, end);
            *channel = Channel::new(rustix::io::fcntl_dupfd_cloexec(channel.as_fd(), end)?);
            this.mount_namespace = this.mount_namespace.as_ref().map(raise).transpose()?;
            this.start_socket = this.start_socket.as_ref().map(raise).transpose()?;
            fd::move_down(next, SOCKET_FD, preserved)?;
        }
        Ok(this)
    }

    /// Lets the preserved ones, and no others, pass through execve.
    pub(super) fn keep_preserved(&self) -> Result<(), Errno> {
        if self.preserved > 0 { fd::keep_over_exec(SOCKET_FD, self.preserved) } else { Ok(()) }
    }
}
