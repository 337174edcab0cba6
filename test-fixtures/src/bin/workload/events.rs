//! What a process waits for by descriptors: one epoll with an eventfd, a timerfd, a signalfd and an inotify in it.

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::fs::inotify;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};

use crate::args::Args;
use crate::rounds::{Rounds, expect};
use crate::{Error, Outcome};

/// What the epoll gives for each.
const EVENT: u64 = 1;
const TIMER: u64 = 2;
const SIGNAL: u64 = 3;
const WATCH: u64 = 4;

struct Sources {
    epoll: OwnedFd,
    event: OwnedFd,
    timer: OwnedFd,
    signal: SignalFd,
    watch: OwnedFd,
    watched: String,
}

impl Sources {
    fn new(watched: &str) -> Result<Self, Error> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGUSR2);
        mask.thread_block()?;
        fs::write(watched, "")?;
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&watch, watched, inotify::WatchFlags::CLOSE_WRITE)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        // Far longer than a dump: a periodic one that expires in it, and so was not read, CRIU restores without its period.
        let every = Timespec { tv_sec: 1, tv_nsec: 500_000_000 };
        let timed = Itimerspec { it_interval: every, it_value: every };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &timed)?;
        // It always has what the last round has put in: that is state of its own, which a new one has not.
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let signal = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let readable = epoll::EventFlags::IN;
        epoll::add(&epoll, &event, epoll::EventData::new_u64(EVENT), readable)?;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), readable)?;
        epoll::add(&epoll, &signal, epoll::EventData::new_u64(SIGNAL), readable)?;
        epoll::add(&epoll, &watch, epoll::EventData::new_u64(WATCH), readable)?;
        Ok(Self { epoll, event, timer, signal, watch, watched: watched.to_owned() })
    }

    /// Makes each of them readable, and waits until all have been told.
    fn round(&self, number: u64) -> Result<(), Error> {
        raise(Signal::SIGUSR2)?;
        fs::write(&self.watched, "again")?;
        let mut missing = vec![EVENT, TIMER, SIGNAL, WATCH];
        while !missing.is_empty() {
            let mut events = Vec::with_capacity(4);
            let second = Timespec { tv_sec: 5, tv_nsec: 0 };
            let told = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&second));
            match told {
                // The dump of a process in epoll_wait ends the wait.
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
                Ok(0) => return Err(format!("the epoll does not tell of {missing:?}").into()),
                Ok(_) => {}
            }
            for event in &events {
                let data = event.data.u64();
                // Some are told again before the last has come, for there is more in them.
                if missing.contains(&data) {
                    self.take(data, number)?;
                    missing.retain(|one| *one != data);
                }
            }
        }
        Ok(())
    }

    fn take(&self, which: u64, number: u64) -> Result<(), Error> {
        let mut found = [0; 8];
        match which {
            EVENT => {
                rustix::io::read(&self.event, &mut found)?;
                expect("what the eventfd gives", number, u64::from_ne_bytes(found))
            }
            TIMER => rustix::io::read(&self.timer, &mut found).map(drop).map_err(Into::into),
            SIGNAL => {
                let signal = self.signal.read_signal()?.map(|info| info.ssi_signo);
                expect("what the signalfd gives", Some(Signal::SIGUSR2 as u32), signal)
            }
            WATCH => {
                let mut buffer = [MaybeUninit::uninit(); 1024];
                let mut reader = inotify::Reader::new(&self.watch, &mut buffer);
                expect("what the inotify gives", inotify::ReadFlags::CLOSE_WRITE, reader.next()?.events())
            }
            other => Err(format!("the epoll tells of {other}, which nobody gave it").into()),
        }
    }
}

pub(crate) fn events(args: &Args) -> Outcome {
    let mut rounds = Rounds::new(args)?;
    let sources = Sources::new(args.text("watched")?)?;
    loop {
        rustix::io::write(&sources.event, &(rounds.count() + 1).to_ne_bytes())?;
        rounds.done()?;
        sources.round(rounds.count())?;
    }
}
