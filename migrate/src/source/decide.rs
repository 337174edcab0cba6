//! From the permission to start the container at the destination until it is known who has it.

use std::time::{Duration, Instant};

use proto::stream::message::Kind as Message;
use proto::stream::{Finish, Outcome, Packets, Query, Restore, Started, outcome};
use tokio::time::sleep;

use super::copy::Held;
use super::look::Source;
use super::pages::Memory;
use super::{abort, give_up, hello};
use crate::containerd::Containerd;
use crate::error::{Error, Result};
use crate::frame::CHUNK;
use crate::journal::{Journal, Record, Stage};
use crate::link::Link;
use crate::network::{Moment, Recorder};
use crate::progress::{Event, Phase, Progress};
use crate::report::{Report, micros};
use crate::shim::Shim;
use crate::stdio;
use crate::target;
use crate::wire::{awaited, unexpected};

/// How often, and for how long, a destination is asked that was lost.
const ASK_EVERY: Duration = Duration::from_millis(500);
const ASK_FOR: Duration = Duration::from_secs(15);

/// Lets the destination start the container, and ends the one here when it has.
pub(super) async fn decide(
    mut link: Link,
    source: &Source,
    progress: &Progress,
    mut journal: Journal,
    held: Held,
    report: &mut Report,
) -> Result<()> {
    let prepared = async {
        journal.record().at(Moment::Frozen).await?;
        source.shim.prepare().await?;
        journal.enter(Stage::Restoring)
    };
    if let Err(err) = prepared.await {
        return Err(give_up(err, link, source, journal).await);
    }
    let Held { since, renewal, recorder, mut memory } = held;
    drop(renewal);
    progress.tell(&Event::Phase(Phase::Restore));
    let frozen_us = micros(since.elapsed());
    let started = match started(&mut link, memory.as_mut()).await {
        Ok(started) => started,
        // It says so itself.
        Err(err @ Error::Refused(_)) => return Err(give_up(err, link, source, journal).await),
        Err(err) => {
            tracing::warn!(err = err.chain(), "the destination was lost while it was starting the container; asking");
            drop(link);
            let known = ask_for(&journal).await;
            report.pause_us = micros(since.elapsed());
            return match known {
                Ok(Known::NotStarted) => Err(err.and_roll_back(abort(&source.shim, journal).await)),
                known => settle(source, journal, known, err, report).await,
            };
        }
    };
    (report.pid, report.restore_us) = (started.pid, started.restore_us);
    report.pause_us = micros(since.elapsed());
    report.pause_destination_us = frozen_us.saturating_add(started.restore_us);
    progress.tell(&Event::Phase(if memory.is_some() { Phase::Follow } else { Phase::Commit }));
    if memory.is_some() {
        left(source, &mut journal).await;
    }
    if let Some(recorder) = recorder
        && let Err(err) = forward(&mut link, &recorder).await
    {
        tracing::warn!(err = err.chain(), "hand on what has come meanwhile: its senders will send it again");
    }
    if let Some(memory) = &mut memory {
        let arrived = arrived(&mut link, memory).await;
        report.memory_bytes = memory.bytes;
        report.follow_us = micros(since.elapsed()) - report.pause_us;
        if let Err(err) = arrived {
            tracing::warn!(err = err.chain(), "the destination was lost before it had all memory; asking");
            drop(link);
            let known = ask_for(&journal).await;
            return settle(source, journal, known, err, report).await;
        }
    }
    commit(source, journal, link, report).await
}

async fn started(link: &mut Link, mut memory: Option<&mut Memory>) -> Result<Started> {
    link.send(Message::Restore(Restore { lazy_pages: memory.is_some() })).await?;
    loop {
        match (link.message().await?, &mut memory) {
            (Message::Started(started), _) => return Ok(started),
            (Message::PagesWanted(wanted), Some(memory)) => memory.send(link, wanted).await?,
            (other, _) => return Err(unexpected("Started", &other)),
        }
    }
}

