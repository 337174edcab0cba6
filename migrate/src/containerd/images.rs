//! Names of images.

use proto::containerd::services::images::v1::images_client::ImagesClient;
use proto::containerd::services::images::v1::{CreateImageRequest, GetImageRequest, Image};
use tonic::Code;

use super::{Containerd, failed, found};
use crate::error::Result;

impl Containerd {
    pub(crate) async fn image(&self, name: &str) -> Result<Option<Image>> {
        let request = self.request(GetImageRequest { name: name.to_owned() });
        let answer = found(ImagesClient::new(self.channel.clone()).get(request).await);
        let answer = answer.map_err(failed("get image", name))?;
        Ok(answer.and_then(|answer| answer.into_inner().image))
    }

    /// No error if somebody else has made one of this name.
    pub(crate) async fn create_image(&self, image: Image) -> Result<()> {
        let name = image.name.clone();
        let request = self.request(CreateImageRequest { image: Some(image) });
        match ImagesClient::new(self.channel.clone()).create(request).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            Err(status) => Err(failed("create image", name)(status)),
        }
    }
}
