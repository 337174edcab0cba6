//! Everything of a container that comes in before it can be restored.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use prost::Message as _;
use proto::containerd::services::containers::v1::Container;
use proto::containerd::services::images::v1::Image;
use proto::containerd::types::{Descriptor, Mount};
use proto::stream::message::Kind as Message;
use proto::stream::{self, Offer, Ready, Tree, TreeDone, Want};
use serde_json::Value;
use tokio::task::block_in_place;

use super::Receive;
use crate::containerd::{Containerd, writable_layer};
use crate::error::{Error, Result};
use crate::journal::{Journal, Record, Role, Stage};
use crate::link::{Incoming, Link};
use crate::network::{Gate, Hook, Moment};
use crate::node::{Host, free_space};
use crate::wire::unexpected;
use crate::{image, spec, tree};

/// A container that may come in.
#[derive(Debug)]
pub(super) struct Arrival {
    /// Under a lease of the migration's.
    pub(super) containerd: Containerd,
    pub(super) offer: Offer,
    pub(super) container: Container,
    pub(super) migration: String,
}

impl Arrival {
    /// # Errors
    /// Why it cannot come; nothing was changed.
    pub(super) async fn check(
        options: &Receive,
        containerd: Containerd,
        offer: Offer,
        migration: String,
    ) -> Result<Self> {
        let refuse = |reason: String| Err(Error::Destination(reason));
        let container = Container::decode(offer.container.as_slice()).map_err(Error::Message)?;
        if container.id != offer.id || container.snapshot_key.is_empty() {
            return refuse("the offer contradicts itself".to_owned());
        }
        let Host { architecture, .. } = Host::this();
        if offer.architecture != architecture {
            return refuse(format!("a container of {} does not run on {architecture}", offer.architecture));
        }
        if containerd.container(&offer.id).await?.is_some() {
            return refuse(format!("there is a container {} already", offer.id));
        }
        if containerd.snapshot(&container.snapshotter, &container.snapshot_key).await?.is_some() {
            return refuse(format!("there is a snapshot {} already", container.snapshot_key));
        }
        let arrival = Self { containerd, offer, container, migration };
        arrival.check_image().await?;
        arrival.check_host(options)?;
        Ok(arrival)
    }

    async fn check_image(&self) -> Result<()> {
        let Some(image) = &self.offer.image else { return Ok(()) };
        let ours = self.containerd.image(&image.name).await?.and_then(|image| image.target);
        match ours {
            Some(target) if target.digest != image.digest => Err(Error::Destination(format!(
                "its image {} is another one: {}, and the container's is {}",
                image.name, target.digest, image.digest
            ))),
            _ => Ok(()),
        }
    }

    fn spec(&self) -> Result<Value> {
        let json = self.container.spec.as_ref().map(|spec| spec.value.as_slice()).unwrap_or_default();
        let what = format!("the specification of container {}", self.offer.id);
        serde_json::from_slice(json).map_err(|err| Error::Json { what, err })
    }

    /// Whether all that the container's specification names is here, but for what is still to be made.
    fn check_paths(&self, to_come: Option<&Path>) -> Result<()> {
        let mut missing = spec::missing(&self.spec()?);
        missing.retain(|path| to_come != Some(Path::new(path)));
        if missing.is_empty() {
            return Ok(());
        }
        let list = missing.join(", ");
        Err(Error::Destination(format!("what the container mounts or joins is not there: {list}")))
    }

    fn check_host(&self, options: &Receive) -> Result<()> {
        // The hook makes the network namespace, if there is a hook.
        let netns = spec::network(&self.spec()?).filter(|_| options.network_hook.is_some());
        self.check_paths(netns.as_deref())?;
        let state = options.state.as_path();
        std::fs::create_dir_all(state).map_err(Error::file("make directory", state))?;
        check_space(state, self.offer.memory_bytes)
    }

