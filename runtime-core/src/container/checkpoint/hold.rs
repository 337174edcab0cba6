//! A dump that waits for a decision: the images are complete, the processes stand still, and whether they end or run on
//! depends on somebody else. This is the source's half of a migration's two-phase commit.
//!
//! ```text
//!   CRIU                     this process                        whoever decides
//!   writes the images
//!   ── post-dump ──────────> rtc.json, Holder::hold ───────────> …
//!   <── answer ───────────── Ok:  the processes end <─────────── commit
//!                            Err: they run on       <─────────── abort
//! ```
//! CRIU waits for the answer as long as it takes. When it dies meanwhile its answer is no use any more, but the cgroup is
//! frozen by us and not by it: the container still stands still, and the decision is carried out without it.

use std::cell::RefCell;
use std::error::Error as StdError;
use std::fmt;
use std::os::fd::BorrowedFd;

use super::guard::Guard;

/// Decides over a dump.
pub trait Holder: fmt::Debug + Send + Sync {
    /// Called once, when all images are written, in the thread that checkpoints; may block for as long as it likes.
    ///
    /// # Errors
    /// The container is to run on: the checkpoint fails with this.
    fn hold(&self, held: &HeldDump<'_>) -> Result<(), Box<dyn StdError + Send + Sync>>;
}

/// A container that stands still, dumped.
#[derive(Debug)]
pub struct HeldDump<'a> {
    pub(super) criu: BorrowedFd<'a>,
    pub(super) guard: &'a RefCell<Option<Guard>>,
}

impl HeldDump<'_> {
    /// CRIU's pidfd: readable when it has died.
    pub fn criu(&self) -> BorrowedFd<'_> {
        self.criu
    }

    /// Until here the container runs on by itself if this process dies; from here on it stays frozen then, for another copy
    /// of it may run. May be called twice.
    pub fn keep_frozen(&self) {
        drop(self.guard.take());
    }
}
