//! The one place of this crate where unsafe is allowed.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Lets the program that `command` starts have these descriptors under the numbers that they have here. They stay
/// close-on-exec in this process, so that no other child of a concurrent spawn gets them.
///
/// The caller keeps them open until the command is spawned.
pub(crate) fn inherit(command: &mut Command, fds: Vec<RawFd>) {
    // SAFETY: the closure runs between fork and exec in a child of a process with threads: it only calls fcntl(2), which
    // is async-signal-safe, and neither allocates nor locks (reading a Vec's elements does not, and an io::Error made of
    // errno does not).
    unsafe {
        command.pre_exec(move || {
            for &fd in &fds {
                // No renumbering with dup2: the target could be the pipe on which the standard library reports exec's error.
                if libc::fcntl(fd, libc::F_SETFD, 0) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
}
