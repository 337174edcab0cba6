//! The destination's network namespace while a container is restored into it: shut, with what knocks kept for later.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::lock::Lock;
use super::recorder::{Recorder, deliver};
use super::segment::Segment;
use crate::error::{Error, Result};

/// Dropping it opens it, and what was kept is lost.
#[derive(Debug)]
pub(crate) struct Gate {
    path: PathBuf,
    netns: File,
    recorder: Recorder,
    lock: Lock,
}

impl Gate {
    pub(crate) fn close(path: &Path, migration: &str) -> Result<Self> {
        let netns = File::open(path).map_err(Error::file("open", path))?;
        let recorder = Recorder::start(&netns).map_err(Error::file("record the packets of", path))?;
        let lock = Lock::new(&netns, &format!("rtc-migrate-{migration}"));
        let lock = lock.map_err(Error::file("lock the network of", path))?;
        Ok(Self { path: path.to_owned(), netns, recorder, lock })
    }

    /// The container has what came for it meanwhile.
    pub(crate) fn open(self) -> Result<Opened> {
        let Self { path, netns, recorder, lock } = self;
        lock.unlock().map_err(Error::file("unlock the network of", &path))?;
        let segments = recorder.take().map_err(Error::file("read recorded packets of", &path))?;
        let opened = Opened { path, netns };
        opened.deliver(&segments)?;
        Ok(opened)
    }
}

/// The namespace of a container that runs.
#[derive(Debug)]
pub(crate) struct Opened {
    path: PathBuf,
    netns: File,
}

impl Opened {
    pub(crate) fn deliver(&self, segments: &[Segment]) -> Result<()> {
        tracing::debug!(netns = %self.path.display(), packets = segments.len(), "deliver what came meanwhile");
        deliver(&self.netns, segments).map_err(Error::file("deliver packets in", &self.path))
    }
}
