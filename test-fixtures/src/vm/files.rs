//! A machine's files, read and written through commands in it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{DEADLINE, Vm};
use crate::{Error, Result};

impl Vm {
    pub fn exists(&self, path: &str) -> Result<bool> {
        Ok(self.exec(["test", "-e", path])?.status.success())
    }

    /// A file's text, without white space at its ends.
    pub fn read_text(&self, path: &str) -> Result<String> {
        self.run(["cat", path])
    }

    /// Writes a whole file, with the directories above it.
    pub fn write(&self, path: &str, contents: impl AsRef<[u8]>) -> Result<()> {
        let script = "mkdir -p \"$(dirname \"$0\")\" && cat >\"$0\"";
        let running = self.spawn(["sh", "-euc", script, path])?;
        running.stdin().write_all(contents.as_ref()).map_err(Error::path("write", path))?;
        let output = running.wait(DEADLINE)?;
        if output.status.success() {
            return Ok(());
        }
        let (command, status) = (format!("write {path}"), output.status.to_string());
        Err(Error::Command { command, status, output: output.error_text() })
    }

    /// Copies a file of the host into the machine, with its mode. What is there from the start is faster brought with
    /// [`VmConfig::files`](super::VmConfig::files).
    pub fn copy_in(&self, from: &Path, to: &str) -> Result<()> {
        self.write(to, fs::read(from).map_err(Error::path("read", from))?)?;
        let mode = fs::metadata(from).map_err(Error::path("stat", from))?.permissions().mode();
        self.run(["chmod", &format!("{:o}", mode & 0o7777), to]).map(drop)
    }
}
