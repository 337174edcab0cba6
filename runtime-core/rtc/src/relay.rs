//! Copying between our streams and a process's, each direction in a thread, so that a slow reader holds up nothing else.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::error::Error;

const BUFFER: usize = 32 << 10;

/// Copies our standard input until its end, or the process's. Nobody waits for it: a read of a terminal cannot be undone.
pub(crate) fn input(sink: OwnedFd) {
    std::thread::spawn(move || {
        // Whichever end fails, there is nobody left to type for.
        std::io::copy(&mut std::io::stdin().lock(), &mut File::from(sink)).ok();
    });
}

/// Copies a process's output.
pub(crate) struct Output {
    thread: JoinHandle<()>,
    /// Closed to say that the process has ended.
    running: OwnedFd,
}

impl Output {
    pub(crate) fn start(source: OwnedFd, sink: File) -> Result<Self, Error> {
        let (ended, running) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|err| Error::system("make a pipe")(err.into()))?;
        let thread = std::thread::spawn(move || copy(&mut File::from(source), &ended, sink));
        Ok(Self { thread, running })
    }

    /// Waits for what the process has written. What others write who have the stream still open is not waited for.
    pub(crate) fn finish(self) {
        drop(self.running);
        if self.thread.join().is_err() {
            tracing::error!("output is lost: its copier panicked");
        }
    }
}

fn copy(source: &mut File, ended: &OwnedFd, mut sink: File) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let mut fds = [PollFd::new(source, PollFlags::IN), PollFd::new(ended, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            Err(_) => return,
            Ok(_) => {}
        }
        if fds.first().is_none_or(|fd| fd.revents().is_empty()) {
            return;
        }
        // The last slave of a terminal that is closed makes the read fail.
        let Ok(length @ 1..) = source.read(&mut buffer) else { return };
        if sink.write_all(buffer.get(..length).unwrap_or_default()).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_was_written_arrives_and_a_stream_that_is_held_open_is_left() {
        let (source, mut writer) = std::io::pipe().unwrap();
        let (mut reader, sink) = std::io::pipe().unwrap();
        let output = Output::start(source.into(), File::from(OwnedFd::from(sink))).unwrap();
        writer.write_all(b"last words").unwrap();
        output.finish();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "last words");
        assert!(writer.write_all(b"more").is_err());
    }
}
