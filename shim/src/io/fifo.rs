//! The fifos that containerd makes for a process.
//!
//! An output fifo is opened for reading and writing. This never blocks, whichever side comes first (fifo(7)), and as
//! the shim itself counts as a reader, one that goes away (a restart of containerd, `ctr task attach` that ends) gives
//! no EPIPE: the bytes wait for the next reader and a full fifo holds the container.
//!
//! Stdin's fifo is opened for reading, and a second time for writing: its end comes only after CloseIO has dropped that
//! writer and every client has closed its own.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, SFlag, fstat};

use super::Pending;
use super::error::{Error, Stream};

/// A client that opens its fifos does so before or while it calls Create.
const READER_WITHIN: Duration = Duration::from_millis(500);

/// Between two looks at a fifo.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What was found at the path of an output stream.
#[derive(Debug)]
pub(super) enum Output {
    /// Non-blocking.
    Fifo(OwnedFd),
    /// Anything else, opened for appending; as with runc's shim it has to exist.
    File(File),
}

/// The reading end of stdin's fifo, non-blocking, and the writer that holds off its end.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) reader: OwnedFd,
    pub(super) keeper: OwnedFd,
}

pub(super) fn open_output(stream: Stream, path: &Path) -> Result<Output, Error> {
    let fail = |err| Error::Open { stream, path: path.to_owned(), err };
    let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let fd = open(path, flags, Mode::empty()).map_err(fail)?;
    if is_fifo(&fd).map_err(fail)? {
        return Ok(Output::Fifo(fd));
    }
    fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_APPEND)).map_err(fail)?;
    Ok(Output::File(fd.into()))
}

/// Waits a moment for the reader of an output fifo. Both sides open it at the same time, and a client (containerd's, when
/// its process ends) may give up an open that has not got as far, and with it what was written: a process that ends at once
/// must not be faster than its reader. One that never comes is no error; its bytes wait.
///
/// Returns a writer: until [`open_output`] has made the next one, its close would be the reader's end of file.
pub(super) async fn reader_has_come(path: &Path) -> Option<OwnedFd> {
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let begin = Instant::now();
    while begin.elapsed() < READER_WITHIN {
        match open(path, flags, Mode::empty()) {
            Ok(writer) => return Some(writer),
            // Nobody has it open for reading (fifo(7)).
            Err(Errno::ENXIO) => tokio::time::sleep(Duration::from_millis(1)).await,
            // `open_output` meets it too, and reports it.
            Err(_) => return None,
        }
    }
    None
}

pub(super) fn open_input(stream: Stream, path: &Path) -> Result<Input, Error> {
    let fail = |err| Error::Open { stream, path: path.to_owned(), err };
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let reader = open(path, flags | OFlag::O_RDONLY, Mode::empty()).map_err(fail)?;
    if !is_fifo(&reader).map_err(fail)? {
        let uri = path.to_string_lossy().into_owned();
        return Err(Error::Uri { stream, uri, reason: "not a fifo" });
    }
    let keeper = open(path, flags | OFlag::O_WRONLY, Mode::empty()).map_err(fail)?;
    Ok(Input { reader, keeper })
}

fn is_fifo(fd: &OwnedFd) -> nix::Result<bool> {
    Ok(SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFIFO)
}

/// Keeps an output fifo whose process has ended until somebody has it open for reading, lets it end then, and returns when
/// all of it is read. `taken` is dropped as soon as nothing is in it, reader or not.
///
/// The last close of a fifo throws away what is in it. Where there is no reader at the moment (containerd restarts, the
/// client has not got as far) the bytes wait here for it; and a reader that has come may yet give up.
pub(super) async fn hand_over(fifo: OwnedFd, taken: Pending) -> nix::Result<()> {
    let left = unread(&fifo)?;
    let _taken = Some(taken).filter(|_| left > 0);
    // Only a descriptor that cannot read shows whether another can. The path may be gone by now.
    let path = format!("/proc/self/fd/{}", fifo.as_raw_fd());
    let writer = open(path.as_str(), OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty())?;
    drop(fifo);
    let mut pause = Duration::from_millis(10);
    // The kernel wakes no writer when a reader opens a fifo, so this asks, and ever less often.
    while !has_reader(&writer)? {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    // A reader of our own keeps the bytes, and the end of file from nobody.
    let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
    let reader = open(path.as_str(), OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty())?;
    drop(writer);
    let mut pause = Duration::from_millis(1);
    while unread(&reader)? > 0 {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    Ok(())
}

/// Bytes in a fifo.
fn unread(fifo: &OwnedFd) -> nix::Result<u64> {
    rustix::io::ioctl_fionread(fifo).map_err(|err| Errno::from_raw(err.raw_os_error()))
}

fn has_reader(writer: &OwnedFd) -> nix::Result<bool> {
    let mut fds = [PollFd::new(writer.as_fd(), PollFlags::empty())];
    match poll(&mut fds, PollTimeout::ZERO) {
        Ok(_) => Ok(!fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR))),
        Err(Errno::EINTR) => Ok(false),
        Err(err) => Err(err),
    }
}
