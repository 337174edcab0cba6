//! The kubelet's side of the Container Runtime Interface, for tests: no packaged client exists for the Debian releases
//! that the nodes are made of.

use std::path::Path;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Error, Uri};

#[allow(
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    rustdoc::all,
    reason = "generated from Kubernetes' cri.proto"
)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

use v1::runtime_service_client::RuntimeServiceClient;

/// Connects to containerd's gRPC socket. The connection is made here, so that a missing socket fails here.
///
/// # Errors
/// The transport's: the socket does not exist, or nobody listens.
pub async fn connect(socket: &Path) -> Result<RuntimeServiceClient<Channel>, Error> {
    channel(socket).await.map(RuntimeServiceClient::new)
}

/// The connection alone, for others of containerd's services.
///
/// # Errors
/// As [`connect`].
pub async fn channel(socket: &Path) -> Result<Channel, Error> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    // The URI is only for HTTP/2's :authority; the connector decides where the bytes go.
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await
}
