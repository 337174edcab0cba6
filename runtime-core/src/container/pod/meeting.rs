//! Where the threads of a pod's members wait for one another.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::PodError;
use crate::Pid;

/// Where all members have to be before one goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Stage {
    Begun,
    Frozen,
    Held,
    Restored,
    Ended,
}

#[derive(Debug)]
pub(super) struct Meeting {
    members: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    come: HashMap<Stage, Vec<String>>,
    /// The last stage that all have reached.
    open: Option<Stage>,
    /// The member that will not come.
    failed: Option<String>,
    /// Whose namespaces can be joined.
    pids: HashMap<String, Pid>,
}

impl State {
    fn check(&self) -> Result<(), PodError> {
        self.failed.as_ref().map_or(Ok(()), |member| Err(PodError::Failed { member: member.clone() }))
    }
}

impl Meeting {
    pub(super) fn new(members: usize) -> Self {
        Self { members, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Returns when all have come, and `last`, which the last one does for all, is done.
    ///
    /// # Errors
    /// One of the others has failed, or what `last` fails with. In both cases nobody goes on.
    pub(super) fn reach(
        &self,
        member: &str,
        stage: Stage,
        last: impl FnOnce() -> Result<(), PodError>,
    ) -> Result<(), PodError> {
        self.wait(member, stage, None, last)
    }

    /// # Errors
    /// As [`Meeting::reach`]; and [`PodError::Late`] with those that have not come within `limit`.
    pub(super) fn reach_within(
        &self,
        member: &str,
        stage: Stage,
        limit: Duration,
        last: impl FnOnce() -> Result<(), PodError>,
    ) -> Result<(), PodError> {
        self.wait(member, stage, Some(limit), last)
    }

    fn wait(
        &self,
        member: &str,
        stage: Stage,
        limit: Option<Duration>,
        last: impl FnOnce() -> Result<(), PodError>,
    ) -> Result<(), PodError> {
        let mut state = self.state();
        state.check()?;
        let come = state.come.entry(stage).or_default();
        come.push(member.to_owned());
        if come.len() == self.members {
            drop(state);
            let done = last();
            let mut state = self.state();
            match &done {
                Ok(()) => state.open = Some(stage),
                Err(_) => state.failed = Some(member.to_owned()),
            }
            self.changed.notify_all();
            return done;
        }
        let until = limit.map(|limit| Instant::now() + limit);
        // Who has come to an open stage goes on, whatever happens to the others meanwhile.
        while state.open < Some(stage) {
            state.check()?;
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero())
                && state.come.get(&stage).is_some_and(|come| come.len() < self.members)
            {
                let come = state.come.remove(&stage).unwrap_or_default();
                state.failed = Some(member.to_owned());
                self.changed.notify_all();
                return Err(PodError::Late { come, waited: limit.unwrap_or_default() });
            }
            state = match left.filter(|left| !left.is_zero()) {
                Some(left) => self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
        Ok(())
    }

    /// A member will not come to a stage that is not open; the first one that says so counts.
    pub(super) fn fail(&self, member: &str, last_stage: Stage) {
        let mut state = self.state();
        if state.open < Some(last_stage) && state.failed.is_none() {
            state.failed = Some(member.to_owned());
            self.changed.notify_all();
        }
    }

    pub(super) fn announce(&self, member: &str, pid: Pid) {
        self.state().pids.insert(member.to_owned(), pid);
        self.changed.notify_all();
    }

    /// The init of a member whose namespaces are there.
    ///
    /// # Errors
    /// One of the members has failed.
    pub(super) fn pid_of(&self, member: &str) -> Result<Pid, PodError> {
        let mut state = self.state();
        loop {
            state.check()?;
            if let Some(pid) = state.pids.get(member) {
                return Ok(*pid);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The member whose failure is that of all.
    pub(super) fn failed(&self) -> Option<String> {
        self.state().failed.clone()
    }

    pub(super) fn is_open(&self, stage: Stage) -> bool {
        self.state().open >= Some(stage)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn nobody_goes_on_before_the_last_one_is_done() {
        let (meeting, done) = (Meeting::new(3), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for name in ["a", "b", "c"] {
                let (meeting, done) = (&meeting, &done);
                scope.spawn(move || {
                    let last = || {
                        done.fetch_add(1, Ordering::SeqCst);
                        Ok(())
                    };
                    meeting.reach(name, Stage::Frozen, last).unwrap();
                    assert_eq!(done.load(Ordering::SeqCst), 1);
                });
            }
        });
    }

    #[test]
    fn a_failure_reaches_who_waits_and_who_comes_later() {
        let meeting = Meeting::new(3);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| meeting.reach("a", Stage::Held, || Ok(())));
            meeting.fail("b", Stage::Held);
            assert!(matches!(waiting.join().unwrap(), Err(PodError::Failed { member }) if member == "b"));
        });
        let later = meeting.reach("c", Stage::Held, || Ok(()));
        assert!(matches!(later, Err(PodError::Failed { member }) if member == "b"));
    }

    #[test]
    fn who_does_not_come_is_not_waited_for_for_ever() {
        let meeting = Meeting::new(2);
        let late = meeting.reach_within("a", Stage::Begun, Duration::from_millis(5), || Ok(()));
        assert!(matches!(late, Err(PodError::Late { come, .. }) if come == ["a"]));
        assert!(meeting.reach_within("b", Stage::Begun, LONG, || Ok(())).is_err(), "it came too late");
    }

    #[test]
    fn what_is_decided_is_not_changed_by_a_failure() {
        let meeting = Meeting::new(1);
        meeting.reach("a", Stage::Held, || Ok(())).unwrap();
        meeting.fail("a", Stage::Held);
        assert_eq!(meeting.failed(), None);
    }

    #[test]
    fn namespaces_are_waited_for() {
        let (meeting, pid) = (Meeting::new(2), Pid::new(7).unwrap());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| meeting.pid_of("sandbox"));
            meeting.announce("sandbox", pid);
            assert_eq!(waiting.join().unwrap().unwrap(), pid);
        });
        meeting.fail("sandbox", Stage::Restored);
        assert!(meeting.pid_of("other").is_err());
    }
}
