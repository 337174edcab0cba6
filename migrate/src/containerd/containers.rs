//! Container records.

use proto::containerd::services::containers::v1::containers_client::ContainersClient;
use proto::containerd::services::containers::v1::{
    Container, CreateContainerRequest, DeleteContainerRequest, GetContainerRequest,
};

use super::{Containerd, failed, found, gone};
use crate::error::Result;

impl Containerd {
    pub(crate) async fn container(&self, id: &str) -> Result<Option<Container>> {
        let request = self.request(GetContainerRequest { id: id.to_owned() });
        let answer = found(ContainersClient::new(self.channel.clone()).get(request).await);
        let answer = answer.map_err(failed("get container", id))?;
        Ok(answer.and_then(|answer| answer.into_inner().container))
    }

    pub(crate) async fn create_container(&self, container: Container) -> Result<()> {
        let id = container.id.clone();
        let request = self.request(CreateContainerRequest { container: Some(container) });
        let answer = ContainersClient::new(self.channel.clone()).create(request).await;
        answer.map(drop).map_err(failed("create container", id))
    }

    /// No error if it is gone.
    pub(crate) async fn delete_container(&self, id: &str) -> Result<()> {
        let request = self.request(DeleteContainerRequest { id: id.to_owned() });
        let answer = ContainersClient::new(self.channel.clone()).delete(request).await;
        gone(answer).map_err(failed("delete container", id))
    }
}
