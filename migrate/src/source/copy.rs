//! From the offer until the destination has all of the container and it stands still here.

use std::collections::HashSet;
use std::time::Instant;

use prost::Message as _;
use proto::stream::message::Kind as Message;
use proto::stream::{self, Blob, BlobEnd, ImageDone, Offer, Tree, Want};
use tokio::task::block_in_place;

use super::Migrate;
use super::choose::{Way, choose};
use super::look::Source;
use super::pages::Memory;
use crate::error::{Error, Result};
use crate::frame::CHUNK;
use crate::journal::{Journal, Stage};
use crate::link::Link;
use crate::network::Recorder;
use crate::report::{Report, micros};
use crate::shim::{DumpOptions, Renewal};
use crate::tree::{self, Sent, mapped_files};
use crate::wire::awaited;

pub(super) struct Copy<'a> {
    pub(super) link: &'a mut Link,
    pub(super) source: &'a Source,
    pub(super) options: &'a Migrate,
    pub(super) journal: &'a mut Journal,
    pub(super) report: &'a mut Report,
}

/// The container stands still, and everything of it is at the destination.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) since: Instant,
    pub(super) renewal: Renewal,
    pub(super) recorder: Option<Recorder>,
    /// Of a container whose memory follows.
    pub(super) memory: Option<Memory>,
}

impl Copy<'_> {
    pub(super) async fn run(mut self) -> Result<Held> {
        let want = offer(self.link, self.source, self.options).await?;
        self.link.compress = self.options.compress;
        self.image(&want).await?;
        awaited!(self.link, Ready)?;
        tracing::info!(id = self.options.id, bytes = self.report.image_bytes, "the image is there");

        let mapped = self.mapped().await?;
        let layer = self.tree(Tree::Layer, None, &mapped).await?;
        self.report.layer_bytes = layer.bytes;
        tracing::info!(id = self.options.id, bytes = layer.bytes, files = layer.entries, "copied the writable layer");

        let way = self.way().await?;
        self.journal.enter(Stage::Dumping)?;
        let since = Instant::now();
        let dump = DumpOptions { lazy_pages: way == Way::PostCopy, ..DumpOptions::ALL };
        let recorder = self.source.record();
        let (held, renewal) = self.source.shim.dump(&self.journal.images(), dump).await?;
        self.report.dump_us = micros(since.elapsed());
        tracing::info!(id = self.options.id, bytes = held.bytes, "dumped; it stands still");

        let mapped = self.mapped().await?.union(&mapped).cloned().collect();
        let rest = self.tree(Tree::Layer, Some(&layer), &mapped).await?;
        self.report.layer_bytes_frozen = rest.bytes;
        let images = self.tree(Tree::Checkpoint, None, &HashSet::new()).await?;
        self.report.checkpoint_bytes = images.bytes;
        self.report.transfer_us = micros(since.elapsed()) - self.report.dump_us;
        let memory = match way {
            Way::StopCopy => None,
            Way::PostCopy => Some(self.memory().await?),
        };
        Ok(Held { since, renewal, recorder, memory })
    }

    async fn way(&mut self) -> Result<Way> {
        let way = choose(self.link, self.source, self.options, self.report).await?;
        tracing::info!(id = self.options.id, ?way, predicted_us = self.report.predicted_us, "how the memory goes");
        self.report.way = way;
        Ok(way)
    }

    async fn memory(&self) -> Result<Memory> {
        let pids = self.source.containerd.pids(&self.options.id).await?;
        Memory::open(self.source.task.pid, &pids)
    }

    async fn mapped(&self) -> Result<HashSet<Vec<u8>>> {
        let pids = self.source.containerd.pids(&self.options.id).await?;
        Ok(block_in_place(|| mapped_files(&pids)))
    }

    async fn tree(&mut self, tree: Tree, before: Option<&Sent>, always: &HashSet<Vec<u8>>) -> Result<Sent> {
        let root = match tree {
            Tree::Layer => self.source.layer.clone(),
            Tree::Checkpoint => self.journal.images(),
        };
        let sent = block_in_place(|| tree::send(self.link, tree, &root, before, always))?;
        awaited!(self.link, TreeDone)?;
        Ok(sent)
    }

    async fn image(&mut self, want: &Want) -> Result<()> {
        for digest in &want.digests {
            let offered = self.source.image.iter().flat_map(|image| &image.blobs).any(|blob| blob.digest == *digest);
            if !offered {
                return Err(Error::Unexpected { expected: "a blob of the image", found: digest.clone() });
            }
            self.blob(digest).await?;
        }
        self.link.send(Message::ImageDone(ImageDone {})).await
    }

    async fn blob(&mut self, digest: &str) -> Result<()> {
        let mut parts = self.source.containerd.read_blob(digest).await?;
        self.link.send(Message::Blob(Blob { digest: digest.to_owned() })).await?;
        let mut offset = 0;
        let failed =
            |status| Error::Containerd { operation: "read blob", what: digest.to_owned(), err: Box::new(status) };
        while let Some(part) = parts.message().await.map_err(failed)? {
            for chunk in part.data.chunks(CHUNK) {
                self.link.data(offset, chunk).await?;
                offset += u64::try_from(chunk.len()).unwrap_or_default();
            }
        }
        self.report.image_bytes += offset;
        self.link.send(Message::BlobEnd(BlobEnd {})).await
    }
}

/// Tells the destination what is to come; what it lacks.
pub(super) async fn offer(link: &mut Link, source: &Source, options: &Migrate) -> Result<Want> {
    let (layer_bytes, memory_bytes) = source.sizes().await?;
    let task = &source.task;
    let offer = Offer {
        id: options.id.clone(),
        container: source.container.encode_to_vec(),
        parent_snapshot: source.parent.clone(),
        image: source.image.clone(),
        task: Some(stream::Task {
            stdin: task.stdin.clone(),
            stdout: task.stdout.clone(),
            stderr: task.stderr.clone(),
            terminal: task.terminal,
        }),
        architecture: source.host.architecture.clone(),
        kernel: source.host.kernel.clone(),
        criu: source.preflight.criu_version.clone(),
        layer_bytes,
        memory_bytes,
        runtime: source.container.runtime.as_ref().map(|runtime| runtime.name.clone()).unwrap_or_default(),
        dry_run: options.dry_run,
        compressed: options.compress,
        network: source.hook.as_ref().map(|hook| hook.data.to_string()).unwrap_or_default(),
    };
    link.send(Message::Offer(offer)).await?;
    awaited!(link, Want)
}
