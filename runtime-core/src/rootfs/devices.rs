//! Device nodes and the links of /dev.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fs::{self, AtFlags, FileType, Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use serde::{Deserialize, Serialize};

use super::error::{Error, step};
use super::tree::{self, Tree, attach, clean, open_in};
use crate::sys::mount::{MountAttr, mount_setattr};

const NULL: (u32, u32) = (1, 3);

/// What every container has (OCI config-linux, "Default Devices"); console and ptmx are made elsewhere.
const DEFAULTS: [(&str, u32, u32); 6] = [
    ("/dev/null", NULL.0, NULL.1),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Device {
    pub(super) path: PathBuf,
    kind: Node,
    major: u32,
    minor: u32,
    mode: u32,
    uid: u32,
    gid: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Node {
    Character,
    Block,
    Fifo,
}

impl Node {
    fn file_type(self) -> FileType {
        match self {
            Self::Character => FileType::CharacterDevice,
            Self::Block => FileType::BlockDevice,
            Self::Fifo => FileType::Fifo,
        }
    }
}

/// The spec's devices, and the default ones that it does not give itself.
pub(super) fn plan(devices: &[LinuxDevice]) -> Result<Vec<Device>, Error> {
    let mut planned = devices.iter().map(Device::new).collect::<Result<Vec<_>, _>>()?;
    for (path, major, minor) in DEFAULTS {
        if !planned.iter().any(|d| d.path == Path::new(path)) {
            let (path, kind) = (path.into(), Node::Character);
            planned.push(Device { path, kind, major, minor, mode: 0o666, uid: 0, gid: 0 });
        }
    }
    Ok(planned)
}

impl Device {
    fn new(device: &LinuxDevice) -> Result<Self, Error> {
        let path = clean(device.path());
        let refuse = |reason| Error::InvalidDevice { path: device.path().clone(), reason };
        if path == Path::new("/") {
            return Err(refuse("it has no name"));
        }
        let kind = match device.typ() {
            LinuxDeviceType::C | LinuxDeviceType::U => Node::Character,
            LinuxDeviceType::B => Node::Block,
            LinuxDeviceType::P => Node::Fifo,
            LinuxDeviceType::A => return Err(refuse("\"a\" is a device rule's type, no device's")),
        };
        let number = |number: i64| u32::try_from(number).map_err(|_| refuse("a device number is out of range"));
        let (major, minor) = match kind {
            Node::Fifo => (0, 0),
            _ => (number(device.major())?, number(device.minor())?),
        };
        Ok(Self {
            path,
            kind,
            major,
            minor,
            mode: device.file_mode().unwrap_or(0o666) & 0o7777,
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
        })
    }

    fn rdev(&self) -> u64 {
        fs::makedev(self.major, self.minor)
    }

    /// The node is what it must be, whoever made it (CVE-2025-31133).
    fn verify(&self, fd: impl AsFd) -> Result<(), Error> {
        let stat = fs::fstat(fd).map_err(step("look at the device", &self.path))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == self.kind.file_type() && (self.kind == Node::Fifo || stat.st_rdev == self.rdev()) {
            return Ok(());
        }
        let found = match kind {
            FileType::CharacterDevice | FileType::BlockDevice => {
                format!("{kind:?} {}:{}", fs::major(stat.st_rdev), fs::minor(stat.st_rdev))
            }
            kind => format!("{kind:?}"),
        };
        Err(Error::WrongDevice { path: self.path.clone(), found })
    }
}

/// The umask must be 0.
pub(super) fn make(tree: &Tree, devices: &[Device], user_namespace: bool) -> Result<(), Error> {
    let mut dev: Option<OwnedFd> = None;
    for device in devices {
        // Most are in /dev itself: one resolution for all of them.
        let opened;
        let parent = if device.path.parent() == Some(Path::new("/dev")) {
            if dev.is_none() {
                dev = Some(tree.make_dir(Path::new("/dev")).map_err(step("make", "/dev"))?);
            }
            dev.as_ref()
        } else {
            opened = tree.make_parent(&device.path).map_err(step("make the directory of", &device.path))?.0;
            Some(&opened)
        };
        let Some(parent) = parent else { continue };
        if user_namespace {
            bind_node(tree, device)?;
        } else {
            make_node(tree, parent, device)?;
        }
    }
    Ok(())
}

fn make_node(tree: &Tree, parent: &OwnedFd, device: &Device) -> Result<(), Error> {
    let name = device.path.file_name().unwrap_or_default();
    let mode = Mode::from_raw_mode(device.mode);
    let made = match fs::mknodat(parent, name, device.kind.file_type(), mode, device.rdev()) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        // A container in a container may lack the right; the host's node serves as well.
        Err(Errno::PERM) => return bind_node(tree, device),
        Err(err) => return Err(step("make the device", &device.path)(err)),
    };
    if !made || device.uid != 0 || device.gid != 0 {
        let node = open_in(parent, name).map_err(step("open the device", &device.path))?;
        device.verify(&node)?;
        let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
        fs::chownat(&node, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
            .map_err(step("change the owner of", &device.path))?;
        return Ok(());
    }
    let node = open_in(parent, name).map_err(step("open the device", &device.path))?;
    device.verify(&node)
}

fn bind_node(tree: &Tree, device: &Device) -> Result<(), Error> {
    let failed = |err| Error::Bind { source_path: device.path.clone(), target: device.path.clone(), err };
    let node = tree::clone_host(&device.path, false).map_err(failed)?;
    device.verify(&node)?;
    let target = tree.make_file(&device.path).map_err(step("make the mount point", &device.path))?;
    attach(&node, &target).map_err(failed)
}

pub(super) fn links(tree: &Tree) -> Result<(), Error> {
    let dev = tree.make_dir(Path::new("/dev")).map_err(step("make", "/dev"))?;
    for (to, path) in LINKS {
        link(&dev, to, path)?;
    }
    if Path::new("/proc/kcore").exists() {
        link(&dev, "/proc/kcore", "/dev/core")?;
    }
    // The image's own ptmx would be the host's.
    match fs::unlinkat(&dev, "ptmx", AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(err) => return Err(step("remove", "/dev/ptmx")(err)),
    }
    link(&dev, "pts/ptmx", "/dev/ptmx")
}

fn link(dev: &OwnedFd, to: &str, path: &'static str) -> Result<(), Error> {
    match fs::symlinkat(to, dev, path.trim_start_matches("/dev/")) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(err) => Err(step("link", path)(err)),
    }
}

/// A detached bind of the host's /dev/null, to mask files with. Taken while the image has no say in what /dev/null is.
/// Read-only: a chmod of a masked file must not reach the host's inode. Writing to a device works all the same.
pub(super) fn host_null() -> Result<OwnedFd, Error> {
    let (path, kind, (major, minor)) = (PathBuf::from("/dev/null"), Node::Character, NULL);
    let null = tree::clone_host(&path, false).map_err(step("bind", "/dev/null"))?;
    Device { path, kind, major, minor, mode: 0, uid: 0, gid: 0 }.verify(&null)?;
    let flags = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let attr = MountAttr { set: u64::from(flags.bits()), ..MountAttr::default() };
    mount_setattr(&null, false, attr).map_err(step("make read-only", "/dev/null"))?;
    Ok(null)
}
