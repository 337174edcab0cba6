//! What is sent to a container while nobody can take it: it is kept, and given to it where it runs again.
//!
//! While a container is moved, its network is locked, and what its peers send is lost; TCP sends it once more, but not before
//! 200 ms have passed, and then 400. A peer that gets an answer as soon as there is somebody to answer waits no longer than
//! the move itself takes.

use std::fs::File;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recv, sendto, socket_with,
};

use super::inside;
use super::segment::Segment;

/// linux/if_ether.h
const PROTOCOLS: [u16; 2] = [0x0800, 0x86dd];
/// Of a socket's queue, in bytes; what comes when it is full is lost, as it was before.
const QUEUE: usize = 4 << 20;
/// The longest packet, with those that were joined into one (GRO).
const LONGEST: usize = 64 << 10;

/// Keeps what arrives in a network namespace, before any filter: one socket for each version of IP, whose queue is the store.
#[derive(Debug)]
pub(crate) struct Recorder {
    sockets: Vec<OwnedFd>,
}

impl Recorder {
    pub(crate) fn start(netns: &File) -> io::Result<Self> {
        let open = |protocol: u16| -> io::Result<OwnedFd> {
            // In network order: packet(7).
            let protocol = NonZeroU32::new(u32::from(protocol.to_be())).map(Protocol::from_raw);
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::PACKET, SocketType::DGRAM, flags, protocol)?;
            set_socket_recv_buffer_size_force(&socket, QUEUE)?;
            Ok(socket)
        };
        let sockets = inside(netns, || PROTOCOLS.into_iter().map(open).collect())?;
        Ok(Self { sockets })
    }

    /// What has come until now, and was not taken before.
    pub(crate) fn take(&self) -> io::Result<Vec<Segment>> {
        let mut segments = Vec::new();
        let mut buffer = vec![0; LONGEST];
        for socket in &self.sockets {
            loop {
                match recv(socket, buffer.as_mut_slice(), RecvFlags::empty()) {
                    Ok((_, length)) => {
                        segments.extend(buffer.get(..length).and_then(|bytes| Segment::parse(bytes.into())))
                    }
                    Err(Errno::AGAIN) => break,
                    // A device went down, which is told once.
                    Err(Errno::INTR | Errno::NETDOWN) => {}
                    Err(err) => return Err(err.into()),
                }
            }
        }
        Ok(segments)
    }
}

/// Gives segments to the sockets of a network namespace, as if they came just now.
pub(crate) fn deliver(netns: &File, segments: &[Segment]) -> io::Result<()> {
    if segments.is_empty() {
        return Ok(());
    }
    inside(netns, || {
        let raw = |family| socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::RAW));
        let (four, six) = (raw(AddressFamily::INET)?, raw(AddressFamily::INET6));
        for segment in segments {
            let to = segment.to();
            // A host without version 6 has no such segments.
            let socket = if to.is_ipv4() { &four } else { six.as_ref().map_err(|err| *err)? };
            sendto(socket, segment.bytes(), SendFlags::empty(), &to)?;
        }
        Ok(())
    })
}
