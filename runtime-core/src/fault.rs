//! Places where a test lets a container's making fail, to see what it leaves. Only with the feature `fault-points`; without
//! it all calls are empty.

#[cfg(feature = "fault-points")]
pub use points::{Fault, How, arm};
#[cfg(feature = "fault-points")]
pub(crate) use points::{after, arm_init, for_init, in_init};

#[cfg(not(feature = "fault-points"))]
pub(crate) use nothing::{after, arm_init, in_init};

/// The steps of the runtime itself; those of the init are [`crate::init::Step`]'s.
macro_rules! points {
    ($($point:ident,)*) => {
        #[cfg(feature = "fault-points")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub enum Point {
            $($point,)*
        }

        #[cfg(feature = "fault-points")]
        impl Point {
            pub const ALL: &[Self] = &[$(Self::$point,)*];

            /// Those that only a cgroup of systemd's comes to.
            pub const OF_SYSTEMD: &[Self] = &[Self::Placeholder, Self::Unit, Self::Place];
        }

        /// A point of a build that has none.
        #[cfg(not(feature = "fault-points"))]
        #[derive(Clone, Copy, Debug)]
        pub(crate) enum Point {
            $($point,)*
        }
    };
}

#[cfg(not(feature = "fault-points"))]
mod nothing {
    use super::Point;
    use crate::init::Step;
    use crate::init::message::{Failure, Received};
    use crate::{ContainerId, Result};

    #[inline(always)]
    pub(crate) fn after(_: &ContainerId, _: Point) -> Result<()> {
        Ok(())
    }

    #[inline(always)]
    pub(crate) fn arm_init(_: &Received) {}

    #[inline(always)]
    pub(crate) fn in_init(_: Step) -> std::result::Result<(), Failure> {
        Ok(())
    }
}

points! {
    Directory,
    State,
    Placeholder,
    Unit,
    Cgroup,
    Owner,
    Class,
    Spawn,
    OomScore,
    Maps,
    Rlimits,
    NetDevices,
    Sources,
    Orders,
    Place,
    InitState,
    Ready,
    PidFile,
}

#[cfg(feature = "fault-points")]
mod points {
    use std::sync::{Mutex, PoisonError};

    use serde::{Deserialize, Serialize};

    use super::Point;
    use crate::init::Step;
    use crate::init::message::{Failure, Received};
    use crate::{ContainerId, Error, ErrorKind, Result};

    /// What happens where.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    pub enum Fault {
        /// The runtime's own step has been done, and is said to have failed.
        Runtime(Point),
        Init(Step, How),
        /// The runtime's own step has been done, and its process ends with nothing undone.
        Dies(Point),
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    pub enum How {
        /// The step has been done, and is said to have failed.
        Fails,
        /// The init ends without a word.
        Dies,
    }

    static ARMED: Mutex<Option<Fault>> = Mutex::new(None);

    /// Of this process, until it is armed anew.
    pub fn arm(fault: Option<Fault>) {
        *ARMED.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    fn armed() -> Option<Fault> {
        *ARMED.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn for_init() -> Option<Fault> {
        armed()
    }

    pub(crate) fn arm_init(orders: &Received) {
        arm(orders.fault);
    }

    pub(crate) fn after(id: &ContainerId, point: Point) -> Result<()> {
        match armed() {
            Some(Fault::Runtime(at)) if at == point => {
                Err(Error::System { id: id.clone(), operation: "obey the test", err: std::io::ErrorKind::Other.into() })
            }
            Some(Fault::Dies(at)) if at == point => std::process::exit(9),
            _ => Ok(()),
        }
    }

    pub(crate) fn in_init(step: Step) -> std::result::Result<(), Failure> {
        match armed() {
            Some(Fault::Init(at, How::Fails)) if at == step => Err(Failure {
                step,
                kind: ErrorKind::Internal,
                messages: vec!["obey the test".to_owned()],
                errno: None,
            }),
            // PID 1 of a namespace cannot signal itself.
            Some(Fault::Init(at, How::Dies)) if at == step => std::process::exit(9),
            _ => Ok(()),
        }
    }
}
