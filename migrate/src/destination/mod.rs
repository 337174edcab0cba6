//! The side where the container goes.
//!
//! - `arrive`: takes everything in and makes it ready, until the source lets it start. Fails back to nothing.
//! - `start`: restores it through containerd. `follow`: the same for one whose memory follows, which `pages` brings.
//! - `clean`: takes away what was made for a container that does not come.

mod arrive;
mod clean;
mod follow;
mod pages;
mod start;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use proto::stream::message::Kind as Message;
use proto::stream::{Failed, Finished, Offer, Outcome, Packets, Restore, Started, Welcome, outcome};
use tokio::task::block_in_place;
use tokio::time::sleep;

use crate::containerd::{Address, Containerd};
use crate::error::{Error, Result};
use crate::journal::{self, Asked, Journal, Stage};
use crate::link::{Link, Stream};
use crate::listen::Listener;
use crate::network::{Moment, Opened, Segment};
use crate::node::{self, Host};
use crate::target::Target;
use crate::tls::TlsFiles;
use crate::wire::{self, awaited};

use self::arrive::Arrival;
pub(crate) use self::clean::{clean, lose};

/// How long a source may take between two connections' ends and the next word; then it is gone.
const LAST_WORD: Duration = Duration::from_secs(10);

/// Where migrations come in.
#[derive(Clone, Debug)]
pub struct Receive {
    pub containerd: Address,
    /// Where the journals and the images are.
    pub state: PathBuf,
    /// An executable that moves the containers' addresses.
    pub network_hook: Option<PathBuf>,
    /// For a target of `tls://`.
    pub tls: TlsFiles,
}

/// Serves one migration on standard input and output, or any number of them on a socket, until it is interrupted.
///
/// # Errors
/// The one migration's; or the socket could not be made.
pub async fn receive(options: Receive, listen: Option<Target>) -> Result<()> {
    let Some(target) = listen else {
        let stream = tokio::io::join(tokio::io::stdin(), tokio::io::stdout());
        return serve(&options, Box::new(stream)).await;
    };
    let listener = Listener::bind(&target, &options.tls).await?;
    let mut interrupt = signal(tokio::signal::unix::SignalKind::interrupt())?;
    let mut terminate = signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut serving = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            caller = listener.accept() => {
                let (caller, options) = (caller?, options.clone());
                serving.spawn(async move {
                    let served = async { serve(&options, caller.open().await?).await };
                    if let Err(err) = served.await {
                        tracing::error!("{}", err.chain());
                    }
                });
            }
            Some(_) = serving.join_next(), if !serving.is_empty() => {}
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        }
    }
    drop(listener);
    // What is under way comes to its end.
    while serving.join_next().await.is_some() {}
    Ok(())
}

fn signal(kind: tokio::signal::unix::SignalKind) -> Result<tokio::signal::unix::Signal> {
    tokio::signal::unix::signal(kind).map_err(Error::Connection)
}

async fn serve(options: &Receive, stream: Box<dyn Stream>) -> Result<()> {
    let mut link = Link::new(stream, None);
    let served = converse(options, &mut link).await;
    if let Err(err) = &served
        && err.is_a_refusal()
    {
        // Who has gone does not hear it.
        link.send(Message::Failed(Failed { reason: err.chain() })).await.ok();
    }
    link.close().await;
    match served {
        // The source's own decision, which it tells of itself.
        Err(Error::Aborted(reason)) => {
            tracing::info!(reason, "the source has given a migration up");
            Ok(())
        }
        served => served,
    }
}

async fn converse(options: &Receive, link: &mut Link) -> Result<()> {
    let hello = awaited!(link, Hello)?;
    let version = wire::common_version(hello.lowest, hello.highest)?;
    let Host { architecture, kernel } = Host::this();
    // Whether it can do without is the source's to say.
    let criu = node::criu_version().await.inspect_err(|err| tracing::warn!("{}", err.chain())).unwrap_or_default();
    let lazy_pages = node::criu_features().await.lazy_pages;
    let software = node::software();
    let takes_packets = true;
    let welcome = Welcome { version, software, architecture, kernel, criu, lazy_pages, takes_packets };
    link.send(Message::Welcome(welcome)).await?;
    match link.message().await? {
        Message::Offer(offer) => take(options, link, offer, hello.migration).await,
        Message::Query(_) => {
            let outcome = answer(options, &hello.migration).await?;
            link.send(Message::Outcome(outcome)).await?;
            match awaited!(link, Finish) {
                Ok(_) => forget(options, link, &hello.migration).await,
                // There was nothing more to say.
                Err(Error::Disconnected) => Ok(()),
                Err(err) => Err(err),
            }
        }
        other => Err(wire::unexpected("Offer", &other)),
    }
}

async fn take(options: &Receive, link: &mut Link, offer: Offer, migration: String) -> Result<()> {
    let containerd = Containerd::connect(&options.containerd).await?;
    let arrival = Arrival::check(options, containerd, offer, migration).await?;
    if arrival.offer.dry_run {
        link.send(Message::Want(arrival.want().await?)).await?;
        return Ok(());
    }
    let mut journal = Journal::create(&options.state, arrival.record(options)?)?;
    let allowed = async {
        arrival.prepare_network(&journal).await?;
        arrival.take_in(link, &mut journal).await?;
        let Restore { lazy_pages } = awaited!(link, Restore)?;
        journal.start(lazy_pages).map(|()| lazy_pages)
    };
    let lazy_pages = match allowed.await {
        Ok(lazy_pages) => lazy_pages,
        Err(err) => return Err(undo(&arrival, journal, err).await),
    };
    let Running { journal, network, problems } = match lazy_pages {
        false => start(&arrival, link, journal).await?,
        true => follow::start(&arrival, link, journal).await?,
    };
    problems.iter().for_each(|problem| tracing::error!(id = arrival.offer.id, "{problem}"));
    // Without a last word the journal stays: the source will ask.
    if let Ok(Ok(())) = tokio::time::timeout(LAST_WORD.saturating_mul(6), last_words(link, network)).await {
        journal.remove()?;
        link.send(Message::Finished(Finished { problems })).await?;
    }
    Ok(())
}

