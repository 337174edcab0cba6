//! CRIU's notifications (`criu_notify` in `criu/rpc.proto`, `action-scripts.c` in CRIU).
//!
//! ```text
//! dump     pre-dump · network-lock · [query-ext-files] · … · post-dump · network-unlock · [post-resume]
//! restore  pre-restore · setup-namespaces(pid) · post-setup-namespaces · [orphan-pts-master(fd)] · network-unlock ·
//!          post-restore(pid) · pre-resume · post-resume
//! lazy     status-ready, once the page server listens
//! ```
//! CRIU waits for the answer to each; while `post-dump` is unanswered, the dumped processes stay frozen.

use std::error::Error as StdError;
use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};

/// A step of CRIU's that waits for an answer.
#[derive(Debug)]
#[non_exhaustive]
pub enum Notification {
    PreStream,
    PreDump,
    /// The image is written, the processes are frozen. Refused, the dump fails and they run on.
    PostDump,
    PreRestore,
    PostRestore {
        pid: i32,
    },
    NetworkLock,
    NetworkUnlock,
    /// The namespaces of the restored root process exist; the pid is CRIU's pid namespace's.
    SetupNamespaces {
        pid: i32,
    },
    PostSetupNamespaces,
    PreResume,
    PostResume,
    /// The master of the pty that was the restored session's terminal; whoever takes it owns it.
    OrphanPtsMaster(OwnedFd),
    /// The page server for lazy pages listens.
    StatusReady,
    /// CRIU asks for external files: answer with [`Answer::External`].
    QueryExtFiles,
    /// One that this version does not know.
    Unknown(String),
}

/// A [`Notification`] without what it carries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NotificationKind {
    PreStream,
    PreDump,
    PostDump,
    PreRestore,
    PostRestore,
    NetworkLock,
    NetworkUnlock,
    SetupNamespaces,
    PostSetupNamespaces,
    PreResume,
    PostResume,
    OrphanPtsMaster,
    StatusReady,
    QueryExtFiles,
    Unknown(String),
}

/// What CRIU is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    #[default]
    Acknowledge,
    /// Acknowledge `query-ext-files` with more `--external` strings.
    External(Vec<String>),
}

/// Answers notifications.
pub trait Notify {
    /// Called for each notification, in order, on the thread that called [`crate::Worker::run`]. To hold CRIU at this
    /// point, do not return; `criu` is the pidfd of the CRIU process, readable if it dies meanwhile.
    ///
    /// # Errors
    /// An error refuses the notification: CRIU gives the operation up, and the error becomes the source of
    /// [`crate::Error::Refused`].
    fn notify(
        &mut self,
        notification: Notification,
        criu: BorrowedFd<'_>,
    ) -> Result<Answer, Box<dyn StdError + Send + Sync>>;

    /// Called when CRIU has not ended by itself after this side has hung up, and is about to be killed.
    fn before_kill(&mut self) {}
}

/// Acknowledges everything.
impl Notify for () {
    fn notify(&mut self, _: Notification, _: BorrowedFd<'_>) -> Result<Answer, Box<dyn StdError + Send + Sync>> {
        Ok(Answer::Acknowledge)
    }
}

