//! Bytes under way within a container: in pipes, FIFOs and unix sockets there is always something that was written and
//! not read yet, and what is read is the next number.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::process::{Command, ExitCode, Stdio};

use rustix::fs::{CWD, Mode, mkfifoat};

use crate::args::Args;
use crate::rounds::{Rounds, expect};
use crate::{Error, Outcome};

/// As many numbers are under way at any time.
const AHEAD: u64 = 50;

/// One way for numbers.
struct Way<W, R> {
    named: &'static str,
    writer: W,
    reader: R,
    sent: u64,
    received: u64,
}

impl<W: Write, R: Read> Way<W, R> {
    fn new(named: &'static str, writer: W, reader: R) -> Self {
        Self { named, writer, reader, sent: 0, received: 0 }
    }

    fn step(&mut self) -> Result<(), Error> {
        while self.sent <= self.received + AHEAD {
            self.writer.write_all(&self.sent.to_be_bytes())?;
            self.sent += 1;
        }
        let mut number = [0; 8];
        self.reader.read_exact(&mut number)?;
        expect(self.named, self.received, u64::from_be_bytes(number))?;
        self.received += 1;
        Ok(())
    }
}

/// There and back through another process.
pub(crate) fn pipes(args: &Args) -> Outcome {
    let mut rounds = Rounds::new(args)?;
    let mut child = Command::new("/proc/self/exe").arg("relay").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (Some(writer), Some(reader)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("the relay has no pipes".into());
    };
    let mut way = Way::new("pipes", writer, reader);
    loop {
        way.step()?;
        rounds.done()?;
    }
}

/// Passes on what comes.
pub(crate) fn relay() -> Outcome {
    io::copy(&mut io::stdin().lock(), &mut io::stdout().lock())?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn fifo(args: &Args) -> Outcome {
    let mut rounds = Rounds::new(args)?;
    let path = args.text("fifo")?;
    mkfifoat(CWD, path, Mode::from_raw_mode(0o600))?;
    // Read and write: neither end waits for the other to be opened.
    let reader = OpenOptions::new().read(true).write(true).open(path)?;
    let mut way = Way::new("fifo", OpenOptions::new().write(true).open(path)?, reader);
    loop {
        way.step()?;
        rounds.done()?;
    }
}

/// A pair, a connection by path and one by abstract name, each with an echo at its end, and a pair of datagram sockets.
pub(crate) fn unix(args: &Args) -> Outcome {
    let mut rounds = Rounds::new(args)?;
    let (writer, reader) = UnixStream::pair()?;
    let mut pair = Way::new("pair", writer, reader);
    let path = args.text("socket")?;
    let mut by_path = echoed("by path", UnixListener::bind(path)?, || UnixStream::connect(path))?;
    let name = SocketAddr::from_abstract_name("workload")?;
    let mut by_name = echoed("by name", UnixListener::bind_addr(&name)?, || UnixStream::connect_addr(&name))?;
    let (to, from) = UnixDatagram::pair()?;
    let (mut sent, mut received) = (0_u64, 0_u64);
    loop {
        pair.step()?;
        by_path.step()?;
        by_name.step()?;
        // A datagram socket's queue has room for ten by default.
        while sent < received + 5 {
            to.send(&sent.to_be_bytes())?;
            sent += 1;
        }
        let mut number = [0; 9];
        expect("the length of a datagram", 8, from.recv(&mut number)?)?;
        expect("datagram", received.to_be_bytes().as_slice(), &number[..8])?;
        received += 1;
        rounds.done()?;
    }
}

fn echoed(
    named: &'static str,
    listener: UnixListener,
    connect: impl FnOnce() -> io::Result<UnixStream>,
) -> Result<Way<UnixStream, UnixStream>, Error> {
    let writer = connect()?;
    let (mut accepted, _) = listener.accept()?;
    std::thread::spawn(move || {
        // It goes on listening.
        let _listener = listener;
        let mut back = accepted.try_clone()?;
        io::copy(&mut accepted, &mut back)
    });
    let reader = writer.try_clone()?;
    Ok(Way::new(named, writer, reader))
}

/// A server and a client of it, over the loopback device.
pub(crate) fn loopback(args: &Args) -> Outcome {
    let mut rounds = Rounds::new(args)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let writer = TcpStream::connect(listener.local_addr()?)?;
    writer.set_nodelay(true)?;
    let (accepted, _) = listener.accept()?;
    let mut way = Way::new("loopback", writer, accepted);
    loop {
        way.step()?;
        rounds.done()?;
    }
}
