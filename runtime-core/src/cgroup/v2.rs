//! cgroup v2: one directory in the unified tree.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::directory::Made;
use super::{Dir, Error, file};

/// Makes the container's directory. With `controllers`, every available one is handed down to it: limits and statistics
/// need them.
pub(super) fn make(dir: &Dir, controllers: bool, made: &mut Made) -> Result<(), Error> {
    made.make(&dir.mount, &dir.path, &mut |_| Ok(()))?;
    if controllers {
        delegate(dir)?;
    }
    Ok(())
}

/// Writes `cgroup.subtree_control` from the mount down to the container's parent.
///
/// A refusal is no error here: without a limit on that controller the container runs as well, and with one
/// [`super::limits_v2`] says what is missing and, by [`internal_processes`], why.
fn delegate(dir: &Dir) -> Result<(), Error> {
    let Some(parent) = dir.path.parent() else { return Ok(()) };
    let Some(available) = file::read(&dir.mount.join("cgroup.controllers"))? else { return Ok(()) };
    let available: Vec<&str> = available.split_whitespace().collect();
    if available.is_empty() || missing(parent, &available)?.is_empty() {
        return Ok(());
    }
    let below: Vec<&Path> = parent.ancestors().take_while(|path| path.starts_with(&dir.mount)).collect();
    for path in below.into_iter().rev() {
        let wanted = missing(path, &available)?;
        if wanted.is_empty() {
            continue;
        }
        let control = path.join("cgroup.subtree_control");
        let all: Vec<String> = wanted.iter().map(|name| format!("+{name}")).collect();
        if file::write(&control, &all.join(" ")).is_err() {
            // One of them can be refused alone (a realtime process for cpu, an untrusted subtree).
            for one in &all {
                if let Err(err) = file::write(&control, one) {
                    tracing::debug!(path = %control.display(), controller = one, ?err, "controller not enabled");
                }
            }
        }
    }
    Ok(())
}

fn missing<'a>(path: &Path, available: &[&'a str]) -> Result<Vec<&'a str>, Error> {
    let enabled = file::read(&path.join("cgroup.subtree_control"))?.unwrap_or_default();
    let enabled: Vec<&str> = enabled.split_whitespace().collect();
    Ok(available.iter().copied().filter(|name| !enabled.contains(name)).collect())
}

/// The nearest directory above the container's whose own processes keep `controller` from being handed down.
pub(super) fn internal_processes(dir: &Dir, controller: &str) -> Result<Option<Error>, Error> {
    for path in dir.path.ancestors().skip(1).take_while(|path| path.starts_with(&dir.mount) && *path != dir.mount) {
        let offered = file::read(&path.join("cgroup.controllers"))?.unwrap_or_default();
        let enabled = file::read(&path.join("cgroup.subtree_control"))?.unwrap_or_default();
        let has = |list: &str| list.split_whitespace().any(|name| name == controller);
        if has(&offered) && !has(&enabled) && !file::read_pids(&path.join("cgroup.procs"))?.is_empty() {
            return Ok(Some(Error::InternalProcesses { path: path.to_owned(), controllers: controller.to_owned() }));
        }
    }
    Ok(None)
}

/// For CLONE_INTO_CGROUP: a directory descriptor.
pub(super) fn open(dir: &Dir) -> Result<OwnedFd, Error> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_PATH | libc::O_NOFOLLOW)
        .open(&dir.path)
        .map(File::into)
        .map_err(|err| Error::Open { path: dir.path.clone(), err: file::errno(&err) })
}

/// What a delegated directory's new owner must be able to write, where the kernel does not say (Linux before 4.15).
const DELEGATED: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";

pub(super) fn own(dir: &Dir, uid: u32) -> Result<(), Error> {
    let names = file::read(Path::new("/sys/kernel/cgroup/delegate"))?.unwrap_or_else(|| DELEGATED.to_owned());
    let files = names.lines().map(|name| dir.path.join(name));
    for path in std::iter::once(dir.path.clone()).chain(files) {
        match std::os::unix::fs::chown(&path, Some(uid), None) {
            // A file of a controller that is not enabled here.
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
            // Nobody but root gives files away; the cgroup stays its maker's, who is the container's root.
            Err(err) if err.kind() == std::io::ErrorKind::PermissionDenied && crate::caller::is_unprivileged() => {
                tracing::warn!(path = %path.display(), uid, "the cgroup stays the caller's own");
                return Ok(());
            }
            done => done.map_err(|err| Error::Own { path: path.clone(), uid, err: file::errno(&err) })?,
        }
    }
    Ok(())
}