impl<F> Notify for F
where
    F: FnMut(Notification, BorrowedFd<'_>) -> Result<Answer, Box<dyn StdError + Send + Sync>>,
{
    fn notify(
        &mut self,
        notification: Notification,
        criu: BorrowedFd<'_>,
    ) -> Result<Answer, Box<dyn StdError + Send + Sync>> {
        self(notification, criu)
    }
}

impl NotificationKind {
    pub(crate) fn parse(script: &str) -> Self {
        match script {
            "pre-stream" => Self::PreStream,
            "pre-dump" => Self::PreDump,
            "post-dump" => Self::PostDump,
            "pre-restore" => Self::PreRestore,
            "post-restore" => Self::PostRestore,
            "network-lock" => Self::NetworkLock,
            "network-unlock" => Self::NetworkUnlock,
            "setup-namespaces" => Self::SetupNamespaces,
            "post-setup-namespaces" => Self::PostSetupNamespaces,
            "pre-resume" => Self::PreResume,
            "post-resume" => Self::PostResume,
            "orphan-pts-master" => Self::OrphanPtsMaster,
            "status-ready" => Self::StatusReady,
            "query-ext-files" => Self::QueryExtFiles,
            other => Self::Unknown(other.to_owned()),
        }
    }

    /// CRIU's own name for it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::PreStream => "pre-stream",
            Self::PreDump => "pre-dump",
            Self::PostDump => "post-dump",
            Self::PreRestore => "pre-restore",
            Self::PostRestore => "post-restore",
            Self::NetworkLock => "network-lock",
            Self::NetworkUnlock => "network-unlock",
            Self::SetupNamespaces => "setup-namespaces",
            Self::PostSetupNamespaces => "post-setup-namespaces",
            Self::PreResume => "pre-resume",
            Self::PostResume => "post-resume",
            Self::OrphanPtsMaster => "orphan-pts-master",
            Self::StatusReady => "status-ready",
            Self::QueryExtFiles => "query-ext-files",
            Self::Unknown(name) => name,
        }
    }

    /// Joins what the message carried; `Err` says what is missing.
    pub(crate) fn with(self, pid: Option<i32>, fd: Option<OwnedFd>) -> Result<Notification, (Self, &'static str)> {
        let pid = pid.filter(|&pid| pid > 0);
        Ok(match (self, pid, fd) {
            (Self::PostRestore, Some(pid), _) => Notification::PostRestore { pid },
            (Self::SetupNamespaces, Some(pid), _) => Notification::SetupNamespaces { pid },
            (Self::OrphanPtsMaster, _, Some(master)) => Notification::OrphanPtsMaster(master),
            (kind @ (Self::PostRestore | Self::SetupNamespaces), None, _) => return Err((kind, "a pid")),
            (kind @ Self::OrphanPtsMaster, _, None) => return Err((kind, "a descriptor")),
            (Self::PreStream, ..) => Notification::PreStream,
            (Self::PreDump, ..) => Notification::PreDump,
            (Self::PostDump, ..) => Notification::PostDump,
            (Self::PreRestore, ..) => Notification::PreRestore,
            (Self::NetworkLock, ..) => Notification::NetworkLock,
            (Self::NetworkUnlock, ..) => Notification::NetworkUnlock,
            (Self::PostSetupNamespaces, ..) => Notification::PostSetupNamespaces,
            (Self::PreResume, ..) => Notification::PreResume,
            (Self::PostResume, ..) => Notification::PostResume,
            (Self::StatusReady, ..) => Notification::StatusReady,
            (Self::QueryExtFiles, ..) => Notification::QueryExtFiles,
            (Self::Unknown(name), ..) => Notification::Unknown(name),
        })
    }
}

impl fmt::Display for NotificationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_survives_the_way_there_and_back() {
        for name in [
            "pre-stream",
            "pre-dump",
            "post-dump",
            "pre-restore",
            "post-restore",
            "network-lock",
            "network-unlock",
            "setup-namespaces",
            "post-setup-namespaces",
            "pre-resume",
            "post-resume",
            "orphan-pts-master",
            "status-ready",
            "query-ext-files",
        ] {
            let kind = NotificationKind::parse(name);
            assert!(!matches!(kind, NotificationKind::Unknown(_)), "{name}");
            assert_eq!(kind.as_str(), name);
        }
    }

    #[test]
    fn a_notification_that_lacks_its_pid_or_descriptor_is_refused() {
        assert!(NotificationKind::PostRestore.with(None, None).is_err());
        assert!(NotificationKind::SetupNamespaces.with(Some(-1), None).is_err());
        assert!(NotificationKind::OrphanPtsMaster.with(Some(7), None).is_err());
        assert!(matches!(NotificationKind::PostRestore.with(Some(7), None), Ok(Notification::PostRestore { pid: 7 })));
    }
}
