//! The `delete` action: cleans up after a shim that died, and tells containerd how its container ended.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use containerd_shim::Flags;
use containerd_shim_protos::shim::shim::DeleteResponse;
use protobuf::Message;
use runtime_core::children::Exit;
use runtime_core::container::Container;
use runtime_core::id::InvalidContainerId;
use runtime_core::{ContainerId, ErrorKind, Signal};

use crate::events::timestamp;
use crate::options::Options;
use crate::task::{STATE_ROOT_FILE, streams};
use crate::{journal, mount, socket};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Id(#[from] InvalidContainerId),
    #[error("current directory, the bundle")]
    WorkingDirectory(#[source] std::io::Error),
    #[error("delete the container")]
    Container(#[source] Box<runtime_core::Error>),
    #[error("unmount the rootfs")]
    Rootfs(#[from] mount::Error),
    #[error("remove the socket")]
    Socket(#[from] socket::Error),
    #[error("remove {}, where the streams of a container are that has come from another node", path.display())]
    Streams {
        path: PathBuf,
        #[source]
        err: std::io::Error,
    },
    #[error("encode the answer")]
    Encode(#[source] protobuf::Error),
    #[error("write the answer")]
    Answer(#[source] std::io::Error),
}

/// Ends and removes the container if it is still there, its mounts, and the socket if nobody serves it any more. Prints
/// a `DeleteResponse` and may be called again.
///
/// # Errors
/// What could not be removed first; the rest was tried all the same.
pub(crate) fn run(flags: &Flags) -> Result<(), Error> {
    let id = ContainerId::parse(&flags.id)?;
    let bundle = match flags.bundle.as_str() {
        "" => std::env::current_dir().map_err(Error::WorkingDirectory)?,
        bundle => PathBuf::from(bundle),
    };
    let removed = remove_container(&state_root(&bundle, &flags.namespace), &id);
    let unmounted = mount::unmount_all(&bundle.join("rootfs"));
    let closed = remove_socket(&bundle);
    let streams = streams::remove(&bundle).map_err(|(path, err)| Error::Streams { path, err });
    let pid = removed?;
    unmounted?;
    closed?;
    streams?;
    answer(&response(&bundle, pid))
}

fn state_root(bundle: &Path, namespace: &str) -> PathBuf {
    match std::fs::read_to_string(bundle.join(STATE_ROOT_FILE)) {
        Ok(root) => PathBuf::from(root),
        Err(_) => Options::default().state_root(namespace),
    }
}

/// Returns the pid that the init had; 0 if there was no container.
fn remove_container(root: &Path, id: &ContainerId) -> Result<u32, Error> {
    let container = match Container::load(root, id) {
        Ok(container) => container,
        Err(err) if err.kind() == ErrorKind::NotFound => {
            // A shim that was killed in Create or in Delete can have left a directory without a state.
            return Container::discard(root, id).map(|()| 0).map_err(|err| Error::Container(Box::new(err)));
        }
        Err(err) => return Err(Error::Container(Box::new(err))),
    };
    let pid = container.pid().map_or(0, |pid| pid.as_raw().unsigned_abs());
    container.delete(true).map_err(|err| Error::Container(Box::new(err)))?;
    Ok(pid)
}

/// The shim of a pod may be well and serve the other containers.
fn remove_socket(bundle: &Path) -> Result<(), Error> {
    let Some(address) = socket::read_address(bundle) else { return Ok(()) };
    Ok(socket::remove_if_dead(socket::path_of(&address))?)
}

/// How the init ended where its shim could still write that down; else it was killed just now.
fn response(bundle: &Path, pid: u32) -> DeleteResponse {
    let killed = Exit { code: 128 + Signal::KILL.as_raw().unsigned_abs(), at: SystemTime::now() };
    let (pid, exit) = journal::read(bundle).map_or((pid, killed), |(pid, exit)| (pid.as_raw().unsigned_abs(), exit));
    DeleteResponse {
        pid,
        exit_status: exit.code,
        exited_at: Some(timestamp(exit.at)).into(),
        ..DeleteResponse::default()
    }
}

fn answer(response: &DeleteResponse) -> Result<(), Error> {
    let bytes = response.write_to_bytes().map_err(Error::Encode)?;
    let mut stdout = std::io::stdout();
    stdout.write_all(&bytes).and_then(|()| stdout.flush()).map_err(Error::Answer)
}

#[cfg(test)]
mod tests {
    use runtime_core::Pid;

    use super::*;

    #[test]
    fn an_init_whose_exit_nobody_saw_was_killed() {
        let bundle = tempfile::tempdir().unwrap();
        let response = response(bundle.path(), 42);
        assert_eq!((response.pid, response.exit_status), (42, 137));
        assert!(response.exited_at.is_some());
    }

    #[test]
    fn the_journal_knows_better() {
        let bundle = tempfile::tempdir().unwrap();
        let exit = Exit { code: 3, at: SystemTime::now() };
        journal::write(bundle.path(), Pid::new(7).unwrap(), exit).unwrap();
        let response = response(bundle.path(), 0);
        assert_eq!((response.pid, response.exit_status), (7, 3));
    }

    #[test]
    fn a_directory_without_a_state_goes_too() {
        let root = tempfile::tempdir().unwrap();
        let id = ContainerId::parse("c1").unwrap();
        std::fs::create_dir(root.path().join("c1")).unwrap();
        assert_eq!(remove_container(root.path(), &id).unwrap(), 0);
        assert!(!root.path().join("c1").exists());
    }

    #[test]
    fn a_socket_that_is_served_stays() {
        let directory = tempfile::tempdir().unwrap();
        let address = format!("unix://{}/s/socket", directory.path().display());
        socket::write_address(directory.path(), &address).unwrap();
        let socket::Bound::New(listener) = socket::bind(&address).unwrap() else { panic!("a fresh socket is ours") };
        let (stop, shim) = socket::tests::serve(listener);
        remove_socket(directory.path()).unwrap();
        assert!(socket::path_of(&address).exists());
        drop(stop);
        shim.join().unwrap();
        remove_socket(directory.path()).unwrap();
        assert!(!socket::path_of(&address).exists());
    }

    #[test]
    fn the_state_root_is_the_one_of_create() {
        let bundle = tempfile::tempdir().unwrap();
        assert_eq!(state_root(bundle.path(), "ns"), Path::new("/run/containerd/rtc/ns"));
        std::fs::write(bundle.path().join(STATE_ROOT_FILE), "/elsewhere/ns").unwrap();
        assert_eq!(state_root(bundle.path(), "ns"), Path::new("/elsewhere/ns"));
    }
}
