//! sd_notify(3) from inside: a datagram socket in the container's state directory, whose directory is bound into the
//! container. Who starts the container binds the socket and passes on what comes (runc's way).

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};

use super::state::Directory;
use crate::Result;

/// Below the state directory.
const DIRECTORY: &str = "notify";
const SOCKET: &str = "notify.sock";
const INSIDE: &str = "/run/notify";

/// What the container needs to find the socket; `directory` is its state directory.
pub(super) fn add_to(spec: &mut Spec, directory: &Path) {
    let mut mount = Mount::default();
    mount.set_destination(INSIDE.into());
    mount.set_typ(Some("bind".to_owned()));
    mount.set_source(Some(directory.join(DIRECTORY)));
    mount.set_options(Some(["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned).to_vec()));
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    mounts.push(mount);
    spec.set_mounts(Some(mounts));
    if let Some(mut process) = spec.process().clone() {
        let mut env = process.env().clone().unwrap_or_default();
        env.push(format!("NOTIFY_SOCKET={INSIDE}/{SOCKET}"));
        process.set_env(Some(env));
        spec.set_process(Some(process));
    }
}

/// The mount point of the socket's directory in the container.
pub(super) fn inside() -> &'static Path {
    Path::new(INSIDE)
}

/// Whether the container was made with a socket.
pub(super) fn is_in(directory: &Directory) -> bool {
    directory.path().join(DIRECTORY).is_dir()
}

pub(super) fn make_directory(directory: &Directory) -> Result<()> {
    let path = directory.path().join(DIRECTORY);
    fs::DirBuilder::new().mode(0o755).create(&path).map_err(directory.fail("mkdir", &path))
}

/// `None` for a container that was made without.
pub(super) fn bind(directory: &Directory) -> Result<Option<UnixDatagram>> {
    if !is_in(directory) {
        return Ok(None);
    }
    let bind = |directory: &Path| -> io::Result<UnixDatagram> {
        let path: PathBuf = directory.join(DIRECTORY).join(SOCKET);
        // Of a starter that died.
        match fs::remove_file(&path) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
            _ => {}
        }
        let socket = UnixDatagram::bind(&path)?;
        // Any user of the container may write to it.
        fs::set_permissions(&path, Permissions::from_mode(0o777))?;
        Ok(socket)
    };
    let bound = directory.at_short_path(bind).map_err(io::Error::from).and_then(|bound| bound);
    bound.map(Some).map_err(directory.fail("bind", &directory.path().join(DIRECTORY).join(SOCKET)))
}
