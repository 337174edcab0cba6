//! The image directory while a dump writes to it.
//!
//! What a failed dump has written goes, or stays where somebody wants to look at it: under a mark, for it may look whole, and
//! its container runs on. An older checkpoint in the directory is as it was then ([`super::stage`]).

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::error::CheckpointError;
use super::options::CheckpointOptions;
use super::stage::{self, Stage};
use super::work::make_dir;

/// In the image directory of a failed dump whose images stay.
pub(super) const MARK: &str = "dump-failed";

/// The image directory: what a failed dump wrote to it is removed again.
#[derive(Debug)]
pub(super) struct Images<'a> {
    dir: &'a Path,
    /// What a failed dump wrote stays.
    keep_failed: bool,
    /// What was there before; `None` if the directory was not.
    before: Option<HashSet<OsString>>,
    /// Where there was an older checkpoint.
    stage: Option<Stage>,
    keep: bool,
}

impl<'a> Images<'a> {
    pub(super) fn new(options: &'a CheckpointOptions, keep_failed: bool) -> Result<Self, CheckpointError> {
        let dir = options.image_dir.as_path();
        check(options)?;
        let made = make_dir(dir)?;
        let before = if made { None } else { Some(names(dir)?) };
        let stage = is_taken(dir)?.then(|| Stage::new(dir)).transpose()?;
        Ok(Self { dir, keep_failed, before, stage, keep: false })
    }

    /// Where they are written.
    pub(super) fn path(&self) -> &Path {
        self.stage.as_ref().map_or(self.dir, Stage::path)
    }

    /// The parent's images as they are called from there.
    pub(super) fn parent(&self, parent: &str) -> String {
        match self.stage {
            Some(_) => stage::parent_below(Path::new(parent)).to_string_lossy().into_owned(),
            None => parent.to_owned(),
        }
    }

    /// They are decided about: whatever becomes of the dump, they stay where they are.
    pub(super) fn stay(mut self) {
        self.keep = true;
    }

    /// They are complete, and come in place of an older checkpoint. The size of the whole: what cannot be read does not count,
    /// for the checkpoint is made.
    ///
    /// # Errors
    /// They cannot be put in place, and stay where they were written.
    pub(super) fn complete(mut self) -> Result<u64, CheckpointError> {
        self.keep = true;
        if let Some(stage) = self.stage.take() {
            stage.publish(self.dir)?;
        }
        // Of an earlier dump.
        match fs::remove_file(self.dir.join(MARK)) {
            Err(err) if err.kind() != ErrorKind::NotFound => tracing::warn!(%err, "remove the mark of a failed dump"),
            _ => {}
        }
        let files = fs::read_dir(self.dir).into_iter().flatten().flatten().filter_map(|entry| entry.metadata().ok());
        Ok(files.filter(|metadata| metadata.is_file()).map(|metadata| metadata.len()).sum())
    }

