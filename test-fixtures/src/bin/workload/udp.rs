//! UDP: a server that counts what it answers.

use std::net::UdpSocket;

use crate::Outcome;
use crate::args::Args;
use crate::rounds::Rounds;

/// Answers each datagram with itself and the number of different ones, in a row, that came: the count is in memory alone.
pub(crate) fn udp(args: &Args) -> Outcome {
    let mut rounds = Rounds::new(args)?;
    let socket = UdpSocket::bind(args.text("listen")?)?;
    let mut last = None;
    loop {
        let mut number = [0; 8];
        let (_, from) = socket.recv_from(&mut number)?;
        if last != Some(number) {
            last = Some(number);
            rounds.done()?;
        }
        socket.send_to(&[number, rounds.count().to_be_bytes()].concat(), from)?;
    }
}
