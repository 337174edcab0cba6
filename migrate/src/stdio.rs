//! The standard streams of a container at the destination.
//!
//! What was a `file://` or a `binary://` stays one. A fifo belongs to a client of the source's containerd; at the destination
//! there is a new one in its place, to which `ctr task attach` can go: until somebody reads, output waits in it.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use proto::stream::Task;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::error::{Error, Result};

/// Where containerd's clients have theirs.
const FIFOS: &str = "/run/containerd/fifo";
const PREFIX: &str = "rtc-migrate-";

/// The streams of a task that is to be created, with what was made for them.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) task: Task,
    readers: Vec<fs::File>,
}

/// The directory for the fifos of a migration.
pub(crate) fn directory(migration: &str) -> PathBuf {
    Path::new(FIFOS).join(format!("{PREFIX}{migration}"))
}

/// Makes the fifos that are needed.
pub(crate) fn prepare(id: &str, migration: &str, task: Task) -> Result<Streams> {
    let directory = directory(migration);
    let mut streams = Streams { task, readers: Vec::new() };
    let Task { stdin, stdout, stderr, .. } = &mut streams.task;
    for (stream, name) in [(stdin, "stdin"), (stdout, "stdout"), (stderr, "stderr")] {
        if !stream.starts_with('/') {
            continue;
        }
        let path = directory.join(format!("{id}-{name}"));
        make(&directory, &path)?;
        *stream = path.to_string_lossy().into_owned();
        if name != "stdin" {
            // The shim waits a moment for a reader, to lose nothing; here there is none yet and nothing is lost.
            let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
            let reader = rustix::fs::open(&path, flags, Mode::empty()).map_err(Error::system("open", &path))?;
            streams.readers.push(reader.into());
        }
    }
    Ok(streams)
}

fn make(directory: &Path, path: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(Error::file("make directory", directory))?;
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).map_err(Error::system("make fifo", path))
}

/// Removes the fifos of a migration; nothing if there are none.
pub(crate) fn remove(migration: &str) -> Result<()> {
    let directory = directory(migration);
    match fs::remove_dir_all(&directory) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", directory)(err)),
        _ => Ok(()),
    }
}

/// Removes the fifos that an earlier move has made for a task that leaves now. Those of other clients are theirs.
pub(crate) fn remove_of(stdout: &str, stdin: &str) -> Result<()> {
    for stream in [stdout, stdin] {
        let Some(directory) = Path::new(stream).parent() else { continue };
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        if directory.parent() == Some(Path::new(FIFOS))
            && let Some(migration) = name.strip_prefix(PREFIX)
        {
            remove(migration)?;
        }
    }
    Ok(())
}
