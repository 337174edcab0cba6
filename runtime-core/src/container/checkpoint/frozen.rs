//! The container stands still before CRIU looks at it.
//!
//! CRIU can freeze a cgroup itself, but looks whether it has arrived every 100 ms; ours is there in less than one. CRIU
//! leaves a freezer as it finds it.
//!
//! A frozen cgroup is not always one that CRIU can dump. A parent waits for its vfork(2) child in the kernel, where no ptrace
//! reaches it, and the freezer counts it as frozen; with the child frozen too, before it executes, CRIU waits for the parent
//! until its patience of ten seconds ends, in vain ("Unseizable non-zombie N found, state D"). posix_spawn(3) is made that way,
//! and with it many shells and most language runtimes: of a shell that forks all the time one dump in some thirty failed.
//! So after the freeze such pairs are looked for, and if there is one the container runs for a moment and is frozen again.
//!
//! With a process that a signal has stopped the freezer of cgroup v1 is in CRIU's way ([`stopped`]): CRIU then holds the
//! processes itself, each by ptrace. A kernel that does not tell of a frozen process whether it is stopped is asked while the
//! processes run.

use std::collections::HashSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::error::CheckpointError;
use super::stopped::{self, Sight};
use crate::container::Container;
use crate::container::kill::DEADLINE;
use crate::sys::process::share_memory;
use crate::{Error, Pid, Result, stat};

/// How long a vfork may last: what the child executes has to be read from a disk, at the most.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the container runs between two freezes, at first and at the most.
const MOMENT: [Duration; 2] = [Duration::from_micros(200), Duration::from_millis(50)];

/// Who holds the processes while CRIU dumps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    Freezer,
    /// CRIU alone: the container is not frozen, and CRIU must not freeze it.
    Criu,
}

/// Freezes a container so that CRIU can dump it. One that is `paused` is frozen already, and is not thawed. With
/// `only_frozen` it is not dumped otherwise.
///
/// # Errors
/// The freezer's, [`CheckpointError::Vfork`] and [`CheckpointError::Stopped`]; the container is as it was then.
pub(super) fn freeze(container: &Container, paused: bool, only_frozen: bool) -> Result<Holds> {
    let cgroup = &container.state.cgroup;
    let refused = |err| Error::Checkpoint { id: container.id().clone(), operation: "checkpoint", err };
    let until = Instant::now() + PATIENCE;
    let [mut moment, longest] = MOMENT;
    // A paused one is not seen running.
    let mut seen_running = paused;
    loop {
        if !paused {
            cgroup.freeze(DEADLINE).map_err(container.cgroup_failed())?;
        }
        let obstacle = match look(container, seen_running) {
            Ok(None) => return Ok(Holds::Freezer),
            Ok(Some(obstacle)) => obstacle,
            Err(err) => return Err(with_roll_back(err, settle(container, paused))),
        };
        if !paused {
            cgroup.thaw(DEADLINE).map_err(container.cgroup_failed())?;
        }
        let pid = match obstacle {
            Obstacle::Stopped(pid) if only_frozen => return Err(refused(CheckpointError::Stopped { pid })),
            Obstacle::Stopped(pid) => {
                tracing::debug!(id = %container.id(), %pid, "a process is stopped: CRIU holds them without the freezer");
                return Ok(Holds::Criu);
            }
            Obstacle::Vfork(pid) if paused || Instant::now() >= until => {
                return Err(refused(CheckpointError::Vfork { pid }));
            }
            Obstacle::Vfork(pid) => pid,
            Obstacle::Unseen => {
                seen_running = true;
                match stopped::look(&container.pids()?) {
                    Sight::Stopped(pid) if only_frozen => return Err(refused(CheckpointError::Stopped { pid })),
                    Sight::Stopped(_) => return Ok(Holds::Criu),
                    Sight::NoneStopped | Sight::Hidden => continue,
                }
            }
        };
        tracing::debug!(id = %container.id(), %pid, "a vfork is under way: not yet");
        thread::sleep(moment);
        moment = (moment * 2).min(longest);
    }
}

/// Whatever CRIU did to the freezer: the container is to be frozen afterwards if it was before and lives, and else not.
/// What is to die must be thawed too (cgroup v1).
pub(super) fn settle(container: &Container, frozen: bool) -> Result<()> {
    let cgroup = &container.state.cgroup;
    let settled = match cgroup.frozen() {
        Ok(now) if now == frozen => Ok(()),
        Ok(_) if frozen => cgroup.freeze(DEADLINE),
        Ok(_) => cgroup.thaw(DEADLINE),
        Err(err) => Err(err),
    };
    settled.map_err(container.cgroup_failed())
}

pub(super) fn with_roll_back(err: Error, undone: Result<()>) -> Error {
    match undone {
        Ok(()) => err,
        Err(roll_back) => Error::RollBack { err: Box::new(err), roll_back: Box::new(roll_back) },
    }
}

/// What a frozen container has that CRIU cannot dump in the freezer.
enum Obstacle {
    Stopped(Pid),
    Vfork(Pid),
    /// Whether a process is stopped is to be looked at while it is not frozen.
    Unseen,
}

fn look(container: &Container, seen_running: bool) -> Result<Option<Obstacle>> {
    let pids = container.pids()?;
    if container.state.cgroup.has_v1_freezer() {
        match stopped::look(&pids) {
            Sight::NoneStopped => {}
            Sight::Stopped(pid) => return Ok(Some(Obstacle::Stopped(pid))),
            Sight::Hidden if seen_running => {}
            Sight::Hidden => return Ok(Some(Obstacle::Unseen)),
        }
    }
    Ok(in_vfork(container, pids).map(Obstacle::Vfork))
}

/// A process of the container that still has its parent's memory. One vfork without CLONE_VM, which no library makes, is
/// not seen.
fn in_vfork(container: &Container, pids: Vec<Pid>) -> Option<Pid> {
    let inside: HashSet<i32> = pids.iter().map(|pid| pid.as_raw()).collect();
    for pid in pids {
        let Some(parent) = parent(pid).filter(|parent| inside.contains(parent)) else { continue };
        match share_memory(pid.as_raw(), parent) {
            Ok(true) => return Some(pid),
            Ok(false) | Err(Errno::SRCH) => {}
            Err(err) => {
                // A kernel without kcmp(2), for instance: CRIU finds such a pair too, ten seconds later.
                tracing::warn!(id = %container.id(), %err, "cannot look for a vfork under way");
                return None;
            }
        }
    }
    None
}

/// `None` for one that has ended.
pub(super) fn parent(pid: Pid) -> Option<i32> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    stat::parent(&String::from_utf8_lossy(&text))
}
