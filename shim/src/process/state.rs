//! What may be asked of a process when.
//!
//! ```text
//!                    start                pause               (frozen)
//!   Created --------------------> Running -----> Pausing ----------------> Paused
//!   CreatedFromCheckpoint --------^  |  ^          |  |                    |   |
//!      |     |                       |  |  failed  |  |       resume       |   |
//!      |     |                       |  +----------+  |  +-----------------+   |
//!      |     | exit                  | exit           |  exit                  | exit
//!      |     v                       v                v                        v
//!      |   Stopped <-------------------------------------------------------------
//!      |     |
//!      v     v delete
//!      Deleted
//! ```
//! A process made by exec has no pause of its own: it is paused when its container is.

use std::fmt;

/// Where in its life a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Created,
    /// Made by Create with a checkpoint: there is no process until Start restores it.
    CreatedFromCheckpoint,
    Running,
    Pausing,
    Paused,
    Stopped,
    Deleted,
}

/// What is asked of a process or, of its init, of a container. Kill is not here: it is always tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Start,
    Exec,
    Pause,
    Resume,
    Update,
    Checkpoint,
    Resize,
    Delete,
}

/// The verb came at the wrong moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    verb: Verb,
    state: State,
}

impl std::error::Error for Refusal {}

/// containerd's own texts, which users and tools know.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Created | State::CreatedFromCheckpoint => "created",
            State::Running => "running",
            State::Pausing => "pausing",
            State::Paused => "paused",
            State::Stopped => "stopped",
            State::Deleted => "deleted",
        };
        let created = matches!(self.state, State::Created | State::CreatedFromCheckpoint);
        match self.verb {
            Verb::Start => write!(f, "cannot start a {state} process"),
            Verb::Delete => write!(f, "cannot delete a {state} process"),
            Verb::Resume if self.state == State::Running => write!(f, "cannot resume a running process"),
            Verb::Exec => write!(f, "cannot exec in a {state} state"),
            Verb::Pause if created => write!(f, "cannot pause task in created state"),
            Verb::Resume if created => write!(f, "cannot resume task in created state"),
            Verb::Checkpoint if created => write!(f, "cannot checkpoint a task in created state"),
            Verb::Pause => write!(f, "cannot pause a {state} container"),
            Verb::Resume => write!(f, "cannot resume a {state} container"),
            Verb::Update => write!(f, "cannot update a {state} container"),
            Verb::Checkpoint => write!(f, "cannot checkpoint a {state} container"),
            Verb::Resize => write!(f, "cannot resize a {state} container"),
        }
    }
}

impl State {
    /// # Errors
    /// The verb is not for this state.
    pub(crate) fn allows(self, verb: Verb) -> Result<(), Refusal> {
        let allowed = match self {
            Self::Created => matches!(verb, Verb::Start | Verb::Exec | Verb::Update | Verb::Resize | Verb::Delete),
            Self::CreatedFromCheckpoint => matches!(verb, Verb::Start | Verb::Resize | Verb::Delete),
            Self::Running => {
                matches!(verb, Verb::Exec | Verb::Pause | Verb::Update | Verb::Checkpoint | Verb::Resize)
            }
            Self::Pausing => matches!(verb, Verb::Update | Verb::Resize),
            Self::Paused => matches!(verb, Verb::Resume | Verb::Update | Verb::Checkpoint | Verb::Resize),
            Self::Stopped => matches!(verb, Verb::Delete),
            Self::Deleted => false,
        };
        if allowed { Ok(()) } else { Err(Refusal { verb, state: self }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [State; 7] = [
        State::Created,
        State::CreatedFromCheckpoint,
        State::Running,
        State::Pausing,
        State::Paused,
        State::Stopped,
        State::Deleted,
    ];

    /// In the order of [`STATES`], `x` where the verb is allowed.
    fn table(verb: Verb) -> String {
        STATES.iter().map(|state| if state.allows(verb).is_ok() { 'x' } else { '.' }).collect()
    }

    #[test]
    fn each_verb_has_its_states() {
        assert_eq!(table(Verb::Start), "xx.....");
        assert_eq!(table(Verb::Exec), "x.x....");
        assert_eq!(table(Verb::Pause), "..x....");
        assert_eq!(table(Verb::Resume), "....x..");
        assert_eq!(table(Verb::Update), "x.xxx..");
        assert_eq!(table(Verb::Checkpoint), "..x.x..");
        assert_eq!(table(Verb::Resize), "xxxxx..");
        assert_eq!(table(Verb::Delete), "xx...x.");
    }

    #[test]
    fn refusals_read_as_containerds_do() {
        let text = |state: State, verb| state.allows(verb).unwrap_err().to_string();
        assert_eq!(text(State::Running, Verb::Start), "cannot start a running process");
        assert_eq!(text(State::Running, Verb::Delete), "cannot delete a running process");
        assert_eq!(text(State::Running, Verb::Resume), "cannot resume a running process");
        assert_eq!(text(State::Created, Verb::Pause), "cannot pause task in created state");
        assert_eq!(text(State::Created, Verb::Checkpoint), "cannot checkpoint a task in created state");
        assert_eq!(text(State::Paused, Verb::Exec), "cannot exec in a paused state");
        assert_eq!(text(State::Paused, Verb::Pause), "cannot pause a paused container");
        assert_eq!(text(State::Stopped, Verb::Update), "cannot update a stopped container");
        assert_eq!(text(State::Stopped, Verb::Exec), "cannot exec in a stopped state");
    }
}
