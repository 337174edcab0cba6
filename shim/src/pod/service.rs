//! The pod service: decodes a request, calls, and encodes the answer.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use proto::pod::pod as api;
use proto::pod::pod_ttrpc::{Pod, create_pod};
use runtime_core::container::{CriuOptions, PodCheckpointed};
use ttrpc::r#async::TtrpcContext;

use super::checkpoint::{Options, checkpoint};
use crate::error::{Error, Result};
use crate::sandbox::Sandbox;
use crate::service::whole;

#[derive(Clone, Debug)]
pub(crate) struct PodService {
    sandbox: Arc<Sandbox>,
}

impl PodService {
    pub(crate) fn new(sandbox: Arc<Sandbox>) -> Self {
        Self { sandbox }
    }

    pub(crate) fn register(self) -> HashMap<String, ttrpc::r#async::Service> {
        create_pod(Arc::new(self))
    }
}

#[async_trait]
impl Pod for PodService {
    async fn checkpoint(
        &self,
        _: &TtrpcContext,
        request: api::CheckpointRequest,
    ) -> ttrpc::Result<api::CheckpointResponse> {
        self.sandbox.task(&request.id)?;
        let options = decode(&request)?;
        let tasks = self.sandbox.all()?;
        let span = tracing::info_span!("checkpoint pod", id = %request.id);
        let made = whole(span, checkpoint(tasks, options)).await?;
        Ok(encode(&made))
    }
}

fn decode(request: &api::CheckpointRequest) -> Result<Options> {
    let image_dir = PathBuf::from(&request.image_path);
    if !image_dir.is_absolute() {
        let (id, value) = (request.id.clone(), request.image_path.clone());
        return Err(Error::CheckpointOption { id, option: "image path", value });
    }
    let criu = CriuOptions {
        tcp_established: request.tcp_established,
        ext_unix_sk: request.ext_unix_sk,
        shell_job: request.shell_job,
        file_locks: request.file_locks,
        ..CriuOptions::default()
    };
    Ok(Options { image_dir, leave_running: request.leave_running, criu })
}

fn encode(made: &PodCheckpointed) -> api::CheckpointResponse {
    let member = |member: &runtime_core::container::PodMember| api::Member {
        id: member.id.clone(),
        bytes: member.bytes.unwrap_or_default(),
        frozen_us: member.frozen.unwrap_or_default(),
        ..api::Member::default()
    };
    api::CheckpointResponse {
        members: made.manifest.members.iter().map(member).collect(),
        shared_memory_bytes: made.manifest.shared_memory.iter().map(|memory| memory.bytes).sum(),
        total_us: made.manifest.total.unwrap_or_default(),
        ..api::CheckpointResponse::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_checkpoint_is_asked_for_reaches_criu() {
        let (id, image_path) = ("pause".to_owned(), "/images".to_owned());
        let request =
            api::CheckpointRequest { id, image_path, leave_running: true, file_locks: true, ..Default::default() };
        let options = decode(&request).unwrap();
        assert!(options.leave_running && options.criu.file_locks && !options.criu.tcp_established);
        let relative = api::CheckpointRequest { image_path: "images".into(), ..request };
        assert!(decode(&relative).unwrap_err().to_string().contains("image path"));
    }
}
