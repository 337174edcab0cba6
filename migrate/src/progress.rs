//! What a move tells while it is under way, to whoever shows it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Serialize, Serializer};

use crate::source::{Round, Way};

/// How far a move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing is touched yet.
    Check,
    Image,
    Layer,
    /// Of pre-copy, from 1 on.
    Round(u32),
    /// From here to the start at the destination the container stands still.
    Dump,
    Transfer,
    Restore,
    /// Of post-copy: the container runs at the destination, and its memory follows.
    Follow,
    Commit,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Check => "check",
            Self::Image => "image",
            Self::Layer => "layer",
            Self::Round(number) => return write!(f, "round {number}"),
            Self::Dump => "dump",
            Self::Transfer => "transfer",
            Self::Restore => "restore",
            Self::Follow => "follow",
            Self::Commit => "commit",
        })
    }
}

impl Serialize for Phase {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event<'a> {
    Phase(Phase),
    /// A round of pre-copy is at the destination.
    Round(&'a Round),
    /// How the memory goes.
    Way(Way),
    /// What is not as it could be, in one line.
    Warning(&'a str),
}

/// Shows it. Called from the move itself: it is to return at once.
pub trait Observer: fmt::Debug + Send + Sync {
    fn tell(&self, event: &Event<'_>);
}

/// Where a move tells how far it is; by default nowhere.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    observer: Option<Arc<dyn Observer>>,
    sent: Arc<AtomicU64>,
}

impl Progress {
    pub fn new(observer: Arc<dyn Observer>, sent: Arc<AtomicU64>) -> Self {
        Self { observer: Some(observer), sent }
    }

    pub(crate) fn tell(&self, event: &Event<'_>) {
        if let Some(observer) = &self.observer {
            observer.tell(event);
        }
    }

    /// Counts bytes that have left this host.
    pub(crate) fn count(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }
}
