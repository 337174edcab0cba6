//! Seccomp profiles: compiled by libseccomp in the caller, cached by checksum, installed by the container's init.

use std::path::Path;

use oci_spec::runtime::LinuxSeccomp;
use serde::{Deserialize, Serialize};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {}

/// A compiled filter (an array of `struct sock_filter`) and the seccomp(2) flags to install it with.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Filter {}

/// Compiles, or takes the compiled filter from `cache`, a directory that is made if it is missing.
pub(crate) fn compile(_profile: &LinuxSeccomp, _cache: &Path) -> Result<Filter, Error> {
    todo!()
}

/// Installs the filter in the calling thread, which must be the only one.
pub(crate) fn install(_filter: &Filter) -> Result<(), Error> {
    todo!()
}
