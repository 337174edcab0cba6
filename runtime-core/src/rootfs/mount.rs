//! The mounts of the spec, while the host's tree is still reachable.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Mutex;

use rustix::fs::{self, CWD, Mode};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, fsconfig_reconfigure, fspick, mount_change};

use super::error::{Error, step};
use super::options::MS_PRIVATE;
use super::tree::{self, DIRECTORY, Tree};
use super::{Entry, Kind, Live, Plan, bind, cgroups, devices, filesystem};
use crate::sys::mount::{MountAttr, mount_setattr};

/// The one place in a procfs that is its root (PROC_ROOT_INO).
const PROC_ROOT_INODE: u64 = 1;

/// What may be replaced inside /proc, one file at a time: what lxcfs serves, and what runc allows besides.
const PROC_FILES: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

impl Plan {
    /// Propagation, rootfs bind, mounts in order, devices, /dev links. The host's tree is still reachable after it
    /// (createContainer hooks run next). `source` is asked, at its turn, for what the caller opens of the mount at a place.
    pub(crate) fn mount<E: From<Error>>(&self, source: impl Fn(usize) -> Result<Option<OwnedFd>, E>) -> Result<(), E> {
        self.detach_from_host()?;
        let tree = Tree::new(self.bind_root()?);
        // Modes of what is made here are meant as they are written.
        let umask = rustix::process::umask(Mode::empty());
        let done = self.fill(&tree, source);
        rustix::process::umask(umask);
        let null = Mutex::new(Some(done?));
        self.live.set(Live { tree, null }).map_err(|_| Error::OutOfOrder("mount").into())
    }

    fn fill<E: From<Error>>(
        &self,
        tree: &Tree,
        source: impl Fn(usize) -> Result<Option<OwnedFd>, E>,
    ) -> Result<OwnedFd, E> {
        for (place, entry) in self.mounts.iter().enumerate() {
            self.mount_one(tree, entry, source(place)?)?;
        }
        if self.fill_dev {
            devices::make(tree, &self.devices, self.user_namespace)?;
            devices::links(tree)?;
        }
        Ok(devices::host_null()?)
    }

    /// Nothing that is mounted from now on may reach the host, unless the spec wants the root shared.
    fn detach_from_host(&self) -> Result<(), Error> {
        let (flag, recursive) = self.propagation.unwrap_or((super::options::MS_SLAVE, true));
        let mut flags = MountPropagationFlags::from_bits_retain(u32::try_from(flag).unwrap_or_default());
        flags.set(MountPropagationFlags::REC, recursive || self.propagation.is_none());
        mount_change("/", flags).map_err(step("set the propagation of", "/"))
    }

    /// Makes the rootfs a mount of its own, as pivot_root wants it, on a parent that is not shared.
    fn bind_root(&self) -> Result<OwnedFd, Error> {
        let dir = fs::openat(CWD, &self.root, DIRECTORY, Mode::empty()).map_err(step("open the rootfs", &self.root))?;
        let parent = mount_of(&dir).map_err(step("find the mount of", &self.root))?;
        let private = MountAttr { propagation: MS_PRIVATE, ..MountAttr::default() };
        mount_setattr(&parent, false, private).map_err(step("make private the mount of", &self.root))?;
        let root = tree::clone_fd(&dir, true).map_err(step("bind the rootfs", &self.root))?;
        tree::attach(&root, &dir).map_err(step("bind the rootfs", &self.root))?;
        Ok(root)
    }

    fn mount_one(&self, tree: &Tree, entry: &Entry, opened: Option<OwnedFd>) -> Result<(), Error> {
        let mount = match &entry.kind {
            Kind::Bind { source } => bind::mount(tree, entry, source, opened)?,
            Kind::Remount => return remount(tree, entry),
            Kind::Cgroup => match &self.cgroup {
                Some(view) => cgroups::mount(tree, entry, view)?,
                None => return Err(Error::Missing("cgroup")),
            },
            Kind::Filesystem { name, source } => filesystem::mount(tree, entry, name, source)?,
        };
        for (propagation, recursive) in &entry.options.propagation {
            let attr = MountAttr { propagation: *propagation, ..MountAttr::default() };
            mount_setattr(&mount, *recursive, attr).map_err(step("set the propagation of", &entry.target))?;
        }
        Ok(())
    }
}

/// The root of the mount that `dir` is in.
fn mount_of(dir: &OwnedFd) -> Result<OwnedFd, Errno> {
    let mut at = fs::openat(dir, ".", DIRECTORY, Mode::empty())?;
    let mut seen = fs::fstat(&at)?;
    while !tree::is_mount_root(&at)? {
        at = fs::openat(&at, "..", DIRECTORY, Mode::empty())?;
        let stat = fs::fstat(&at)?;
        if (stat.st_dev, stat.st_ino) == (seen.st_dev, seen.st_ino) {
            // A chroot that is no mount: pivot_root could not work here either.
            return Err(Errno::INVAL);
        }
        seen = stat;
    }
    Ok(at)
}

/// Other flags for a mount that is there, and with "remount" alone other options for its filesystem too.
fn remount(tree: &Tree, entry: &Entry) -> Result<(), Error> {
    let mount = tree.open(&entry.target).map_err(step("find the mount to change", &entry.target))?;
    let changed = |err| step("change the flags of", &entry.target)(err);
    if !entry.options.bind && !entry.options.data.is_empty() {
        let context = fspick(&mount, c"", rustix::mount::FsPickFlags::FSPICK_EMPTY_PATH).map_err(changed)?;
        filesystem::configure(&context, &entry.options.data).map_err(changed)?;
        fsconfig_reconfigure(&context).map_err(changed)?;
    }
    bind::set_attrs(&mount, &entry.options).map_err(changed)
}

/// Refuses a target inside a procfs. Where the target really is counts, not what it is called: a symlink may have led
/// into /proc (CVE-2019-16884, CVE-2023-28642).
pub(super) fn check_proc(target: &Path, fd: &OwnedFd, mount_is_proc: bool) -> Result<(), Error> {
    let inside = || Err(Error::InsideProc { target: target.to_owned() });
    if is_procfs(fd).map_err(step("look at", target))? {
        let is_root = fs::fstat(fd).map_err(step("look at", target))?.st_ino == PROC_ROOT_INODE;
        let is_file = PROC_FILES.iter().any(|file| target == Path::new(file));
        return if is_file || (is_root && mount_is_proc) { Ok(()) } else { inside() };
    }
    match target.strip_prefix("/proc") {
        Ok(rest) if rest.as_os_str().is_empty() && mount_is_proc => Ok(()),
        Ok(_) => inside(),
        Err(_) => Ok(()),
    }
}

pub(super) fn is_procfs(fd: &OwnedFd) -> Result<bool, Errno> {
    Ok(fs::fstatfs(fd)?.f_type == libc::PROC_SUPER_MAGIC)
}
