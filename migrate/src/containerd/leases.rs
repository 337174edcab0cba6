//! Leases: what is made under one is not collected as garbage while it lasts.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use proto::containerd::services::leases::v1::leases_client::LeasesClient;
use proto::containerd::services::leases::v1::{CreateRequest, DeleteRequest};

use super::{Containerd, failed, gone, header};
use crate::error::Result;

/// containerd ends it by itself then, in case that we cannot.
const EXPIRES: &str = "containerd.io/gc.expire";
const EXPIRES_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

impl Containerd {
    /// The same connection, under a new lease.
    pub(crate) async fn leased(&self, id: &str) -> Result<Self> {
        let expires = prost_types::Timestamp::from(SystemTime::now() + EXPIRES_AFTER).to_string();
        let labels = HashMap::from([(EXPIRES.to_owned(), expires)]);
        let request = self.request(CreateRequest { id: id.to_owned(), labels });
        LeasesClient::new(self.channel.clone()).create(request).await.map_err(failed("create lease", id))?;
        Ok(Self { lease: Some(header(id)?), ..self.clone() })
    }

    /// No error if it is gone.
    pub(crate) async fn end_lease(&self, id: &str) -> Result<()> {
        let request = self.request(DeleteRequest { id: id.to_owned(), sync: false });
        let answer = LeasesClient::new(self.channel.clone()).delete(request).await;
        gone(answer).map_err(failed("delete lease", id))
    }
}
