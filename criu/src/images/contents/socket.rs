//! Sockets: addresses, states, and what is under way in connections.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proto::criu::images::{InetSkEntry, TcpStreamEntry, UnixSkEntry};
use serde::Serialize;

use super::open_file::File;
use super::reader::{Needed, Reader, text};

const TCP_STREAM: u32 = 0x5146_5506;

const AF_INET6: u32 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Protocol {
    Tcp,
    Udp,
    UdpLite,
    Raw,
    Other,
}

/// The kernel's names (`net/tcp_states.h`), which unix sockets have as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum SocketState {
    Established,
    SynSent,
    SynRecv,
    FinWait1,
    FinWait2,
    TimeWait,
    /// Neither connected nor listening.
    Close,
    CloseWait,
    LastAck,
    Listen,
    Closing,
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum UnixKind {
    Stream,
    Datagram,
    SeqPacket,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    pub ip: IpAddr,
    pub port: u32,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            IpAddr::V4(ip) => write!(f, "{ip}:{}", self.port),
            IpAddr::V6(ip) => write!(f, "[{ip}]:{}", self.port),
        }
    }
}

impl SocketState {
    fn new(number: u32) -> Self {
        match number {
            1 => Self::Established,
            2 => Self::SynSent,
            3 => Self::SynRecv,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            7 => Self::Close,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            _ => Self::Unknown,
        }
    }

    /// Whether there is another end, and an image of what is under way.
    fn is_connected(self) -> bool {
        !matches!(self, Self::Close | Self::Listen | Self::Unknown)
    }
}

impl Address {
    /// The words are in the network's order.
    fn new(family: u32, words: &[u32], port: u32) -> Self {
        let word = |at: usize| words.get(at).copied().unwrap_or(0).to_ne_bytes();
        let ip = if family == AF_INET6 {
            let mut octets = [0; 16];
            octets.chunks_exact_mut(4).enumerate().for_each(|(at, chunk)| chunk.copy_from_slice(&word(at)));
            IpAddr::V6(Ipv6Addr::from(octets))
        } else {
            IpAddr::V4(Ipv4Addr::from(word(0)))
        };
        Self { ip, port }
    }
}

pub(super) fn internet(reader: &mut Reader<'_>, socket: &InetSkEntry) -> File {
    let protocol = match (socket.r#type, socket.proto) {
        (3, _) => Protocol::Raw,
        (_, 6) => Protocol::Tcp,
        (_, 17) => Protocol::Udp,
        (_, 136) => Protocol::UdpLite,
        _ => Protocol::Other,
    };
    let state = SocketState::new(socket.state);
    let remote = Address::new(socket.family, &socket.dst_addr, socket.dst_port);
    let mut stream = None;
    if protocol == Protocol::Tcp && state.is_connected() {
        let name = format!("tcp-stream-{:x}.img", socket.ino);
        stream = reader.first::<TcpStreamEntry>(&name, TCP_STREAM, Needed::No);
    }
    let (unread, unsent) = stream.map_or((0, 0), |stream| (stream.inq_len.into(), stream.outq_len.into()));
    File::Socket {
        protocol,
        state,
        local: Address::new(socket.family, &socket.src_addr, socket.src_port),
        remote: (!remote.ip.is_unspecified() || remote.port != 0).then_some(remote),
        unread,
        unsent,
    }
}

pub(super) fn unix(socket: &UnixSkEntry) -> File {
    let path = match socket.name.split_first() {
        None => None,
        Some((0, [])) => None,
        Some((0, name)) => Some(format!("@{}", text(name))),
        Some(_) => Some(text(&socket.name)),
    };
    let kind = match socket.r#type {
        1 => UnixKind::Stream,
        2 => UnixKind::Datagram,
        5 => UnixKind::SeqPacket,
        _ => UnixKind::Other,
    };
    let peer = (socket.peer != 0).then_some(socket.peer);
    File::Unix { kind, state: SocketState::new(socket.state), path, inode: socket.ino, peer }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(octets: &[u8]) -> Vec<u32> {
        octets.chunks(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect()
    }

    #[test]
    fn addresses_read_as_people_write_them() {
        let address = Address::new(2, &words(&[10, 0, 0, 7]), 80);
        assert_eq!(address.to_string(), "10.0.0.7:80");
        let octets = Ipv6Addr::LOCALHOST.octets();
        assert_eq!(Address::new(AF_INET6, &words(&octets), 443).to_string(), "[::1]:443");
        assert_eq!(Address::new(AF_INET6, &[], 0).to_string(), "[::]:0");
    }

    #[test]
    fn unix_sockets_have_paths_abstract_names_or_none() {
        let path = |name: &[u8]| match unix(&UnixSkEntry { name: name.to_vec(), ..UnixSkEntry::default() }) {
            File::Unix { path, .. } => path,
            other => panic!("{other:?}"),
        };
        assert_eq!(path(b"/run/x\0").as_deref(), Some("/run/x"));
        assert_eq!(path(b"\0bus").as_deref(), Some("@bus"));
        assert_eq!(path(b""), None);
    }
}
