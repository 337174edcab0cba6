//! A dump that is held: who may decide over it, and when.
//!
//! ```text
//!            CRIU's post-dump             prepare            keep_frozen             leave            commit
//!   Dumping ─────────────────> Held ─────────────> Preparing ──────────> Prepared ──────────> Left ──────────> Committing
//!      │                        │ abort, the lease passes,                  │ │ commit                           ^  │
//!      │ abort                  │ CRIU dies                           abort │ └──────────────────────────────────┘  │
//!      └────────────────────────┴────────────────────────────────────> Aborting                                     │
//!                                                                           │ the dump has ended                    │
//!                                                                           v                                       v
//!                                                                     Over(Resumed)                          Over(Committed)
//! ```
//! The decision is made here and carried out in the thread that checkpoints, which waits in [`Holder::hold`]. In Preparing
//! that thread lets go of what would thaw the container if this process died; only then is the client told that the
//! destination may start its copy. A Prepared dump waits for ever: nobody here can know whether that copy runs. In Left it is
//! known that it does, and it reads its memory from the processes here: they can only end.

use std::error::Error as StdError;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use runtime_core::container::{HeldDump, Holder};
use tokio::sync::watch;

use crate::error::{Error, Result};

/// Where a migration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Dumping,
    Held { until: Instant },
    Preparing,
    Prepared,
    Left,
    Committing,
    Aborting,
    Over(End),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Committed,
    /// Or never stopped.
    Resumed,
}

/// What the client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Renew,
    Prepare,
    Leave,
    Commit,
    Abort,
}

impl Phase {
    /// Where a wish leads; `None` if it is not for this phase. A wish that is fulfilled already changes nothing.
    fn after(self, wish: Wish, lease: Duration) -> Option<Self> {
        match (self, wish) {
            (Self::Held { .. }, Wish::Renew) => Some(Self::Held { until: Instant::now() + lease }),
            (phase, Wish::Renew) => Some(phase),
            (Self::Held { .. }, Wish::Prepare) => Some(Self::Preparing),
            (phase @ (Self::Preparing | Self::Prepared), Wish::Prepare) => Some(phase),
            (Self::Prepared | Self::Left, Wish::Leave) => Some(Self::Left),
            (Self::Prepared | Self::Left, Wish::Commit) => Some(Self::Committing),
            (phase @ (Self::Committing | Self::Over(End::Committed)), Wish::Commit) => Some(phase),
            (Self::Dumping | Self::Held { .. } | Self::Preparing | Self::Prepared, Wish::Abort) => Some(Self::Aborting),
            (phase @ (Self::Aborting | Self::Over(End::Resumed)), Wish::Abort) => Some(phase),
            (_, Wish::Prepare | Wish::Leave | Wish::Commit | Wish::Abort) => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Dumping => "being dumped",
            Self::Held { .. } => "held",
            Self::Preparing | Self::Prepared => "prepared",
            Self::Left => "left",
            Self::Committing => "being committed",
            Self::Aborting => "being aborted",
            Self::Over(End::Committed) => "committed",
            Self::Over(End::Resumed) => "aborted",
        }
    }
}

/// Why the dump was taken back.
#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error("the migration was aborted")]
    Aborted,
    #[error("the client of the migration has not been heard of for {0:?}")]
    LeasePassed(Duration),
    #[error("criu has died while its dump was held")]
    CriuDied,
    #[error("wait for a decision over a migration")]
    Poll(#[source] Errno),
}

/// A migration of one container.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) migration: String,
    lease: Duration,
    /// Since when the container stands still.
    frozen: OnceLock<Instant>,
    phase: watch::Sender<Phase>,
    /// Wakes the thread that waits.
    waker: PipeWriter,
    woken: PipeReader,
}

impl Hold {
    pub(crate) fn new(migration: String, lease: Duration) -> Result<Self> {
        let (woken, waker) = std::io::pipe().map_err(Error::Hold)?;
        let phase = watch::Sender::new(Phase::Dumping);
        Ok(Self { migration, lease, frozen: OnceLock::new(), phase, waker, woken })
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// How long the container has stood still.
    pub(crate) fn frozen_for(&self) -> Duration {
        self.frozen.get().map(Instant::elapsed).unwrap_or_default()
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.phase(), Phase::Over(_))
    }

    pub(crate) fn renew(&self) -> Phase {
        // Renewing is for every phase.
        self.wish(Wish::Renew).ok();
        self.phase()
    }