/// It cannot run on here any more. If that cannot be written down, a recovery will ask the destination, and hear so.
async fn left(source: &Source, journal: &mut Journal) {
    let left = journal.enter(Stage::Leaving).and(source.shim.leave().await);
    if let Err(err) = left {
        tracing::error!(err = err.chain(), "the destination has started a container whose memory is still here");
    }
}

async fn arrived(link: &mut Link, memory: &mut Memory) -> Result<()> {
    loop {
        match link.message().await? {
            Message::Arrived(_) => return Ok(()),
            Message::PagesWanted(wanted) => memory.send(link, wanted).await?,
            other => return Err(unexpected("Arrived", &other)),
        }
    }
}

/// What a destination that had started it has answered after the connection was lost. `err` is why it was.
async fn settle(
    source: &Source,
    journal: Journal,
    known: Result<Known>,
    err: Error,
    report: &mut Report,
) -> Result<()> {
    let (id, err) = (journal.record().id.clone(), Box::new(err));
    match known {
        Ok(Known::Started(pid, link)) => {
            report.pid = pid;
            commit(source, journal, link, report).await
        }
        Ok(Known::Lost(_) | Known::NotStarted) => {
            lose(&source.containerd, Some(&source.shim), journal).await?;
            Err(Error::Lost { id, err })
        }
        Err(_) => Err(Error::Undecided { id, err }),
    }
}

/// What has come for the container, in messages of a moderate size.
async fn forward(link: &mut Link, recorder: &Recorder) -> Result<()> {
    let segments = recorder.take().map_err(Error::file("read recorded packets of", "the network namespace"))?;
    tracing::debug!(packets = segments.len(), "hand on what has come meanwhile");
    let mut packets = Packets::default();
    let mut bytes = 0;
    for segment in segments {
        bytes += segment.bytes().len();
        packets.packets.push(segment.into_bytes());
        if bytes > CHUNK {
            link.send(Message::Packets(std::mem::take(&mut packets))).await?;
            bytes = 0;
        }
    }
    if packets.packets.is_empty() {
        return Ok(());
    }
    link.send(Message::Packets(packets)).await
}

/// The destination has it.
async fn commit(source: &Source, mut journal: Journal, link: Link, report: &mut Report) -> Result<()> {
    journal.enter(Stage::Committed)?;
    report.problems.extend(release(journal.record()).await);
    let_go(&source.containerd, Some(&source.shim), &journal).await?;
    report.problems.extend(finish(link, &journal).await);
    journal.remove()
}

/// The network hook's last call here; what it fails with cannot take anything back any more. Comes before the processes end:
/// with them goes what keeps packets away, and packets for a process that is gone end its peers' connections.
pub(crate) async fn release(record: &Record) -> Option<String> {
    record.at(Moment::Committed).await.err().map(|err| err.chain())
}

/// Nobody has it: it is ended here too. What it has written stays, with containerd's record of it. May be called again.
pub(crate) async fn lose(containerd: &Containerd, shim: Option<&Shim>, mut journal: Journal) -> Result<()> {
    journal.change(|record| record.keep_source = true)?;
    let mut problems: Vec<String> = release(journal.record()).await.into_iter().collect();
    if let Some(shim) = shim
        && let Err(err) = shim.commit().await
    {
        // It may be what has died; then containerd ends the processes.
        problems.push(err.chain());
    }
    let_go(containerd, None, &journal).await?;
    match tell(&journal).await {
        Ok(theirs) => problems.extend(theirs),
        // It then keeps its journal.
        Err(err) => problems.push(err.chain()),
    }
    for problem in problems {
        tracing::warn!(id = journal.record().id, problem, "a container that was lost");
    }
    journal.remove()
}

