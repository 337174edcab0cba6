//! The client of containerd's gRPC API. One file per service.

mod containers;
mod content;
mod images;
mod leases;
mod snapshots;
mod tasks;

use std::path::PathBuf;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};

pub(crate) use self::snapshots::writable_layer;
pub(crate) use self::tasks::options_with_images;
use crate::error::{Error, Result};

const NAMESPACE: &str = "containerd-namespace";
const LEASE: &str = "containerd-lease";

/// Where containerd is, and whose containers.
#[derive(Clone, Debug)]
pub struct Address {
    pub socket: PathBuf,
    pub namespace: String,
}

/// A connection to one of containerd's namespaces.
#[derive(Clone, Debug)]
pub(crate) struct Containerd {
    channel: Channel,
    namespace: MetadataValue<Ascii>,
    lease: Option<MetadataValue<Ascii>>,
}

impl Containerd {
    pub(crate) async fn connect(address: &Address) -> Result<Self> {
        let socket = address.socket.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // The URI is only for HTTP/2's :authority; the connector decides where the bytes go.
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(connector)
            .await
            .map_err(|err| Error::ContainerdConnect { address: address.socket.clone(), err })?;
        let namespace = header(&address.namespace)?;
        Ok(Self { channel, namespace, lease: None })
    }

    /// A name for what only this migration works on: others may bring the same image at the same time.
    fn own(&self, what: &str) -> String {
        let lease = self.lease.as_ref().and_then(|lease| lease.to_str().ok()).unwrap_or("rtc-migrate");
        format!("{lease}-{what}")
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(NAMESPACE, self.namespace.clone());
        if let Some(lease) = &self.lease {
            request.metadata_mut().insert(LEASE, lease.clone());
        }
        request
    }
}

fn header(value: &str) -> Result<MetadataValue<Ascii>> {
    value.parse().map_err(|_| Error::Destination(format!("{value:?} is no name that containerd takes")))
}

fn failed(operation: &'static str, what: impl Into<String>) -> impl FnOnce(Status) -> Error {
    let what = what.into();
    move |err| Error::Containerd { operation, what, err: Box::new(err) }
}

/// For what may be missing.
fn found<T>(result: Result<T, Status>) -> Result<Option<T>, Status> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}

/// For what may be gone already.
fn gone<T>(result: Result<T, Status>) -> Result<(), Status> {
    found(result).map(drop)
}
