//! A connection to systemd.
//!
//! ```text
//!   us                                            systemd, or the bus
//!   \0 AUTH EXTERNAL (our uid in hex; none in a user namespace, and DATA instead)
//!   BEGIN                             ----------->
//!                                     <----------- OK
//!   messages                          ----------->
//!   Hello, AddMatch, Subscribe        ----------->  on the bus alone
//! ```
//! **Which socket.** Root speaks to systemd itself, at `/run/systemd/private`, as systemctl does, and a user to the user's
//! own: no bus is in between that could be absent, restarted or full, systemd sends its signals there without being asked
//! to, and nothing has to be said before the first call. runc and crun go over the bus, which costs three more round
//! trips; we do so where there is no private socket, as in a container that was given the host's bus.
//!
//! **Which library.** zvariant marshals, which is the larger and more delicate part; it is here already, by way of
//! cgroups-rs. The rest of its zbus starts threads and an executor for what is one call at a time here, and knows no
//! deadlines. rustbus has both, but is at rest since 2023 and brings older copies of crates that we have.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zvariant::Type;

use super::Error;
use super::address::{Bus, Sockets};
use super::message::{self, HEAD, Kind, Message, Target};

/// For each answer of systemd.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);

const BUS: Target =
    Target { destination: "org.freedesktop.DBus", path: "/org/freedesktop/DBus", interface: "org.freedesktop.DBus" };

/// What the bus is to pass on to us.
const MATCH: &str = "type='signal',sender='org.freedesktop.systemd1',path='/org/freedesktop/systemd1',\
                     interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";

/// The longest line of the handshake.
const LINE: usize = 512;

#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    address: PathBuf,
    serial: u32,
    /// There is a bus between us and systemd.
    pub(super) by_bus: bool,
    /// The name that who answered our last call has on the bus. Any user can send us a signal there, past what we asked the
    /// bus for; answers come from whom we called alone.
    peer: String,
    /// Read along with the end of the handshake.
    ahead: VecDeque<u8>,
    /// Signals that came while an answer was waited for.
    signals: Vec<Message>,
}

impl Connection {
    pub(super) fn new(bus: Bus) -> Result<Self, Error> {
        let (stream, address, by_bus) = reach(bus.sockets()?)?;
        let mut connection = Self {
            stream,
            address,
            serial: 0,
            by_bus,
            peer: String::new(),
            ahead: VecDeque::new(),
            signals: Vec::new(),
        };
        // What our uid is to a user's systemd, which may be outside of our user namespace, the kernel tells it.
        connection.authenticate(bus == Bus::System || !crate::caller::in_user_namespace())?;
        if by_bus {
            let (_name,): (String,) = connection.call(BUS, "Hello", "", &())?;
            let () = connection.call(BUS, "AddMatch", "", &(MATCH,))?;
        }
        Ok(connection)
    }

    #[cfg(test)]
    pub(super) fn of_stream(stream: UnixStream) -> Self {
        let (address, peer, ahead) = (PathBuf::from("test"), String::new(), VecDeque::new());
        Self { stream, address, serial: 0, by_bus: false, peer, ahead, signals: Vec::new() }
    }

    /// Whether the process that listens there has a pid in our pid namespace (unix(7), SO_PEERCRED).
    pub(super) fn shares_pids(&self) -> Result<bool, Error> {
        let failed = |err: nix::errno::Errno| Error::Socket {
            operation: "ask for the peer",
            address: self.address.clone(),
            err: err.into(),
        };
        Ok(getsockopt(&self.stream, PeerCredentials).map_err(failed)?.pid() != 0)
    }

