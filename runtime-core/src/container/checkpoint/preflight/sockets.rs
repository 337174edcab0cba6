//! The sockets: which protocols, and who is at the other end.

use std::collections::{HashMap, HashSet};
use std::fs;

use rustix::fs::getxattr;

use super::Subject;
use super::files::{self, Socket, Sockets};
use super::processes::Process;
use super::report::{Finding, Kind, Report, Severity};
use super::unix_diag::{self, UnixSocket};

/// The kernel's names of the protocols that CRIU dumps.
const KNOWN: [&str; 12] =
    ["UDP", "UDPv6", "UDP-Lite", "UDPLITEv6", "RAW", "RAWv6", "PING", "PINGv6", "NETLINK", "PACKET", "TCP", "TCPv6"];

/// Those of address families that it does not know, and the one that it refuses by name. Of others it may know some.
const UNKNOWN: [&str; 5] = ["ALG", "AF_VSOCK", "XDP", "MPTCP", "MPTCPv6"];

/// States of a connection that has another end (net/tcp_states.h).
const CONNECTED: [&str; 7] = ["01", "02", "04", "05", "08", "09", "0B"];
const LISTENS: &str = "0A";

/// linux/net.h
const DATAGRAM: u8 = 2;

pub(super) fn check(subject: &Subject, processes: &[Process], sockets: &Sockets, report: &mut Report) {
    if sockets.is_empty() {
        return;
    }
    let (mut tcp, mut netlink, mut unix) = (false, false, Vec::new());
    for (inode, socket) in sockets {
        let Some(protocol) = protocol(socket.pid, &socket.fd) else { continue };
        match protocol.as_str() {
            "TCP" | "TCPv6" => tcp = true,
            "NETLINK" => netlink = true,
            "UNIX" | "UNIX-STREAM" => unix.push(*inode),
            protocol if KNOWN.contains(&protocol) => {}
            protocol => unknown(subject, socket.pid, &socket.fd, protocol, report),
        }
    }
    let mut seen = HashSet::new();
    let mut known = Some(HashMap::new());
    // Each network namespace once, through any process in it.
    for process in processes.iter().filter(|process| seen.insert(process.network.as_str())) {
        if tcp {
            connections(subject, process.pid, sockets, report);
        }
        if netlink {
            unread_messages(process.pid, sockets, report);
        }
        if let Some(all) = known.as_mut().filter(|_| !unix.is_empty()) {
            match unix_diag::sockets(process.pid) {
                Ok(sockets) => all.extend(sockets),
                // A kernel without CONFIG_UNIX_DIAG, where CRIU does not work either.
                Err(err) => {
                    tracing::debug!(%err, "cannot ask for the unix sockets of the container");
                    known = None;
                }
            }
        }
    }
    if let Some(known) = known.filter(|_| !subject.settings.names_external) {
        unix.into_iter().for_each(|inode| other_end(subject, inode, &known, sockets, report));
    }
}

fn protocol(pid: i32, fd: &str) -> Option<String> {
    let mut buffer = [0u8; 64];
    let (name, _) = getxattr(format!("/proc/{pid}/fd/{fd}"), "system.sockprotoname", &mut buffer[..])
        .map(|length| buffer.split_at(length.min(64)))
        .ok()?;
    // With its zero.
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    Some(String::from_utf8_lossy(name).into_owned())
}

fn unknown(subject: &Subject, pid: i32, fd: &str, protocol: &str, report: &mut Report) {
    let what = format!("fd {fd} is a socket of protocol {protocol}");
    let remedy = match protocol {
        "MPTCP" | "MPTCPv6" => "use plain TCP; run Go programs with GODEBUG=multipathtcp=0",
        _ => "close it before the checkpoint, or end the process",
    };
    let refuses = UNKNOWN.contains(&protocol) && !subject.settings.plugins;
    let severity = if refuses { Severity::Refuse } else { Severity::Warn };
    let why = "CRIU does not know sockets of this protocol".to_owned();
    report.add(Finding { kind: Kind::Socket, severity, pid: Some(pid), what, why, remedy: remedy.to_owned() });
}

fn connections(subject: &Subject, pid: i32, sockets: &Sockets, report: &mut Report) {
    for table in ["tcp", "tcp6"] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for connection in text.lines().skip(1).filter_map(Connection::parse) {
            let Some(socket) = sockets.get(&connection.inode) else { continue };
            let what = |is: &str| format!("fd {} is a TCP socket that {is}", socket.fd);
            if CONNECTED.contains(&connection.state) && !subject.settings.connections {
                let why = "a connection is only carried when it is asked for";
                let remedy = "checkpoint with tcp-established";
                report.refuse(Kind::TcpConnection, Some(socket.pid), what("is connected"), why, remedy);
            } else if connection.state == LISTENS && connection.waiting && !subject.settings.skip_in_flight {
                let why = "CRIU cannot carry it if it is still there at the dump";
                let remedy = "checkpoint with tcp-skip-in-flight, which drops it";
                report.warn(Kind::TcpConnection, Some(socket.pid), what("has a connection to accept"), why, remedy);
            }
        }
    }
}

