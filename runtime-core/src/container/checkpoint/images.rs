//! The image directory while a dump writes to it.
//!
//! What a failed dump has written goes, or stays where somebody wants to look at it: under a mark, for it may look whole, and
//! its container runs on.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::error::CheckpointError;
use super::work::make_dir;

/// In the image directory of a failed dump whose images stay.
const MARK: &str = "dump-failed";

/// The image directory: what a failed dump wrote to it is removed again.
#[derive(Debug)]
pub(super) struct Images<'a> {
    dir: &'a Path,
    /// What a failed dump wrote stays.
    keep_failed: bool,
    /// What was there before; `None` if the directory was not.
    before: Option<HashSet<OsString>>,
    keep: bool,
}

impl<'a> Images<'a> {
    pub(super) fn new(dir: &'a Path, keep_failed: bool) -> Result<Self, CheckpointError> {
        let made = make_dir(dir)?;
        let before = if made { None } else { Some(names(dir)?) };
        Ok(Self { dir, keep_failed, before, keep: false })
    }

    /// The size of the whole. What cannot be read does not count: the checkpoint is made, and is no failure any more.
    pub(super) fn keep(mut self) -> u64 {
        self.keep = true;
        // Of an earlier dump.
        match fs::remove_file(self.dir.join(MARK)) {
            Err(err) if err.kind() != ErrorKind::NotFound => tracing::warn!(%err, "remove the mark of a failed dump"),
            _ => {}
        }
        let files = fs::read_dir(self.dir).into_iter().flatten().flatten().filter_map(|entry| entry.metadata().ok());
        files.filter(|metadata| metadata.is_file()).map(|metadata| metadata.len()).sum()
    }

    fn discard(&self) -> Result<(), CheckpointError> {
        if self.keep_failed {
            let mark = self.dir.join(MARK);
            return fs::write(&mark, "").map_err(CheckpointError::file("write", mark));
        }
        let Some(before) = &self.before else {
            return fs::remove_dir_all(self.dir).map_err(CheckpointError::file("remove", self.dir));
        };
        for name in names(self.dir)?.difference(before) {
            let path = self.dir.join(name);
            fs::remove_file(&path).map_err(CheckpointError::file("remove", &path))?;
        }
        Ok(())
    }
}

impl Drop for Images<'_> {
    fn drop(&mut self) {
        if !self.keep
            && let Err(err) = self.discard()
        {
            tracing::warn!(err = &err as &dyn std::error::Error, "images of a failed checkpoint");
        }
    }
}

/// # Errors
/// [`CheckpointError::FailedDump`] for the images of one.
pub(in crate::container) fn refuse_failed(dir: &Path) -> Result<(), CheckpointError> {
    match dir.join(MARK).exists() {
        true => Err(CheckpointError::FailedDump { path: dir.to_owned() }),
        false => Ok(()),
    }
}

fn names(dir: &Path) -> Result<HashSet<OsString>, CheckpointError> {
    let entries = fs::read_dir(dir).map_err(CheckpointError::file("list", dir))?;
    entries.map(|entry| Ok(entry.map_err(CheckpointError::file("list", dir))?.file_name())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("rtc-images-{name}-{}", std::process::id()))
    }

    #[test]
    fn a_failed_dump_leaves_no_directory_that_it_made() {
        let dir = scratch("new");
        let images = Images::new(&dir, false).unwrap();
        fs::write(dir.join("core-1.img"), "x").unwrap();
        drop(images);
        assert!(!dir.exists());
    }

    #[test]
    fn a_failed_dump_leaves_what_was_there() {
        let dir = scratch("old");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("mine"), "x").unwrap();
        let images = Images::new(&dir, false).unwrap();
        fs::write(dir.join("core-1.img"), "x").unwrap();
        drop(images);
        assert_eq!(names(&dir).unwrap().into_iter().collect::<Vec<_>>(), ["mine"]);
        let images = Images::new(&dir, false).unwrap();
        fs::write(dir.join("core-1.img"), "xyz").unwrap();
        assert_eq!(images.keep(), 4);
        assert_eq!(names(&dir).unwrap().len(), 2);
        fs::remove_dir_all(dir).unwrap();
    }
    #[test]
    fn a_failed_dump_whose_images_stay_is_none_to_restore_until_one_succeeds() {
        let dir = scratch("kept");
        let images = Images::new(&dir, true).unwrap();
        fs::write(dir.join("core-1.img"), "x").unwrap();
        drop(images);
        assert!(dir.join("core-1.img").exists());
        assert!(matches!(refuse_failed(&dir), Err(CheckpointError::FailedDump { .. })));
        Images::new(&dir, false).unwrap().keep();
        refuse_failed(&dir).unwrap();
        fs::remove_dir_all(dir).unwrap();
    }
}
