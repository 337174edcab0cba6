//! Files, copied with everything that a process can see of them: owner, mode, times, hard links, and holes, which would
//! otherwise become memory.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, SeekFrom, Timespec, Timestamps, mknodat, seek, utimensat};
use rustix::io::Errno;

use super::error::PodError;

const BLOCK: usize = 256 * 1024;

/// Copies a directory into one that is made if it is missing. Sockets are left out: who is bound to one binds it again at its
/// restore. Returns what the files occupy, in bytes.
pub(super) fn copy(from: &Path, to: &Path) -> Result<u64, PodError> {
    if !to.exists() {
        fs::create_dir(to).map_err(PodError::file("mkdir", to))?;
    }
    let mut copier = Copier::default();
    copier.directory(from, to)?;
    Ok(copier.bytes)
}

/// Empties a directory.
pub(super) fn clear(dir: &Path) -> Result<(), PodError> {
    for entry in fs::read_dir(dir).map_err(PodError::file("list", dir))? {
        let entry = entry.map_err(PodError::file("list", dir))?;
        let path = entry.path();
        let is_dir = entry.file_type().map_err(PodError::file("look at", &path))?.is_dir();
        let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(PodError::file("remove", &path))?;
    }
    Ok(())
}

#[derive(Default)]
struct Copier {
    bytes: u64,
    /// The first copy of a file with several names.
    links: HashMap<(u64, u64), PathBuf>,
}

impl Copier {
    fn directory(&mut self, from: &Path, to: &Path) -> Result<(), PodError> {
        for entry in fs::read_dir(from).map_err(PodError::file("list", from))? {
            let entry = entry.map_err(PodError::file("list", from))?;
            self.entry(&entry.path(), &to.join(entry.file_name()))?;
        }
        let metadata = fs::symlink_metadata(from).map_err(PodError::file("look at", from))?;
        settle(to, &metadata).map_err(PodError::file("set the owner and the times of", to))
    }

    fn entry(&mut self, from: &Path, to: &Path) -> Result<(), PodError> {
        let metadata = fs::symlink_metadata(from).map_err(PodError::file("look at", from))?;
        let kind = metadata.file_type();
        let copied = PodError::file("copy", from);
        if kind.is_dir() {
            fs::create_dir(to).map_err(PodError::file("mkdir", to))?;
            return self.directory(from, to);
        }
        if metadata.nlink() > 1 {
            let key = (metadata.dev(), metadata.ino());
            if let Some(first) = self.links.get(&key) {
                return fs::hard_link(first, to).map_err(copied);
            }
            self.links.insert(key, to.to_owned());
        }
        if kind.is_file() {
            self.bytes += file(from, to, metadata.len()).map_err(copied)?;
        } else if kind.is_symlink() {
            fs::read_link(from).and_then(|target| symlink(target, to)).map_err(copied)?;
        } else if kind.is_socket() {
            return Ok(());
        } else {
            let kind = FileType::from_raw_mode(metadata.mode());
            let made = mknodat(CWD, to, kind, Mode::from_raw_mode(metadata.mode()), metadata.rdev());
            made.map_err(|err| copied(err.into()))?;
        }
        settle(to, &metadata).map_err(PodError::file("set the owner and the times of", to))
    }
}

fn settle(path: &Path, metadata: &Metadata) -> io::Result<()> {
    let (uid, gid) = (Some(metadata.uid()), Some(metadata.gid()));
    if metadata.is_symlink() {
        lchown(path, uid, gid)?;
    } else {
        chown(path, uid, gid)?;
        // After the owner, whose change takes set-user-id away.
        fs::set_permissions(path, fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
    }
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps {
        last_access: time(metadata.atime(), metadata.atime_nsec()),
        last_modification: time(metadata.mtime(), metadata.mtime_nsec()),
    };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Data only; the rest is holes there too.
fn file(from: &Path, to: &Path, size: u64) -> io::Result<u64> {
    let (source, target) = (File::open(from)?, File::create_new(to)?);
    target.set_len(size)?;
    let mut block = vec![0; BLOCK];
    let (mut at, mut bytes) = (0, 0);
    loop {
        let start = match seek(&source, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(bytes),
            Err(err) => return Err(err.into()),
        };
        let end = seek(&source, SeekFrom::Hole(start))?;
        at = start;
        while at < end {
            let want = usize::try_from(end - at).map_or(BLOCK, |left| left.min(BLOCK));
            let part = block.get_mut(..want).unwrap_or_default();
            source.read_exact_at(part, at)?;
            target.write_all_at(part, at)?;
            at += want as u64;
            bytes += want as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_back_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("sub")).unwrap();
        let sparse = File::create_new(from.join("sparse")).unwrap();
        sparse.set_len(64 << 20).unwrap();
        sparse.write_all_at(b"data", 32 << 20).unwrap();
        fs::write(from.join("sub/text"), "text").unwrap();
        fs::set_permissions(from.join("sub/text"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::hard_link(from.join("sub/text"), from.join("twin")).unwrap();
        symlink("sub/text", from.join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();
        let bytes = copy(&from, &to).unwrap();
        assert!(bytes < 1 << 20, "{bytes}");

        let there = |path: &str| fs::symlink_metadata(to.join(path)).unwrap();
        assert_eq!(there("sparse").len(), 64 << 20);
        assert!(there("sparse").blocks() * 512 < 1 << 20, "it has holes");
        let mut data = [0; 4];
        File::open(to.join("sparse")).unwrap().read_exact_at(&mut data, 32 << 20).unwrap();
        assert_eq!(&data, b"data");
        assert_eq!(there("sub/text").mode() & 0o7777, 0o640);
        assert_eq!(there("sub/text").ino(), there("twin").ino());
        let was = fs::metadata(from.join("sub/text")).unwrap();
        assert_eq!((there("twin").mtime(), there("twin").mtime_nsec()), (was.mtime(), was.mtime_nsec()));
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("sub/text"));
        assert!(!to.join("socket").exists());
        clear(&to).unwrap();
        assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
    }
}
