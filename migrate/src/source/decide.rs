//! From the permission to start the container at the destination until it is known who has it.

use std::str::FromStr;
use std::time::{Duration, Instant};

use proto::stream::message::Kind as Message;
use proto::stream::{Finish, Outcome, Query, Restore, Started, outcome};
use tokio::time::sleep;

use super::copy::Held;
use super::look::Source;
use super::{Migrate, abort, give_up, hello};
use crate::containerd::Containerd;
use crate::error::{Error, Result};
use crate::journal::{Journal, Stage};
use crate::link::Link;
use crate::report::{Report, micros};
use crate::shim::Shim;
use crate::stdio;
use crate::target::Target;
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
    let prepared = source.shim.prepare().await.and_then(|()| journal.enter(Stage::Restoring));
    if let Err(err) = prepared {
        return Err(give_up(err, link, source, journal).await);
    }
    let Held { since, renewal } = held;
    drop(renewal);
    let started = match started(&mut link).await {
        Ok(started) => started,
        // It says so itself.
        Err(err @ Error::Refused(_)) => return Err(give_up(err, link, source, journal).await),
        Err(err) => {
            tracing::warn!(err = err.chain(), "the destination was lost while it was starting the container; asking");
            drop(link);
            match ask_until_known(&options.target, &options.containerd.namespace, &report.migration).await {
                Ok(Some((pid, link))) => {
                    (report.pid, report.pause_us) = (pid, micros(since.elapsed()));
                    return commit(source, journal, link).await;
                }
                Ok(None) => return Err(err.and_roll_back(abort(&source.shim, journal).await)),
                Err(_) => return Err(Error::Undecided { id: options.id.clone(), err: Box::new(err) }),
            }
        }
    };
    (report.pid, report.restore_us) = (started.pid, started.restore_us);
    report.pause_us = micros(since.elapsed());
    commit(source, journal, link).await
}

async fn started(link: &mut Link) -> Result<Started> {
    link.send(Message::Restore(Restore {})).await?;
    awaited!(link, Started)
}

/// The destination has it.
async fn commit(source: &Source, mut journal: Journal, link: Link) -> Result<()> {
    journal.enter(Stage::Committed)?;
    let_go(&source.containerd, Some(&source.shim), &journal).await?;
    finish(link, &journal).await;
    journal.remove()
}

/// Tells a destination that its copy is the only one, over a new connection if that one is gone. One that does not hear it
/// keeps its journal, and tells of it.
async fn finish(link: Link, journal: &Journal) {
    let said = match say_finish(link).await {
        Err(err) if err.is_of_the_link() => tell(journal).await,
        said => said,
    };
    if let Err(err) = said {
        tracing::warn!(err = err.chain(), "the destination does not say that it has finished");
    }
}

async fn say_finish(mut link: Link) -> Result<()> {
    link.send(Message::Finish(Finish {})).await?;
    awaited!(link, Finished)?;
    link.close().await;
    Ok(())
}

/// As the last word of a recovery. A destination that is being started again is waited for: if it is not told now, nobody
/// will.
pub(crate) async fn tell(journal: &Journal) -> Result<()> {
    let record = journal.record();
    let target = Target::from_str(&record.target)?;
    match ask_until_known(&target, &record.namespace, &record.migration).await? {
        Some((_, link)) => say_finish(link).await,
        // It knows already.
        None => Ok(()),
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
        containerd.wait_task(id).await?;
        containerd.delete_task(id).await?;
        stdio::remove_of(&task.stdout, &task.stdin)?;
    }
    if !record.keep_source {
        containerd.delete_container(id).await?;
        containerd.remove_snapshot(&record.snapshotter, &record.snapshot_key).await?;
    }
    Ok(())
}

/// The container's pid at the destination, and the connection on which it was told; `None` if the destination has not
/// started it and will not.
async fn ask_until_known(target: &Target, namespace: &str, migration: &str) -> Result<Option<(u32, Link)>> {
    let begun = Instant::now();
    loop {
        match ask(target, namespace, migration).await {
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
async fn ask(target: &Target, namespace: &str, migration: &str) -> Result<(Outcome, Link)> {
    let mut link = Link::new(target.connect(namespace).await?, None);
    hello(&mut link, migration).await?;
    link.send(Message::Query(Query {})).await?;
    let outcome = awaited!(link, Outcome)?;
    Ok((outcome, link))
}

/// Asks on behalf of a journal whether the destination has started the container.
pub(crate) async fn ask_for(journal: &Journal) -> Result<bool> {
    let record = journal.record();
    let target = Target::from_str(&record.target)?;
    let known = ask_until_known(&target, &record.namespace, &record.migration).await?;
    Ok(known.is_some())
}
