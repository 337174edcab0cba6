//! The way of a client's bytes to a process's standard input, which can be stopped for a checkpoint.
//!
//! While somebody has the turn nothing is written to the process and nothing is read from the fifo. What a terminal did not
//! take yet is kept with the turn, so that whoever has it sees every byte in one place: in hand, or still in the fifo.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::errno::Errno;
use runtime_core::container::{Held, Input};
use tokio::sync::Mutex;

use super::pump::{self, TTY_BUFFER};
use super::watched::Watched;

/// Whose turn it is to move bytes, with those that were read and not yet written.
pub(super) type Turn = Arc<Mutex<Vec<u8>>>;

/// A process's standard input, from the client's fifo on.
#[derive(Debug)]
pub(crate) struct Feed {
    from: Watched,
    turn: Turn,
}

impl Feed {
    /// `first` is written before anything that comes from the fifo; to a terminal only.
    pub(super) fn new(from: Watched, first: Vec<u8>) -> Self {
        Self { from, turn: Arc::new(Mutex::new(first)) }
    }

    /// Moves everything into a pipe, without copying it, until the fifo has ended.
    ///
    /// # Errors
    /// As [`pump::splice`].
    pub(super) async fn move_to_pipe(&self, to: &Watched) -> io::Result<()> {
        pump::splice_in_turn(&self.from, to, &self.turn).await
    }

    /// Types everything, until the fifo has ended.
    ///
    /// # Errors
    /// read(2)'s and write(2)'s.
    pub(super) async fn type_to_terminal(&self, to: &Watched) -> io::Result<()> {
        loop {
            self.type_in_hand(to).await?;
            let mut guard = self.from.readable().await?;
            let mut in_hand = self.turn.lock().await;
            let mut buffer = [0; TTY_BUFFER];
            match pump::read_now(&self.from, &mut buffer) {
                Ok(0) => return Ok(()),
                Ok(filled) => in_hand.extend_from_slice(&buffer[..filled]),
                Err(Errno::EAGAIN) => guard.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(err) => return Err(err.into()),
            }
        }
    }

    async fn type_in_hand(&self, to: &Watched) -> io::Result<()> {
        while !self.turn.lock().await.is_empty() {
            let mut guard = to.writable().await?;
            let mut in_hand = self.turn.lock().await;
            match nix::unistd::write(to, &in_hand) {
                Ok(written) => drop(in_hand.drain(..written)),
                Err(Errno::EAGAIN) => guard.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(err) => return Err(err.into()),
            }
        }
        Ok(())
    }
}

impl Input for Feed {
    /// Not to be called on a thread of the event loop.
    fn hold(&self) -> io::Result<Held> {
        let turn = Arc::clone(&self.turn).blocking_lock_owned();
        let source = self.from.as_fd().try_clone_to_owned()?;
        Ok(Held { pending: turn.clone(), source: Some(source), writer: Box::new(turn) })
    }
}
