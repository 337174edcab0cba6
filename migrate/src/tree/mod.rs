//! Directories, sent and received with all that is in them: the writable layer of a container, and a checkpoint.
//!
//! What goes: regular files with their holes, directories, symbolic links, devices (overlayfs's whiteouts are devices 0:0),
//! fifos, sockets, hard links; owner, mode, times in nanoseconds, and all extended attributes (overlayfs's opaque directories
//! are one) but those that name something of the source's disk.
//!
//! A tree can be sent twice: the second time goes what has changed, by inode, change time and size, and what is there no more.
//! - `scan`: reads directories and attributes. `send`, `receive`: the two sides. `mapped`: files whose change time does not
//!   tell whether they have changed.

mod mapped;
mod receive;
mod scan;
mod send;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

pub(crate) use mapped::mapped_files;
#[cfg(test)]
use receive::Received;
pub(crate) use receive::{begin, receive};
pub(crate) use send::{Sent, send};

/// Attributes of overlayfs that name inodes or file systems of the host where they were made (Documentation/filesystems/
/// overlayfs.rst). Without them a file counts as one that was made in the upper directory.
const OF_THE_DISK: [&str; 4] = ["overlay.origin", "overlay.uuid", "overlay.nlink", "overlay.upper"];

fn is_of_the_disk(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let overlay = name.strip_prefix(b"trusted.").or_else(|| name.strip_prefix(b"user."));
    overlay.is_some_and(|name| OF_THE_DISK.iter().any(|known| known.as_bytes() == name))
}

#[cfg(test)]
mod tests;