    fn discard(&self) -> Result<(), CheckpointError> {
        if self.keep_failed {
            let mark = self.path().join(MARK);
            tracing::info!(path = %self.path().display(), "the images of a failed dump stay");
            return fs::write(&mark, "").map_err(CheckpointError::file("write", mark));
        }
        if let Some(stage) = &self.stage {
            return stage.discard();
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
        false => stage::refuse_cut_off(dir),
    }
}

/// Who reads or writes images while they are made looks for them in the image directory itself.
///
/// # Errors
/// [`CheckpointError::Taken`] if that holds a checkpoint.
pub(super) fn check(options: &CheckpointOptions) -> Result<(), CheckpointError> {
    let in_place = [
        (options.lazy_pages, "lazy pages are served from it"),
        (options.page_server.is_some(), "a page server may write to it"),
        (options.holder.is_some(), "they are read from it before the checkpoint is done"),
    ];
    let Some((_, why)) = in_place.into_iter().find(|(asked, _)| *asked) else { return Ok(()) };
    let path = &options.image_dir;
    match path.is_dir() && is_taken(path)? {
        true => Err(CheckpointError::Taken { path: path.clone(), why }),
        false => Ok(()),
    }
}

/// By a checkpoint, and not by what a failed dump has left.
fn is_taken(dir: &Path) -> Result<bool, CheckpointError> {
    Ok(!dir.join(MARK).exists() && stage::is_occupied(dir)?)
}

pub(super) fn names(dir: &Path) -> Result<HashSet<OsString>, CheckpointError> {
    let entries = fs::read_dir(dir).map_err(CheckpointError::file("list", dir))?;
    entries.map(|entry| Ok(entry.map_err(CheckpointError::file("list", dir))?.file_name())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::stage::STAGE;
    use super::*;

    fn options(dir: &tempfile::TempDir) -> CheckpointOptions {
        CheckpointOptions::new(dir.path().join("images"))
    }

    #[test]
    fn a_failed_dump_leaves_no_directory_that_it_made() {
        let dir = tempfile::tempdir().unwrap();
        let options = options(&dir);
        let images = Images::new(&options, false).unwrap();
        fs::write(images.path().join("core-1.img"), "x").unwrap();
        drop(images);
        assert!(!options.image_dir.exists());
    }

    #[test]
    fn a_failed_dump_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let options = options(&dir);
        let images_dir = &options.image_dir;
        fs::create_dir_all(images_dir).unwrap();
        fs::write(images_dir.join("mine"), "x").unwrap();
        let images = Images::new(&options, false).unwrap();
        fs::write(images.path().join("core-1.img"), "x").unwrap();
        drop(images);
        assert_eq!(names(images_dir).unwrap().into_iter().collect::<Vec<_>>(), ["mine"]);
        let images = Images::new(&options, false).unwrap();
        fs::write(images.path().join("core-1.img"), "xyz").unwrap();
        assert_eq!(images.complete().unwrap(), 4);
        assert_eq!(names(images_dir).unwrap().len(), 2);

        // A checkpoint, then.
        let images = Images::new(&options, false).unwrap();
        assert_eq!(images.path(), images_dir.join(STAGE));
        assert_eq!(images.parent("../one"), "../../one");
        fs::write(images.path().join("core-1.img"), "newer").unwrap();
        drop(images);
        assert_eq!(fs::read_to_string(images_dir.join("core-1.img")).unwrap(), "xyz");
        assert_eq!(names(images_dir).unwrap().len(), 2);
    }

    #[test]
    fn a_failed_dump_whose_images_stay_is_none_to_restore_until_one_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let options = options(&dir);
        let images_dir = &options.image_dir;
        let images = Images::new(&options, true).unwrap();
        fs::write(images.path().join("core-1.img"), "x").unwrap();
        drop(images);
        assert!(images_dir.join("core-1.img").exists());
        assert!(matches!(refuse_failed(images_dir), Err(CheckpointError::FailedDump { .. })));
        let images = Images::new(&options, false).unwrap();
        assert_eq!(images.path(), images_dir);
        images.complete().unwrap();
        refuse_failed(images_dir).unwrap();

        // Beside a checkpoint they are not taken for it.
        let images = Images::new(&options, true).unwrap();
        fs::write(images.path().join("rtc.json"), "x").unwrap();
        drop(images);
        refuse_failed(images_dir).unwrap();
        assert!(matches!(refuse_failed(&images_dir.join(STAGE)), Err(CheckpointError::FailedDump { .. })));
    }

    #[test]
    fn an_older_checkpoint_is_not_written_over_by_what_has_to_be_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(&dir);
        options.lazy_pages = true;
        check(&options).unwrap();
        fs::create_dir_all(&options.image_dir).unwrap();
        check(&options).unwrap();
        fs::write(options.image_dir.join("core-1.img"), "x").unwrap();
        assert!(matches!(check(&options), Err(CheckpointError::Taken { .. })));
        options.lazy_pages = false;
        check(&options).unwrap();
    }
}
