//! The shim's unix socket: its address, binding it once for a group, and removing it.
//!
//! The address is the one that containerd's own shims compute (`/run/containerd/s/` and a SHA-256 of containerd's
//! address, the namespace and the group), so that a second `start` of the same pod finds the first one's shim.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use containerd_shim_protos::shim::shim::ConnectRequest;
use protobuf::Message;
use rustix::fs::FlockOperation;
use ttrpc::{MessageHeader, Request};

/// In the bundle of every container of a shim: the address of its socket. `delete` finds the socket by it.
const ADDRESS_FILE: &str = "address";
/// For a shim to answer that it serves; longer than one needs that is just starting.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
#[error("{operation} {}", path.display())]
pub(crate) struct Error {
    operation: &'static str,
    path: PathBuf,
    #[source]
    err: std::io::Error,
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    move |err| Error { operation, path: path.to_owned(), err }
}

/// What [`bind`] found at an address.
#[derive(Debug)]
pub(crate) enum Bound {
    /// Nobody served there: this process has to see to it that somebody does.
    New(UnixListener),
    /// A shim of the same group listens already.
    Served,
}

/// The file system path of an address such as `unix:///run/containerd/s/0ddf…`.
pub(crate) fn path_of(address: &str) -> &Path {
    Path::new(address.strip_prefix("unix://").unwrap_or(address))
}

/// Binds the socket, or finds that a shim serves it. The socket of a shim that died is replaced.
///
/// # Errors
/// The operation and the path that failed.
pub(crate) fn bind(address: &str) -> Result<Bound, Error> {
    let path = path_of(address);
    let directory = path.parent().unwrap_or(Path::new("/"));
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(failed("create directory", directory))?;
    let _lock = lock(directory)?;
    let listener = match UnixListener::bind(path) {
        Err(err) if err.kind() == ErrorKind::AddrInUse => {
            if is_served(path) {
                return Ok(Bound::Served);
            }
            remove_file(path)?;
            UnixListener::bind(path)
        }
        other => other,
    }
    .map_err(failed("bind socket", path))?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).map_err(failed("restrict socket", path))?;
    Ok(Bound::New(listener))
}

/// Two starts of one pod at once: without the lock each could take the other's fresh socket for a dead one.
fn lock(directory: &Path) -> Result<File, Error> {
    let lock = File::open(directory).map_err(failed("open directory", directory))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)
        .map_err(|err| failed("lock directory", directory)(err.into()))?;
    Ok(lock)
}

/// Whether a shim answers there. That somebody listens is not enough: of a shim that was killed while it made a process,
/// the child has the socket until its exec. The kernel hangs up on us then. A shim that is stuck counts as one that serves.
pub(crate) fn is_served(path: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(path) else { return false };
    let Ok(call) = connect_call() else { return true };
    let asked = stream.set_read_timeout(Some(ANSWER_WITHIN)).and_then(|()| stream.write_all(&call));
    match asked.and_then(|()| stream.read(&mut [0])) {
        Ok(read) => read > 0,
        Err(err) => matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

/// A call of Connect, which asks nothing and changes nothing, as it stands on the wire.
fn connect_call() -> protobuf::Result<Vec<u8>> {
    let request = Request {
        service: "containerd.task.v2.Task".to_owned(),
        method: "Connect".to_owned(),
        payload: ConnectRequest::default().write_to_bytes()?,
        ..Request::default()
    };
    let body = request.write_to_bytes()?;
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut call = Vec::from(MessageHeader::new_request(1, length));
    call.extend(body);
    Ok(call)
}

/// Removes the socket of a shim that is no more.
///
/// # Errors
/// The operation and the path that failed.
pub(crate) fn remove_if_dead(path: &Path) -> Result<(), Error> {
    if !path.exists() {
        return Ok(());
    }
    let _lock = lock(path.parent().unwrap_or(Path::new("/")))?;
    if is_served(path) { Ok(()) } else { remove_file(path) }
}

/// Removes the file of a socket; it is no error if it is gone.
///
/// # Errors
/// unlink(2)'s.
pub(crate) fn remove_file(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(err) if err.kind() != ErrorKind::NotFound => Err(failed("remove socket", path)(err)),
        _ => Ok(()),
    }
}

/// Leaves the address in a bundle, for `delete`.
///
/// # Errors
/// The path and why it could not be written.
pub(crate) fn write_address(bundle: &Path, address: &str) -> Result<(), Error> {
    let path = bundle.join(ADDRESS_FILE);
    std::fs::write(&path, address).map_err(failed("write", &path))
}

/// The address that `start` left in a bundle; `None` where it got not that far.
pub(crate) fn read_address(bundle: &Path) -> Option<String> {
    std::fs::read_to_string(bundle.join(ADDRESS_FILE)).ok().filter(|address| !address.is_empty())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::mpsc::{Sender, TryRecvError, channel};
    use std::thread::{JoinHandle, sleep, spawn};

    use super::*;

    fn address_in(directory: &tempfile::TempDir) -> String {
        format!("unix://{}/s/socket", directory.path().display())
    }

    fn bind_new(address: &str) -> UnixListener {
        match bind(address).unwrap() {
            Bound::New(listener) => listener,
            Bound::Served => panic!("nobody serves there"),
        }
    }

    /// Answers every call until the sender is dropped.
    pub(crate) fn serve(listener: UnixListener) -> (Sender<()>, JoinHandle<()>) {
        let (stop, stopped) = channel();
        listener.set_nonblocking(true).unwrap();
        let server = spawn(move || {
            while stopped.try_recv() == Err(TryRecvError::Empty) {
                if let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nonblocking(false).unwrap();
                    let mut header = [0; ttrpc::proto::MESSAGE_HEADER_LENGTH];
                    stream.read_exact(&mut header).unwrap();
                    let mut body = vec![0; MessageHeader::from(header).length as usize];
                    stream.read_exact(&mut body).unwrap();
                    assert_eq!(Request::parse_from_bytes(&body).unwrap().method, "Connect");
                    stream.write_all(&header).unwrap();
                }
                sleep(Duration::from_millis(1));
            }
        });
        (stop, server)
    }

    #[test]
    fn a_second_start_of_a_group_finds_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let address = address_in(&directory);
        let (stop, shim) = serve(bind_new(&address));
        assert!(matches!(bind(&address).unwrap(), Bound::Served));
        drop(stop);
        shim.join().unwrap();
    }

    #[test]
    fn the_socket_of_a_dead_shim_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let address = address_in(&directory);
        drop(bind_new(&address));
        assert!(path_of(&address).exists());
        bind_new(&address);
    }

    #[test]
    fn a_socket_that_a_child_of_a_dead_shim_still_has_is_not_served() {
        let directory = tempfile::tempdir().unwrap();
        let address = address_in(&directory);
        let listener = bind_new(&address);
        let child = spawn(move || {
            sleep(Duration::from_millis(50));
            drop(listener);
        });
        remove_if_dead(path_of(&address)).unwrap();
        assert!(!path_of(&address).exists());
        child.join().unwrap();
    }

    #[test]
    fn only_the_owner_may_connect() {
        let directory = tempfile::tempdir().unwrap();
        let address = address_in(&directory);
        let _bound = bind(&address).unwrap();
        let mode = std::fs::metadata(path_of(&address)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_socket_can_be_removed_twice() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gone");
        remove_file(&path).unwrap();
    }
}
