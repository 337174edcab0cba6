//! `file://`: output appended to a file of the host.
//!
//! The container gets a pipe and not the file itself, though that would save the copy. With the file, whoever is in the
//! container could open `/proc/self/fd/1` anew and truncate or rewrite its own log (the shell's `> /dev/stdout` does),
//! and CRIU would refuse to dump a descriptor that lies outside the container's mounts. And splice(2) refuses a file
//! opened with O_APPEND, which must stay: stdout and stderr may be one file, and log rotation truncates it.
//!
//! Writes to a file can wait for the disk, so they are done on tokio's blocking threads, which exist only while there
//! is output.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use tracing::warn;

use super::error::{Error, Stream};
use super::pump;
use super::watched::Watched;

const BUFFER: usize = 64 * 1024;

/// One trip to a blocking thread moves at most so many bytes, for the sake of a shim that wants to end.
const BYTES_PER_TRIP: usize = 16 * 1024 * 1024;

/// A full disk is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// Opens the log for appending; makes it (mode 0644) and its parents (0755) where they are missing.
pub(super) fn open_log(stream: Stream, path: &Path) -> Result<Arc<File>, Error> {
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(|err| Error::Directory {
            stream,
            path: parent.to_owned(),
            err: errno(&err),
        })?;
    }
    OpenOptions::new().append(true).create(true).mode(0o644).open(path).map(Arc::new).map_err(|err| Error::Open {
        stream,
        path: path.to_owned(),
        err: errno(&err),
    })
}

fn errno(err: &io::Error) -> Errno {
    Errno::from_raw(err.raw_os_error().unwrap_or(Errno::EIO as i32))
}

/// How a trip to the blocking thread ended.
enum Trip {
    /// The pipe is empty for now.
    Empty,
    More,
    EndOfFile,
    /// The file refused these bytes.
    Refused(Vec<u8>, io::Error),
}

/// Appends everything from a pipe to the file, until the pipe has ended.
pub(super) async fn append_all(from: Watched, file: Arc<File>) -> io::Result<()> {
    let from = Arc::new(from);
    loop {
        let mut guard = from.readable().await?;
        let (source, sink) = (Arc::clone(&from), Arc::clone(&file));
        match on_blocking_thread(move || trip(&source, &sink)).await?? {
            Trip::Empty => guard.clear_ready(),
            Trip::More => {}
            Trip::EndOfFile => return Ok(()),
            Trip::Refused(bytes, err) => {
                warn!(error = %err, "log file refuses output, which is held back until it takes it");
                tokio::time::sleep(RETRY).await;
                append(&file, bytes).await?;
            }
        }
    }
}

fn trip(from: &Watched, mut file: &File) -> io::Result<Trip> {
    let mut buffer = vec![0; BUFFER];
    let mut moved = 0;
    while moved < BYTES_PER_TRIP {
        match pump::read_now(from, &mut buffer) {
            Ok(0) => return Ok(Trip::EndOfFile),
            Ok(filled) => {
                if let Err((written, err)) = write_all(&mut file, &buffer[..filled]) {
                    return Ok(Trip::Refused(buffer[written..filled].to_vec(), err));
                }
                moved += filled;
            }
            Err(Errno::EAGAIN) => return Ok(Trip::Empty),
            Err(Errno::EINTR) => {}
            Err(err) => return Err(err.into()),
        }
    }
    Ok(Trip::More)
}

/// Appends these bytes, however long the file refuses them: nothing is dropped, the process is held back instead.
pub(super) async fn append(file: &Arc<File>, mut bytes: Vec<u8>) -> io::Result<()> {
    loop {
        let sink = Arc::clone(file);
        let (rest, refused) = on_blocking_thread(move || match write_all(&mut &*sink, &bytes) {
            Ok(()) => (Vec::new(), false),
            Err((written, _)) => (bytes.split_off(written), true),
        })
        .await?;
        if !refused {
            return Ok(());
        }
        bytes = rest;
        tokio::time::sleep(RETRY).await;
    }
}

/// `Write::write_all` that says how far it came.
fn write_all(file: &mut impl Write, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err((written, err)),
        }
    }
    Ok(())
}

async fn on_blocking_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}
