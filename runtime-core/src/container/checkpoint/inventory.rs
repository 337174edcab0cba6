//! The inventory: which files a checkpoint has, how large they are, and what is in them, so that a restore refuses what is
//! missing, cut off or altered by its name, before CRIU starts and before anything is made.
//!
//! What it costs decides what is in it. Gigabytes of pages would be read a second time for a checksum, at the dump and at
//! each restore, which takes as long as the restore itself. So there is the size of every file, and:
//!
//! - a checksum of every small file, always, the smallest first, up to [`MOST_BYTES`] together. All that CRIU parses is among
//!   these, and they are in the page cache;
//! - one of the large ones, which are pages, on request alone ([`super::CheckpointOptions::checksum_pages`]). A restore
//!   checks every checksum that there is: who asks for them wants that, and pays for it.
//!
//! A checkpoint that stands on an earlier one, its parent, is whole with that alone: the files of its parents are in its
//! inventory as well, as `parent/NAME`, `parent/parent/NAME` and so on, which is where CRIU's links lead.
//!
//! It is made when the processes run again or have ended, so no time of it is frozen time. Without it, when the dumping process
//! was ended in between, a restore still compares the pages' sizes with CRIU's own maps.
//!
//! The checksum is XXH3: it finds damage at the speed of memory. It is no protection from somebody who alters the images, and
//! who could alter the inventory as well.

use std::fs::{self, File};
use std::hash::Hasher;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use super::error::CheckpointError;
use super::manifest::Manifest;

/// A file that is larger is only read on request; bytes.
const SMALL: u64 = 1 << 20;
/// Bytes, of all small files together.
const MOST_BYTES: u64 = 64 << 20;

/// CRIU's link to the parent's images.
pub(super) const PARENT: &str = "parent";
/// Links that lead in a circle end here.
const LONGEST_CHAIN: usize = 1024;

const BUFFER: usize = 128 << 10;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ImageFile {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    /// XXH3 with 64 bits and no seed, in 16 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) xxh3: Option<String>,
}

/// What is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    #[error("it is missing")]
    Missing,
    #[error("it is no regular file")]
    NoFile,
    #[error("it has {found} bytes, and was written with {written}")]
    Size { found: u64, written: u64 },
    #[error("its content is not what was written")]
    Content,
    #[error("its name is not that of a file in the directory")]
    Name,
}

