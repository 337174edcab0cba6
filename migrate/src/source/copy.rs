//! From the offer until the destination has all of the container and it stands still here.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use prost::Message as _;
use proto::stream::message::Kind as Message;
use proto::stream::{self, Blob, BlobEnd, ImageDone, Offer, Tree, TreeBegin, Want};
use tokio::task::block_in_place;

use super::choose::{Way, choose};
use super::converge::Stopped;
use super::look::Source;
use super::pages::Memory;
use super::{Migrate, Mode};
use crate::error::{Error, Result};
use crate::frame::CHUNK;
use crate::journal::{Journal, Stage};
use crate::link::Link;
use crate::network::Recorder;
use crate::progress::{Event, Phase};
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
        self.tell(Phase::Image);
        self.image(&want).await?;
        awaited!(self.link, Ready)?;
        tracing::info!(id = self.options.id, bytes = self.report.image_bytes, "the image is there");

        self.tell(Phase::Layer);
        let mut mapped = self.mapped().await?;
        let mut layer = self.layer(None, &mapped).await?;
        self.report.layer_bytes = layer.bytes;
        tracing::info!(id = self.options.id, bytes = layer.bytes, files = layer.entries, "copied the writable layer");

        let way = self.way().await?;
        if !self.report.rounds.is_empty() {
            // Rounds take their time.
            mapped.extend(self.mapped().await?);
            layer = self.layer(Some(&layer), &mapped).await?;
            self.report.layer_bytes += layer.bytes;
        }
        self.journal.enter(Stage::Dumping)?;
        self.tell(Phase::Dump);
        let (dump, parent) = self.dump_options(way)?;
        let recorder = self.source.record();
        let (held, renewal) = self.source.shim.dump(&self.journal.images(), dump, &parent).await?;
        let now = Instant::now();
        let since = now.checked_sub(Duration::from_micros(held.frozen_for_us)).unwrap_or(now);
        self.report.dump_us = held.frozen_for_us;
        tracing::info!(id = self.options.id, bytes = held.bytes, "dumped; it stands still");

        self.tell(Phase::Transfer);
        mapped.extend(self.mapped().await?);
        let rest = self.layer(Some(&layer), &mapped).await?;
        self.report.layer_bytes_frozen = rest.bytes;
        let begin = TreeBegin { tree: Tree::Checkpoint.into(), round: 0 };
        let images = self.tree(begin, &self.journal.images(), None, &HashSet::new()).await?;
        self.report.checkpoint_bytes = images.bytes;
        self.report.transfer_us = micros(now.elapsed());
        let memory = match way {
            Way::StopCopy | Way::PreCopy => None,
            Way::PostCopy => Some(self.memory().await?),
        };
        Ok(Held { since, renewal, recorder, memory })
    }

    pub(super) fn tell(&self, phase: Phase) {
        self.options.progress.tell(&Event::Phase(phase));
    }

    /// What is not as it could be: for the log, whoever watches, and the report.
    fn warn(&mut self, warning: String) {
        tracing::warn!(id = self.options.id, "{warning}");
        self.options.progress.tell(&Event::Warning(&warning));
        self.report.warnings.push(warning);
    }

    /// How the memory goes; with pre-copy most of it has gone then.
    async fn way(&mut self) -> Result<Way> {
        let choice = choose(self.link, self.source, self.options).await?;
        (self.report.bytes_per_second, self.report.predicted_us) = (choice.bytes_per_second, choice.predicted_us);
        choice.warnings.into_iter().for_each(|warning| self.warn(warning));
        let mut way = choice.way;
        if way == Way::PreCopy {
            let stopped = self.rounds().await?;
            if stopped != Stopped::Converged {
                way = self.not_converged(stopped);
            }
        }
        tracing::info!(id = self.options.id, ?way, predicted_us = self.report.predicted_us, "how the memory goes");
        self.options.progress.tell(&Event::Way(way));
        self.report.way = way;
        Ok(way)
    }

    fn not_converged(&mut self, stopped: Stopped) -> Way {
        let follows = self.options.mode == Mode::Auto && self.source.no_postcopy.is_none();
        let (way, goes) = match follows {
            true => (Way::PostCopy, "its memory follows (post-copy)"),
            false => (Way::PreCopy, "the rest goes while it stands still"),
        };
        let predicted = self.report.predicted_us / 1000;
        let reason = stopped.reason();
        self.warn(format!("pre-copy does not converge: {reason} (foreseen pause {predicted} ms); {goes}"));
        way
    }

    /// On what the dump stands. With memory that follows nothing of it is taken from rounds.
    fn dump_options(&self, way: Way) -> Result<(DumpOptions, String)> {
        let lazy_pages = way == Way::PostCopy;
        let parent = if way == Way::PreCopy { self.journal.parent() } else { String::new() };
        // For a parent to be relative to it.
        let images = self.journal.images();
        std::fs::create_dir(&images).map_err(Error::file("make directory", images))?;
        Ok((DumpOptions { lazy_pages, ..DumpOptions::ALL }, parent))
    }

    async fn memory(&self) -> Result<Memory> {
        let pids = self.source.containerd.pids(&self.options.id).await?;
        Memory::open(self.source.task.pid, &pids)
    }

    async fn mapped(&self) -> Result<HashSet<Vec<u8>>> {
        let pids = self.source.containerd.pids(&self.options.id).await?;
        Ok(block_in_place(|| mapped_files(&pids)))
    }

    async fn layer(&mut self, before: Option<&Sent>, always: &HashSet<Vec<u8>>) -> Result<Sent> {
        let begin = TreeBegin { tree: Tree::Layer.into(), round: 0 };
        self.tree(begin, &self.source.layer, before, always).await
    }

    pub(super) async fn tree(
        &mut self,
        begin: TreeBegin,
        root: &Path,
        before: Option<&Sent>,
        always: &HashSet<Vec<u8>>,
    ) -> Result<Sent> {
        let sent = block_in_place(|| tree::send(self.link, begin, root, before, always))?;
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
