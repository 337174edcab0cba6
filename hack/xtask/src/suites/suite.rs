//! The suites, and the runtimes that they are run against.

use std::fmt;

/// A public suite. Youki's (`contest`) is in neither Debian nor the crates' registry, so it is not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Suite {
    /// runc's integration tests
    Runc,
    /// crun's tests
    Crun,
    /// The validation of the specification's own tools
    RuntimeTools,
    /// Podman, with an image made on the spot
    Podman,
    /// Docker, with the runtime and with the shim of its name
    Docker,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Runtime {
    Rtc,
    Runc,
    Crun,
}

impl Suite {
    /// Runs in a node, with a runtime's name and a part of the names of the files to run.
    pub(crate) fn script(self) -> &'static str {
        match self {
            Self::Runc => include_str!("runc.sh"),
            Self::Crun => include_str!("crun.sh"),
            Self::RuntimeTools => include_str!("runtime-tools.sh"),
            Self::Podman => include_str!("podman.sh"),
            Self::Docker => include_str!("docker.sh"),
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Runc => "runc",
            Self::Crun => "crun",
            Self::RuntimeTools => "runtime-tools",
            Self::Podman => "podman",
            Self::Docker => "docker",
        })
    }
}

impl Runtime {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rtc => "rtc",
            Self::Runc => "runc",
            Self::Crun => "crun",
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
