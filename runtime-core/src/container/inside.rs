//! Work of the runtime's own, with the host's rights, in a namespace of a container.

use std::os::fd::{AsFd, OwnedFd};

use nix::sched::CloneFlags;

use crate::{ContainerId, Error, Pid, Result};

/// Runs `work` in a thread of its own that has joined a mount or network namespace, and waits for it. The thread ends with
/// the work, so that no other ever sees the namespace.
pub(super) fn run<T: Send>(
    id: &ContainerId,
    namespace: &OwnedFd,
    kind: CloneFlags,
    work: impl FnOnce() -> T + Send,
) -> Result<T> {
    let failed =
        |err: std::io::Error| Error::System { id: id.clone(), operation: "join the container's namespace", err };
    let join = || {
        if kind == CloneFlags::CLONE_NEWNS {
            // The root and the working directory, which threads share, change with the mount namespace.
            nix::sched::unshare(CloneFlags::CLONE_FS)?;
        }
        nix::sched::setns(namespace.as_fd(), kind)
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("inside".to_owned());
        let spawned = thread.spawn_scoped(scope, move || join().map(|()| work())).map_err(failed)?;
        match spawned.join() {
            Ok(done) => done.map_err(|err| failed(err.into())),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// A namespace of a process that is ours to end, so that its pid stays its own.
pub(super) fn namespace(id: &ContainerId, pid: Pid, file: &str) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/ns/{file}");
    std::fs::File::open(&path).map(Into::into).map_err(|err| Error::File {
        id: id.clone(),
        operation: "open",
        path: path.into(),
        err,
    })
}
