//! A checkpoint on its way into a directory that holds an older one.
//!
//! CRIU truncates the files that it finds, and a dump can fail. So the new images are written into a directory below, and are
//! put in place by their names when they are complete: nothing is copied, and until then the older checkpoint is as it was.
//!
//! ```text
//!   DIR/rtc.json pages-1.img …       the older one
//!   DIR/.rtc-new/                    locked (flock(2)) by who writes to it
//!
//!   complete:   rtc.json is the first to be put in place. With its inventory the older images are no checkpoint, so what is
//!               cut off in between is refused by a restore, and not taken for either.
//!   failed:     DIR/.rtc-new goes, or stays under the mark of a failed dump
//!   cut off:    what is not complete goes at the next checkpoint. What is may be all that is left of its container: nobody
//!               goes on in DIR before somebody has decided about it.
//! ```

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::Errno;

use super::error::CheckpointError;
use super::images::{MARK, names};
use super::inventory::{self, PARENT};
use super::manifest;
use super::work::make_dir;

/// In the image directory, while it holds an older checkpoint and a new one is written.
pub const STAGE: &str = ".rtc-new";

#[derive(Debug)]
pub(super) struct Stage {
    path: PathBuf,
    /// Open and locked.
    _lock: File,
}

impl Stage {
    /// An empty directory below `dir`.
    pub(super) fn new(dir: &Path) -> Result<Self, CheckpointError> {
        let path = dir.join(STAGE);
        make_dir(&path)?;
        let Some(lock) = lock(&path)? else { return Err(CheckpointError::Busy { path }) };
        if is_complete(&path) {
            return Err(CheckpointError::CutOff { path });
        }
        let clear = |name: &OsString| {
            let path = path.join(name);
            fs::remove_file(&path).map_err(CheckpointError::file("remove", path))
        };
        names(&path)?.iter().try_for_each(clear)?;
        Ok(Self { path, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// In place of the older images, of which none stays.
    pub(super) fn publish(self, dir: &Path) -> Result<(), CheckpointError> {
        let new = names(&self.path)?;
        let old = names(dir)?;
        let (first, rest): (Vec<_>, Vec<_>) = new.iter().partition(|name| *name == manifest::FILE);
        if first.is_empty() {
            remove(dir, OsStr::new(manifest::FILE))?;
        }
        for name in first.into_iter().chain(rest) {
            if name == PARENT {
                self.relink()?;
            }
            let from = self.path.join(name);
            fs::rename(&from, dir.join(name)).map_err(CheckpointError::file("put in place", from))?;
        }
        old.difference(&new).filter(|name| is_images(dir, name)).try_for_each(|name| remove(dir, name))?;
        fs::remove_dir(&self.path).map_err(CheckpointError::file("rmdir", &self.path))
    }

    pub(super) fn discard(&self) -> Result<(), CheckpointError> {
        fs::remove_dir_all(&self.path).map_err(CheckpointError::file("remove", &self.path))
    }

    /// CRIU's link to a parent, as it has to be one directory above.
    fn relink(&self) -> Result<(), CheckpointError> {
        let path = self.path.join(PARENT);
        let linked = || {
            let target = fs::read_link(&path)?;
            fs::remove_file(&path)?;
            symlink(target.strip_prefix("..").unwrap_or(&target), &path)
        };
        linked().map_err(CheckpointError::file("link", &path))
    }
}

/// From an image directory to a parent, seen from the directory below.
pub(super) fn parent_below(parent: &Path) -> PathBuf {
    Path::new("..").join(parent)
}

/// Whether there are images of a checkpoint, or of a pre-dump.
pub(super) fn is_occupied(dir: &Path) -> Result<bool, CheckpointError> {
    Ok(names(dir)?.iter().any(|name| is_images(dir, name)))
}

/// # Errors
/// [`CheckpointError::CutOff`] if there is a complete checkpoint that nobody has put in place any more.
pub(super) fn refuse_cut_off(dir: &Path) -> Result<(), CheckpointError> {
    let path = dir.join(STAGE);
    // Whoever has the lock is at it.
    if is_complete(&path) && lock(&path)?.is_some() && is_complete(&path) {
        return Err(CheckpointError::CutOff { path });
    }
    Ok(())
}

fn is_complete(path: &Path) -> bool {
    path.join(manifest::FILE).exists() && !path.join(MARK).exists()
}

fn is_images(dir: &Path, name: &OsStr) -> bool {
    let metadata = || fs::symlink_metadata(dir.join(name));
    name == PARENT && metadata().is_ok_and(|metadata| metadata.is_symlink())
        || inventory::is_image(&name.to_string_lossy()) && metadata().is_ok_and(|metadata| metadata.is_file())
}

fn remove(dir: &Path, name: &OsStr) -> Result<(), CheckpointError> {
    let path = dir.join(name);
    match fs::remove_file(&path) {
        Err(err) if err.kind() != ErrorKind::NotFound => Err(CheckpointError::file("remove", path)(err)),
        _ => Ok(()),
    }
}

/// `None` if another has it, or has just removed the directory.
fn lock(path: &Path) -> Result<Option<File>, CheckpointError> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let locked = || {
        let file = File::from(openat(CWD, path, flags, Mode::empty())?);
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Ok(None),
            locked => locked?,
        }
        let (ours, there) = (file.metadata()?, fs::symlink_metadata(path));
        Ok(there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())).then_some(file))
    };
    locked().map_err(|err: io::Error| CheckpointError::file("lock", path)(err))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
    }

    fn older() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in ["rtc.json", "core-1.img", "core-7.img", "mine"] {
            write(&dir.path().join(name), "old");
        }
        symlink("../one", dir.path().join(PARENT)).unwrap();
        assert!(is_occupied(dir.path()).unwrap());
        dir
    }

    #[test]
    fn what_is_complete_takes_the_place_of_the_older_and_of_nothing_else() {
        let dir = older();
        let stage = Stage::new(dir.path()).unwrap();
        write(&stage.path().join("rtc.json"), "new");
        write(&stage.path().join("core-1.img"), "new");
        symlink(parent_below(Path::new("../two")), stage.path().join(PARENT)).unwrap();
        stage.publish(dir.path()).unwrap();
        let text = |name: &str| fs::read_to_string(dir.path().join(name)).ok();
        assert_eq!(text("rtc.json").as_deref(), Some("new"));
        assert_eq!(text("core-1.img").as_deref(), Some("new"));
        assert_eq!(text("core-7.img"), None);
        assert_eq!(text("mine").as_deref(), Some("old"));
        assert_eq!(fs::read_link(dir.path().join(PARENT)).unwrap(), Path::new("../two"));
        assert!(!dir.path().join(STAGE).exists());
    }

    #[test]
    fn a_pre_dump_in_place_of_a_checkpoint_leaves_no_description() {
        let dir = older();
        let stage = Stage::new(dir.path()).unwrap();
        write(&stage.path().join("pagemap-1.img"), "new");
        stage.publish(dir.path()).unwrap();
        assert!(!dir.path().join("rtc.json").exists() && !dir.path().join(PARENT).exists());
        assert!(dir.path().join("pagemap-1.img").exists());
    }

    #[test]
    fn one_writes_at_a_time_and_what_was_cut_off_is_only_lost_if_it_is_no_checkpoint() {
        let dir = older();
        let stage = Stage::new(dir.path()).unwrap();
        assert!(matches!(Stage::new(dir.path()), Err(CheckpointError::Busy { .. })));
        write(&stage.path().join("core-1.img"), "new");
        drop(stage);
        let stage = Stage::new(dir.path()).unwrap();
        assert_eq!(names(stage.path()).unwrap().len(), 0);
        write(&stage.path().join("rtc.json"), "new");
        refuse_cut_off(dir.path()).unwrap();
        drop(stage);
        assert!(matches!(refuse_cut_off(dir.path()), Err(CheckpointError::CutOff { .. })));
        assert!(matches!(Stage::new(dir.path()), Err(CheckpointError::CutOff { .. })));
        assert!(dir.path().join(STAGE).join("rtc.json").exists());
        write(&dir.path().join(STAGE).join(MARK), "");
        Stage::new(dir.path()).unwrap();
    }
}
