//! A user namespace that nobody lives in, for the ids of a mount (mount_setattr(2), "ID-mapped mounts").

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::clone::{BlockedSignals, CloneArgs, clone3};

/// Makes a user namespace with these maps (user_namespaces(7)) and returns a descriptor of it. A child of the caller comes
/// and goes meanwhile: nobody else may reap it.
pub(crate) fn make(uid_map: &str, gid_map: &str) -> io::Result<OwnedFd> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let mut pidfd: libc::c_int = -1;
    let args = CloneArgs {
        flags: (libc::CLONE_NEWUSER | libc::CLONE_PIDFD) as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    let signals = BlockedSignals::new();
    let pid = match clone3(&args)? {
        0 => wait_for_end(read.as_raw_fd(), write.as_raw_fd()),
        pid => pid,
    };
    drop(signals);
    // SAFETY: CLONE_PIDFD has stored a new descriptor that nobody else owns.
    drop(unsafe { OwnedFd::from_raw_fd(pidfd) });
    let namespace = map_and_open(pid, uid_map, gid_map);
    drop(write);
    super::process::wait_pid(pid)?;
    namespace
}

fn map_and_open(pid: i32, uid_map: &str, gid_map: &str) -> io::Result<OwnedFd> {
    std::fs::write(format!("/proc/{pid}/uid_map"), uid_map)?;
    std::fs::write(format!("/proc/{pid}/gid_map"), gid_map)?;
    File::open(format!("/proc/{pid}/ns/user")).map(Into::into)
}

/// Runs in the child, which makes system calls alone: it ends when the caller closes its end, or has died.
fn wait_for_end(read: libc::c_int, write: libc::c_int) -> ! {
    let mut byte = 0u8;
    // SAFETY: closes and reads descriptors of this process's own table, into a local; ends this process.
    unsafe {
        libc::close(write);
        libc::read(read, (&raw mut byte).cast(), 1);
        libc::_exit(0)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_namespace_has_its_maps_and_no_process() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let namespace = super::make("0 100000 1000\n2000 200000 1\n", "0 100000 1000\n").unwrap();
        let kind = crate::sys::namespace::kind(std::os::fd::AsFd::as_fd(&namespace)).unwrap();
        assert_eq!(kind, libc::CLONE_NEWUSER);
        let ours = rustix::fs::stat("/proc/self/ns/user").unwrap().st_ino;
        assert_ne!(rustix::fs::fstat(&namespace).unwrap().st_ino, ours);
        assert!(super::make("0 0", "0 0 1").is_err());
    }
}
