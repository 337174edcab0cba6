//! The side that has the container: sends it, decides, and lets it go or lets it run on.
//!
//! - `look`: what there is to move, and whether it can be. Changes nothing.
//! - `choose`: which way the memory goes. `rounds`: memory that goes ahead, and `converge`: for how long that pays.
//! - `copy`: everything until the container could start at the destination. It fails back: the container runs on.
//! - `decide`: from the permission to start until it is known who has the container. `pages`: memory that follows it.

mod choose;
mod converge;
mod copy;
mod decide;
mod look;
mod pages;
mod rounds;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use proto::stream::message::Kind as Message;
use proto::stream::{Abort, Hello, Welcome};

use crate::containerd::{Address, Containerd};
use crate::error::{Error, Result};
use crate::journal::{Journal, Record, Role, Stage};
use crate::link::{Link, Pace};
use crate::network::Moment;
use crate::progress::{Event, Phase, Progress};
use crate::report::{Report, micros};
use crate::spec::MapMount;
use crate::target::{self, Target};
use crate::tls::TlsFiles;
use crate::wire::{self, awaited};
use crate::{node, shim};

pub use self::choose::Way;
pub use self::converge::{Round, Stopped};
use self::copy::Copy;
pub(crate) use self::decide::{Known, ask_for, let_go, lose, release, tell};
use self::look::Source;

/// What to move, and how.
#[derive(Clone, Debug)]
pub struct Migrate {
    pub id: String,
    pub target: Target,
    pub containerd: Address,
    /// Where the journal and the images are.
    pub state: PathBuf,
    /// The stopped container stays in the source's containerd.
    pub keep_source: bool,
    /// The network namespace at the destination, in the place of the one that the container has joined here.
    pub netns: Option<PathBuf>,
    pub maps: Vec<MapMount>,
    /// The verdict alone.
    pub dry_run: bool,
    pub pace: Option<Pace>,
    pub compress: bool,
    /// An executable that moves the container's address.
    pub network_hook: Option<PathBuf>,
    /// For a target of `tls://`.
    pub tls: TlsFiles,
    pub mode: Mode,
    /// For [`Mode::Auto`] and [`Mode::PreCopy`]: how long the container may stand still.
    pub downtime_target: Duration,
    /// Of pre-copy, at the most.
    pub max_rounds: u32,
    pub progress: Progress,
}

/// When the memory goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// While the container stands still: as long as that takes, and whatever fails, it runs on here.
    #[default]
    StopCopy,
    /// While it runs, in rounds, each with what was written to since the one before; the last one while it stands still.
    PreCopy,
    /// When it runs at the destination already: it stands still for a moment, and is lost if the connection or a side is
    /// before all memory has come.
    PostCopy,
    /// The first, if the pause is foreseen to be within the target, else the second, where it is possible, and the third where
    /// it is not or does not come to an end.
    Auto,
}

/// Moves a container. When it returns, one copy runs: here after an error (but see [`Error::Undecided`]), else there.
///
/// # Errors
/// Why it did not come to it.
pub async fn migrate(options: Migrate) -> Result<Report> {
    let begun = Instant::now();
    options.progress.tell(&Event::Phase(Phase::Check));
    let migration = node::migration_name()?;
    let mut source = Source::look(&options, &migration).await?;
    if let Some(mut hook) = source.hook.take() {
        hook.data = hook.call(&record(&options, &source, &migration), Moment::Offer).await?;
        source.hook = Some(hook);
    }
    let record = record(&options, &source, &migration);
    let mut link = Link::counting(target::connect(&record).await?, options.pace, options.progress.clone());
    let cancelled = cancel_on_signals(&link);
    let welcome = hello(&mut link, &migration).await?;
    tracing::debug!(migration, software = welcome.software, version = welcome.version, "connected");
    source.check(&welcome, options.mode)?;
    source.records &= welcome.takes_packets;
    let target = options.target.to_string();
    let mut report = Report { id: options.id.clone(), migration, target, ..Report::default() };
    if options.dry_run {
        let verdict = copy::offer(&mut link, &source, &options).await;
        link.send(Message::Abort(Abort { reason: "it was a dry run".to_owned() })).await.ok();
        link.close().await;
        report.dry_run = true;
        report.total_us = micros(begun.elapsed());
        return verdict.map(|_| report);
    }
    let mut journal = Journal::create(&options.state, record)?;
    let copied =
        Copy { link: &mut link, source: &source, options: &options, journal: &mut journal, report: &mut report };
    let held = match copied.run().await {
        Ok(held) => held,
        Err(err) => return Err(give_up(err, link, &source, journal).await),
    };
    drop(cancelled);
    let decided = decide::decide(link, &source, &options.progress, journal, held, &mut report).await;
    report.total_us = micros(begun.elapsed());
    decided.map(|()| report)
}

fn record(options: &Migrate, source: &Source, migration: &str) -> Record {
    Record {
        role: Role::Source,
        stage: Stage::Copying,
        migration: migration.to_owned(),
        id: options.id.clone(),
        namespace: options.containerd.namespace.clone(),
        containerd: options.containerd.socket.clone(),
        snapshotter: source.container.snapshotter.clone(),
        snapshot_key: source.container.snapshot_key.clone(),
        target: options.target.to_string(),
        pid: source.task.pid,
        keep_source: options.keep_source,
        lazy_pages: false,
        rounds: 0,
        made_snapshot: false,
        made_container: false,
        network_hook: source.hook.clone(),
        tls: options.tls.clone(),
    }
}

/// The first words, the same whatever is to follow.
pub(crate) async fn hello(link: &mut Link, migration: &str) -> Result<Welcome> {
    let hello = Hello {
        lowest: wire::LOWEST,
        highest: wire::HIGHEST,
        software: node::software(),
        migration: migration.to_owned(),
    };
    link.send(Message::Hello(hello)).await?;
    let welcome = awaited!(link, Welcome)?;
    wire::common_version(welcome.version, welcome.version)?;
    Ok(welcome)
}

/// Back to where it was: the container runs here, and nothing of the migration is left.
async fn give_up(err: Error, mut link: Link, source: &Source, journal: Journal) -> Error {
    // Who does not hear it sees the connection end, and does the same.
    link.send(Message::Abort(Abort { reason: err.to_string() })).await.ok();
    link.close().await;
    let aborted = abort(&source.shim, journal).await;
    err.and_roll_back(aborted)
}

/// Lets the container run on, if it was dumped, and forgets the migration.
async fn abort(shim: &shim::Shim, journal: Journal) -> Result<()> {
    if journal.record().stage != Stage::Copying {
        match shim.abort().await {
            Ok(()) => {}
            // The dump itself has failed before it was held: then the shim has it over with already.
            Err(err) => match shim.phase().await {
                Ok(proto::migration::migration::Phase::IDLE) => {}
                _ => return Err(err),
            },
        }
        journal.record().at(Moment::Aborted).await?;
    }
    journal.remove()
}

/// Until it is dropped, an interrupt ends what is under way with an error. Afterwards there is no way back.
fn cancel_on_signals(link: &Link) -> tokio::task::JoinSet<()> {
    let cancel = link.canceller();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        cancel.cancel().await;
    });
    tasks
}

/// A connection to containerd, and the container's record there.
async fn container(
    address: &Address,
    id: &str,
) -> Result<(Containerd, proto::containerd::services::containers::v1::Container)> {
    let containerd = Containerd::connect(address).await?;
    let container = containerd.container(id).await?;
    let none = || Error::Unfit { id: id.to_owned(), problem: "containerd has no such container".to_owned() };
    Ok((containerd, container.ok_or_else(none)?))
}
