//! The restore, through this host's containerd.

use proto::containerd::services::tasks::v1::CreateTaskRequest;
use tokio::task::block_in_place;

use super::arrive::Arrival;
use crate::containerd::options_with_images;
use crate::error::Result;
use crate::journal::Journal;
use crate::network::{Moment, Opened};
use crate::stdio;

impl Arrival {
    /// The pid of the container, which runs then, and its network, if somebody else made that.
    pub(super) async fn start_with_network(&self, journal: &Journal) -> Result<(u32, Option<Opened>)> {
        let gate = block_in_place(|| self.close_gate())?;
        // Both, however the other one ends: what was begun is not to go on while it is taken back.
        let (taken, pid) = tokio::join!(journal.record().at(Moment::TakeOver), self.start(journal));
        taken?;
        Ok((pid?, gate.map(|gate| block_in_place(|| gate.open())).transpose()?))
    }

    /// The pid of the container, which runs then.
    async fn start(&self, journal: &Journal) -> Result<u32> {
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
            options: Some(options_with_images(&self.container, &journal.images())?),
        };
        self.containerd.create_task(request).await?;
        self.containerd.start_task(id).await
    }

    /// What was needed to start it, and is not any more.
    pub(super) async fn settle(&self, journal: &Journal) -> Result<()> {
        journal.remove_images()?;
        self.containerd.end_lease(&self.lease()).await
    }
}