/// Tells a destination that its copy is the only one, over a new connection if that one is gone. One that does not hear it
/// keeps its journal, and tells of it. Returns what has gone wrong there.
async fn finish(link: Link, journal: &Journal) -> Vec<String> {
    let said = match say_finish(link).await {
        Err(err) if err.is_of_the_link() => tell(journal).await,
        said => said,
    };
    said.unwrap_or_else(|err| {
        tracing::warn!(err = err.chain(), "the destination does not say that it has finished");
        Vec::new()
    })
}

async fn say_finish(mut link: Link) -> Result<Vec<String>> {
    link.send(Message::Finish(Finish {})).await?;
    let finished = awaited!(link, Finished)?;
    link.close().await;
    Ok(finished.problems.into_iter().map(|problem| format!("the destination: {problem}")).collect())
}

/// As the last word of a recovery. A destination that is being started again is waited for: if it is not told now, nobody
/// will.
pub(crate) async fn tell(journal: &Journal) -> Result<Vec<String>> {
    match ask_until_known(journal.record()).await? {
        Known::Started(_, link) | Known::Lost(link) => say_finish(link).await,
        // It knows already.
        Known::NotStarted => Ok(Vec::new()),
    }
}

/// Ends the processes here and, unless it is to stay, takes the container out of containerd. `shim` is none if it is gone:
/// with it are the processes. May be called again.
pub(crate) async fn let_go(containerd: &Containerd, shim: Option<&Shim>, journal: &Journal) -> Result<()> {
    let record = journal.record();
    let id = record.id.as_str();
    if let Some(shim) = shim {
        shim.commit().await?;
    }
    if let Some(task) = containerd.task(id).await? {
        end_task(containerd, id).await?;
        stdio::remove_of(&task.stdout, &task.stdin)?;
    }
    if !record.keep_source {
        containerd.delete_container(id).await?;
        containerd.remove_snapshot(&record.snapshotter, &record.snapshot_key).await?;
    }
    Ok(())
}

/// A client that has attached to the container deletes its task as well, when it ends: then somebody's call fails, and what
/// counts is that the task is gone.
async fn end_task(containerd: &Containerd, id: &str) -> Result<()> {
    let ended = async {
        containerd.wait_task(id).await?;
        containerd.delete_task(id).await
    };
    let Err(err) = ended.await else { return Ok(()) };
    let begun = Instant::now();
    while begun.elapsed() < ASK_FOR {
        if containerd.task(id).await?.is_none() {
            return Ok(());
        }
        sleep(ASK_EVERY / 10).await;
    }
    Err(err)
}

/// What has become of it at the destination, with the connection on which it was told if there is something to finish.
#[derive(Debug)]
pub(crate) enum Known {
    /// With its pid.
    Started(u32, Link),
    /// And never will be.
    NotStarted,
    /// It ran, and its memory did not all come.
    Lost(Link),
}

async fn ask_until_known(record: &Record) -> Result<Known> {
    let begun = Instant::now();
    loop {
        match ask(record).await {
            Ok((outcome, link)) => match outcome.kind() {
                outcome::Kind::Started => return Ok(Known::Started(outcome.pid, link)),
                outcome::Kind::NotStarted => return Ok(Known::NotStarted),
                outcome::Kind::Lost => return Ok(Known::Lost(link)),
                outcome::Kind::Starting | outcome::Kind::Arriving => {}
            },
            Err(err) if begun.elapsed() > ASK_FOR => return Err(err),
            Err(err) => tracing::debug!(err = err.chain(), "ask the destination"),
        }
        sleep(ASK_EVERY).await;
    }
}

/// Asks a destination, on a new connection, what has become of a migration.
async fn ask(record: &Record) -> Result<(Outcome, Link)> {
    let mut link = Link::new(target::connect(record).await?, None);
    hello(&mut link, &record.migration).await?;
    link.send(Message::Query(Query {})).await?;
    let outcome = awaited!(link, Outcome)?;
    Ok((outcome, link))
}

/// Asks on behalf of a journal what has become of the container at the destination.
pub(crate) async fn ask_for(journal: &Journal) -> Result<Known> {
    ask_until_known(journal.record()).await
}
