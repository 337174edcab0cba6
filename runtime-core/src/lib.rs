//! The OCI runtime as a synchronous library: it knows OCI bundles, namespaces, cgroups and mounts, and nothing of
//! containerd.
//!
//! [`container::Container`] has one method for each verb, each in a file of its own under `container/`. What runs inside
//! the new namespaces is [`init`]: a sealed copy of the calling binary, which must hand over to [`init::main`] when it is
//! started under the name [`init::ARGV0`].

pub mod caller;
pub mod cgroup;
pub mod children;
pub mod container;
pub mod descriptors;
pub mod error;
pub mod exe;
#[cfg(feature = "fault-points")]
pub mod fault;
#[cfg(not(feature = "fault-points"))]
mod fault;
pub mod features;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod hooks;
pub mod id;
pub mod id_map;
pub mod images;
pub mod init;
mod limited;
pub mod memory;
mod netlink;
mod program;
pub mod resctrl;
mod rootfs;
mod sealed;
mod seccomp;
pub mod spec;
mod stat;
mod sys;
pub mod time;

pub use error::{Error, ErrorKind, Result};
pub use id::{ContainerId, Pid, Signal};
pub use seccomp::libseccomp_version;
