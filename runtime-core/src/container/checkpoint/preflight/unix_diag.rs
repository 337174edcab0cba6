//! Which unix sockets are connected to which: the kernel tells it of a network namespace (sock_diag(7)).

use std::collections::HashMap;
use std::fs::File;
use std::io;

use nix::sched::{CloneFlags, setns};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

/// linux/sock_diag.h, linux/netlink.h, linux/unix_diag.h
const BY_FAMILY: u16 = 20;
const REQUEST_AND_DUMP: u16 = 0x301;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const SHOW_PEER: u32 = 4;
const PEER: u16 = 2;

const HEADER: usize = 16;
const MESSAGE: usize = 16;
/// What the kernel sends at once at the most.
const LONGEST: usize = 32 << 10;

/// A unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UnixSocket {
    pub(super) kind: u8,
    /// The other end's inode, if there is one.
    pub(super) peer: Option<u64>,
}

/// The unix sockets that were made in a process's network namespace, by their inodes.
pub(super) fn sockets(pid: i32) -> io::Result<HashMap<u64, UnixSocket>> {
    let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
    // A thread for it alone, which joins the namespace and ends in it.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("unix-diag".to_owned()).spawn_scoped(scope, || {
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            Ok(ask()?)
        })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Those of the caller's own.
pub(super) fn own() -> Result<HashMap<u64, UnixSocket>, Errno> {
    ask()
}

fn ask() -> Result<HashMap<u64, UnixSocket>, Errno> {
    let protocol = Some(netlink::SOCK_DIAG);
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    send(&socket, &request(), SendFlags::empty())?;
    let mut found = HashMap::new();
    let mut buffer = vec![0; LONGEST];
    loop {
        let (_, length) = match recv(&socket, &mut buffer[..], RecvFlags::empty()) {
            Err(Errno::INTR) => continue,
            received => received?,
        };
        if read(buffer.get(..length).ok_or(Errno::MSGSIZE)?, &mut found)? {
            return Ok(found);
        }
    }
}

/// Every state, every socket, with its peer.
fn request() -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(40u32.to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(REQUEST_AND_DUMP.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([libc::AF_UNIX as u8, 0, 0, 0]);
    for word in [u32::MAX, 0, SHOW_PEER, 0, 0] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes
}

/// Whether that was all.
fn read(mut left: &[u8], found: &mut HashMap<u64, UnixSocket>) -> Result<bool, Errno> {
    while !left.is_empty() {
        let length = word(left, 0).ok_or(Errno::BADMSG)? as usize;
        let body = left.get(HEADER..length).ok_or(Errno::BADMSG)?;
        match half(left, 4).ok_or(Errno::BADMSG)? {
            DONE => return Ok(true),
            ERROR => {
                let errno = word(body, 0).ok_or(Errno::BADMSG)?.cast_signed();
                return Err(Errno::from_raw_os_error(errno.saturating_neg()));
            }
            _ => found.extend(parse(body)),
        }
        left = left.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn parse(body: &[u8]) -> Option<(u64, UnixSocket)> {
    let (kind, inode) = (*body.get(1)?, word(body, 4)?);
    let mut attributes = body.get(MESSAGE..)?;
    let mut peer = None;
    while let (Some(length), Some(name)) = (half(attributes, 0), half(attributes, 2)) {
        if name == PEER {
            peer = word(attributes, 4).filter(|&peer| peer != 0).map(u64::from);
        }
        attributes = attributes.get(usize::from(length).max(4).next_multiple_of(4)..).unwrap_or_default();
    }
    Some((inode.into(), UnixSocket { kind, peer }))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod unit {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_ends_of_a_pair_are_each_others() {
        let (one, other) = UnixStream::pair().unwrap();
        let inode = |socket: &UnixStream| {
            let fd = std::os::fd::AsRawFd::as_raw_fd(socket);
            std::fs::metadata(format!("/proc/self/fd/{fd}")).unwrap().ino()
        };
        let found = ask().unwrap();
        let stream = 1;
        assert_eq!(found[&inode(&one)], UnixSocket { kind: stream, peer: Some(inode(&other)) });
        assert_eq!(found[&inode(&other)].peer, Some(inode(&one)));
    }

    #[test]
    fn what_is_cut_off_is_no_message() {
        let mut found = HashMap::new();
        let request = request();
        assert_eq!(request.len(), 40);
        assert!(read(&request[..20], &mut found).is_err() && found.is_empty());
    }
}
