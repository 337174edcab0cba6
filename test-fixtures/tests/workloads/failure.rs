//! Where a workload's way to the restore ended, and why.

use std::fmt;

use tonic::Status;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// Nothing of checkpoints: the scene itself.
    Scene,
    Checkpoint,
    Restore,
    /// Something of it is not as it was.
    After,
}

#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) at: At,
    pub(crate) why: String,
}

pub(crate) type Result<T = ()> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn at(at: At, why: impl fmt::Display) -> Self {
        Self { at, why: why.to_string() }
    }

    pub(crate) fn after(why: impl fmt::Display) -> Self {
        Self::at(At::After, why)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = match self.at {
            At::Scene => "scene",
            At::Checkpoint => "checkpoint",
            At::Restore => "restore",
            At::After => "after the restore",
        };
        write!(f, "{at}: {}", self.why)
    }
}

impl From<test_fixtures::Error> for Failure {
    fn from(error: test_fixtures::Error) -> Self {
        Self::at(At::Scene, error)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::at(At::Scene, status.message())
    }
}
