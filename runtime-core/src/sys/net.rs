//! The loopback device of a new network namespace, and sockets that CRIU has left in repair mode.

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Brings `lo` up in the caller's network namespace.
pub(crate) fn loopback_up() -> Result<(), Errno> {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: ifreq is plain data; the name fits with its ending zero, and the union's flags are written before the
    // kernel reads them.
    let result = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (slot, byte) in request.ifr_name.iter_mut().zip(b"lo") {
            *slot = *byte as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request)
    };
    if result < 0 { Err(super::process::errno()) } else { Ok(()) }
}

/// Takes a TCP socket out of repair mode; another socket, or one that is not in it, stays as it is.
pub(crate) fn end_repair(socket: &impl AsFd) -> Result<(), Errno> {
    let fd = socket.as_fd().as_raw_fd();
    let mut mode: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the size of the number.
    let got =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_REPAIR, (&raw mut mode).cast(), &raw mut length) };
    if got < 0 || mode == 0 {
        return Ok(());
    }
    let off: libc::c_int = 0;
    // SAFETY: the kernel reads one number.
    let set = unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_REPAIR, (&raw const off).cast(), length) };
    if set < 0 { Err(super::process::errno()) } else { Ok(()) }
}
