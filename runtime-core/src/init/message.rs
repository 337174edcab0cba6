//! What a container's creator and its init say to one another, over a stream socket pair.
//!
//! ```text
//!   parent                                       init (or an exec'd process)
//!     | -- one byte ---------------------------> |   only with a new user namespace: its maps are written
//!     | -- Orders -----------------------------> |   the cgroups are joined; the steps begin
//!     | <--------------------------- Source, ... |   only those that the init could not open itself, in their order:
//!     | -- Go, with the mount's fd ------------> |   an earlier mount may be part of a later one's source
//!     | <------------------------------- Hooks -- |   only if asked for: the mounts are made
//!     |    (prestart and createRuntime hooks)     |
//!     | -- Go ----------------------------------> |
//!     |                                           |   createContainer hooks, pivot_root, ..., privileges dropped
//!     | <---------------------------- Listener -- |   only with SCMP_ACT_NOTIFY; the filter is on
//!     |    (takes it by pidfd_getfd, tells the agent)
//!     | <----------- Ready, with the pty's fd --- |   all that can be found wrong has been found
//!     | -- Go (the start verb) ------------------> |   or, where another process is to start it, see below
//!     |                                           |   startContainer hooks, execve
//!     | <------------------------------ (EOF) --- |   the socket is close-on-exec: the program runs, or the init has died,
//!     |                                           |   which /proc tells apart (container::launch)
//! ```
//! At any moment the init may say `Failed` and exit instead; if it dies unheard, the parent reads EOF too early. Before
//! its own binary runs, the new process says in raw numbers why it failed ([`crate::sys::clone::FAILED_BEFORE_EXEC`]). EOF
//! from the parent, which has died, ends the init.
//!
//! Where the creator is a process that ends, as with a command line of one process for each verb, the init waits at a
//! datagram socket that the creator has bound in the container's state directory:
//!
//! ```text
//!   creator          init                       starter
//!     | <-- Ready -- |                             |
//!    ends            |   closes the creator's socket |
//!                    | <-- Go, with one end of a new socket pair
//!                    | -- Starting --------------> |   on that pair; the start socket is closed
//!                    |   startContainer hooks, execve
//!                    | -- (EOF) -----------------> |
//! ```
//! A datagram comes whole or not at all, so a starter that dies half-way leaves the init waiting for the next one. Of two
//! starters one reads `Starting`, and the other EOF without it.
//!
//! A frame is its length (u32, native order) and JSON.

use std::path::PathBuf;

use oci_spec::runtime::Hook;
use serde::{Deserialize, Serialize};

use super::Step;
use crate::error::ErrorKind;

/// Everything that the init needs to know. Generic, so that the parent lends what the init owns.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Orders<P, F, H> {
    pub(crate) id: String,
    /// `None` for a further process in a running container.
    pub(crate) environment: Option<Environment<P, H>>,
    pub(crate) passed: Passed,
    /// Join or make the session keyring `_ses.ID`.
    pub(crate) keyring: bool,
    pub(crate) process: Process,
    pub(crate) seccomp: Option<F>,
    #[cfg(feature = "fault-points")]
    pub(crate) fault: Option<crate::fault::Fault>,
}

/// Which descriptors have been passed beside the socket, in this order.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Passed {
    /// To join.
    pub(crate) mount_namespace: bool,
    /// Where `Go` comes from; without it, from the creator.
    pub(crate) start_socket: bool,
    /// How many descriptors the process has from 3 on.
    pub(crate) preserved: u32,
}

/// What a new container has to be given, and a further process finds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Environment<P, H> {
    pub(crate) rootfs: P,
    /// The places in the plan of the mounts whose sources the init asks for.
    pub(crate) sources: Vec<usize>,
    pub(crate) new_cgroup_namespace: bool,
    pub(crate) new_network_namespace: bool,
    pub(crate) hostname: Option<String>,
    pub(crate) domainname: Option<String>,
    /// The parent has hooks to run.
    pub(crate) parent_hooks: bool,
    pub(crate) create_container: Vec<H>,
    pub(crate) start_container: Vec<H>,
    pub(crate) hook_state: crate::hooks::HookState,
}

/// [`Orders`] as the init owns them.
pub(crate) type Received = Orders<crate::rootfs::Plan, crate::seccomp::Filter, Hook>;

/// The user's process, resolved to numbers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: PathBuf,
    pub(crate) terminal: bool,
    /// Columns and rows.
    pub(crate) console_size: Option<(u16, u16)>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// The user namespace allows setgroups(2); the parent looks where it can be another than the initial one.
    pub(crate) set_groups: bool,
    pub(crate) umask: Option<u32>,
    pub(crate) capabilities: super::capabilities::Sets,
    pub(crate) no_new_privileges: bool,
    /// Empty where the parent sets them.
    pub(crate) rlimits: Vec<super::rlimits::Limit>,
    pub(crate) schedule: super::schedule::Schedule,
    pub(crate) apparmor_profile: Option<String>,
    pub(crate) selinux_label: Option<String>,
}

/// From the parent, after the orders.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Go;

/// From the init.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// Comes to the mount at this place of the plan; the `Go` is to bring the source of it as a detached mount.
    Source {
        place: usize,
    },
    Hooks,
    /// To a starter: it is this one whose `Go` counts.
    Starting,
    /// The filter's notifications are about to come to this descriptor of the init's: from here on any system call may wait
    /// for the agent, so that the parent takes the descriptor and hands it on unasked.
    Listener {
        fd: i32,
    },
    /// Waits for the start. `warnings` tell what was degraded; with a terminal its master comes with this message.
    Ready {
        warnings: Vec<String>,
    },
    Failed(Failure),
}

/// A step that failed, in a form that travels.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{}", messages.join(": "))]
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) kind: ErrorKind,
    /// The error and its sources, outermost first.
    pub(crate) messages: Vec<String>,
    pub(crate) errno: Option<i32>,
}
