//! What a CRIU process does between fork and exec when it is to restore a container.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

/// A directory of the host to be seen at another path.
#[derive(Debug)]
pub(crate) struct Bind {
    pub(crate) source: CString,
    pub(crate) target: CString,
}

/// Before the program is executed, its process moves itself into cgroups by writing "0" to each of `cgroups`, makes a
/// mount namespace of its own, from which nothing reaches the host's, and binds a directory tree in it. The mount so goes
/// with the process, however that ends.
pub(crate) fn prepare(command: &mut Command, cgroups: Vec<OwnedFd>, bind: Bind) {
    // SAFETY: the closure runs between fork and exec in a child of a process with threads: it makes system calls alone,
    // and neither allocates nor locks. `cgroups` and `bind` are owned by it.
    unsafe {
        command.pre_exec(move || {
            for cgroup in &cgroups {
                check(libc::write(cgroup.as_raw_fd(), c"0".as_ptr().cast(), 1) as libc::c_long)?;
            }
            check(libc::unshare(libc::CLONE_NEWNS).into())?;
            mount(None, c"/", libc::MS_REC | libc::MS_PRIVATE)?;
            mount(Some(&bind.source), &bind.target, libc::MS_BIND | libc::MS_REC)
        });
    }
}

fn mount(source: Option<&CStr>, target: &CStr, flags: libc::c_ulong) -> io::Result<()> {
    let source = source.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: the strings end with a zero byte and outlive the call; null is allowed for the others (mount(2)).
    check(unsafe { libc::mount(source, target.as_ptr(), ptr::null(), flags, ptr::null()) }.into())
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
