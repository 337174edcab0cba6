//! Seccomp profiles: compiled by libseccomp in the caller, cached by checksum, installed by the container's init.

mod cache;
mod compile;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod listener;
mod newer;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use libseccomp::ScmpVersion;
use libseccomp::error::SeccompError;
use oci_spec::runtime::LinuxSeccomp;
use rustix::io::Errno;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(crate) use listener::{ContainerProcessState, notify};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    #[error("seccomp: {0}")]
    Invalid(&'static str),
    #[error("seccomp: errno {0} is out of range")]
    Errno(u32),
    #[error("seccomp: action {0} takes no errno")]
    NoErrno(oci_spec::runtime::LinuxSeccompAction),
    #[error("seccomp: argument {index} of {syscall} is out of range")]
    Argument { syscall: String, index: usize },
    #[error("seccomp: {operation} {what}")]
    Library {
        operation: &'static str,
        what: String,
        #[source]
        err: SeccompError,
    },
    #[error("seccomp: {operation}")]
    Export {
        operation: &'static str,
        #[source]
        err: Errno,
    },
    #[error("seccomp: the filter has {0} instructions, and the kernel takes 4096")]
    TooLong(usize),
    #[error("seccomp: profile as JSON")]
    Json(#[source] serde_json::Error),
    #[error("seccomp: install the filter")]
    Install(#[source] Errno),
    /// Begins as runc words it.
    #[error("failed to connect with seccomp agent: {operation} {path}")]
    Listener {
        operation: &'static str,
        path: PathBuf,
        #[source]
        err: Errno,
    },
}

/// A compiled filter (an array of `struct sock_filter`) and the seccomp(2) flags to install it with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Filter {
    flags: u32,
    #[serde(serialize_with = "to_hex", deserialize_with = "from_hex")]
    program: Vec<u8>,
    /// Who is told of system calls with SCMP_ACT_NOTIFY.
    #[serde(default)]
    pub(crate) listener: Option<Listener>,
}

/// The spec's `listenerPath` and `listenerMetadata`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listener {
    pub(crate) path: PathBuf,
    pub(crate) metadata: Option<String>,
}

/// Compiles, or takes the compiled filter from `cache`, a directory that is made if it is missing. A cache that cannot be
/// used is no error: it costs the time of compiling (about 14 ms for containerd's default profile).
pub(crate) fn compile(profile: &LinuxSeccomp, cache: &Path) -> Result<Filter, Error> {
    let listener = listener::of(profile)?;
    let flags = compile::flags(profile, listener.is_some());
    // In runc's words.
    tracing::debug!("seccomp filter flags: {flags}");
    let key = cache::key(profile)?;
    if let Some(program) = cache::read(cache, &key) {
        return Ok(Filter { flags, program, listener });
    }
    let program = compile::program(profile)?;
    if let Err(error) = cache::write(cache, &key, &program) {
        tracing::warn!(%error, cache = %cache.display(), "the compiled seccomp filter was not cached");
    }
    Ok(Filter { flags, program, listener })
}

/// The library that compiles filters, as it names itself: "2.5.4".
pub fn libseccomp_version() -> String {
    // Only a library before 2.3 does not tell.
    ScmpVersion::current().map_or_else(|_| "unknown".to_owned(), |version| version.to_string())
}

/// Installs the filter in the calling thread, which must be the only one. With a listener its descriptor comes back, with
/// the lowest number that was free.
pub(crate) fn install(filter: &Filter) -> Result<Option<OwnedFd>, Error> {
    crate::sys::seccomp::set_filter(&filter.program, filter.flags).map_err(Error::Install)
}

fn to_hex<S: Serializer>(program: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hex(program))
}

fn from_hex<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return Err(serde::de::Error::custom("a filter with half a byte"));
    };
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    bytes.collect::<Option<_>>().ok_or_else(|| serde::de::Error::custom("a filter that is not hexadecimal"))
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

#[cfg(test)]
mod tests;