    /// Returns once the container stays frozen whatever becomes of this process.
    ///
    /// # Errors
    /// The dump is not held any more, or not yet.
    pub(crate) async fn prepare(&self) -> Result<()> {
        self.wish(Wish::Prepare)?;
        match self.reached(|phase| !matches!(phase, Phase::Preparing)).await {
            Phase::Prepared | Phase::Left | Phase::Committing | Phase::Over(End::Committed) => Ok(()),
            phase => Err(self.refused(phase)),
        }
    }

    /// # Errors
    /// It was not prepared.
    pub(crate) fn leave(&self) -> Result<()> {
        self.wish(Wish::Leave)
    }

    /// # Errors
    /// It was not prepared.
    pub(crate) async fn commit(&self) -> Result<()> {
        self.wish(Wish::Commit)?;
        self.reached(|phase| matches!(phase, Phase::Over(_))).await;
        Ok(())
    }

    /// # Errors
    /// It was committed, or has left.
    pub(crate) async fn abort(&self) -> Result<()> {
        self.wish(Wish::Abort)?;
        self.reached(|phase| matches!(phase, Phase::Over(_))).await;
        Ok(())
    }

    /// Resolves when the dump is held, or will not be.
    pub(crate) async fn held(&self) {
        self.reached(|phase| !matches!(phase, Phase::Dumping)).await;
    }

    /// Whether the dump that has ended was to end the container.
    pub(crate) fn committing(&self) -> bool {
        matches!(self.phase(), Phase::Committing)
    }

    /// The dump has ended, and the container with it or not.
    pub(crate) fn end(&self, end: End) {
        self.phase.send_replace(Phase::Over(end));
    }

    async fn reached(&self, there: impl Fn(&Phase) -> bool) -> Phase {
        let mut phase = self.phase.subscribe();
        // The sender is a field of this, so that it is there for as long.
        let reached = phase.wait_for(|phase| there(phase)).await.map(|phase| *phase);
        reached.unwrap_or_else(|_| self.phase())
    }

    fn wish(&self, wish: Wish) -> Result<()> {
        let mut refused = None;
        self.phase.send_if_modified(|phase| match phase.after(wish, self.lease) {
            Some(next) => std::mem::replace(phase, next) != next,
            None => {
                refused = Some(*phase);
                false
            }
        });
        (&self.waker).write_all(&[0]).map_err(Error::Hold)?;
        refused.map_or(Ok(()), |phase| Err(self.refused(phase)))
    }

    fn refused(&self, phase: Phase) -> Error {
        Error::MigrationPhase { migration: self.migration.clone(), phase: phase.name() }
    }

    /// One step of the thread that waits: what it has to return, or until when it may sleep.
    fn step(&self, held: &HeldDump<'_>) -> Result<Option<Duration>, Reason> {
        match self.phase() {
            Phase::Dumping | Phase::Held { .. } => {
                let (mut left, mut passed) = (Duration::ZERO, false);
                self.phase.send_if_modified(|phase| {
                    if let Phase::Held { until } = *phase {
                        left = until.saturating_duration_since(Instant::now());
                        passed = left.is_zero();
                    }
                    if passed {
                        *phase = Phase::Aborting;
                    }
                    passed
                });
                if passed { Err(Reason::LeasePassed(self.lease)) } else { Ok(Some(left)) }
            }
            Phase::Preparing => {
                held.keep_frozen();
                self.phase.send_if_modified(|phase| {
                    let preparing = *phase == Phase::Preparing;
                    if preparing {
                        *phase = Phase::Prepared;
                    }
                    preparing
                });
                Ok(Some(Duration::ZERO))
            }
            Phase::Prepared | Phase::Left => Ok(Some(Duration::MAX)),
            Phase::Committing => Ok(None),
            Phase::Aborting | Phase::Over(_) => Err(Reason::Aborted),
        }
    }

