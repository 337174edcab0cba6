//! What a preflight says.

use std::fmt;

use serde::Serialize;

/// Whether it would be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// It would fail.
    Refuse,
    /// It may fail, or the result may not be what was wanted.
    Warn,
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Kind {
    /// CRIU is missing, too old or without a feature.
    Criu,
    Kernel,
    Cpu,
    IoUring,
    /// An open file, or a mapping, of a kind that CRIU does not know.
    File,
    /// A file that is open or mapped and has no name any more.
    DeletedFile,
    FileLock,
    Terminal,
    Socket,
    TcpConnection,
    /// A unix socket whose other end is outside.
    UnixSocket,
    Namespace,
    Mount,
    /// A process is traced by another.
    Traced,
    /// Bytes or inodes of the image directory.
    Space,
    /// The images themselves.
    Images,
    /// The configuration of the container that is to be restored.
    Spec,
    Rootfs,
    /// The standard streams.
    Stdio,
}

/// One thing that is in the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub kind: Kind,
    pub severity: Severity,
    /// The process, in the caller's pid namespace. The first, if several have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Which thing, such as `fd 5 is anon_inode:[io_uring]`.
    pub what: String,
    pub why: String,
    /// What a person can do about it.
    pub remedy: String,
}

/// All that was found, in the order of the search.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether what was asked for would fail.
    pub fn refuses(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Refuse)
    }

    pub(super) fn has(&self, finding: &Finding) -> bool {
        self.findings.iter().any(|other| other.kind == finding.kind && other.what == finding.what)
    }

    pub(super) fn add(&mut self, finding: Finding) {
        // Forks share their files; one of them is enough to find it.
        if !self.has(&finding) {
            self.findings.push(finding);
        }
    }

    pub(super) fn refuse(&mut self, kind: Kind, pid: Option<i32>, what: String, why: &str, remedy: &str) {
        self.add(Finding {
            kind,
            severity: Severity::Refuse,
            pid,
            what,
            why: why.to_owned(),
            remedy: remedy.to_owned(),
        });
    }

    pub(super) fn warn(&mut self, kind: Kind, pid: Option<i32>, what: String, why: &str, remedy: &str) {
        self.add(Finding { kind, severity: Severity::Warn, pid, what, why: why.to_owned(), remedy: remedy.to_owned() });
    }

    /// For the caller of a checkpoint: what refuses it.
    pub(super) fn into_refusals(self) -> Self {
        let refuses = |finding: &Finding| finding.severity == Severity::Refuse;
        Self { findings: self.findings.into_iter().filter(refuses).collect() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(pid) = self.pid {
            write!(f, "process {pid}: ")?;
        }
        write!(f, "{}: {}; {}", self.what, self.why, self.remedy)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, finding) in self.findings.iter().enumerate() {
            let between = if i == 0 { "" } else { ", and " };
            write!(f, "{between}{finding}")?;
        }
        Ok(())
    }
}
