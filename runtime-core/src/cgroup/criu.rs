//! What CRIU needs to know of a container's cgroup.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::Path;

use super::{Cgroup, Error, file};

impl Cgroup {
    /// The directory that freezes the container, in the form that CRIU's `freeze_cgroup` wants.
    pub(crate) fn freezer_directory(&self) -> Option<&Path> {
        self.controller("freezer").or(self.unified.as_ref()).map(|dir| dir.path.as_path())
    }

    /// That directory is one of cgroup v1.
    pub(crate) fn has_v1_freezer(&self) -> bool {
        self.controller("freezer").is_some()
    }

    /// A file, open for writing, and what thaws the container when it is written there.
    pub(crate) fn thaw_file(&self) -> Result<Option<(File, &'static str)>, Error> {
        let Some(directory) = self.freezer_directory() else { return Ok(None) };
        let (name, text) = match self.controller("freezer") {
            Some(_) => ("freezer.state", "THAWED"),
            None => ("cgroup.freeze", "0"),
        };
        let path = directory.join(name);
        let file = OpenOptions::new().write(true).open(&path);
        Ok(Some((file.map_err(|err| Error::Open { path, err: file::errno(&err) })?, text)))
    }

    /// The container's directory in the hierarchy of these controllers, or in the unified tree if there are none.
    pub(crate) fn directory(&self, controllers: &[String]) -> Option<&Path> {
        let dir = match controllers.first() {
            None => self.unified.as_ref(),
            Some(first) => self.controller(first),
        };
        dir.map(|dir| dir.path.as_path())
    }

    /// Name of each v1 hierarchy's mount point, and the container's directory in it.
    pub(crate) fn v1_directories(&self) -> impl Iterator<Item = (&Path, &Path)> {
        self.v1.iter().filter_map(|dir| Some((Path::new(dir.mount.file_name()?), dir.path.as_path())))
    }

    /// Files by which a process **with a single thread** moves itself into every hierarchy: one write(2) of "0" each.
    /// See [`Cgroup::join_files`], which leaves out the unified tree.
    pub(crate) fn all_join_files(&self) -> Result<Vec<OwnedFd>, Error> {
        let mut files = self.join_files()?;
        if let Some(dir) = &self.unified {
            let path = dir.path.join("cgroup.procs");
            let procs = OpenOptions::new().write(true).open(&path);
            files.push(procs.map_err(|err| Error::Open { path, err: file::errno(&err) })?.into());
        }
        Ok(files)
    }
}
