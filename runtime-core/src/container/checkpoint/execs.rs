//! Processes of the container that are not its init's descendants: what exec started, and in a pid namespace that is not its
//! own what lost its parent. CRIU goes from the init to its children and does not see them.
//!
//! runc lets CRIU end them with the container, without a word. Here that is refused unless it is asked for. What such a process
//! has left behind with the init as its parent is carried, and its pipes to the outside come back as they are when an exec is
//! deleted: their other end is gone.

use std::collections::HashMap;
use std::fmt;
use std::fs;

use super::error::CheckpointError;
use super::frozen::parent;
use super::options::CheckpointOptions;
use crate::container::Container;
use crate::{Error, Pid, Result};

/// A process that exec started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    pub pid: Pid,
    /// `comm` of proc_pid_comm(5).
    pub name: String,
    /// By which its caller knows it, if that is known.
    pub exec_id: Option<String>,
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, name, exec_id } = self;
        match exec_id {
            Some(exec_id) => write!(f, "{pid} ({name}, exec {exec_id})"),
            None => write!(f, "{pid} ({name})"),
        }
    }
}

/// `end` says that they may be ended. If the container runs on, so do they, and are left out.
pub(super) fn check(container: &Container, init: Pid, options: &CheckpointOptions, end: bool) -> Result<()> {
    let pids = container.pids()?;
    let parents = pids.iter().filter_map(|&pid| Some((pid.as_raw(), parent(pid)?))).collect();
    let strangers = strangers(init.as_raw(), &parents);
    let stranger = |pid: Pid| Stranger {
        pid,
        name: fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned(),
        exec_id: options.exec_ids.get(&pid).cloned(),
    };
    let strangers: Vec<Stranger> = strangers.into_iter().filter_map(Pid::new).map(stranger).collect();
    if strangers.is_empty() {
        return Ok(());
    }
    if options.leave_running || options.pre_dump || options.end_execs || end {
        let processes: Vec<String> = strangers.iter().map(ToString::to_string).collect();
        tracing::warn!(id = %container.id(), ?processes, "not in the checkpoint: no descendants of the init");
        return Ok(());
    }
    let err = CheckpointError::Execs { processes: strangers };
    Err(Error::Checkpoint { id: container.id().clone(), operation: "checkpoint", err })
}

/// The topmost of those from which no way leads to the init.
fn strangers(init: i32, parents: &HashMap<i32, i32>) -> Vec<i32> {
    let is_top = |(pid, parent): &(&i32, &i32)| **pid != init && **parent != init && !parents.contains_key(parent);
    let mut tops: Vec<i32> = parents.iter().filter(is_top).map(|(pid, _)| *pid).collect();
    tops.sort_unstable();
    tops
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descendants_of_the_init_are_none_and_of_others_the_topmost_is_named() {
        let parents = [(10, 1), (11, 10), (12, 11), (20, 1), (21, 20), (30, 7)].into();
        assert_eq!(strangers(10, &parents), [20, 30]);
        assert_eq!(strangers(10, &[(10, 1), (11, 10)].into()), [0; 0]);
    }
}
