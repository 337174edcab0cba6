//! sd_notify(3) from a container to whoever waits for this command: `$NOTIFY_SOCKET` of a systemd service.
//!
//! Of what the container says, `READY=` goes on, and after it the pid that the service manager is to watch.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

use runtime_core::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::error::Error;
use crate::fd_socket;

/// systemd's own limit for a message's datagram is larger; READY= and a status fit.
const LONGEST: usize = 4096;
/// How long the service manager may take to say that it has read all, in seconds.
const BARRIER: i64 = 30;

/// The service manager's socket.
#[derive(Debug)]
pub(crate) struct Host(OsString);

impl Host {
    pub(crate) fn given() -> Option<Self> {
        std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()).map(Self)
    }

    /// Waits until the container is ready, or `pidfd` has ended, and passes on that `main_pid` is to be watched.
    pub(crate) fn pass_on(&self, socket: &UnixDatagram, main_pid: Pid, pidfd: BorrowedFd<'_>) -> Result<(), Error> {
        let main_pid = main_pid.as_raw();
        let Some(ready) = wait_ready(socket, pidfd).map_err(|err| self.failed(err))? else { return Ok(()) };
        self.tell(&ready, main_pid).map_err(|err| self.failed(err))
    }

    /// The same from a thread, with this process as the one to be watched: it ends with the container.
    pub(crate) fn pass_on_meanwhile(self, socket: UnixDatagram, pidfd: BorrowedFd<'_>) -> Result<(), Error> {
        let pidfd = pidfd.try_clone_to_owned().map_err(|err| self.failed(err))?;
        let pid = std::process::id().cast_signed();
        std::thread::spawn(move || {
            let ready = wait_ready(&socket, pidfd.as_fd());
            if let Err(err) = ready.and_then(|ready| ready.map_or(Ok(()), |ready| self.tell(&ready, pid))) {
                tracing::warn!("{}", runtime_core::error::chain(&self.failed(err)));
            }
        });
        Ok(())
    }

    /// Tells that `main_pid` runs and is to be watched. A restored container has told that it is ready in its earlier life.
    pub(crate) fn restored(&self, main_pid: Pid) -> Result<(), Error> {
        self.tell(b"READY=1", main_pid.as_raw()).map_err(|err| self.failed(err))
    }

    fn tell(&self, ready: &[u8], main_pid: i32) -> io::Result<()> {
        let host = UnixDatagram::unbound()?;
        match self.0.as_bytes().strip_prefix(b"@") {
            Some(name) => host.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
            None => host.connect(Path::new(&self.0))?,
        }
        host.send(&[ready, b"\n"].concat())?;
        host.send(format!("MAINPID={main_pid}\n").as_bytes())?;
        barrier(&host)
    }

    fn failed(&self, err: io::Error) -> Error {
        Error::File { operation: "notify", path: PathBuf::from(&self.0), err }
    }
}

/// `None` if the container has ended before it was ready.
fn wait_ready(socket: &UnixDatagram, pidfd: BorrowedFd<'_>) -> io::Result<Option<Vec<u8>>> {
    loop {
        let mut fds = [PollFd::new(socket, PollFlags::IN), PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        // First what it had said when it ended.
        if fds.first().is_some_and(|fd| !fd.revents().is_empty()) {
            let mut message = vec![0; LONGEST];
            let length = socket.recv(&mut message)?;
            message.truncate(length);
            if let Some(ready) = ready_in(&message) {
                return Ok(Some(ready.to_vec()));
            }
        } else {
            return Ok(None);
        }
    }
}

/// The line that says it, of a message.
pub(crate) fn ready_in(message: &[u8]) -> Option<&[u8]> {
    message.split(|byte| *byte == b'\n').find(|line| line.starts_with(b"READY="))
}

/// Waits until all that was sent is read (sd_notify_barrier(3)): the service manager closes the descriptor then. One that
/// does not know barriers closes it as well, or lets us wait in vain.
fn barrier(host: &UnixDatagram) -> io::Result<()> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    fd_socket::send(host.as_fd(), b"BARRIER=1", writer.as_fd())?;
    drop::<OwnedFd>(writer);
    let timeout = Timespec { tv_sec: BARRIER, tv_nsec: 0 };
    if poll(&mut [PollFd::new(&reader, PollFlags::IN)], Some(&timeout))? == 0 {
        tracing::warn!("the service manager did not answer a barrier within {BARRIER} s");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restored_container_is_ready_at_once() {
        let path = std::env::temp_dir().join(format!("rtc-notify-{}", std::process::id()));
        let manager = UnixDatagram::bind(&path).unwrap();
        let host = Host(path.clone().into());
        let told = std::thread::spawn(move || host.restored(Pid::new(7).unwrap()));
        // The descriptor of the barrier is closed with its message.
        for expected in ["READY=1\n", "MAINPID=7\n", "BARRIER=1"] {
            let mut message = [0; LONGEST];
            let length = manager.recv(&mut message).unwrap();
            assert_eq!(String::from_utf8_lossy(&message[..length]), expected);
        }
        told.join().unwrap().unwrap();
        std::fs::remove_file(path).unwrap();
    }
}