    /// Until there is news; `Err` if CRIU has died and that matters.
    fn sleep(&self, held: &HeldDump<'_>, limit: Duration) -> Result<(), Reason> {
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::NONE);
        // Whether CRIU lives is no question once the destination may have started.
        let watched = matches!(self.phase(), Phase::Held { .. });
        let criu = if watched { PollFlags::POLLIN } else { PollFlags::empty() };
        let mut fds = [PollFd::new(self.woken.as_fd(), PollFlags::POLLIN), PollFd::new(held.criu(), criu)];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(err) => return Err(Reason::Poll(err)),
        }
        let readable = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
        if fds.first().is_some_and(readable) {
            (&self.woken).read(&mut [0; 64]).map_err(|_| Reason::Poll(Errno::EIO))?;
        }
        if watched && fds.get(1).is_some_and(readable) {
            return Err(Reason::CriuDied);
        }
        Ok(())
    }

    fn decision(&self, held: &HeldDump<'_>) -> Result<(), Reason> {
        self.phase.send_if_modified(|phase| {
            let dumping = *phase == Phase::Dumping;
            if dumping {
                *phase = Phase::Held { until: Instant::now() + self.lease };
            }
            dumping
        });
        while let Some(limit) = self.step(held)? {
            if let Err(reason) = self.sleep(held, limit) {
                let mut prepared = false;
                self.phase.send_if_modified(|phase| {
                    prepared = !matches!(phase, Phase::Held { .. });
                    if !prepared {
                        *phase = Phase::Aborting;
                    }
                    !prepared
                });
                // The client was faster: its wish counts.
                if !prepared {
                    return Err(reason);
                }
            }
        }
        Ok(())
    }
}

impl Holder for Hold {
    fn frozen(&self) -> Result<(), Box<dyn StdError + Send + Sync>> {
        self.frozen.get_or_init(Instant::now);
        // Who has aborted meanwhile does not want the dump any more.
        match self.phase() {
            Phase::Aborting => Err(Box::new(Reason::Aborted)),
            _ => Ok(()),
        }
    }

    fn hold(&self, held: &HeldDump<'_>) -> Result<(), Box<dyn StdError + Send + Sync>> {
        let decided = self.decision(held);
        tracing::info!(migration = self.migration, commit = decided.is_ok(), "decided over a migration");
        Ok(decided?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(1);

    /// For each phase where the wish leads, `-` where it is refused.
    fn table(wish: Wish) -> Vec<&'static str> {
        let held = Phase::Held { until: Instant::now() };
        let all =
            [Phase::Dumping, held, Phase::Preparing, Phase::Prepared, Phase::Left, Phase::Committing, Phase::Aborting];
        let over = [Phase::Over(End::Committed), Phase::Over(End::Resumed)];
        let next = |phase: Phase| phase.after(wish, LEASE).map_or("-", Phase::name);
        all.into_iter().chain(over).map(next).collect()
    }

    #[test]
    fn only_what_is_prepared_can_be_committed() {
        let all = table(Wish::Commit);
        assert_eq!(
            all,
            ["-", "-", "-", "being committed", "being committed", "being committed", "-", "committed", "-"]
        );
    }

    #[test]
    fn only_what_is_prepared_can_leave() {
        assert_eq!(table(Wish::Leave), ["-", "-", "-", "left", "left", "-", "-", "-", "-"]);
    }

    #[test]
    fn what_has_left_or_is_committed_cannot_be_aborted() {
        let all = table(Wish::Abort);
        let aborted = "being aborted";
        assert_eq!(all, [aborted, aborted, aborted, aborted, "-", "-", aborted, "-", "aborted"]);
    }

    #[test]
    fn only_what_is_held_can_be_prepared() {
        assert_eq!(table(Wish::Prepare), ["-", "prepared", "prepared", "prepared", "-", "-", "-", "-", "-"]);
    }

    #[test]
    fn a_lease_is_renewed_while_it_is_held_and_not_after() {
        let past = Instant::now();
        let renewed = Phase::Held { until: past }.after(Wish::Renew, LEASE);
        assert!(matches!(renewed, Some(Phase::Held { until }) if until > past));
        assert_eq!(Phase::Prepared.after(Wish::Renew, LEASE), Some(Phase::Prepared));
        assert_eq!(Phase::Over(End::Resumed).after(Wish::Renew, LEASE), Some(Phase::Over(End::Resumed)));
    }

    #[tokio::test]
    async fn another_decision_is_refused_by_name() {
        let hold = Hold::new("m1".to_owned(), LEASE).unwrap();
        let refused = hold.commit().await.unwrap_err().to_string();
        assert_eq!(refused, "migration m1 is being dumped");
        hold.end(End::Resumed);
        hold.abort().await.unwrap();
        assert!(hold.prepare().await.is_err() && hold.commit().await.is_err());
    }
}
