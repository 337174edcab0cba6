//! Two ends of a TCP connection that notice a lost, doubled or late byte.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::args::Args;
use crate::{Outcome, say};

/// Sends everything back, on every connection.
pub(crate) fn echo(args: &Args) -> Outcome {
    let listener = TcpListener::bind(args.text("listen")?)?;
    if let Some(path) = args.get("ready") {
        fs::write(path, "ready\n")?;
    }
    say("ready\n")?;
    for stream in listener.incoming() {
        let stream = stream?;
        std::thread::spawn(move || send_back(stream));
    }
    Ok(ExitCode::SUCCESS)
}

fn send_back(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    // A peer that went away ends its thread, and nothing else.
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

/// Sends numbers one after another and checks each that comes back. Says at the end, and at each answer that took longer
/// than all before, the number and the longest wait in milliseconds.
pub(crate) fn talk(args: &Args) -> Outcome {
    let interval = Duration::from_millis(args.number_or("interval-ms", 10)?);
    let count: u64 = args.number_or("count", u64::MAX)?;
    let mut stream = TcpStream::connect(args.text("connect")?)?;
    stream.set_nodelay(true)?;
    let mut longest = Duration::ZERO;
    for number in 0..count {
        let sent = Instant::now();
        stream.write_all(&number.to_be_bytes())?;
        let mut answer = [0; 8];
        stream.read_exact(&mut answer)?;
        if u64::from_be_bytes(answer) != number {
            return Err(format!("sent {number}, got {}", u64::from_be_bytes(answer)).into());
        }
        if sent.elapsed() > longest {
            longest = sent.elapsed();
            say(&format!("number {number} longest-ms {}\n", longest.as_millis()))?;
        }
        sleep(interval);
    }
    say(&format!("talked {count} longest-ms {}\n", longest.as_millis()))?;
    Ok(ExitCode::SUCCESS)
}
