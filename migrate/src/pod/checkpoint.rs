//! `rtc pod checkpoint`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use proto::pod::pod as api;
use proto::pod::pod_ttrpc::PodClient;
use serde::Serialize;
use ttrpc::r#async::Client;

use super::record::{Streams, write_streams};
use crate::containerd::{Address, Containerd};
use crate::error::{Error, Result};
use crate::shim::{LONG, address, within};

#[derive(Debug)]
pub struct PodCheckpoint {
    /// One of its containers, as a rule the sandbox.
    pub id: String,
    pub containerd: Address,
    /// Absolute.
    pub image_dir: PathBuf,
    pub leave_running: bool,
    pub ext_unix_sk: bool,
    pub shell_job: bool,
}

/// What was written.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodReport {
    members: Vec<Member>,
    shared_memory_bytes: u64,
    total_us: u64,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Member {
    id: String,
    bytes: u64,
    frozen_us: u64,
}

impl fmt::Display for PodReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Member { id, bytes, frozen_us } in &self.members {
            writeln!(f, "{id}: {} KiB, frozen for {} ms", bytes / 1024, frozen_us / 1000)?;
        }
        let shared = self.shared_memory_bytes / 1024;
        write!(f, "{} containers and {shared} KiB of shared memory in {} ms", self.members.len(), self.total_us / 1000)
    }
}

/// Connections between the containers, and those to others, are carried, and file locks too.
///
/// # Errors
/// One of the containers could not be dumped; all run on then, and the directory has nothing of them.
pub async fn checkpoint_pod(options: PodCheckpoint) -> Result<PodReport> {
    let PodCheckpoint { id, containerd, image_dir, leave_running, ext_unix_sk, shell_job } = options;
    let containerd = Containerd::connect(&containerd).await?;
    let problem = "it does not run".to_owned();
    let task = containerd.task(&id).await?.filter(|task| task.pid != 0);
    let task = task.ok_or_else(|| Error::Unfit { id: id.clone(), problem })?;

    let failed = |operation| {
        let id = id.clone();
        move |err| Error::Shim { id, operation, err }
    };
    let client = Client::connect(&address(task.pid)?).await.map_err(failed("connect"))?;
    let request = api::CheckpointRequest {
        id: id.clone(),
        image_path: image_dir.to_string_lossy().into_owned(),
        leave_running,
        tcp_established: true,
        ext_unix_sk,
        shell_job,
        file_locks: true,
        ..Default::default()
    };
    let made = PodClient::new(client).checkpoint(within(LONG), &request).await.map_err(failed("checkpoint"))?;

    let mut streams = BTreeMap::new();
    for member in &made.members {
        // Its task stays until somebody deletes it.
        if let Some(task) = containerd.task(&member.id).await? {
            streams.insert(member.id.clone(), Streams::of(&task));
        }
    }
    write_streams(&image_dir, &streams)?;
    let member =
        |member: &api::Member| Member { id: member.id.clone(), bytes: member.bytes, frozen_us: member.frozen_us };
    Ok(PodReport {
        members: made.members.iter().map(member).collect(),
        shared_memory_bytes: made.shared_memory_bytes,
        total_us: made.total_us,
    })
}
