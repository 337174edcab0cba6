//! seccomp(2), which neither nix nor rustix wraps.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

/// Installs a filter in the calling thread. `program` holds whole `struct sock_filter`s in the machine's byte order.
/// Needs no_new_privs or CAP_SYS_ADMIN. With SECCOMP_FILTER_FLAG_NEW_LISTENER its notification descriptor comes back,
/// close-on-exec.
pub(crate) fn set_filter(program: &[u8], flags: u32) -> Result<Option<OwnedFd>, Errno> {
    // The kernel reads the instructions as an array of 8 bytes each; copied so that they are aligned as such.
    let instructions: Vec<u64> = program
        .chunks_exact(size_of::<libc::sock_filter>())
        .map(|bytes| bytes.try_into().map(u64::from_ne_bytes))
        .collect::<Result<_, _>>()
        .map_err(|_| Errno::INVAL)?;
    let len = u16::try_from(instructions.len()).map_err(|_| Errno::TOOBIG)?;
    let program = libc::sock_fprog { len, filter: instructions.as_ptr().cast_mut().cast() };
    // SAFETY: `program` points to `len` instructions in `instructions`, which outlives the call; the kernel copies them
    // and writes nothing. Every bit pattern is a `struct sock_filter`; the kernel checks what they mean.
    let code = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    let new_listener = u64::from(flags) & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0;
    if new_listener && let Some(fd) = RawFd::try_from(code).ok().filter(|fd| *fd >= 0) {
        // SAFETY: the kernel has made this descriptor for this call, and nobody else knows it.
        return Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }));
    }
    if code == 0 { Ok(None) } else { Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)) }
}
