//! Two ends of a TCP connection that notice a lost, doubled or late byte.

use std::collections::VecDeque;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
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

/// Sends numbers one after another and checks each that comes back, with `window` of them under way. Says at the end, and at
/// each answer that took longer than all before, the number and the longest wait in milliseconds; with `gap-ms` also each wait
/// that was longer, in microseconds. Ends when the file `stop` is there, and all answers are.
/// The file `file` has the last number that came back.
pub(crate) fn talk(args: &Args) -> Outcome {
    let interval = Duration::from_millis(args.number_or("interval-ms", 10)?);
    let count: u64 = args.number_or("count", u64::MAX)?;
    let window: u64 = args.number_or("window", 1)?;
    let gap = Duration::from_millis(args.number_or("gap-ms", u64::MAX)?);
    let stop = args.get("stop").map(Path::new);
    let file = args.get("file").map(fs::File::create).transpose()?;
    let mut stream = TcpStream::connect(args.text("connect")?)?;
    stream.set_nodelay(true)?;
    let mut talk = Talk {
        answers: stream.try_clone()?,
        answered: 0,
        under_way: VecDeque::new(),
        longest: Duration::ZERO,
        gap,
        file,
    };
    let mut number = 0;
    while number < count && !stop.is_some_and(Path::exists) {
        talk.under_way.push_back(Instant::now());
        stream.write_all(&number.to_be_bytes())?;
        number += 1;
        while number - talk.answered >= window {
            talk.answer()?;
        }
        sleep(interval);
    }
    while talk.answered < number {
        talk.answer()?;
    }
    say(&format!("talked {number} longest-ms {}\n", talk.longest.as_millis()))?;
    Ok(ExitCode::SUCCESS)
}

struct Talk {
    answers: TcpStream,
    answered: u64,
    /// When those were sent that have no answer yet.
    under_way: VecDeque<Instant>,
    longest: Duration,
    gap: Duration,
    file: Option<fs::File>,
}

impl Talk {
    fn answer(&mut self) -> Result<(), Box<dyn std::error::Error>> {
        let mut answer = [0; 8];
        self.answers.read_exact(&mut answer)?;
        let (number, answer) = (self.answered, u64::from_be_bytes(answer));
        if answer != number {
            return Err(format!("expected {number}, got {answer}").into());
        }
        self.answered += 1;
        if let Some(file) = &self.file {
            file.write_all_at(format!("{number:020}\n").as_bytes(), 0)?;
        }
        let waited = self.under_way.pop_front().map(|sent| sent.elapsed()).unwrap_or_default();
        if waited > self.longest {
            self.longest = waited;
            say(&format!("number {number} longest-ms {}\n", waited.as_millis()))?;
        }
        if waited > self.gap {
            say(&format!("gap-us {}\n", waited.as_micros()))?;
        }
        Ok(())
    }
}
