//! Freezing: `cgroup.freeze` and `cgroup.events` on v2, `freezer.state` on v1.
//!
//! v2 tells by POLLPRI on `cgroup.events` when the last process has stopped. v1 does not tell, and can hang in FREEZING
//! when a process forks or sits in an uninterruptible wait at the wrong moment: it is asked again and again, and now and
//! then thawed for a moment so that a process that cannot be frozen gets out of where it is (runc does the same).

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Error, file};

pub(super) enum Freezer<'a> {
    V1(&'a Path),
    V2(&'a Path),
}

impl Freezer<'_> {
    pub(super) fn freeze(&self, start: Instant, deadline: Duration) -> Result<(), Error> {
        let frozen = match self {
            Self::V1(path) => freeze_v1(path, start + deadline),
            Self::V2(path) => set_v2(path, true, start + deadline),
        };
        match frozen {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.roll_back(deadline)),
            Err(err) => {
                if let Err(rollback) = self.write_thawed() {
                    tracing::warn!(%rollback, "the way back from a failed freeze failed");
                }
                Err(err)
            }
        }
    }

    pub(super) fn thaw(&self, start: Instant, deadline: Duration) -> Result<(), Error> {
        let thawed = match self {
            Self::V1(path) => thaw_v1(path, start + deadline)?,
            Self::V2(path) => set_v2(path, false, start + deadline)?,
        };
        if thawed { Ok(()) } else { Err(self.timeout("thawed", deadline, None)) }
    }

    /// On v1 `freezer.state` shows a frozen parent too; `freezer.self_freezing` is this cgroup's own wish. On v2
    /// `cgroup.freeze` is. A cgroup that is on its way into the freezer counts only when it has arrived.
    pub(super) fn frozen(&self) -> Result<bool, Error> {
        match self {
            Self::V1(path) => {
                let own = file::read(&path.join("freezer.self_freezing"))?;
                let state = file::read(&path.join("freezer.state"))?;
                Ok(own.is_some_and(|own| own.trim() == "1") && state.is_some_and(|state| state.trim() == "FROZEN"))
            }
            Self::V2(path) => {
                let own = file::read(&path.join("cgroup.freeze"))?;
                if own.is_none_or(|own| own.trim() != "1") {
                    return Ok(false);
                }
                let events = file::read_pairs(&path.join("cgroup.events"))?;
                Ok(events.is_some_and(|events| events.get("frozen") == 1))
            }
        }
    }

    /// Whether a process that is in it does not run, by its own wish or by one above it.
    pub(super) fn holds(&self) -> Result<bool, Error> {
        match self {
            Self::V1(path) => {
                let state = file::read(&path.join("freezer.state"))?;
                Ok(state.is_some_and(|state| state.trim() != "THAWED"))
            }
            Self::V2(path) => {
                let events = file::read_pairs(&path.join("cgroup.events"))?;
                Ok(events.is_some_and(|events| events.get("frozen") == 1))
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        let (Self::V1(path) | Self::V2(path)) = self;
        path
    }

    fn roll_back(&self, deadline: Duration) -> Error {
        let rollback = self.write_thawed().err().map(Box::new);
        self.timeout("frozen", deadline, rollback)
    }

    fn write_thawed(&self) -> Result<(), Error> {
        match self {
            Self::V1(path) => file::write(&path.join("freezer.state"), "THAWED"),
            Self::V2(path) => file::write(&path.join("cgroup.freeze"), "0"),
        }
    }

    fn timeout(&self, wanted: &'static str, deadline: Duration, rollback: Option<Box<Error>>) -> Error {
        Error::FreezeTimeout { path: self.path().to_owned(), wanted, deadline, rollback }
    }
}

/// Whether the subtree got there before `until`.
fn set_v2(path: &Path, freeze: bool, until: Instant) -> Result<bool, Error> {
    let wish = path.join("cgroup.freeze");
    // Opened before the write: a change between the two must wake the poll.
    let events = path.join("cgroup.events");
    let mut file = match File::open(&events) {
        Ok(file) => file,
        Err(err) if !freeze && file::errno(&err) == Errno::ENOENT => return Ok(true),
        Err(err) => return Err(Error::Read { path: events, err: file::errno(&err) }),
    };
    file::write(&wish, if freeze { "1" } else { "0" })?;
    let wanted = if freeze { "frozen 1" } else { "frozen 0" };
    loop {
        let mut text = String::new();
        let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
        match read.map_err(|err| file::errno(&err)) {
            Ok(_) if text.lines().any(|line| line == wanted) => return Ok(true),
            // All processes have died and the cgroup was removed: there is nothing left to thaw.
            Err(Errno::ENODEV) if !freeze => return Ok(true),
            Ok(_) => {}
            Err(err) => return Err(Error::Read { path: events, err }),
        }
        let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
            return Ok(false);
        };
        // Rounded up: a poll of 0 ms would spin for the last one.
        let timeout = PollTimeout::try_from(left.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLPRI)], timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(err) => return Err(Error::Wait { path: events, err }),
        }
    }
}

fn freeze_v1(path: &Path, until: Instant) -> Result<bool, Error> {
    let state = path.join("freezer.state");
    for attempt in 0_u32.. {
        // Writing it again makes the kernel look again for processes that have appeared since.
        file::write(&state, "FROZEN")?;
        // Most cgroups are frozen within microseconds; a sleep on the first looks would cost the most in pause.
        if attempt >= 5 {
            thread::sleep(Duration::from_micros(10 * u64::from(attempt.min(100))));
        }
        let now = file::read(&state)?.ok_or_else(|| Error::Read { path: state.clone(), err: Errno::ENOENT })?;
        match now.trim() {
            "FROZEN" => return Ok(true),
            "FREEZING" => {}
            // Somebody else has thawed it meanwhile; the next write asks again.
            "THAWED" => {}
            other => return Err(file::parse_error(&state, other)),
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        if attempt % 50 == 49 {
            file::write(&state, "THAWED")?;
            thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(false)
}

fn thaw_v1(path: &Path, until: Instant) -> Result<bool, Error> {
    let state = path.join("freezer.state");
    let own = path.join("freezer.self_freezing");
    loop {
        match file::write(&state, "THAWED") {
            Err(Error::Write { err: Errno::ENOENT | Errno::ENODEV, .. }) => return Ok(true),
            other => other?,
        }
        // The state of a thawed cgroup below a frozen one stays FROZEN; its own wish is what a thaw can change.
        let (now, wish) = (file::read(&state)?, file::read(&own)?);
        if now.is_none_or(|now| now.trim() == "THAWED") || wish.is_some_and(|wish| wish.trim() == "0") {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        thread::sleep(Duration::from_micros(200));
    }
}