    pub(super) fn record(&self, options: &Receive) -> Result<Record> {
        Ok(Record {
            role: Role::Destination,
            stage: Stage::Receiving,
            migration: self.migration.clone(),
            id: self.offer.id.clone(),
            namespace: options.containerd.namespace.clone(),
            containerd: options.containerd.socket.clone(),
            snapshotter: self.container.snapshotter.clone(),
            snapshot_key: self.container.snapshot_key.clone(),
            target: String::new(),
            pid: 0,
            keep_source: false,
            lazy_pages: false,
            rounds: 0,
            made_snapshot: false,
            made_container: false,
            network_hook: self.hook(options)?,
            tls: options.tls.clone(),
        })
    }

    fn hook(&self, options: &Receive) -> Result<Option<Hook>> {
        let Some(executable) = &options.network_hook else { return Ok(None) };
        let mut hook = Hook::new(executable, spec::network(&self.spec()?))?;
        if !self.offer.network.is_empty() {
            let what = "what the source's network hook says".to_owned();
            hook.data = serde_json::from_str(&self.offer.network).map_err(|err| Error::Json { what, err })?;
        }
        Ok(Some(hook))
    }

    /// Of the network namespace that the container joins, if it joins one.
    pub(super) fn close_gate(&self) -> Result<Option<Gate>> {
        spec::network(&self.spec()?).map(|path| Gate::close(&path, &self.migration)).transpose()
    }

    /// The network that the container is to join.
    pub(super) async fn prepare_network(&self, journal: &Journal) -> Result<()> {
        journal.record().at(Moment::Prepare).await?;
        self.check_paths(None)
    }

    /// Which blobs are to be sent: none if the image is here and unpacked.
    pub(super) async fn want(&self) -> Result<Want> {
        let Some(image) = &self.offer.image else { return Ok(Want::default()) };
        let named = self.containerd.image(&image.name).await?.is_some();
        let unpacked = self.containerd.snapshot(&self.container.snapshotter, &self.offer.parent_snapshot).await?;
        let mut digests = Vec::new();
        if !named || unpacked.is_none() {
            for blob in &image.blobs {
                if self.containerd.blob(&blob.digest).await?.is_none() {
                    digests.push(blob.digest.clone());
                }
            }
        }
        Ok(Want { digests })
    }

    /// Until everything of it is here.
    pub(super) async fn take_in(&self, link: &mut Link, journal: &mut Journal) -> Result<()> {
        let containerd = self.containerd.leased(&self.lease()).await?;
        let want = self.want().await?;
        link.send(Message::Want(want.clone())).await?;
        link.compress = self.offer.compressed;
        self.blobs(&containerd, link, want.digests.into_iter().collect()).await?;
        self.make_image(&containerd).await?;
        let layer = self.make_container(&containerd, journal).await?;
        link.send(Message::Ready(Ready {})).await?;

        let mut last = false;
        while !last {
            let begin = block_in_place(|| tree::begin(link))?;
            let root = match begin.tree() {
                Tree::Layer => layer.clone(),
                Tree::Round => round(journal, begin.round)?,
                Tree::Checkpoint => {
                    last = true;
                    let root = journal.images();
                    std::fs::create_dir(&root).map_err(Error::file("make directory", &root))?;
                    root
                }
            };
            let received = block_in_place(|| tree::receive(link, &root))?;
            tracing::debug!(?begin, ?received, "received");
            link.send(Message::TreeDone(TreeDone {})).await?;
        }
        Ok(())
    }

    pub(super) fn lease(&self) -> String {
        lease(&self.migration)
    }

    async fn blobs(&self, containerd: &Containerd, link: &mut Link, mut wanted: HashSet<String>) -> Result<()> {
        loop {
            match link.message().await? {
                Message::Blob(blob) if wanted.remove(&blob.digest) => self.blob(containerd, link, &blob.digest).await?,
                Message::ImageDone(_) if wanted.is_empty() => return Ok(()),
                other => return Err(unexpected("a blob that was asked for", &other)),
            }
        }
    }

