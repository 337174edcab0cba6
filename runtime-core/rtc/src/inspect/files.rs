//! One line for what a descriptor is.

use runtime_core::images::{Access, File, OpenFile, Protocol, SocketState, UnixKind};

use super::number::bytes;
use super::style::{Style, escape};

/// `3 file /var/log/x (write, at 12 B)`.
pub(crate) fn line(open: &OpenFile, style: Style) -> String {
    let (kind, name, notes) = describe(&open.file);
    let mut line = format!("{} {kind}", open.fd);
    if let Some(name) = name.filter(|name| !name.is_empty()) {
        line = format!("{line} {}", style.name(&escape(&name)));
    }
    let notes: Vec<String> = notes.into_iter().flatten().collect();
    if notes.is_empty() { line } else { format!("{line} ({})", notes.join(", ")) }
}

/// What it is, its name, and what else there is to say.
fn describe(file: &File) -> (&'static str, Option<String>, Vec<Option<String>>) {
    let say = |text: &str| Some(text.to_owned());
    match file {
        File::Regular { path, access, position, deleted, external, .. } => {
            let at = (*position > 0).then(|| format!("at {}", bytes(*position)));
            let deleted = deleted.then(|| "deleted".to_owned());
            let external = external.then(|| "external".to_owned());
            ("file", Some(path.clone()), vec![access_word(*access), at, deleted, external])
        }
        File::Pipe { id, access, unread } => {
            ("pipe", Some(id.to_string()), vec![access_word(*access), amount(*unread, "unread")])
        }
        File::Fifo { path, unread } => ("fifo", path.clone(), vec![amount(*unread, "unread")]),
        File::Socket { protocol, state, local, remote, unread, unsent } => {
            let ends = remote.map_or_else(|| local.to_string(), |remote| format!("{local} -> {remote}"));
            let state = say(state_word(*state));
            (protocol_word(*protocol), Some(ends), vec![state, amount(*unread, "unread"), amount(*unsent, "unsent")])
        }
        File::Unix { kind, state, path, inode, peer } => {
            let name = path.clone().unwrap_or_else(|| inode.to_string());
            let peer = peer.map(|peer| format!("to {peer}"));
            ("unix", Some(name), vec![say(unix_word(*kind)), say(state_word(*state)), peer])
        }
        File::Netlink { protocol } => ("netlink", None, vec![Some(format!("protocol {protocol}"))]),
        File::Packet { protocol } => ("packet", None, vec![Some(format!("protocol {protocol}"))]),
        File::Terminal { path } => ("terminal", path.clone(), Vec::new()),
        File::Memfd { name, size } => ("memfd", name.clone(), vec![size.map(bytes)]),
        File::Eventfd { counter } => ("eventfd", None, vec![Some(format!("counter {counter}"))]),
        File::Timerfd { clock } => ("timerfd", None, vec![Some(format!("clock {clock}"))]),
        File::Namespace { kind } => ("namespace", kind.map(str::to_owned), Vec::new()),
        File::Epoll => ("epoll", None, Vec::new()),
        File::Signalfd => ("signalfd", None, Vec::new()),
        File::Inotify => ("inotify", None, Vec::new()),
        File::Fanotify => ("fanotify", None, Vec::new()),
        File::Tun => ("tun", None, Vec::new()),
        File::External => ("external file", None, Vec::new()),
        File::Unknown { number } => ("unknown", None, vec![Some(format!("type {number}"))]),
    }
}

fn amount(number: u64, what: &str) -> Option<String> {
    (number > 0).then(|| format!("{} {what}", bytes(number)))
}

fn access_word(access: Access) -> Option<String> {
    let word = match access {
        Access::Read => "read",
        Access::Write => "write",
        Access::ReadWrite => "read and write",
        Access::None => return None,
    };
    Some(word.to_owned())
}

fn protocol_word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::UdpLite => "udplite",
        Protocol::Raw => "raw",
        Protocol::Other => "socket",
    }
}

fn unix_word(kind: UnixKind) -> &'static str {
    match kind {
        UnixKind::Stream => "stream",
        UnixKind::Datagram => "datagram",
        UnixKind::SeqPacket => "seqpacket",
        UnixKind::Other => "other",
    }
}

/// As ss(8) has them.
fn state_word(state: SocketState) -> &'static str {
    match state {
        SocketState::Established => "established",
        SocketState::SynSent => "syn-sent",
        SocketState::SynRecv => "syn-recv",
        SocketState::FinWait1 => "fin-wait-1",
        SocketState::FinWait2 => "fin-wait-2",
        SocketState::TimeWait => "time-wait",
        SocketState::Close => "unconnected",
        SocketState::CloseWait => "close-wait",
        SocketState::LastAck => "last-ack",
        SocketState::Listen => "listening",
        SocketState::Closing => "closing",
        SocketState::Unknown => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(file: File) -> String {
        line(&OpenFile { fd: 3, file }, Style::none())
    }

    #[test]
    fn a_line_says_what_a_descriptor_is() {
        let regular = File::Regular {
            path: "/a\x1bb".into(),
            access: Access::Write,
            position: 12,
            size: None,
            deleted: true,
            external: false,
        };
        assert_eq!(text(regular), "3 file /a\\u{1b}b (write, at 12 B, deleted)");
        assert_eq!(text(File::Pipe { id: 7, access: Access::Read, unread: 5 }), "3 pipe 7 (read, 5 B unread)");
        assert_eq!(text(File::Epoll), "3 epoll");
        let address = runtime_core::images::Address { ip: std::net::Ipv4Addr::LOCALHOST.into(), port: 80 };
        let (protocol, state) = (Protocol::Tcp, SocketState::Listen);
        let socket = File::Socket { protocol, state, local: address, remote: None, unread: 0, unsent: 0 };
        assert_eq!(text(socket), "3 tcp 127.0.0.1:80 (listening)");
        let unix =
            File::Unix { kind: UnixKind::Stream, state: SocketState::Established, path: None, inode: 9, peer: Some(8) };
        assert_eq!(text(unix), "3 unix 9 (stream, established, to 8)");
    }
}
