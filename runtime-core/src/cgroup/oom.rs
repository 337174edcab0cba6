//! OOM kills: an eventfd on v1, inotify on `memory.events` on v2.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::{Error, file};

pub(super) const COUNTER_V1: &str = "memory.oom_control";
pub(super) const COUNTER_V2: &str = "memory.events";

/// `None` when there is no such file.
pub(super) fn kills(counter: &Path) -> Result<Option<u64>, Error> {
    Ok(file::read_pairs(counter)?.map(|pairs| pairs.get("oom_kill")))
}

/// Tells of OOM kills: an eventfd on v1, inotify on `memory.events` on v2. Readable when there may be news; owns its
/// descriptor.
#[derive(Debug)]
pub struct OomWatch {
    source: Source,
    /// `memory.oom_control` or `memory.events`.
    counter: PathBuf,
    seen: u64,
}

#[derive(Debug)]
enum Source {
    V1(EventFd),
    V2(Inotify),
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::V1(event) => event.as_fd(),
            Source::V2(inotify) => inotify.as_fd(),
        }
    }
}

impl OomWatch {
    /// The kernel signals the eventfd at each OOM of the cgroup, and once more when the cgroup is removed.
    pub(super) fn v1(dir: &Path) -> Result<Self, Error> {
        let counter = dir.join(COUNTER_V1);
        let fail = |err| Error::OomWatch { path: counter.clone(), err };
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(fail)?;
        let control: OwnedFd = File::open(&counter).map_err(|err| fail(file::errno(&err)))?.into();
        let line = format!("{} {}", event.as_fd().as_raw_fd(), control.as_raw_fd());
        file::write(&dir.join("cgroup.event_control"), &line)?;
        let mut watch = Self { source: Source::V1(event), counter, seen: 0 };
        watch.seen = watch.count()?.unwrap_or(0);
        Ok(watch)
    }

    /// `memory.events` tells of kills, `cgroup.events` of the last process' end.
    pub(super) fn v2(dir: &Path) -> Result<Self, Error> {
        let counter = dir.join(COUNTER_V2);
        let fail = |err| Error::OomWatch { path: counter.clone(), err };
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(fail)?;
        match inotify.add_watch(&counter, AddWatchFlags::IN_MODIFY) {
            Ok(_) => {}
            Err(Errno::ENOENT) => {
                let (limit, value, path) = ("OOM watch", COUNTER_V2.to_owned(), dir.to_owned());
                return Err(Error::MissingController {
                    limit,
                    value,
                    controller: "memory".into(),
                    version: "v2",
                    path,
                });
            }
            Err(err) => return Err(fail(err)),
        }
        inotify.add_watch(&dir.join("cgroup.events"), AddWatchFlags::IN_MODIFY).map_err(fail)?;
        let mut watch = Self { source: Source::V2(inotify), counter, seen: 0 };
        watch.seen = watch.count()?.unwrap_or(0);
        Ok(watch)
    }

    /// OOM kills since the last call; 0 after a wake-up that was none, `None` once the cgroup is gone. Never blocks.
    ///
    /// # Errors
    /// The counter or the descriptor cannot be read.
    pub fn read(&mut self) -> Result<Option<u64>, Error> {
        let signalled = self.drain()?;
        let Some(count) = self.count()? else { return Ok(None) };
        // v1 signals before it kills and counts, and not again: there the signal itself is the news.
        let kills = count.saturating_sub(self.seen).max(signalled);
        self.seen = self.seen.max(count).max(self.seen + signalled);
        Ok(Some(kills))
    }

    /// Empties the descriptor; returns how many OOMs it told of by itself, which only v1's does.
    fn drain(&self) -> Result<u64, Error> {
        loop {
            let read = match &self.source {
                Source::V1(event) => event.read().map(Some),
                Source::V2(inotify) => inotify.read_events().map(|_| None),
            };
            match read {
                // An eventfd is empty after one; inotify may have more.
                Ok(Some(signalled)) => return Ok(signalled),
                Ok(None) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(0),
                Err(err) => return Err(Error::OomWatch { path: self.counter.clone(), err }),
            }
        }
    }

    fn count(&self) -> Result<Option<u64>, Error> {
        kills(&self.counter)
    }
}
