//! The descriptors of a process, and what they are.

use proto::criu::images::{FdinfoEntry, FileEntry};
use serde::Serialize;

use super::files::Files;
use super::reader::{Needed, Reader, text};
use super::socket::{self, Address, Protocol, SocketState, UnixKind};

const FDINFO: u32 = 0x5621_3732;

/// `type` of a file (`fdinfo.proto`).
mod kind {
    pub(super) const FIFO: u32 = 3;
    pub(super) const EPOLL: u32 = 7;
    pub(super) const INOTIFY: u32 = 8;
    pub(super) const SIGNALFD: u32 = 9;
    pub(super) const FANOTIFY: u32 = 12;
    pub(super) const TUN: u32 = 15;
    pub(super) const EXTERNAL: u32 = 16;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenFile {
    pub fd: u32,
    #[serde(flatten)]
    pub file: File,
}

/// What a descriptor refers to. In JSON `type` says which it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "type")]
pub enum File {
    Regular {
        path: String,
        access: Access,
        /// Bytes.
        position: u64,
        /// Bytes; what CRIU compares at the restore.
        size: Option<u64>,
        /// It has no name any more; what was in it is in the images.
        deleted: bool,
        /// It is somebody else's, and CRIU is to be given it at the restore.
        external: bool,
    },
    Pipe {
        /// Both ends have the same.
        id: u32,
        access: Access,
        /// Bytes that nobody has read yet.
        unread: u64,
    },
    Fifo {
        path: Option<String>,
        unread: u64,
    },
    Socket {
        protocol: Protocol,
        state: SocketState,
        local: Address,
        remote: Option<Address>,
        /// Bytes that nobody has read yet, and that the other side has not acknowledged; of connections.
        unread: u64,
        unsent: u64,
    },
    Unix {
        kind: UnixKind,
        state: SocketState,
        /// Abstract ones begin with `@`.
        path: Option<String>,
        inode: u32,
        /// Inode of the other end.
        peer: Option<u32>,
    },
    Netlink {
        protocol: u32,
    },
    Packet {
        protocol: u32,
    },
    Terminal {
        path: Option<String>,
    },
    Memfd {
        name: Option<String>,
        size: Option<u64>,
    },
    Eventfd {
        counter: u64,
    },
    Timerfd {
        clock: u32,
    },
    Epoll,
    Signalfd,
    Inotify,
    Fanotify,
    Namespace {
        kind: Option<&'static str>,
    },
    Tun,
    /// Somebody else's, which CRIU is to be given at the restore.
    External,
    /// What CRIU has that is not known here, or what `files.img` does not have.
    Unknown {
        number: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Access {
    Read,
    Write,
    ReadWrite,
    /// O_PATH, and ioctl(2) alone.
    None,
}

impl Access {
    /// `flags` of open(2).
    fn new(flags: u32) -> Self {
        const PATH: u32 = rustix::fs::OFlags::PATH.bits();
        match flags {
            _ if flags & PATH != 0 => Self::None,
            _ if flags & 3 == 0 => Self::Read,
            _ if flags & 3 == 1 => Self::Write,
            _ if flags & 3 == 2 => Self::ReadWrite,
            _ => Self::None,
        }
    }
}

/// The descriptors in `fdinfo-ID.img`, in order.
pub(super) fn read(reader: &mut Reader<'_>, id: u32, files: &Files) -> Vec<OpenFile> {
    let mut entries = Vec::new();
    reader.each(&format!("fdinfo-{id}.img"), FDINFO, Needed::Yes, |entry: FdinfoEntry| entries.push(entry));
    entries.sort_by_key(|entry| entry.fd);
    let open = |entry: FdinfoEntry| {
        let found = files.get(entry.id);
        let file = found.map_or(File::Unknown { number: entry.r#type }, |file| describe(reader, files, file));
        OpenFile { fd: entry.fd, file }
    };
    entries.into_iter().map(open).collect()
}

fn describe(reader: &mut Reader<'_>, files: &Files, entry: &FileEntry) -> File {
    // One of these is there, whatever the type says.
    if let Some(file) = &entry.reg {
        return File::Regular {
            path: text(&file.name),
            access: Access::new(file.flags),
            position: file.pos,
            size: file.size,
            deleted: files.is_deleted(entry.id),
            external: file.ext(),
        };
    }
    if let Some(pipe) = &entry.pipe {
        let (id, access) = (pipe.pipe_id, Access::new(pipe.flags));
        return File::Pipe { id, access, unread: files.in_pipe(id) };
    }
    if let Some(fifo) = &entry.fifo {
        let path = fifo.regf_id.and_then(|id| files.path(id)).or_else(|| files.path(entry.id));
        return File::Fifo { path, unread: files.in_fifo(fifo.pipe_id) };
    }
    if let Some(socket) = &entry.isk {
        return socket::internet(reader, socket);
    }
    if let Some(socket) = &entry.usk {
        return socket::unix(socket);
    }
    if let Some(terminal) = &entry.tty {
        return File::Terminal { path: terminal.regf_id.and_then(|id| files.path(id)) };
    }
    if let Some(memfd) = &entry.memfd {
        let inode = files.memfd(memfd.inode_id);
        return File::Memfd { name: inode.map(|inode| text(&inode.name)), size: inode.map(|inode| inode.size) };
    }
    small(entry)
}

fn small(entry: &FileEntry) -> File {
    match entry.r#type {
        _ if entry.nlsk.is_some() => {
            File::Netlink { protocol: entry.nlsk.as_ref().map_or(0, |socket| socket.protocol) }
        }
        _ if entry.psk.is_some() => File::Packet { protocol: entry.psk.as_ref().map_or(0, |socket| socket.protocol) },
        _ if entry.efd.is_some() => File::Eventfd { counter: entry.efd.as_ref().map_or(0, |eventfd| eventfd.counter) },
        _ if entry.tfd.is_some() => File::Timerfd { clock: entry.tfd.as_ref().map_or(0, |timer| timer.clockid) },
        _ if entry.nsf.is_some() => {
            File::Namespace { kind: entry.nsf.as_ref().and_then(|file| namespace(file.ns_cflag)) }
        }
        kind::FIFO => File::Fifo { path: None, unread: 0 },
        kind::EPOLL => File::Epoll,
        kind::INOTIFY => File::Inotify,
        kind::SIGNALFD => File::Signalfd,
        kind::FANOTIFY => File::Fanotify,
        kind::TUN => File::Tun,
        kind::EXTERNAL => File::External,
        number => File::Unknown { number },
    }
}

/// The name that a CLONE_NEW flag has in /proc/PID/ns.
fn namespace(flag: u32) -> Option<&'static str> {
    Some(match flag {
        0x80 => "time",
        0x2_0000 => "mnt",
        0x200_0000 => "cgroup",
        0x400_0000 => "uts",
        0x800_0000 => "ipc",
        0x1000_0000 => "user",
        0x2000_0000 => "pid",
        0x4000_0000 => "net",
        _ => return None,
    })
}
