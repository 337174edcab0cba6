//! Descriptors that the event loop watches.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor registered with epoll; whoever holds it owns it.
pub(crate) type Watched = AsyncFd<OwnedFd>;

/// Registers a non-blocking descriptor with the runtime's event loop.
///
/// # Errors
/// EPERM for regular files; otherwise epoll_ctl(2)'s.
// Deprecated in favour of an unsafe function, since a type whose `AsRawFd` changes or ends early would leave a stale
// registration behind. An `OwnedFd` does neither, and the alias above lets nothing else in.
#[allow(deprecated)]
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<Watched> {
    AsyncFd::with_interest(fd, interest)
}
