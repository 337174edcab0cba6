//! OOM kills in a container's cgroup become TaskOOM events.

use std::os::fd::AsFd;

use runtime_core::cgroup::OomWatch;
use tokio::io::Interest;

use crate::events::Event;
use crate::publisher::Publisher;

/// Publishes until the cgroup is gone.
pub(crate) async fn publish(id: &str, watch: OomWatch, publisher: &Publisher) {
    if let Err(err) = watch_kills(id, watch, publisher).await {
        tracing::warn!(id, err = crate::error::chain(&err), "OOM kills are no longer watched");
    }
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("poll")]
    Poll(#[source] std::io::Error),
    #[error("read OOM events")]
    Read(#[source] runtime_core::cgroup::Error),
}

async fn watch_kills(id: &str, mut watch: OomWatch, publisher: &Publisher) -> Result<(), Error> {
    let fd = watch.as_fd().try_clone_to_owned().map_err(Error::Poll)?;
    let readable = crate::io::watch(fd, Interest::READABLE).map_err(Error::Poll)?;
    loop {
        let mut ready = readable.readable().await.map_err(Error::Poll)?;
        match watch.read().map_err(Error::Read)? {
            Some(0) => {}
            Some(kills) => {
                tracing::info!(id, kills, "OOM kill");
                publisher.publish(Event::oom(id));
            }
            None => return Ok(()),
        }
        ready.clear_ready();
    }
}