    /// The mechanism by which the other side asks the kernel who we are. It may be told, and compares that.
    fn authenticate(&mut self, tell: bool) -> Result<(), Error> {
        let until = Instant::now() + DEADLINE;
        let uid: String =
            rustix::process::geteuid().as_raw().to_string().bytes().map(|byte| format!("{byte:02x}")).collect();
        // Together, as sd-bus does it: what systemd reads along with the last line of the handshake it looks at no sooner than
        // something more comes, so the first message has to be apart from that.
        let lines = match tell {
            true => format!("\0AUTH EXTERNAL {uid}\r\nBEGIN\r\n"),
            false => "\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n".to_owned(),
        };
        self.write(lines.as_bytes())?;
        let expected: &[&str] = if tell { &["OK "] } else { &["DATA", "OK "] };
        for beginning in expected {
            let answer = self.read_line(until)?;
            if !answer.starts_with(beginning) {
                return Err(Error::Refused { address: self.address.clone(), answer });
            }
        }
        Ok(())
    }

    /// Of the handshake.
    fn read_line(&mut self, until: Instant) -> Result<String, Error> {
        loop {
            let ahead = self.ahead.make_contiguous();
            let end = match ahead.windows(2).position(|end| end == b"\r\n") {
                Some(at) => at + 2,
                None if ahead.len() >= LINE => ahead.len(),
                None => {
                    let mut bytes = [0; LINE];
                    let count = self.read_some(&mut bytes, "the handshake", until)?;
                    self.ahead.extend(bytes.get(..count).unwrap_or_default());
                    continue;
                }
            };
            // A signal may have come right behind it, which stays.
            let line: Vec<u8> = self.ahead.drain(..end).collect();
            return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
    }

    /// Calls a method and waits for its answer. `unit` is for the error's words.
    pub(super) fn call<A, R>(
        &mut self,
        target: Target,
        method: &'static str,
        unit: &str,
        arguments: &A,
    ) -> Result<R, Error>
    where
        A: Serialize + Type,
        R: DeserializeOwned + Type,
    {
        self.serial += 1;
        let serial = self.serial;
        let bytes = message::call(target, method, serial, arguments)?;
        self.write(&bytes)?;
        let until = Instant::now() + DEADLINE;
        loop {
            let message = self.receive(method, until)?;
            match &message.kind {
                Kind::Return(to) if *to == serial => {
                    self.peer.clone_from(&message.sender);
                    return message.arguments(method);
                }
                Kind::Error(to, name) if *to == serial => {
                    let (unit, name, message) = (unit.to_owned(), name.clone(), message.text());
                    return Err(Error::Call { operation: method, unit, name, message });
                }
                Kind::Signal(_) if self.is_peer(&message) => self.signals.push(message),
                // An answer to a call that was given up.
                Kind::Return(_) | Kind::Error(..) | Kind::Signal(_) | Kind::Other => {}
            }
        }
    }

    /// The next signal of that name, also one that has come already.
    pub(super) fn signal(&mut self, name: &'static str, until: Instant) -> Result<Message, Error> {
        let wanted = |message: &Message| matches!(&message.kind, Kind::Signal(one) if one == name);
        if let Some(at) = self.signals.iter().position(wanted) {
            return Ok(self.signals.remove(at));
        }
        loop {
            let message = self.receive(name, until)?;
            if wanted(&message) && self.is_peer(&message) {
                return Ok(message);
            }
        }
    }

    /// Without a bus there is nobody else.
    fn is_peer(&self, message: &Message) -> bool {
        !self.by_bus || message.sender == self.peer
    }

    fn receive(&mut self, operation: &'static str, until: Instant) -> Result<Message, Error> {
        let mut head = [0; HEAD];
        self.read(&mut head, operation, until)?;
        let mut bytes = vec![0; Message::length(&head, operation)?];
        let (start, rest) = bytes.split_at_mut(HEAD);
        start.copy_from_slice(&head);
        self.read(rest, operation, until)?;
        Message::parse(&bytes, operation)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let written = self.stream.write_all(bytes);
        written.map_err(|err| Error::Socket { operation: "write", address: self.address.clone(), err })
    }

    /// All of `buffer`, or an error at the deadline.
    fn read(&mut self, mut buffer: &mut [u8], operation: &'static str, until: Instant) -> Result<(), Error> {
        while !buffer.is_empty() {
            let count = match self.ahead.is_empty() {
                true => self.read_some(buffer, operation, until)?,
                false => self.ahead.read(buffer).unwrap_or(0),
            };
            buffer = buffer.split_at_mut(count).1;
        }
        Ok(())
    }

    /// At least one byte of what comes, or an error at the deadline.
    fn read_some(&mut self, buffer: &mut [u8], operation: &'static str, until: Instant) -> Result<usize, Error> {
        let failed = |err| Error::Socket { operation: "read", address: self.address.clone(), err };
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Timeout { operation, deadline: DEADLINE });
            }
            self.stream.set_read_timeout(Some(left)).map_err(failed)?;
            match self.stream.read(buffer) {
                Ok(0) => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => return Ok(count),
                // The last is the timeout's, at which the loop looks again.
                Err(err) if matches!(err.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(err) => return Err(failed(err)),
            }
        }
    }
}

