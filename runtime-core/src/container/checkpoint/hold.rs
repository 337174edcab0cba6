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

use std::cell::{Cell, RefCell};
use std::error::Error as StdError;
use std::fmt;
use std::os::fd::BorrowedFd;

use super::guard::Guard;
use crate::Pid;

/// Decides over a dump.
pub trait Holder: fmt::Debug + Send + Sync {
    /// Called once, when the processes stand still and CRIU has not begun; may block.
    ///
    /// # Errors
    /// The container is to run on: the checkpoint fails with this.
    fn frozen(&self) -> Result<(), Box<dyn StdError + Send + Sync>> {
        Ok(())
    }

    /// Whether the container that this checkpoint ends goes on elsewhere: the network that it had joined is unlocked then, and
    /// else stays locked for a restore here.
    fn goes_elsewhere(&self) -> bool {
        true
    }

    /// Called once, when all images are written, in the thread that checkpoints; may block for as long as it likes.
    ///
    /// # Errors
    /// The container is to run on: the checkpoint fails with this.
    fn hold(&self, held: &HeldDump<'_>) -> Result<(), Box<dyn StdError + Send + Sync>>;
}

/// Decides over a restore.
pub trait RestoreHolder: fmt::Debug + Send + Sync {
    /// Called once, when the namespaces are as they were, and can be joined; `pid` is that of the container's init.
    fn namespaces_made(&self, pid: Pid);

    /// Called once, when everything is restored, nothing runs and the network is still locked, in the thread that restores;
    /// may block for as long as it likes.
    ///
    /// # Errors
    /// The container is not to run: the restore fails with this.
    fn restored(&self) -> Result<(), Box<dyn StdError + Send + Sync>>;
}

/// A container that stands still, dumped.
#[derive(Debug)]
pub struct HeldDump<'a> {
    pub(super) criu: BorrowedFd<'a>,
    pub(super) guard: &'a RefCell<Option<Guard>>,
    pub(super) keep_images: &'a Cell<bool>,
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

    /// The images stay from here on, whatever becomes of CRIU: they are complete, and the processes may be gone.
    pub fn keep_images(&self) {
        self.keep_images.set(true);
    }
}
