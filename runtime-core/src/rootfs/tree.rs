//! Paths inside the rootfs, resolved by the kernel and held by descriptor.
//!
//! The image may hold symlinks anywhere, and another container may change a shared volume while we work. So no path is
//! used twice: it is resolved once by openat2 with RESOLVE_IN_ROOT, and everything after that works on the descriptor
//! (CVE-2021-30465, CVE-2019-16884).

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::error::{Error, step};

/// The kernel gives up on a resolution (EAGAIN) when a rename happens anywhere meanwhile; a busy host is not an attack.
const RACES: usize = 128;
/// As many as the kernel follows in one path.
const MAX_LINKS: usize = 40;

pub(super) const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const PATH: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
}

impl Tree {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self { root }
    }

    /// The calling process's own root, after `pivot`.
    pub(super) fn current() -> Result<Self, Error> {
        fs::open("/", DIRECTORY, Mode::empty()).map(Self::new).map_err(step("open the container's root", "/"))
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// O_PATH; symlinks are followed inside the root, those of /proc/PID/fd and the like are refused.
    pub(super) fn open(&self, path: &Path) -> Result<OwnedFd, Errno> {
        resolve(&self.root, relative(path), PATH, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    }

    /// As [`Tree::open`], but no component may be a symlink.
    pub(super) fn open_plain(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolution = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        resolve(&self.root, relative(path), flags | OFlags::CLOEXEC, resolution)
    }

    /// Opens a directory, O_PATH, and makes what is missing of it with mode 0755.
    pub(super) fn make_dir(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let missing = match self.open(path) {
            Err(Errno::NOENT) => self.follow(path)?,
            opened => return opened.and_then(must_be_directory),
        };
        // From the longest part that exists. Every part is resolved from the root: a symlink in it may be absolute.
        let (mut dir, rest) = self.existing_parent(&missing)?;
        for name in rest {
            match fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(err) => return Err(err),
            }
            // What was just made is no symlink; if it is one now, somebody is playing.
            dir = resolve(&dir, Path::new(name), DIRECTORY, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)?;
        }
        Ok(dir)
    }

    fn existing_parent<'a>(&self, path: &'a Path) -> Result<(OwnedFd, Vec<&'a OsStr>), Errno> {
        let mut rest = Vec::new();
        let mut parent = path;
        loop {
            let (Some(name), Some(up)) = (parent.file_name(), parent.parent()) else { return Err(Errno::NOENT) };
            rest.push(name);
            parent = up;
            match self.open(parent) {
                Err(Errno::NOENT) => {}
                opened => {
                    rest.reverse();
                    return Ok((must_be_directory(opened?)?, rest));
                }
            }
        }
    }

    /// Opens a file to mount over, O_PATH; an empty one is made if there is none.
    pub(super) fn make_file(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let path = match self.open(path) {
            Err(Errno::NOENT) => self.follow(path)?,
            opened => return opened,
        };
        let (dir, name) = self.make_parent(&path)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match fs::openat(&dir, name, flags, Mode::from_raw_mode(0o755)) {
            Ok(_) | Err(Errno::EXIST) => {}
            Err(err) => return Err(err),
        }
        open_in(&dir, name)
    }

    /// `path` with its symlinks replaced by what they stand for inside the root, also where that is yet to be made: many
    /// an image has a /etc/resolv.conf that leads nowhere. A proposal by the letters alone: who makes it resolves it anew,
    /// and follows no symlink in what was missing.
    fn follow(&self, path: &Path) -> Result<PathBuf, Errno> {
        let reversed =
            |path: &Path| path.components().rev().map(|part| part.as_os_str().to_owned()).collect::<Vec<_>>();
        let mut left = reversed(path);
        let mut done = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = left.pop() {
            match Path::new(&name).components().next() {
                Some(Component::Normal(_)) => {}
                Some(Component::ParentDir) => {
                    done.pop();
                    continue;
                }
                Some(Component::RootDir) => {
                    done = PathBuf::from("/");
                    continue;
                }
                _ => continue,
            }
            let Some(target) = self.read_link(&done, &name)? else {
                done.push(name);
                continue;
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::LOOP);
            }
            left.extend(reversed(&target));
        }
        Ok(done)
    }

    /// `None` if it is no symlink, or is not there.
    fn read_link(&self, dir: &Path, name: &OsStr) -> Result<Option<PathBuf>, Errno> {
        let read = self.open(dir).and_then(|dir| fs::readlinkat(&dir, name, Vec::new()));
        match read {
            Ok(target) => Ok(Some(OsStr::from_bytes(target.as_bytes()).into())),
            Err(Errno::NOENT | Errno::INVAL | Errno::NOTDIR) => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// The directory that `path` is in, made if it is missing, and the last component.
    pub(super) fn make_parent<'a>(&self, path: &'a Path) -> Result<(OwnedFd, &'a OsStr), Errno> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::ISDIR) };
        Ok((self.make_dir(parent)?, name))
    }
}

/// O_PATH of an entry of `dir` that is not a symlink.
pub(super) fn open_in(dir: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    resolve(dir, Path::new(name), PATH, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

fn must_be_directory(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    if is_directory(&fd)? { Ok(fd) } else { Err(Errno::NOTDIR) }
}

pub(super) fn is_directory(fd: impl AsFd) -> Result<bool, Errno> {
    Ok(FileType::from_raw_mode(fs::fstat(fd)?.st_mode) == FileType::Directory)
}

pub(super) fn resolve(dir: impl AsFd, path: &Path, flags: OFlags, how: ResolveFlags) -> Result<OwnedFd, Errno> {
    let mut result = Err(Errno::AGAIN);
    for _ in 0..RACES {
        result = fs::openat2(dir.as_fd(), path, flags, Mode::empty(), how);
        if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    result
}

fn relative(path: &Path) -> &Path {
    match path.strip_prefix("/") {
        Ok(relative) if !relative.as_os_str().is_empty() => relative,
        _ => Path::new("."),
    }
}

/// Puts a detached mount on what `target` is. The descriptor of the mount stays good.
pub(super) fn attach(mount: impl AsFd, target: impl AsFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", target, c"", flags)
}

/// A detached copy of the mount that `path` below `dir` is in, rooted there.
pub(super) fn clone_tree(dir: impl AsFd, path: &Path, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    open_tree(dir, path, flags)
}

pub(super) fn clone_host(path: &Path, recursive: bool) -> Result<OwnedFd, Errno> {
    clone_tree(CWD, path, recursive)
}

pub(super) fn clone_fd(fd: impl AsFd, recursive: bool) -> Result<OwnedFd, Errno> {
    clone_tree(fd, Path::new(""), recursive)
}

/// `true` if `fd` is the root of a mount.
pub(super) fn is_mount_root(fd: impl AsFd) -> Result<bool, Errno> {
    let stat = fs::statx(fd, c"", AtFlags::EMPTY_PATH, fs::StatxFlags::TYPE)?;
    Ok(stat.stx_attributes.contains(fs::StatxAttributes::MOUNT_ROOT))
}

/// Absolute and without ".", ".." and doubled slashes, by the letters alone, as runc cleans a destination.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_never_leaves_the_root() {
        for (path, expected) in [("a", "/a"), ("/a/../../b//c/.", "/b/c"), ("../..", "/"), ("/", "/")] {
            assert_eq!(clean(Path::new(path)), Path::new(expected), "{path}");
        }
    }
}
