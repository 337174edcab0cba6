//! The restore, through this host's containerd.

use prost::Message as _;
use prost_types::Any;
use proto::containerd::runc::v1::Options;
use proto::containerd::services::tasks::v1::CreateTaskRequest;

use super::arrive::Arrival;
use crate::error::{Error, Result};
use crate::journal::Journal;
use crate::stdio;

/// The options of a container with this runtime, in containerd's words.
const OPTIONS: &str = "containerd.runc.v1.Options";

impl Arrival {
    /// The pid of the container, which runs then.
    pub(super) async fn start(&self, journal: &Journal) -> Result<u32> {
        let id = self.offer.id.as_str();
        let task = self.offer.task.clone().unwrap_or_default();
        let streams = stdio::prepare(id, &self.migration, task)?;
        let rootfs = self.containerd.mounts(&self.container.snapshotter, &self.container.snapshot_key).await?;
        let request = CreateTaskRequest {
            container_id: id.to_owned(),
            rootfs,
            stdin: streams.task.stdin.clone(),
            stdout: streams.task.stdout.clone(),
            stderr: streams.task.stderr.clone(),
            terminal: streams.task.terminal,
            options: Some(self.options(journal)?),
        };
        self.containerd.create_task(request).await?;
        self.containerd.start_task(id).await
    }

    /// Those of the container's record, and where to restore from.
    fn options(&self, journal: &Journal) -> Result<Any> {
        let recorded = self.container.runtime.as_ref().and_then(|runtime| runtime.options.clone());
        let mut any = recorded.unwrap_or_else(|| Any { type_url: OPTIONS.to_owned(), value: Vec::new() });
        if any.type_url.rsplit('/').next() != Some(OPTIONS) {
            let problem = format!("its runtime's options are {}, and not {OPTIONS}", any.type_url);
            return Err(Error::Unfit { id: self.offer.id.clone(), problem });
        }
        let images = journal.images().to_string_lossy().into_owned();
        // One encoded message after another is both in one (protobuf: "last one wins").
        any.value.extend(Options { criu_image_path: images, ..Options::default() }.encode_to_vec());
        Ok(any)
    }

    /// What was needed to start it, and is not any more.
    pub(super) async fn settle(&self, journal: &Journal) -> Result<()> {
        let images = journal.images();
        std::fs::remove_dir_all(&images).map_err(Error::file("remove", &images))?;
        self.containerd.end_lease(&self.lease()).await
    }
}
