//! What a CRIU process does between fork and exec when it is to restore a container.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Before the program is executed, its process moves itself into cgroups by writing "0" to each of these files.
pub(crate) fn join(command: &mut Command, cgroups: Vec<OwnedFd>) {
    // SAFETY: the closure runs between fork and exec in a child of a process with threads: it makes system calls alone,
    // and neither allocates nor locks (an io::Error made of errno does not). It owns `cgroups`.
    unsafe {
        command.pre_exec(move || {
            for cgroup in &cgroups {
                if libc::write(cgroup.as_raw_fd(), c"0".as_ptr().cast(), 1) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
}