/// A stream, where it leads, and whether a bus is there.
fn reach(sockets: Sockets) -> Result<(UnixStream, PathBuf, bool), Error> {
    let mut failed = Error::NoUser;
    for (socket, by_bus) in
        sockets.own.map(|own| (own, false)).into_iter().chain(sockets.bus.into_iter().map(|bus| (bus, true)))
    {
        match open(&socket) {
            Ok(stream) => return Ok((stream, socket, by_bus)),
            Err(err) if by_bus || absent(&err) => failed = Error::Connect { address: socket, err },
            Err(err) => return Err(Error::Connect { address: socket, err }),
        }
    }
    Err(failed)
}

/// Nobody is there, or it is not for us: it is private to root.
fn absent(err: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
    matches!(err.kind(), NotFound | ConnectionRefused | PermissionDenied)
}

fn open(path: &Path) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // Also for connect(2), which waits while the other side has too many that it has not accepted yet (unix(7)).
    set_socket_timeout(&socket, Timeout::Send, Some(DEADLINE))?;
    let address = match path.as_os_str().as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddrUnix::new_abstract_name(name)?,
        None => SocketAddrUnix::new(path)?,
    };
    connect(&socket, &address)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};
    use std::thread;

    use super::super::message::peer::{answer_by, read_call, signal_by};
    use super::*;

    /// A connection to a peer of the test's own.
    fn connected(peer: impl FnOnce(UnixStream) + Send + 'static) -> (Connection, thread::JoinHandle<()>) {
        let (stream, theirs) = UnixStream::pair().unwrap();
        let peer = thread::spawn(move || peer(theirs));
        (Connection::of_stream(stream), peer)
    }

    #[test]
    fn the_handshake_names_the_user_in_hex() {
        let (mut connection, peer) = connected(|stream| {
            let mut lines = io::BufReader::new(&stream);
            let mut line = String::new();
            lines.read_line(&mut line).unwrap();
            let uid = rustix::process::geteuid().as_raw().to_string();
            let hex: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
            assert_eq!(line, format!("\0AUTH EXTERNAL {hex}\r\n"));
            // Not only after our answer.
            line.clear();
            lines.read_line(&mut line).unwrap();
            assert_eq!(line, "BEGIN\r\n");
            (&stream)
                .write_all(&[b"OK 0123\r\n".as_slice(), &signal_by(":1.2", "JobRemoved", &(7_u32,))].concat())
                .unwrap();
        });
        connection.authenticate(true).unwrap();
        // What came with it is not lost.
        let signal = connection.signal("JobRemoved", Instant::now() + DEADLINE).unwrap();
        assert_eq!(signal.arguments::<(u32,)>("test").unwrap(), (7,));
        peer.join().unwrap();
        let (mut connection, peer) = connected(|stream| {
            (&stream).write_all(b"REJECTED KERBEROS\r\n").unwrap();
        });
        let err = connection.authenticate(true).unwrap_err();
        assert!(matches!(&err, Error::Refused { answer, .. } if answer == "REJECTED KERBEROS"), "{err}");
        peer.join().unwrap();
    }

    #[test]
    fn who_we_are_is_left_to_the_kernel() {
        for (answers, accepted) in [("DATA\r\nOK 0123\r\n", true), ("REJECTED EXTERNAL\r\n", false)] {
            let (mut connection, peer) = connected(move |mut stream| {
                let mut said = [0; 29];
                stream.read_exact(&mut said).unwrap();
                assert_eq!(&said, b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n");
                stream.write_all(answers.as_bytes()).unwrap();
            });
            assert_eq!(connection.authenticate(false).is_ok(), accepted);
            peer.join().unwrap();
        }
    }

    #[test]
    fn the_first_bus_that_listens_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        let name = directory.path().file_name().unwrap().to_string_lossy().into_owned();
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        let bus = || vec![path("none"), PathBuf::from(format!("@{name}"))];
        let (_, reached, by_bus) = reach(Sockets { own: Some(path("private")), bus: bus() }).unwrap();
        assert!(by_bus && reached == bus()[1], "{}", reached.display());
        drop(listener);
        let err = reach(Sockets { own: None, bus: bus() }).unwrap_err();
        assert!(matches!(&err, Error::Connect { address, .. } if *address == bus()[1]), "{err}");
    }

    #[test]
    fn an_answer_has_a_deadline_and_an_end() {
        let (mut connection, peer) = connected(|mut stream| {
            stream.read_exact(&mut [0]).unwrap();
        });
        let started = Instant::now();
        let until = started + Duration::from_millis(30);
        assert!(matches!(connection.receive("test", until), Err(Error::Timeout { .. })));
        assert!(started.elapsed() >= Duration::from_millis(30));
        connection.write(&[0]).unwrap();
        peer.join().unwrap();
        let err = connection.receive("test", Instant::now() + DEADLINE).unwrap_err();
        assert!(matches!(err, Error::Socket { operation: "read", .. }), "{err}");
    }

    #[test]
    fn a_signal_of_another_on_the_bus_is_none() {
        let (mut connection, peer) = connected(|mut stream| {
            let (serial, _) = read_call(&stream);
            for message in [
                signal_by(":1.66", "JobRemoved", &(1_u32,)),
                answer_by(":1.2", serial, &()),
                signal_by(":1.66", "JobRemoved", &(2_u32,)),
                signal_by(":1.2", "JobRemoved", &(3_u32,)),
            ] {
                stream.write_all(&message).unwrap();
            }
            let (serial, _) = read_call(&stream);
            for message in [
                signal_by(":1.66", "JobRemoved", &(4_u32,)),
                signal_by(":1.2", "JobRemoved", &(5_u32,)),
                answer_by(":1.2", serial, &()),
            ] {
                stream.write_all(&message).unwrap();
            }
        });
        connection.by_bus = true;
        let mut next = |method| {
            let () = connection.call(BUS, method, "", &()).unwrap();
            let (number,): (u32,) =
                connection.signal("JobRemoved", Instant::now() + DEADLINE).unwrap().arguments("test").unwrap();
            number
        };
        assert_eq!(next("Subscribe"), 3);
        assert_eq!(next("StartTransientUnit"), 5);
        peer.join().unwrap();
    }

    #[test]
    fn a_socket_without_a_listener_is_an_absent_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        assert!(absent(&open(&path).unwrap_err()));
        drop(UnixListener::bind(&path).unwrap());
        assert!(absent(&open(&path).unwrap_err()));
    }

    #[test]
    fn a_peer_of_our_own_pid_namespace_has_a_pid() {
        let (connection, peer) = connected(drop);
        assert!(connection.shares_pids().unwrap());
        peer.join().unwrap();
    }
}