/// The files of a finished checkpoint and of its parents, by name.
pub(crate) fn take(dir: &Path, checksum_pages: bool) -> Result<Vec<ImageFile>, CheckpointError> {
    let mut files = Vec::new();
    let mut prefix = String::new();
    for part in chain(dir) {
        list(&part, &prefix, &mut files)?;
        prefix.push_str(PARENT);
        prefix.push('/');
    }
    files.sort_by(|a, b| a.bytes.cmp(&b.bytes).then_with(|| a.name.cmp(&b.name)));
    let mut left = MOST_BYTES;
    for file in &mut files {
        let small = file.bytes <= SMALL.min(left);
        if small || checksum_pages {
            let path = dir.join(&file.name);
            let sum = open(&path).and_then(checksum);
            file.xxh3 = Some(sum.map_err(CheckpointError::file("read", path))?);
            left = left.saturating_sub(file.bytes);
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// The directory of a checkpoint and those of its parents, as far as the links lead.
fn chain(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let next = |path: &PathBuf| Some(path.join(PARENT)).filter(|parent| parent.is_symlink());
    std::iter::successors(Some(dir.to_owned()), next).take(LONGEST_CHAIN)
}

fn list(dir: &Path, prefix: &str, files: &mut Vec<ImageFile>) -> Result<(), CheckpointError> {
    for entry in fs::read_dir(dir).map_err(CheckpointError::file("list", dir))? {
        let entry = entry.map_err(CheckpointError::file("list", dir))?;
        let metadata = entry.metadata().map_err(CheckpointError::file("look at", entry.path()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if metadata.is_file() && is_image(&name) {
            files.push(ImageFile { name: format!("{prefix}{name}"), bytes: metadata.len(), xxh3: None });
        }
    }
    Ok(())
}

/// What a restore reads: CRIU's images, the descriptors, and what rtc writes beside them. Logs and statistics are no part of
/// a checkpoint, and come and go.
pub(super) fn is_image(name: &str) -> bool {
    name.ends_with(".img")
        || name.ends_with(crate::sealed::SUFFIX)
        || name == criu::images::DESCRIPTORS
        || name.starts_with("rtc-")
}

/// How much of a file is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    Size,
    /// And its content, where there is a checksum.
    Content,
}

/// The files that are not as they were written, with what is.
pub(crate) fn differences<'a>(
    dir: &'a Path,
    files: &'a [ImageFile],
    depth: Depth,
) -> impl Iterator<Item = Result<(&'a str, Difference), CheckpointError>> {
    files.iter().filter_map(move |file| match difference(dir, file, depth) {
        Ok(difference) => difference.map(|difference| Ok((file.name.as_str(), difference))),
        Err(err) => Some(Err(err)),
    })
}

/// Before a restore: the parent's images are there, and the files are as they were written.
///
/// # Errors
/// The first one that is not.
pub(crate) fn check_all(dir: &Path, manifest: &Manifest) -> Result<(), CheckpointError> {
    let missing = |name: String| Err(CheckpointError::Image { name, difference: Difference::Missing });
    if manifest.parent.is_some() && !dir.join(PARENT).is_dir() {
        return missing(PARENT.to_owned());
    }
    if let Some(parent) = chain(dir).find(|parent| !parent.is_dir()) {
        return missing(parent.strip_prefix(dir).unwrap_or(&parent).display().to_string());
    }
    check(dir, manifest.files.as_deref().unwrap_or_default())
}

fn check(dir: &Path, files: &[ImageFile]) -> Result<(), CheckpointError> {
    match differences(dir, files, Depth::Content).next() {
        None => Ok(()),
        Some(Ok((name, difference))) => Err(CheckpointError::Image { name: name.to_owned(), difference }),
        Some(Err(err)) => Err(err),
    }
}

fn difference(dir: &Path, file: &ImageFile, depth: Depth) -> Result<Option<Difference>, CheckpointError> {
    // A manifest may be anybody's, and is not to have files looked at elsewhere.
    let mut own = file.name.as_str();
    while let Some(rest) = own.strip_prefix(PARENT).and_then(|rest| rest.strip_prefix('/')) {
        own = rest;
    }
    if !matches!(Path::new(own).components().collect::<Vec<_>>().as_slice(), [Component::Normal(_)]) {
        return Ok(Some(Difference::Name));
    }
    let path = dir.join(&file.name);
    let opened = match open(&path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Some(Difference::Missing)),
        opened => opened.map_err(CheckpointError::file("open", &path))?,
    };
    let metadata = opened.metadata().map_err(CheckpointError::file("look at", &path))?;
    if !metadata.is_file() {
        return Ok(Some(Difference::NoFile));
    }
    if metadata.len() != file.bytes {
        return Ok(Some(Difference::Size { found: metadata.len(), written: file.bytes }));
    }
    match &file.xxh3 {
        Some(written) if depth == Depth::Content => {
            let found = checksum(opened).map_err(CheckpointError::file("read", &path))?;
            Ok((found != *written).then_some(Difference::Content))
        }
        _ => Ok(None),
    }
}

/// Does not wait where somebody has put a FIFO.
pub(super) fn open(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)
}

fn checksum(mut file: File) -> io::Result<String> {
    let mut hasher = XxHash3_64::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(format!("{:016x}", hasher.finish())),
            Ok(length) => hasher.write(&buffer[..length]),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::manifest;
    use super::*;

    fn checkpoint() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in
            [("core-1.img", 10), ("pages-1.img", (1 << 20) + 1), ("descriptors.json", 2), ("dump.log", 5)]
        {
            fs::write(dir.path().join(name), vec![7; bytes]).unwrap();
        }
        dir
    }

    fn found(dir: &Path, files: &[ImageFile], depth: Depth) -> Vec<(String, Difference)> {
        differences(dir, files, depth).map(|found| found.unwrap()).map(|(name, what)| (name.to_owned(), what)).collect()
    }

    #[test]
    fn small_files_have_checksums_and_large_ones_on_request() {
        let dir = checkpoint();
        for (asked, expected) in [(false, [true, true, false]), (true, [true, true, true])] {
            let files = take(dir.path(), asked).unwrap();
            let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
            assert_eq!(names, ["core-1.img", "descriptors.json", "pages-1.img"]);
            assert_eq!(files.iter().map(|file| file.xxh3.is_some()).collect::<Vec<_>>(), expected);
            check(dir.path(), &files).unwrap();
        }
    }

    #[test]
    fn what_is_altered_cut_off_or_missing_is_named() {
        let dir = checkpoint();
        let files = take(dir.path(), false).unwrap();
        fs::write(dir.path().join("core-1.img"), [7, 7, 7, 7, 7, 7, 7, 7, 7, 6]).unwrap();
        fs::write(dir.path().join("pages-1.img"), vec![7; 1 << 20]).unwrap();
        fs::remove_file(dir.path().join("descriptors.json")).unwrap();
        let size = Difference::Size { found: 1 << 20, written: (1 << 20) + 1 };
        let missing = ("descriptors.json".to_owned(), Difference::Missing);
        let pages = ("pages-1.img".to_owned(), size);
        assert_eq!(found(dir.path(), &files, Depth::Size), [missing.clone(), pages.clone()]);
        let core = ("core-1.img".to_owned(), Difference::Content);
        assert_eq!(found(dir.path(), &files, Depth::Content), [core, missing, pages]);
        let err = check(dir.path(), &files).unwrap_err().to_string();
        assert_eq!(err, "core-1.img of the checkpoint is damaged: its content is not what was written");
    }

    #[test]
    fn the_parents_of_a_checkpoint_belong_to_it() {
        let chain = tempfile::tempdir().unwrap();
        for (name, parent) in [("one", None), ("two", Some("../one")), ("three", Some("../two"))] {
            let dir = chain.path().join(name);
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("pages-1.img"), name).unwrap();
            if let Some(parent) = parent {
                std::os::unix::fs::symlink(parent, dir.join(PARENT)).unwrap();
            }
        }
        let last = chain.path().join("three");
        let files = take(&last, false).unwrap();
        let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["pages-1.img", "parent/pages-1.img", "parent/parent/pages-1.img"]);
        check(&last, &files).unwrap();
        fs::write(chain.path().join("one/pages-1.img"), "eno").unwrap();
        assert_eq!(found(&last, &files, Depth::Content), [(names[2].to_owned(), Difference::Content)]);
        // A link in the middle that leads nowhere, whatever the inventory says.
        fs::remove_dir_all(chain.path().join("one")).unwrap();
        let none = Manifest { files: None, parent: Some("../two".to_owned()), ..manifest::tests::plain() };
        let err = check_all(&last, &none).unwrap_err().to_string();
        assert_eq!(err, "parent/parent of the checkpoint is damaged: it is missing");
    }

    #[test]
    fn an_inventory_leads_nowhere_else_and_waits_for_nothing() {
        let dir = checkpoint();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("fifo.img"), 0o600.into()).unwrap();
        for (name, expected) in [
            ("../core-1.img", Difference::Name),
            ("parent/../core-1.img", Difference::Name),
            ("parent/", Difference::Name),
            ("other/core-1.img", Difference::Name),
            ("parent//etc/passwd", Difference::Name),
            ("/etc/passwd", Difference::Name),
            ("", Difference::Name),
            ("fifo.img", Difference::NoFile),
        ] {
            let file = ImageFile { name: name.to_owned(), bytes: 0, xxh3: None };
            assert_eq!(found(dir.path(), &[file], Depth::Content), [(name.to_owned(), expected)]);
        }
    }

    #[test]
    fn the_checksum_is_xxh3() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("empty");
        fs::write(&path, "").unwrap();
        assert_eq!(checksum(open(&path).unwrap()).unwrap(), "2d06800538d394c2");
    }
}
