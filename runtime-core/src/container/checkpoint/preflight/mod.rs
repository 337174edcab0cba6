//! The preflight: what would stand in the way of a checkpoint or a restore, before anything is touched.
//!
//! ```text
//!   processes ── status, namespaces, mappings ──┐
//!   mounts ───── of filesystems in user space ──┤
//!   files ────── descriptors, locks ────────────┤
//!   sockets ──── protocols, connections ────────┼──> Report: findings, each refuse or warn
//!   space ────── the image directory ───────────┤
//!   host ─────── CRIU, kernel, CPU, target ─────┘    (host: only when it is asked for, for it starts CRIU)
//! ```
//! It reads /proc and asks the kernel for its sockets; it freezes, traces and writes nothing. What cannot be read, because a
//! process has just ended for instance, is no finding: CRIU looks again with everything held still.
//!
//! A finding that refuses is one that CRIU fails at as well, each shown by a test against CRIU itself; where CRIU may manage
//! after all, through a plugin or because the state passes, the finding warns. What the user's own configuration of CRIU
//! allows is allowed here too (`settings`).

mod files;
mod host;
mod mappings;
mod mounts;
mod processes;
mod report;
pub(crate) mod restore;
pub(super) mod settings;
mod sockets;
mod space;
#[cfg(test)]
mod tests;
mod unix_diag;

use std::collections::HashSet;
use std::thread;
use std::time::Duration;

use super::options::CheckpointOptions;
use crate::container::{Container, Status};
use crate::{Error, Pid, Result};

pub use host::HostDescription;
pub use report::{Finding, Kind, Report, Severity};
use settings::Settings;

/// How often a checkpoint looks before it is refused, and what is between two looks.
const LOOKS: usize = 3;
const PAUSE: Duration = Duration::from_millis(20);

/// Everything: the container, the image directory, CRIU and this host; with `target` also whether that host could restore.
pub(in crate::container) fn check(
    container: &Container,
    options: &CheckpointOptions,
    target: Option<&HostDescription>,
) -> Result<Report> {
    match container.status()? {
        Status::Running | Status::Paused => {}
        status => {
            let problem = "cannot check a container that is not running";
            return Err(Error::WrongStatus { id: container.id().clone(), problem, status });
        }
    }
    let mut report = look(container, options)?;
    host::check(options, &mut report);
    if let Some(target) = target {
        host::compare(&HostDescription::of_this_machine(), target, &mut report);
    }
    Ok(report)
}

/// What a checkpoint asks before it freezes: all that refuses it, but for what takes a process of CRIU's to know.
///
/// A connection or a lock may be there for a moment only: what refuses has to be there each time.
pub(super) fn refusals(container: &Container, options: &CheckpointOptions) -> Result<Report> {
    let mut refusals = look(container, options)?.into_refusals();
    for _ in 1..LOOKS {
        if !refusals.refuses() {
            break;
        }
        thread::sleep(PAUSE);
        let again = look(container, options)?;
        refusals.findings.retain(|finding| again.has(finding));
    }
    Ok(refusals)
}

fn look(container: &Container, options: &CheckpointOptions) -> Result<Report> {
    let mut report = Report::default();
    let Some(init) = container.pid() else { return Ok(report) };
    let pids = container.pids()?;
    let annotated = super::annotations::read(&container.state.annotations).map_err(|err| Error::Checkpoint {
        id: container.id().clone(),
        operation: "check",
        err,
    })?;
    let told = options.criu.over(&annotated.criu);
    let external = [annotated.external_dump.as_slice(), &options.external].concat();
    let subject = Subject {
        init,
        settings: Settings::new(&told, &external, super::config_file(&container.state).as_deref()),
        streams: container.state.stdio_files.iter().filter(|name| !name.is_empty()).cloned().collect(),
    };
    let processes = processes::read(&subject, &pids, &mut report);
    if !external.iter().any(|external| external.mount().is_some()) {
        mounts::check(container, init, &pids, &mut report);
    }
    let files = files::read(&subject, &processes, &mut report);
    sockets::check(&subject, &processes, &files, &mut report);
    space::check(options, options.seal.over(&annotated.seal).compress.is_some(), &processes, &mut report);
    if options.pre_dump {
        // It writes the memory alone, and looks at nothing else.
        report.findings.retain(|finding| matches!(finding.kind, Kind::Traced | Kind::Space));
    }
    Ok(report)
}

/// What is looked at.
struct Subject {
    init: Pid,
    settings: Settings,
    /// CRIU's names of the standard streams that are files of the host's.
    streams: HashSet<String>,
}
