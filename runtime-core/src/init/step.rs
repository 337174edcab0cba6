//! The steps of an init, as errors name them.

use std::error::Error;

use serde::{Deserialize, Serialize};

use super::message::Failure;
use super::steps::MountsError;
use crate::error::{ErrorKind, errno, errno_text};

macro_rules! steps {
    ($($step:ident => $operation:literal,)*) => {
        /// The steps of an init, in the order in which a container first comes to them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum Step {
            $($step,)*
        }

        impl Step {
            pub const ALL: &[Self] = &[$(Self::$step,)*];

            /// Completes "failed to ...".
            pub(crate) fn operation(self) -> &'static str {
                match self {
                    $(Self::$step => $operation,)*
                }
            }
        }
    };
}

steps! {
    Orders => "read the orders",
    JoinMountNamespace => "join the mount namespace",
    CgroupNamespace => "make a cgroup namespace",
    Labels => "set the security label",
    Keyring => "join the session keyring",
    Loopback => "bring up the loopback device",
    Mounts => "mount the root filesystem",
    ParentHooks => "wait for the runtime's hooks",
    CreateContainerHooks => "run createContainer hooks",
    PivotRoot => "pivot into the root filesystem",
    Hostname => "set the hostname",
    Domainname => "set the domainname",
    Console => "set up the console",
    Sysctl => "write sysctls",
    MakeWorkingDirectory => "make the working directory",
    Seal => "seal the root filesystem",
    Rlimits => "set resource limits",
    Schedule => "set the process's scheduling",
    NoNewPrivileges => "set no_new_privs",
    Stdio => "give stdio to the user",
    Seccomp => "install the seccomp filter",
    Capabilities => "set capabilities",
    User => "change the user",
    WorkingDirectory => "change to the working directory",
    Executable => "find the program",
    Descriptors => "mark descriptors close-on-exec",
    Ready => "report to the runtime",
    Start => "wait for the start",
    StartContainerHooks => "run startContainer hooks",
    Execve => "execute the program",
}

impl Step {
    /// Steps whose failure lies in what the spec asks for, not in the machine.
    fn kind(self) -> ErrorKind {
        match self {
            Self::Executable | Self::Execve | Self::WorkingDirectory | Self::MakeWorkingDirectory => {
                ErrorKind::InvalidArgument
            }
            _ => ErrorKind::Internal,
        }
    }
}

/// Gives a failed step its name.
pub(super) fn at<T, E: Error + 'static>(step: Step, result: Result<T, E>) -> Result<T, Failure> {
    crate::fault::in_init(step)?;
    result.map_err(|err| Failure {
        step,
        kind: chain(&err).find_map(own_kind).unwrap_or(step.kind()),
        messages: chain(&err).map(|err| errno(err).map_or_else(|| err.to_string(), errno_text)).collect(),
        errno: chain(&err).find_map(errno),
    })
}

fn chain<'a>(err: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(err), |err: &&'a (dyn Error + 'static)| (*err).source())
}

/// Of an error that knows better than its step.
fn own_kind(err: &(dyn Error + 'static)) -> Option<ErrorKind> {
    let mounts = || err.downcast_ref::<MountsError>().and_then(MountsError::rootfs);
    let rootfs = || err.downcast_ref().or_else(mounts).map(crate::rootfs::Error::kind);
    err.downcast_ref::<super::schedule::Error>().map(super::schedule::Error::kind).or_else(rootfs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_carries_the_chain_and_the_errno() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] rustix::io::Errno);
        let failure = at::<(), _>(Step::Hostname, Err(Outer(rustix::io::Errno::PERM))).unwrap_err();
        assert_eq!(failure.errno, Some(1));
        assert_eq!(failure.messages[0], "outer");
        assert_eq!(failure.messages[1], "operation not permitted");
        assert_eq!(failure.kind, ErrorKind::Internal);
    }

    #[test]
    fn a_mount_that_the_spec_gets_wrong_is_the_callers() {
        let bind = |err| crate::rootfs::Error::Bind { source_path: "/s".into(), target: "/t".into(), err };
        let kind = |err| at::<(), _>(Step::Mounts, Err(MountsError::from(bind(err)))).unwrap_err().kind;
        assert_eq!(kind(rustix::io::Errno::NOENT), ErrorKind::InvalidArgument);
        assert_eq!(kind(rustix::io::Errno::NOMEM), ErrorKind::Internal);
    }
}
