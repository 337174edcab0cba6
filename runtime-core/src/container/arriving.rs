//! Memory of a restored container that is still on its way.
//!
//! The container runs, and waits whenever it touches a page that has not come. If the rest does not come it cannot go on: the
//! kernel would give it zeros. So it is ended then, and before that nobody lets go of what it waits on.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criu::{Criu, LazyPages, LazyPagesOptions};

use super::Container;
use super::checkpoint::swrk::Plain;
use super::checkpoint::work::{Work, open_dir};
use super::checkpoint::{CheckpointError, PAGES_SOCKET};
use crate::{ContainerId, Error, Result, Signal};

const LOG: &str = "lazy-pages.log";

/// How often it is looked which processes wait: one whose memory is all there may wait so long for nothing.
const LOOK: Duration = Duration::from_millis(10);

/// Until CRIU's daemon has heard of every process that was restored.
const HEARD: Duration = Duration::from_secs(1);

/// A running `criu lazy-pages`. Dropping it ends it, and the container must have ended before.
#[derive(Debug)]
pub struct ArrivingMemory {
    id: ContainerId,
    daemon: LazyPages,
    work: Arc<Work>,
    bundle: PathBuf,
}

impl ArrivingMemory {
    pub(super) fn start(
        id: &ContainerId,
        criu: &Criu,
        image_dir: &Path,
        work: Arc<Work>,
        bundle: &Path,
    ) -> Result<Self, CheckpointError> {
        let images_dir = open_dir(image_dir)?;
        // By the directory's descriptor: its path may be longer than that of a socket can be.
        let source = format!("/proc/self/fd/{}/{PAGES_SOCKET}", images_dir.as_raw_fd());
        let source = UnixStream::connect(source);
        let source = source.map_err(CheckpointError::file("connect to", image_dir.join(PAGES_SOCKET)))?.into();
        let options = LazyPagesOptions { images_dir, work_dir: work.open()?, log_file: LOG.to_owned(), source };
        let daemon = criu.lazy_pages(options, &Plain).map_err(|err| {
            let err = Box::new(work.keep_log(err, LOG, bundle));
            CheckpointError::LazyPages { id: id.clone(), err }
        })?;
        Ok(Self { id: id.clone(), daemon, work, bundle: bundle.to_owned() })
    }

    /// When all processes are made, and before any of them runs.
    pub(super) fn take_hold(&mut self) {
        let begun = Instant::now();
        let mut before = 0;
        // CRIU has told its daemon of them all, which has only to read it.
        while begun.elapsed() < HEARD && !self.daemon.has_ended(Duration::from_millis(1)) {
            self.daemon.keep();
            if before > 0 && self.daemon.kept() == before {
                return;
            }
            before = self.daemon.kept();
        }
    }

    /// Blocks until all memory is there.
    ///
    /// # Errors
    /// It does not come: the container was ended.
    pub fn wait(mut self, container: &Container) -> Result<()> {
        while !self.daemon.has_ended(LOOK) {
            self.daemon.keep();
        }
        let Err(err) = self.daemon.outcome() else { return Ok(()) };
        let err = Box::new(self.work.keep_log(err, LOG, &self.bundle));
        let lost = CheckpointError::LazyPages { id: self.id.clone(), err };
        let lost = Error::Checkpoint { id: self.id.clone(), operation: "fetch the memory", err: lost };
        match container.kill(Signal::KILL, true) {
            Ok(()) | Err(Error::NotRunning { .. }) => Err(lost),
            Err(roll_back) => Err(Error::RollBack { err: Box::new(lost), roll_back: Box::new(roll_back) }),
        }
    }
}