/// A container that runs here, with all that it has.
#[derive(Debug)]
struct Running {
    journal: Journal,
    network: Option<Opened>,
    /// What has failed since.
    problems: Vec<String>,
}

/// Starts the container, which the source hears.
///
/// # Errors
/// It did not start, and nothing is left of it.
async fn start(arrival: &Arrival, link: &mut Link, mut journal: Journal) -> Result<Running> {
    let begun = Instant::now();
    let (pid, network) = match arrival.start_with_network(&journal).await {
        Ok(started) => started,
        Err(err) => return Err(undo(arrival, journal, err).await),
    };
    let written = journal.change(|record| (record.stage, record.pid) = (Stage::Started, pid));
    written.map_err(|err| unsettled(&arrival.offer.id, err))?;
    let time = begun.elapsed();
    tracing::info!(id = arrival.offer.id, pid, milliseconds = time.as_millis(), "restored");
    link.send(Message::Started(Started { pid, restore_us: crate::report::micros(time) })).await?;
    let after = [journal.record().at(Moment::Started).await, arrival.settle(&journal).await];
    let problems = after.into_iter().filter_map(|done| Some(done.err()?.chain())).collect();
    Ok(Running { journal, network, problems })
}

/// The error, when what was made for a container that does not come is gone.
async fn undo(arrival: &Arrival, journal: Journal, err: Error) -> Error {
    let may_run = journal.record().stage == Stage::Starting;
    let cleaned = clean(&arrival.containerd, &journal).await;
    // What could not be cleaned stays known, for a recovery.
    match cleaned.and_then(|()| journal.remove()) {
        Err(roll_back) if may_run => unsettled(&arrival.offer.id, err.and_roll_back(Err(roll_back))),
        cleaned => err.and_roll_back(cleaned),
    }
}

fn unsettled(id: &str, err: Error) -> Error {
    Error::Unsettled { id: id.to_owned(), err: Box::new(err) }
}

/// Until the source's Finish.
async fn last_words(link: &mut Link, network: Option<Opened>) -> Result<()> {
    loop {
        match link.message().await? {
            Message::Finish(_) => return Ok(()),
            Message::Packets(packets) => deliver(network.as_ref(), packets),
            other => return Err(wire::unexpected("Finish", &other)),
        }
    }
}

/// Packets that the source hands on. Those that cannot be delivered are sent again by their senders.
fn deliver(network: Option<&Opened>, packets: Packets) {
    let segments: Vec<Segment> = packets.packets.into_iter().filter_map(Segment::parse).collect();
    let Some(network) = network else { return };
    if let Err(err) = block_in_place(|| network.deliver(&segments)) {
        tracing::warn!(err = err.chain(), "what has come to the source meanwhile");
    }
}

/// The source knows: the copy here is the only one.
async fn forget(options: &Receive, link: &mut Link, migration: &str) -> Result<()> {
    let begun = Instant::now();
    while let Some(directory) = find(options, migration)? {
        match Journal::open(&directory)? {
            Some(journal) if matches!(journal.record().stage, Stage::Started | Stage::Lost) => journal.remove()?,
            Some(_) => break,
            // The end of the connection on which it was started has not been noticed yet.
            None if begun.elapsed() < LAST_WORD => sleep(Duration::from_millis(20)).await,
            None => return Err(Error::Busy { id: migration.to_owned() }),
        }
    }
    link.send(Message::Finished(Finished::default())).await
}

fn find(options: &Receive, migration: &str) -> Result<Option<PathBuf>> {
    let of_this = |record: &journal::Record| record.role == journal::Role::Destination && record.migration == migration;
    let mut all = journal::list(&options.state)?.into_iter();
    Ok(all.find(|(_, record, _)| of_this(record)).map(|(directory, ..)| directory))
}

/// What has become of a migration. One that nobody works on any more is brought to its end first.
async fn answer(options: &Receive, migration: &str) -> Result<Outcome> {
    let Some(directory) = find(options, migration)? else {
        return Ok(Outcome { kind: outcome::Kind::NotStarted.into(), pid: 0 });
    };
    if let Some(journal) = Journal::open(&directory)? {
        crate::recover::destination(journal).await?;
    }
    let (kind, pid) = match journal::ask(&directory) {
        Ok(Asked::Started { pid }) => (outcome::Kind::Started, pid),
        Ok(Asked::Starting) => (outcome::Kind::Starting, 0),
        Ok(Asked::Arriving) => (outcome::Kind::Arriving, 0),
        Ok(Asked::Lost) => (outcome::Kind::Lost, 0),
        Ok(Asked::NotStarted) => (outcome::Kind::NotStarted, 0),
        // It was removed just now, which is not done to one that has started before the source knows.
        Err(Error::File { err, .. }) if err.kind() == std::io::ErrorKind::NotFound => (outcome::Kind::NotStarted, 0),
        Err(err) => return Err(err),
    };
    Ok(Outcome { kind: kind.into(), pid })
}
