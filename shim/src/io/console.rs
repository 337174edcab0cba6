//! A process's terminal: the master of its pty, shared by the task that reads its output, the one that writes its
//! input, and resize.
//!
//! The end of stdin hangs the terminal up, as runc's shim does: the master is closed after the output so far was read,
//! and the kernel sends SIGHUP to the session.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::Interest;
use tokio::sync::Notify;

use super::error::{Error, Stream};
use super::input::Feed;
use super::pump;
use super::watched::{Watched, watch};

#[derive(Debug)]
pub(super) struct Console {
    master: Watched,
    hangup: Notify,
}

impl Console {
    /// Takes the master; its open file description becomes non-blocking, so nobody else may use it.
    pub(super) fn new(master: OwnedFd) -> Result<Arc<Self>, Error> {
        let fail = |err| Error::Watch { stream: Stream::Stdout, err };
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK)).map_err(|err| fail(err.into()))?;
        Ok(Arc::new(Self {
            master: watch(master, Interest::READABLE | Interest::WRITABLE).map_err(fail)?,
            hangup: Notify::new(),
        }))
    }

    /// Types what a restored process had not been given yet, where no client will type.
    pub(super) async fn type_first(self: Arc<Self>, bytes: Vec<u8>) -> io::Result<()> {
        pump::write_all(&self.master, &bytes).await
    }

    pub(super) fn resize(&self, width: u16, height: u16) -> Result<(), Error> {
        let size = Winsize { ws_col: width, ws_row: height, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).map_err(|err| Error::Resize {
            width,
            height,
            err: Errno::from_raw(err.raw_os_error()),
        })
    }

    /// Types what comes from stdin's fifo, and hangs up at its end.
    pub(super) async fn feed(self: Arc<Self>, stdin: Arc<Feed>) -> io::Result<()> {
        let result = stdin.type_to_terminal(&self.master).await;
        self.hangup.notify_one();
        result
    }

    /// The next output; 0 once every slave is closed, or after a hang-up once nothing is left.
    pub(super) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        tokio::select! {
            biased;
            filled = pump::read(&self.master, buffer) => filled,
            () = self.hangup.notified() => {
                // The next call has to find it hung up too.
                self.hangup.notify_one();
                match pump::read_now(&self.master, buffer) {
                    Err(Errno::EAGAIN) => Ok(0),
                    other => Ok(other?),
                }
            }
        }
    }
}
