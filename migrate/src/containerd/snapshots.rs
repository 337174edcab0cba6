//! Snapshots, and unpacking layers into them.

use std::path::PathBuf;

use proto::containerd::services::diff::v1::ApplyRequest;
use proto::containerd::services::diff::v1::diff_client::DiffClient;
use proto::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use proto::containerd::services::snapshots::v1::{
    CommitSnapshotRequest, Info, MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use proto::containerd::types::{Descriptor, Mount};
use tonic::Code;

use super::{Containerd, failed, found, gone};
use crate::error::{Error, Result};

impl Containerd {
    pub(crate) async fn snapshot(&self, snapshotter: &str, key: &str) -> Result<Option<Info>> {
        let request = self.request(StatSnapshotRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() });
        let answer = found(SnapshotsClient::new(self.channel.clone()).stat(request).await);
        let answer = answer.map_err(failed("look for snapshot", key))?;
        Ok(answer.and_then(|answer| answer.into_inner().info))
    }

    pub(crate) async fn mounts(&self, snapshotter: &str, key: &str) -> Result<Vec<Mount>> {
        let request = self.request(MountsRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() });
        let answer = SnapshotsClient::new(self.channel.clone()).mounts(request).await;
        Ok(answer.map_err(failed("mounts of snapshot", key))?.into_inner().mounts)
    }

    pub(crate) async fn prepare_snapshot(&self, snapshotter: &str, key: &str, parent: &str) -> Result<Vec<Mount>> {
        let request = self.request(PrepareSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            ..PrepareSnapshotRequest::default()
        });
        let answer = SnapshotsClient::new(self.channel.clone()).prepare(request).await;
        Ok(answer.map_err(failed("prepare snapshot", key))?.into_inner().mounts)
    }

    /// No error if it is gone.
    pub(crate) async fn remove_snapshot(&self, snapshotter: &str, key: &str) -> Result<()> {
        let request = self.request(RemoveSnapshotRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() });
        let answer = SnapshotsClient::new(self.channel.clone()).remove(request).await;
        gone(answer).map_err(failed("remove snapshot", key))
    }

    /// Makes the snapshot `name` of a layer on its parent. No error if somebody else has made it.
    pub(crate) async fn unpack(
        &self,
        snapshotter: &str,
        (name, parent): (&str, &str),
        layer: Descriptor,
        diff_id: &str,
    ) -> Result<()> {
        let key = self.own(name);
        let mounts = self.prepare_snapshot(snapshotter, &key, parent).await?;
        let unpacked = self.apply_and_commit(snapshotter, (name, &key), (layer, diff_id), mounts).await;
        match unpacked {
            Ok(true) => Ok(()),
            Ok(false) => self.remove_snapshot(snapshotter, &key).await,
            Err(err) => Err(err.and_roll_back(self.remove_snapshot(snapshotter, &key).await)),
        }
    }

    /// Whether it was this call that has made it.
    async fn apply_and_commit(
        &self,
        snapshotter: &str,
        (name, key): (&str, &str),
        (layer, diff_id): (Descriptor, &str),
        mounts: Vec<Mount>,
    ) -> Result<bool> {
        let digest = layer.digest.clone();
        let request = self.request(ApplyRequest { diff: Some(layer), mounts });
        let answer = DiffClient::new(self.channel.clone()).apply(request).await;
        let applied = answer.map_err(failed("unpack layer", &digest))?.into_inner().applied;
        if applied.is_none_or(|applied| applied.digest != diff_id) {
            return Err(Error::Answer { operation: "unpack layer", what: digest, lacks: "the digest it should have" });
        }
        let request = self.request(CommitSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
            ..CommitSnapshotRequest::default()
        });
        match SnapshotsClient::new(self.channel.clone()).commit(request).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::AlreadyExists => Ok(false),
            Err(status) => Err(failed("commit snapshot", name)(status)),
        }
    }
}

/// Where what a container has written is, outside of its own mounts: the upper directory of an overlay, or the only
/// directory of a container without image.
pub(crate) fn writable_layer(mounts: &[Mount]) -> Option<PathBuf> {
    let [mount] = mounts else { return None };
    match mount.r#type.as_str() {
        "overlay" => mount.options.iter().find_map(|option| option.strip_prefix("upperdir=")).map(PathBuf::from),
        "bind" if mount.options.iter().any(|option| option == "rw") => Some(PathBuf::from(&mount.source)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, options: &[&str]) -> Mount {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Mount { r#type: kind.to_owned(), source: "/fs".to_owned(), target: String::new(), options }
    }

    #[test]
    fn the_writable_layer_is_found() {
        let overlay = mount("overlay", &["index=off", "workdir=/3/work", "upperdir=/3/fs", "lowerdir=/1/fs"]);
        assert_eq!(writable_layer(std::slice::from_ref(&overlay)), Some("/3/fs".into()));
        assert_eq!(writable_layer(&[mount("bind", &["rw", "rbind"])]), Some("/fs".into()));
        assert_eq!(writable_layer(&[mount("bind", &["ro", "rbind"])]), None);
        assert_eq!(writable_layer(&[mount("ext4", &["rw"])]), None);
        assert_eq!(writable_layer(&[overlay.clone(), overlay]), None);
    }
}
