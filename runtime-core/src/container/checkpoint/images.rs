//! The image directory while a dump writes to it.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use super::error::CheckpointError;
use super::work::make_dir;

/// The image directory: what a failed dump wrote to it is removed again.
#[derive(Debug)]
pub(super) struct Images<'a> {
    dir: &'a Path,
    /// What was there before; `None` if the directory was not.
    before: Option<HashSet<OsString>>,
    keep: bool,
}

impl<'a> Images<'a> {
    pub(super) fn new(dir: &'a Path) -> Result<Self, CheckpointError> {
        let made = make_dir(dir)?;
        let before = if made { None } else { Some(names(dir)?) };
        Ok(Self { dir, before, keep: false })
    }

    /// The size of the whole. What cannot be read does not count: the checkpoint is made, and is no failure any more.
    pub(super) fn keep(mut self) -> u64 {
        self.keep = true;
        let files = fs::read_dir(self.dir).into_iter().flatten().flatten().filter_map(|entry| entry.metadata().ok());
        files.filter(|metadata| metadata.is_file()).map(|metadata| metadata.len()).sum()
    }

    fn discard(&self) -> Result<(), CheckpointError> {
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
        let images = Images::new(&dir).unwrap();
        fs::write(dir.join("core-1.img"), "x").unwrap();
        drop(images);
        assert!(!dir.exists());
    }

    #[test]
    fn a_failed_dump_leaves_what_was_there() {
        let dir = scratch("old");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("mine"), "x").unwrap();
        let images = Images::new(&dir).unwrap();
        fs::write(dir.join("core-1.img"), "x").unwrap();
        drop(images);
        assert_eq!(names(&dir).unwrap().into_iter().collect::<Vec<_>>(), ["mine"]);
        let images = Images::new(&dir).unwrap();
        fs::write(dir.join("core-1.img"), "xyz").unwrap();
        assert_eq!(images.keep(), 4);
        assert_eq!(names(&dir).unwrap().len(), 2);
        fs::remove_dir_all(dir).unwrap();
    }
}
