//! `rtc pod restore`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proto::containerd::services::containers::v1::Container;
use proto::containerd::services::tasks::v1::CreateTaskRequest;
use proto::containerd::v1::types::Status;
use proto::stream::Task;
use tokio::task::JoinSet;

use super::record::{Pod, Streams, read_streams};
use crate::containerd::{Address, Containerd, options_with_images};
use crate::error::{Error, Result};
use crate::stdio;

#[derive(Debug)]
pub struct PodRestore {
    pub containerd: Address,
    /// Absolute.
    pub image_dir: PathBuf,
}

/// The containers, which containerd has to know, and whose tasks have ended or are not there. Returns their ids and pids.
///
/// # Errors
/// One of them could not be restored; nothing of any of them runs then, and the checkpoint is as it was.
pub async fn restore_pod(options: PodRestore) -> Result<Vec<(String, u32)>> {
    let PodRestore { containerd, image_dir } = options;
    let pod = Pod::read(&image_dir)?;
    let containerd = Containerd::connect(&containerd).await?;
    let mut streams = read_streams(&image_dir)?;
    let mut containers = Vec::with_capacity(pod.members.len());
    for member in pod.members {
        let container = containerd.container(&member.id).await?;
        containers.push(container.ok_or(Error::NoContainer { id: member.id })?);
    }
    // Refused before anything is changed.
    let mut ended = Vec::new();
    for container in &containers {
        match containerd.task(&container.id).await? {
            Some(task) if task.status() == Status::Stopped => {
                streams.entry(container.id.clone()).or_insert_with(|| Streams::of(&task));
                ended.push(container.id.as_str());
            }
            Some(_) => {
                let problem = "it has a task that has not ended".to_owned();
                return Err(Error::Unfit { id: container.id.clone(), problem });
            }
            None => {}
        }
    }
    for id in ended {
        containerd.delete_task(id).await?;
    }

    let restore = Restore { containerd, image_dir, streams };
    let restored = match restore.create_all(&containers).await {
        Ok(readers) => restore.start_all(&containers).await.inspect(|_| drop(readers)),
        Err(err) => Err(err),
    };
    match restored {
        Ok(started) => Ok(started),
        Err(err) => Err(err.and_roll_back(restore.take_back(&containers).await)),
    }
}

struct Restore {
    containerd: Containerd,
    image_dir: PathBuf,
    streams: BTreeMap<String, Streams>,
}

impl Restore {
    /// The fifos' readers are to be held until all are started.
    async fn create_all(&self, containers: &[Container]) -> Result<Vec<stdio::Streams>> {
        let mut all = Vec::with_capacity(containers.len());
        for container in containers {
            let id = container.id.as_str();
            let Streams { stdin, stdout, stderr, terminal } = self.streams.get(id).cloned().unwrap_or_default();
            stdio::remove(&fifos(id))?;
            let streams = stdio::prepare(id, &fifos(id), Task { stdin, stdout, stderr, terminal })?;
            let rootfs = match container.snapshot_key.as_str() {
                "" => Vec::new(),
                key => self.containerd.mounts(&container.snapshotter, key).await?,
            };
            let request = CreateTaskRequest {
                container_id: id.to_owned(),
                rootfs,
                stdin: streams.task.stdin.clone(),
                stdout: streams.task.stdout.clone(),
                stderr: streams.task.stderr.clone(),
                terminal: streams.task.terminal,
                options: Some(options_with_images(container, &self.image_dir.join(id))?),
            };
            self.containerd.create_task(request).await?;
            all.push(streams);
        }
        Ok(all)
    }

    async fn start_all(&self, containers: &[Container]) -> Result<Vec<(String, u32)>> {
        let mut starts = JoinSet::new();
        for container in containers {
            let (containerd, id) = (self.containerd.clone(), container.id.clone());
            starts.spawn(async move {
                let started = containerd.start_task(&id).await;
                (id, started)
            });
        }
        let (mut pids, mut errors) = (Vec::new(), Vec::new());
        while let Some(started) = starts.join_next().await {
            match started? {
                (id, Ok(pid)) => pids.push((id, pid)),
                (_, Err(err)) => errors.push(err),
            }
        }
        // The others fail because of it, and say so.
        let own = errors.iter().position(|err| !err.chain().contains("of the pod failed")).unwrap_or_default();
        match errors.is_empty() {
            true => Ok(pids),
            false => Err(errors.swap_remove(own)),
        }
    }

    /// All of them, whatever becomes of one; the first failure is told.
    async fn take_back(&self, containers: &[Container]) -> Result<()> {
        let mut taken = Ok(());
        for container in containers {
            taken = taken.and(self.take_one_back(&container.id).await);
        }
        taken
    }

    async fn take_one_back(&self, id: &str) -> Result<()> {
        // One that has not started has nothing to kill; one that could not be killed, the removal tells of.
        self.containerd.kill_task(id).await.ok();
        self.containerd.delete_task(id).await?;
        stdio::remove(&fifos(id))
    }
}

/// The name of the directory of a container's fifos.
fn fifos(id: &str) -> String {
    format!("pod-{id}")
}
