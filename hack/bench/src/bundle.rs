//! A bundle made by hand, as containerd would make it: `config.json` from `ctr oci spec`, a rootfs, the log fifo.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::error::Error;

/// A bundle directory; removed when dropped.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub(crate) id: String,
    pub(crate) dir: PathBuf,
}

/// The default specification of this machine's containerd.
pub(crate) fn default_spec() -> Result<Value, Error> {
    let output = run(Command::new("ctr").args(["oci", "spec"]))?;
    serde_json::from_str(&output).map_err(Error::Spec)
}

impl Bundle {
    /// Puts the bundle below `/run`, where containerd keeps its own.
    pub(crate) fn new(id: &str, spec: &Value, args: &[&str]) -> Result<Self, Error> {
        Self::with_root(id, spec, args, Path::new("rootfs"))
    }

    /// With a root filesystem that is elsewhere.
    pub(crate) fn with_root(id: &str, spec: &Value, args: &[&str], root: &Path) -> Result<Self, Error> {
        let bundle = Self { id: id.to_owned(), dir: Path::new("/run/rtc-bench").join(id) };
        // CRIU logs to `work`, in containerd's bundles a link to a directory on the disk.
        for directory in ["rootfs", "work"] {
            let path = bundle.path(directory);
            fs::create_dir_all(&path).map_err(|err| Error::File { action: "make", path, err })?;
        }
        let mut spec = spec.clone();
        spec["root"] = json!({ "path": root });
        spec["process"]["args"] = json!(args);
        spec["linux"]["cgroupsPath"] = json!(format!("/bench/{id}"));
        let config = bundle.dir.join("config.json");
        fs::write(&config, spec.to_string()).map_err(|err| Error::File { action: "write", path: config, err })?;
        Ok(bundle)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn fifo(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.path(name);
        run(Command::new("mkfifo").arg(&path))?;
        Ok(path)
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        // The node is thrown away after the run; a directory that stays costs the next measurement nothing.
        fs::remove_dir_all(&self.dir).ok();
    }
}

/// Runs a command to its end and returns what it wrote to stdout.
pub(crate) fn run(command: &mut Command) -> Result<String, Error> {
    let name = format!("{command:?}");
    let output = command.output().map_err(|err| Error::Execute { command: name.clone(), err })?;
    if !output.status.success() {
        let output_text = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Error::Command { command: name, status: output.status, output: output_text });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
