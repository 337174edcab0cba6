//! The system calls that neither nix nor rustix wraps: the one place of this crate where unsafe is allowed.
#![allow(unsafe_code)]

pub(crate) mod bpf;
pub(crate) mod clone;
pub(crate) mod errno;
pub(crate) mod fd;
pub(crate) mod guard;
pub(crate) mod keyring;
pub(crate) mod memory;
pub(crate) mod mount;
pub(crate) mod namespace;
pub(crate) mod net;
pub(crate) mod process;
pub(crate) mod schedule;
pub(crate) mod seccomp;
pub(crate) mod swrk;
pub(crate) mod terminal;
pub(crate) mod user_namespace;
