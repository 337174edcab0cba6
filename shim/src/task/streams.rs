//! The fifos that `rtc migrate receive` has made for a container that came: no client did, and none would remove them.
//!
//! Their directory (crate `rtc-migrate`, module `stdio`) is written down in the bundle before the task is made, for a shim that
//! is killed removes nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::process::StdioPaths;

/// In the bundle: the directory, where there is one.
const FILE: &str = "rtc-streams";
const FIFOS: &str = "/run/containerd/fifo";
const PREFIX: &str = "rtc-migrate-";

/// Writes down what [`remove`] will remove.
pub(super) fn note(bundle: &Path, stdio: &StdioPaths) -> io::Result<()> {
    match arrived([&stdio.stdin, &stdio.stdout, &stdio.stderr]) {
        Some(directory) => fs::write(bundle.join(FILE), directory.as_os_str().as_encoded_bytes()),
        None => Ok(()),
    }
}

/// Removes the fifos of the bundle's container; nothing if a client has made them. The error has the directory.
pub(crate) fn remove(bundle: &Path) -> Result<(), (PathBuf, io::Error)> {
    let noted = match fs::read_to_string(bundle.join(FILE)) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        noted => noted.map_err(|err| (bundle.join(FILE), err))?,
    };
    // What is in a bundle is no reason to remove any other directory.
    let directory = PathBuf::from(noted);
    if !is_arrived(&directory) {
        return Ok(());
    }
    match fs::remove_dir_all(&directory) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err((directory, err)),
        _ => Ok(()),
    }
}

/// The directory of a migration's that streams are in; all of a task's are in one.
fn arrived(streams: [&str; 3]) -> Option<PathBuf> {
    let directories = streams.into_iter().filter_map(|stream| Path::new(stream).parent());
    directories.into_iter().find(|directory| is_arrived(directory)).map(Path::to_owned)
}

fn is_arrived(directory: &Path) -> bool {
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    directory.parent() == Some(Path::new(FIFOS)) && name.starts_with(PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_migrations_streams_are_taken_for_such() {
        let ours = "/run/containerd/fifo/rtc-migrate-1/c1-stdout";
        assert_eq!(arrived(["", ours, ""]).as_deref(), Some(Path::new("/run/containerd/fifo/rtc-migrate-1")));
        let others =
            ["/run/containerd/fifo/7/c1-stdin", "file:///run/containerd/fifo/rtc-migrate-1/x", "/srv/rtc-migrate-1/x"];
        assert_eq!(arrived(others), None);
        assert_eq!(arrived(["/run/containerd/fifo/rtc-migrate-1/../../x/y", "", ""]), None);
    }

    #[test]
    fn what_is_written_in_a_bundle_removes_no_other_directory() {
        let bundle = tempfile::tempdir().unwrap();
        remove(bundle.path()).unwrap();
        let other = bundle.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(bundle.path().join(FILE), other.as_os_str().as_encoded_bytes()).unwrap();
        remove(bundle.path()).unwrap();
        assert!(other.exists());
    }
}
