//! A node's containerd: its configuration, its life, its log, the images in it.

use std::fs::OpenOptions;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::sync::{MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{Node, exec};
use crate::{Error, Image, Result, Tree};

const SOCKET: &str = "/run/containerd/containerd.sock";
const LOG: &str = "containerd.log";

impl Node {
    pub(super) fn write_containerd_config(&self) -> Result<()> {
        let config = match self.tree() {
            Tree::Bookworm | Tree::Trixie => include_str!("containerd-1.toml"),
            Tree::Forky | Tree::Suites => include_str!("containerd-2.toml"),
        };
        self.write("/etc/containerd/config.toml", config)?;
        self.write("/etc/cni/net.d/10-rtc.conflist", include_str!("cni.conflist"))
    }

    /// Starts containerd and waits until it listens.
    ///
    /// # Errors
    /// `Containerd`, with its log, when it does not within a minute, which only an emulated machine takes.
    pub fn start_containerd(&self) -> Result<()> {
        let after = Duration::from_secs(60);
        let path = self.directory.join(LOG);
        let open = || OpenOptions::new().create(true).append(true).open(&path).map_err(Error::path("open", &path));
        let mut command = self.command(["containerd"], false);
        command.stdin(Stdio::null()).stdout(open()?).stderr(open()?);
        let mut child = command.spawn().map_err(|source| Error::Spawn { command: "containerd".to_owned(), source })?;
        let started = Instant::now();
        loop {
            if UnixStream::connect(self.path(SOCKET)).is_ok() {
                *self.lock() = Some(child);
                return Ok(());
            }
            let ended = !matches!(child.try_wait(), Ok(None));
            if ended || started.elapsed() > after {
                exec::kill(&mut child);
                return Err(Error::Containerd { node: self.name().to_owned(), after, log: self.containerd_log() });
            }
            sleep(Duration::from_millis(2));
        }
    }

    /// Stops containerd as a service manager does, and waits for its end. Containers and shims live on.
    pub fn stop_containerd(&self) -> Result<()> {
        self.run(["pkill", "-TERM", "-x", "containerd"])?;
        let Some(mut child) = self.lock().take() else { return Ok(()) };
        child.wait().map(drop).map_err(|source| Error::Spawn { command: "containerd".to_owned(), source })
    }

    /// Ends containerd with SIGKILL. Containers and shims live on.
    pub fn kill_containerd(&self) -> Result<()> {
        self.run(["pkill", "-KILL", "-x", "containerd"])?;
        let Some(mut child) = self.lock().take() else { return Ok(()) };
        child.wait().map(drop).map_err(|source| Error::Spawn { command: "containerd".to_owned(), source })
    }

    /// What containerd, and shims through it, have logged since the node was started.
    pub fn containerd_log(&self) -> String {
        self.log(LOG)
    }

    /// Puts an image into one of containerd's namespaces (`default`, `k8s.io`).
    pub fn import(&self, namespace: &str, image: &Image) -> Result<()> {
        self.import_as(namespace, image, image.name())
    }

    /// As [`Self::import`], under another name.
    pub fn import_as(&self, namespace: &str, image: &Image, name: &str) -> Result<()> {
        let archive = "/tmp/.image.tar";
        self.write(archive, image.archive(self.tree(), name)?)?;
        self.run(["ctr", "-n", namespace, "image", "import", archive])?;
        self.remove(archive)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        self.containerd.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
