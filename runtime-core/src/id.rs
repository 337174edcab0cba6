//! Identities, parsed once at the edge.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A container's id: what runc accepts, `[A-Za-z0-9_+.-]+`, not `.` or `..`, at most 1024 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(Box<str>);

/// Why a string is not a [`ContainerId`].
#[derive(Debug, thiserror::Error)]
#[error("container id {id:?} is invalid: {reason}")]
pub struct InvalidContainerId {
    id: String,
    reason: &'static str,
}

impl ContainerId {
    /// # Errors
    /// [`InvalidContainerId`] names the id and the rule that it breaks.
    pub fn parse(id: &str) -> Result<Self, InvalidContainerId> {
        let refuse = |reason| Err(InvalidContainerId { id: id.to_owned(), reason });
        if id.is_empty() {
            return refuse("it is empty");
        }
        if id.len() > 1024 {
            return refuse("it is longer than 1024 bytes");
        }
        if id == "." || id == ".." {
            return refuse("it is a relative directory");
        }
        if !id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+.-".contains(&b)) {
            return refuse("only letters, digits, '_', '+', '.' and '-' are allowed");
        }
        Ok(Self(id.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ContainerId {
    type Error = InvalidContainerId;

    fn try_from(id: String) -> Result<Self, Self::Error> {
        Self::parse(&id)
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> Self {
        id.0.into_string()
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A process id as the caller's pid namespace sees it; always positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pid(i32);

impl Pid {
    /// `None` for zero and below, which address process groups and never one process (kill(2)).
    pub fn new(pid: i32) -> Option<Self> {
        (pid > 0).then_some(Self(pid))
    }

    pub fn as_raw(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A signal number from 1 to 64 (signal(7)), real-time signals included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal(i32);

impl Signal {
    pub const KILL: Self = Self(9);
    pub const TERM: Self = Self(15);

    pub fn new(number: i32) -> Option<Self> {
        (1..=64).contains(&number).then_some(Self(number))
    }

    pub fn as_raw(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_runc_takes_are_taken() {
        for id in ["a", "web-1", "a.b_c+d", "0123"] {
            assert_eq!(ContainerId::parse(id).unwrap().as_str(), id);
        }
    }

    #[test]
    fn ids_that_could_leave_the_state_directory_are_refused() {
        for id in ["", ".", "..", "a/b", "../x", "a b", "a\0b", "é"] {
            assert!(ContainerId::parse(id).is_err(), "{id:?}");
        }
        assert!(ContainerId::parse(&"x".repeat(1025)).is_err());
    }

    #[test]
    fn signals_outside_the_kernels_range_are_refused() {
        assert!(Signal::new(0).is_none());
        assert!(Signal::new(65).is_none());
        assert_eq!(Signal::new(34).unwrap().as_raw(), 34);
    }
}
