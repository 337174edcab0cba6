//! The shim's unix socket: its address, binding it once for a group, and removing it.
//!
//! The address is the one that containerd's own shims compute (`/run/containerd/s/` and a SHA-256 of containerd's
//! address, the namespace and the group), so that a second `start` of the same pod finds the first one's shim.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

/// In the bundle of every container of a shim: the address of its socket. `delete` finds the socket by it.
const ADDRESS_FILE: &str = "address";

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
    // Two starts of one pod at once: without the lock each could take the other's fresh socket for a dead one.
    let lock = File::open(directory).map_err(failed("open directory", directory))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)
        .map_err(|err| failed("lock directory", directory)(err.into()))?;

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

/// Whether somebody listens on the socket.
pub(crate) fn is_served(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
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
mod tests {
    use super::*;

    fn address_in(directory: &tempfile::TempDir) -> String {
        format!("unix://{}/s/socket", directory.path().display())
    }

    #[test]
    fn a_second_start_of_a_group_finds_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let address = address_in(&directory);
        let Bound::New(_listener) = bind(&address).unwrap() else { panic!("a fresh socket is ours") };
        assert!(matches!(bind(&address).unwrap(), Bound::Served));
    }

    #[test]
    fn the_socket_of_a_dead_shim_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let address = address_in(&directory);
        drop(bind(&address).unwrap());
        assert!(path_of(&address).exists());
        let Bound::New(_listener) = bind(&address).unwrap() else { panic!("nobody listens there") };
        assert!(is_served(path_of(&address)));
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
