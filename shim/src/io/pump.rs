//! Moving bytes from one descriptor to another until the end of the first.
//!
//! Everything runs on the shim's one thread, so nothing here may block it: all descriptors are non-blocking and are
//! waited for with epoll. Back pressure is kept: what the reader does not take stays in the pipe, and a full pipe holds
//! the container.
//!
//! The pipes keep the kernel's 64 KiB: larger ones (256 KiB, 1 MiB) moved no more bytes per second, and all that they
//! hold is kernel memory that a slow reader pins.

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::SpliceFFlags;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::input::Turn;
use super::watched::Watched;

/// More than any pipe holds: each splice(2) moves all there is.
const ALL: usize = 1 << 30;

/// A busy stream lets the other tasks of the shim run after so many moves.
const MOVES_PER_TURN: u32 = 16;

/// One read of a terminal gives no more: the line discipline's buffer (drivers/tty/n_tty.c, `N_TTY_BUF_SIZE`).
pub(super) const TTY_BUFFER: usize = 4096;

/// Moves everything from one pipe into another without copying it, until the source has ended.
///
/// # Errors
/// EPIPE where nobody can read the sink any more; what splice(2) says otherwise.
pub(super) async fn splice(from: &Watched, to: &Watched) -> io::Result<()> {
    splice_in_turn(from, to, &Turn::default()).await
}

/// As [`splice`], but for the time that somebody else has the turn.
///
/// # Errors
/// As [`splice`].
pub(super) async fn splice_in_turn(from: &Watched, to: &Watched, turn: &Turn) -> io::Result<()> {
    let mut moves = 0;
    loop {
        let mut source = from.readable().await?;
        let mut sink = to.writable().await?;
        let _turn = turn.lock().await;
        match nix::fcntl::splice(from, None, to, None, ALL, SpliceFFlags::SPLICE_F_NONBLOCK) {
            Ok(0) => return Ok(()),
            Ok(_) => {
                moves += 1;
                if moves % MOVES_PER_TURN == 0 {
                    tokio::task::yield_now().await;
                }
            }
            Err(Errno::EAGAIN) => {
                // EAGAIN does not say which end is to blame, and by now it may be another one. epoll reports each
                // change once: only an end that is seen not to be ready may be waited for, else the wait never ends.
                let (readable, writable) = ready(from, to)?;
                if !readable {
                    source.clear_ready();
                }
                if !writable {
                    sink.clear_ready();
                }
            }
            Err(Errno::EINTR) => {}
            Err(err) => return Err(err.into()),
        }
    }
}

fn ready(from: &Watched, to: &Watched) -> nix::Result<(bool, bool)> {
    let mut fds = [PollFd::new(from.as_fd(), PollFlags::POLLIN), PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
    poll(&mut fds, PollTimeout::ZERO)?;
    let is_ready = |fd: &PollFd<'_>| fd.revents().is_none_or(|events| !events.is_empty());
    Ok((is_ready(&fds[0]), is_ready(&fds[1])))
}

/// Waits for input and reads it; 0 at the end.
pub(super) async fn read(from: &Watched, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let mut guard = from.readable().await?;
        match read_now(from, buffer) {
            Ok(filled) => return Ok(filled),
            Err(Errno::EAGAIN) => guard.clear_ready(),
            Err(Errno::EINTR) => {}
            Err(err) => return Err(err.into()),
        }
    }
}

/// Reads without waiting. A terminal's master says EIO once every slave is closed and all their output was read
/// (drivers/tty/n_tty.c, `n_tty_wait_for_input`): that is its end of file.
pub(super) fn read_now(from: impl AsFd, buffer: &mut [u8]) -> nix::Result<usize> {
    match nix::unistd::read(from, buffer) {
        Err(Errno::EIO) => Ok(0),
        other => other,
    }
}

pub(super) async fn write_all(to: &Watched, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let mut guard = to.writable().await?;
        match nix::unistd::write(to, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::EAGAIN) => guard.clear_ready(),
            Err(Errno::EINTR) => {}
            Err(err) => return Err(err.into()),
        }
    }
    Ok(())
}
