//! A node's files, read and written from the host through `/proc/PID/root`.

use std::fs;
use std::path::{Path, PathBuf};

use super::Node;
use crate::{Error, Image, Result};

impl Node {
    /// The host's path of a file in the node. A link in it that starts with `/` leads to the host's files.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/{}", self.pid(), path.trim_start_matches('/')))
    }

    pub fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        let path = self.path(path);
        fs::read(&path).map_err(Error::path("read", path))
    }

    /// A file's text, without white space at its ends.
    pub fn read_text(&self, path: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.read(path)?).trim().to_owned())
    }

    /// Writes a whole file, with the directories above it.
    pub fn write(&self, path: &str, contents: impl AsRef<[u8]>) -> Result<()> {
        let path = self.path(path);
        make_parent(&path)?;
        fs::write(&path, contents).map_err(Error::path("write", path))
    }

    pub fn remove(&self, path: &str) -> Result<()> {
        let path = self.path(path);
        fs::remove_file(&path).map_err(Error::path("remove", path))
    }

    /// Copies a file of the host into the node, with its mode.
    pub fn copy_in(&self, from: &Path, to: &str) -> Result<()> {
        let to = self.path(to);
        make_parent(&to)?;
        fs::copy(from, &to).map(drop).map_err(Error::path("copy to", to))
    }

    /// Unpacks an image's files into a directory of the node.
    pub fn unpack(&self, image: Image, path: &str) -> Result<()> {
        let archive = format!("{path}.tar");
        self.write(&archive, image.rootfs(self.tree())?)?;
        self.run(["mkdir", "-p", path])?;
        self.run(["tar", "-xpf", &archive, "-C", path])?;
        self.remove(&archive)
    }

    /// Copies a directory of the node, with all that is in it, to the same path of another: what scp would do.
    pub fn copy_directory_to(&self, path: &str, other: &Self) -> Result<()> {
        self.copy_contents_to(path, other, path)
    }

    /// Copies what is in a directory of the node, extended attributes and all, into one of another, which is made if it is
    /// not there; so are its owner and mode.
    pub fn copy_contents_to(&self, from: &str, other: &Self, to: &str) -> Result<()> {
        let target = other.path(to);
        fs::create_dir_all(&target).map_err(Error::path("create", &target))?;
        let output = std::process::Command::new("cp").arg("-a").arg(self.path(from).join(".")).arg(target).output();
        let output = output.map_err(|source| Error::Spawn { command: "cp".to_owned(), source })?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(Error::Command { command: format!("cp -a {from}"), status: output.status.to_string(), output: text })
    }
}

fn make_parent(path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    fs::create_dir_all(parent).map_err(Error::path("create", parent))
}
