//! Unix sockets to outside of the container: one end reports numbers, the other collects them.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use crate::args::Args;
use crate::rounds::{Rounds, expect};
use crate::{Error, Outcome};

enum End {
    Stream(UnixStream),
    Datagram(UnixDatagram),
}

impl End {
    /// To whoever listens at a path.
    fn connect(kind: &str, path: &str) -> Result<Self, Error> {
        match kind {
            "stream" => Ok(Self::Stream(UnixStream::connect(path)?)),
            "datagram" => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                Ok(Self::Datagram(socket))
            }
            other => Err(format!("--kind {other:?} is neither stream nor datagram").into()),
        }
    }

    /// Listens at a path, and says so.
    fn accept(kind: &str, path: &str, ready: &str) -> Result<Self, Error> {
        match kind {
            "stream" => {
                let listener = UnixListener::bind(path)?;
                fs::write(ready, "ready\n")?;
                Ok(Self::Stream(listener.accept()?.0))
            }
            "datagram" => {
                let socket = UnixDatagram::bind(path)?;
                fs::write(ready, "ready\n")?;
                Ok(Self::Datagram(socket))
            }
            other => Err(format!("--kind {other:?} is neither stream nor datagram").into()),
        }
    }

    fn send(&mut self, number: u64) -> io::Result<()> {
        match self {
            Self::Stream(stream) => stream.write_all(&number.to_be_bytes()),
            Self::Datagram(socket) => socket.send(&number.to_be_bytes()).map(drop),
        }
    }

    fn receive(&mut self) -> io::Result<u64> {
        let mut number = [0; 8];
        match self {
            Self::Stream(stream) => stream.read_exact(&mut number)?,
            Self::Datagram(socket) => socket.recv(&mut number).map(drop)?,
        }
        Ok(u64::from_be_bytes(number))
    }
}

/// Sends a number in each round.
pub(crate) fn report(args: &Args) -> Outcome {
    let mut rounds = Rounds::new(args)?;
    let mut end = End::connect(args.text("kind")?, args.text("socket")?)?;
    loop {
        end.send(rounds.count())?;
        rounds.done()?;
    }
}

/// Each number follows the one before.
pub(crate) fn collect(args: &Args) -> Outcome {
    let mut rounds = Rounds::new(args)?;
    let mut end = End::accept(args.text("kind")?, args.text("socket")?, args.text("ready")?)?;
    let mut next = end.receive()?;
    loop {
        rounds.done()?;
        next += 1;
        expect("the next number", next, end.receive()?)?;
    }
}