    async fn blob(&self, containerd: &Containerd, link: &mut Link, digest: &str) -> Result<()> {
        let blobs = self.offer.image.iter().flat_map(|image| &image.blobs);
        let info: stream::BlobInfo = blobs.into_iter().find(|blob| blob.digest == digest).cloned().unwrap_or_default();
        let mut writer = containerd.write_blob(digest, info.size, info.labels);
        let written = async {
            loop {
                match link.receive().await? {
                    Incoming::Data { bytes, .. } => writer.write(bytes).await?,
                    Incoming::Message(message) => match *message {
                        Message::BlobEnd(_) => return Ok(()),
                        other => return Err(unexpected("BlobEnd", &other)),
                    },
                }
            }
        };
        match written.await {
            Ok(()) => writer.commit().await,
            Err(err) => Err(Error::and_roll_back(err, writer.abort().await)),
        }
    }

    /// The image's name, and the snapshots of its layers.
    async fn make_image(&self, containerd: &Containerd) -> Result<()> {
        let Some(image) = &self.offer.image else { return Ok(()) };
        let snapshotter = self.container.snapshotter.as_str();
        let mut parent = String::new();
        for layer in &image.layers {
            let name = image::chain_id(&parent, &layer.diff_id);
            if containerd.snapshot(snapshotter, &name).await?.is_none() {
                let descriptor = Descriptor {
                    media_type: layer.media_type.clone(),
                    digest: layer.digest.clone(),
                    size: layer.size,
                    ..Descriptor::default()
                };
                containerd.unpack(snapshotter, (&name, &parent), descriptor, &layer.diff_id).await?;
            }
            parent = name;
        }
        if parent != self.offer.parent_snapshot {
            return Err(Error::Destination("the image's layers are not what the container stands on".to_owned()));
        }
        if containerd.image(&image.name).await?.is_none() {
            let target = Descriptor {
                media_type: image.media_type.clone(),
                digest: image.digest.clone(),
                size: image.size,
                ..Descriptor::default()
            };
            let image = Image { name: image.name.clone(), labels: image.labels.clone(), target: Some(target) };
            containerd.create_image(image).await?;
            // Somebody else may have been faster, with another one.
            self.check_image().await?;
        }
        Ok(())
    }

    /// The container's snapshot and record; where what it has written goes.
    async fn make_container(&self, containerd: &Containerd, journal: &mut Journal) -> Result<PathBuf> {
        let Container { snapshotter, snapshot_key, .. } = &self.container;
        let mounts = containerd.prepare_snapshot(snapshotter, snapshot_key, &self.offer.parent_snapshot).await?;
        journal.change(|record| record.made_snapshot = true)?;
        let layer = layer_of(&mounts, snapshotter)?;
        check_space(&layer, self.offer.layer_bytes)?;
        containerd.create_container(self.container.clone()).await?;
        journal.change(|record| record.made_container = true)?;
        Ok(layer)
    }
}

/// Where the memory of a round goes, which is to be the next.
fn round(journal: &mut Journal, number: u32) -> Result<PathBuf> {
    let next = journal.record().rounds + 1;
    if number != next {
        let found = format!("round {number} after {}", next - 1);
        return Err(Error::Unexpected { expected: "the next round", found });
    }
    journal.begin_round()
}

/// The name of a migration's lease.
pub(super) fn lease(migration: &str) -> String {
    format!("rtc-migrate-{migration}")
}

fn layer_of(mounts: &[Mount], snapshotter: &str) -> Result<PathBuf> {
    writable_layer(mounts).ok_or_else(|| {
        Error::Destination(format!("snapshots of {snapshotter} have no directory for what the container has written"))
    })
}

fn check_space(directory: &Path, needed: u64) -> Result<()> {
    let free = free_space(directory)?;
    if free < needed {
        let path = directory.display();
        return Err(Error::Destination(format!("no space: {needed} bytes are needed in {path}, and {free} are free")));
    }
    Ok(())
}