/// What the kernel has answered, and nobody has read.
fn unread_messages(pid: i32, sockets: &Sockets, report: &mut Report) {
    let text = fs::read_to_string(format!("/proc/{pid}/net/netlink")).unwrap_or_default();
    for (inode, _) in text.lines().skip(1).filter_map(netlink_queue).filter(|(_, bytes)| *bytes > 0) {
        let Some(socket) = sockets.get(&inode) else { continue };
        let what = format!("fd {} is a netlink socket with messages that were not read", socket.fd);
        let remedy = "let the program read them, or close the socket";
        report.refuse(Kind::Socket, Some(socket.pid), what, "CRIU does not carry them", remedy);
    }
}

/// Inode and bytes to read, of a line of /proc/PID/net/netlink: `sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode`.
fn netlink_queue(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_ascii_whitespace().skip(4);
    let bytes = fields.next()?.parse().ok()?;
    Some((fields.nth(4)?.parse().ok()?, bytes))
}

/// A line of /proc/PID/net/tcp.
#[derive(Debug, PartialEq, Eq)]
struct Connection<'a> {
    state: &'a str,
    /// Of a socket that listens: a connection was not accepted yet.
    waiting: bool,
    inode: u64,
}

impl<'a> Connection<'a> {
    /// `sl local remote st tx:rx tr:when retransmit uid timeout inode`.
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace().skip(3);
        let (state, queues) = (fields.next()?, fields.next()?);
        let waiting = queues.split_once(':').is_some_and(|(_, received)| received.bytes().any(|byte| byte != b'0'));
        Some(Self { state, waiting, inode: fields.nth(4)?.parse().ok()? })
    }
}

/// `known` are all that were made in the container's network namespaces.
fn other_end(subject: &Subject, inode: u64, known: &HashMap<u64, UnixSocket>, sockets: &Sockets, report: &mut Report) {
    let Some(socket) = sockets.get(&inode) else { return };
    let Some(unix) = known.get(&inode) else {
        elsewhere(inode, socket, report);
        return;
    };
    let Some(peer) = unix.peer.filter(|peer| !sockets.contains_key(peer)) else { return };
    let (why, remedy) = match unix.kind == DATAGRAM {
        false => ("CRIU cannot dump half of a stream", "close the connection before the checkpoint"),
        true if !known.contains_key(&peer) => (
            "CRIU finds no socket that was made in another network namespace",
            "close it before the checkpoint, or let the container join the network namespace of the other end",
        ),
        true if !subject.settings.ext_unix_sk => {
            ("such a socket is only left out when it is asked for", "checkpoint with ext-unix-sk")
        }
        true => return,
    };
    let what = format!("fd {} is a unix socket whose other end is outside of the container", socket.fd);
    report.refuse(Kind::UnixSocket, Some(socket.pid), what, why, remedy);
}

/// A socket that was made in a network namespace in which no process of the container is.
fn elsewhere(inode: u64, socket: &Socket, report: &mut Report) {
    // Unless it was closed while we looked.
    let link = fs::read_link(format!("/proc/{}/fd/{}", socket.pid, socket.fd)).unwrap_or_default();
    if files::inode(&link.to_string_lossy(), "socket:[") != Some(inode) {
        return;
    }
    let what = format!("fd {} is a unix socket from outside of the container", socket.fd);
    let why = "CRIU cannot dump a socket of another network namespace";
    let remedy = "give the container pipes or a terminal instead";
    // One that the container has made and left CRIU may know.
    match unix_diag::own() {
        Ok(ours) if ours.contains_key(&inode) => {
            report.refuse(Kind::UnixSocket, Some(socket.pid), what, why, remedy);
        }
        _ => report.warn(Kind::UnixSocket, Some(socket.pid), what, why, remedy),
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn a_connection_is_read() {
        let line =
            "   1: 0100007F:1F90 00000000:0000 0A 00000000:00000002 00:00000000 00000000     0        0 4242 1 0";
        assert_eq!(Connection::parse(line), Some(Connection { state: "0A", waiting: true, inode: 4242 }));
        let line = "   0: 0100007F:1F90 0100007F:9 01 00000000:00000000 00:00000000 00000000     0        0 7 1 0";
        assert_eq!(Connection::parse(line), Some(Connection { state: "01", waiting: false, inode: 7 }));
    }

    #[test]
    fn a_queue_of_netlink_is_read() {
        let line = "00000000f07d5ba3 0   4242       00000000 768      0        0     2        0        27182   ";
        assert_eq!(netlink_queue(line), Some((27182, 768)));
        assert_eq!(netlink_queue("sk Eth Pid"), None);
    }

    #[test]
    fn the_kernel_names_the_protocol_of_a_socket() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&socket).to_string();
        let pid = std::process::id().cast_signed();
        assert_eq!(protocol(pid, &fd).as_deref(), Some("UDP"));
        assert_eq!(protocol(pid, "0"), None);
    }
}
