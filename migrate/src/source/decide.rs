//! From the permission to start the container at the destination until it is known who has it.

use std::time::{Duration, Instant};

use proto::stream::message::Kind as Message;
use proto::stream::{Finish, Outcome, Packets, Query, Restore, Started, outcome};
use tokio::time::sleep;

use super::copy::Held;
use super::look::Source;
use super::{Migrate, abort, give_up, hello};
use crate::containerd::Containerd;
use crate::error::{Error, Result};
use crate::frame::CHUNK;
use crate::journal::{Journal, Record, Stage};
use crate::link::Link;
use crate::network::{Moment, Recorder};
use crate::report::{Report, micros};
use crate::shim::Shim;
use crate::stdio;
use crate::target;
use crate::wire::awaited;

/// How often, and for how long, a destination is asked that was lost.
const ASK_EVERY: Duration = Duration::from_millis(500);
const ASK_FOR: Duration = Duration::from_secs(15);

/// Lets the destination start the container, and ends the one here when it has.
pub(super) async fn decide(
    mut link: Link,
    source: &Source,
    options: &Migrate,
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
    let Held { since, renewal, recorder } = held;
    drop(renewal);
    let started = match started(&mut link).await {
        Ok(started) => started,
        // It says so itself.
        Err(err @ Error::Refused(_)) => return Err(give_up(err, link, source, journal).await),
        Err(err) => {
            tracing::warn!(err = err.chain(), "the destination was lost while it was starting the container; asking");
            drop(link);
            match ask_until_known(journal.record()).await {
                Ok(Some((pid, link))) => {
                    (report.pid, report.pause_us) = (pid, micros(since.elapsed()));
                    return commit(source, journal, link, report).await;
                }
                Ok(None) => return Err(err.and_roll_back(abort(&source.shim, journal).await)),
                Err(_) => return Err(Error::Undecided { id: options.id.clone(), err: Box::new(err) }),
            }
        }
    };
    (report.pid, report.restore_us) = (started.pid, started.restore_us);
    report.pause_us = micros(since.elapsed());
    if let Some(recorder) = recorder
        && let Err(err) = forward(&mut link, &recorder).await
    {
        tracing::warn!(err = err.chain(), "hand on what has come meanwhile: its senders will send it again");
    }
    commit(source, journal, link, report).await
}

async fn started(link: &mut Link) -> Result<Started> {
    link.send(Message::Restore(Restore {})).await?;
    awaited!(link, Started)
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
        Some((_, link)) => say_finish(link).await,
        // It knows already.
        None => Ok(Vec::new()),
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

/// The container's pid at the destination, and the connection on which it was told; `None` if the destination has not
/// started it and will not.
async fn ask_until_known(record: &Record) -> Result<Option<(u32, Link)>> {
    let begun = Instant::now();
    loop {
        match ask(record).await {
            Ok((outcome, link)) => match outcome.kind() {
                outcome::Kind::Started => return Ok(Some((outcome.pid, link))),
                outcome::Kind::NotStarted => return Ok(None),
                outcome::Kind::Starting => {}
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

/// Asks on behalf of a journal whether the destination has started the container.
pub(crate) async fn ask_for(journal: &Journal) -> Result<bool> {
    Ok(ask_until_known(journal.record()).await?.is_some())
}
