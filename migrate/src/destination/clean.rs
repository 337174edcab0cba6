//! Takes away what was made for a container that does not come.

use proto::containerd::v1::types::Status;

use super::arrive::lease;
use crate::containerd::Containerd;
use crate::error::Result;
use crate::journal::{Journal, Stage};
use crate::network::Moment;
use crate::stdio;

/// All but the journal, and the image, which another container may use by now. May be called again.
pub(crate) async fn clean(containerd: &Containerd, journal: &Journal) -> Result<()> {
    let record = journal.record();
    let id = record.id.as_str();
    if record.made_container {
        if let Some(task) = containerd.task(id).await? {
            // One that was created and not restored has no process, and no exit.
            if !matches!(task.status(), Status::Created | Status::Stopped) {
                containerd.kill_task(id).await?;
                containerd.wait_task(id).await?;
            }
            containerd.delete_task(id).await?;
        }
        containerd.delete_container(id).await?;
    }
    if record.made_snapshot {
        containerd.remove_snapshot(&record.snapshotter, &record.snapshot_key).await?;
    }
    record.at(Moment::Aborted).await?;
    stdio::remove(&record.migration)?;
    containerd.end_lease(&lease(&record.migration)).await
}

/// Takes away what is left of a container that ran, and whose memory did not come. The journal stays, to tell the source.
pub(crate) async fn lose(containerd: &Containerd, journal: &mut Journal) -> Result<()> {
    clean(containerd, journal).await?;
    journal.remove_images()?;
    journal.enter(Stage::Lost)
}
