//! A FUSE file system that is mounted nowhere: who has its root's descriptor reaches it, as CRIU does by `/proc/PID/fd`, and
//! nobody else.
//!
//! The kernel keeps nothing of its files (direct I/O), so that what they hold is in memory once. It ends with the last
//! descriptor of it, and when this process ends, however that comes, every request is answered with an error.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use fuser::{Config, FileAttr, FileType, Filesystem, INodeNo, KernelConfig, Session, SessionACL};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};

use super::error::SealError;
use super::format::CHUNK;

/// How long the kernel may take to end it, once nobody has a descriptor any more.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between looks whether it has ended; it takes less.
const PAUSE: Duration = Duration::from_millis(1);

/// For whatever the kernel may remember.
pub(super) const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Until it is dropped.
#[derive(Debug)]
pub(super) struct View {
    path: PathBuf,
    /// The root, and the mount that it is in.
    root: Option<(OwnedFd, OwnedFd)>,
    thread: Option<JoinHandle<()>>,
}

impl View {
    pub(super) fn new<F: Filesystem>(filesystem: F) -> Result<Self, SealError> {
        let failed = |operation| move |err: rustix::io::Errno| SealError::View { operation, err: err.into() };
        let device = openat(CWD, "/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        let device = device.map_err(failed("open /dev/fuse"))?;
        let mount = make(&device).map_err(failed("mount"))?;
        // The kernel waits for the session's first answer only when something is asked.
        let begun = |err| SealError::View { operation: "begin", err };
        let mut config = Config::default();
        config.acl = SessionACL::All;
        let session = Session::from_fd(filesystem, device, SessionACL::All, config).map_err(begun)?;
        let serve = move || {
            if let Err(err) = session.run() {
                tracing::warn!(err = &err as &dyn std::error::Error, "serve images");
            }
        };
        let thread = thread::Builder::new().name("images".to_owned()).spawn(serve).map_err(begun)?;
        let mut view = Self { path: PathBuf::new(), root: None, thread: Some(thread) };
        let place = format!("/proc/self/fd/{}", mount.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, place, flags, Mode::empty()).map_err(failed("open its root"))?;
        view.path = format!("/proc/self/fd/{}", root.as_raw_fd()).into();
        view.root = Some((root, mount));
        Ok(view)
    }

    /// For this process.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for View {
    fn drop(&mut self) {
        drop(self.root.take());
        let Some(thread) = self.thread.take() else { return };
        let until = Instant::now() + PATIENCE;
        while !thread.is_finished() && Instant::now() < until {
            thread::sleep(PAUSE);
        }
        if !thread.is_finished() {
            tracing::warn!("somebody still has images open");
        } else if thread.join().is_err() {
            tracing::warn!("the thread that serves images has panicked");
        }
    }
}

fn make(device: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let context = context.as_fd();
    fsconfig_set_string(context, "source", "rtc")?;
    fsconfig_set_string(context, "fd", device.as_raw_fd().to_string())?;
    fsconfig_set_string(context, "rootmode", "40000")?;
    fsconfig_set_string(context, "user_id", "0")?;
    fsconfig_set_string(context, "group_id", "0")?;
    // In a user namespace CRIU reads images as a user of that; nobody else has the descriptor.
    fsconfig_set_flag(context, "allow_other")?;
    fsconfig_create(context)?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Requests of a chunk at the most: buffers have that size.
pub(super) fn configure(config: &mut KernelConfig) -> io::Result<()> {
    let size = u32::try_from(CHUNK).map_err(io::Error::other)?;
    config.set_max_write(size).map(drop).map_err(|_| io::Error::other("the kernel takes no such size"))
}

pub(super) fn attributes(ino: INodeNo, size: u64) -> FileAttr {
    let (kind, perm) = match ino {
        INodeNo::ROOT => (FileType::Directory, 0o700),
        _ => (FileType::RegularFile, 0o600),
    };
    let time = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino,
        size,
        blocks: size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind,
        perm,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}
