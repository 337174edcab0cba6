//! What is on disk of migrations, and bringing to its end what nobody works on any more.
//!
//! | found | done |
//! | --- | --- |
//! | source Copying, Dumping | the container runs on here |
//! | source Restoring | the destination is asked: it has started it, and it is ended here; or it has not and never will, and it runs on here; or it does not answer, and nothing is done |
//! | source Leaving | the destination is asked: it has all of the container, or the container is lost; it is ended here |
//! | source Committed | it is ended here |
//! | destination Receiving, Denied | what was made for it is removed |
//! | destination Starting | it runs: it has started; else what was made for it is removed |
//! | destination Arriving | its memory has all come: it has started; else it has ended, is removed, and is lost |
//! | destination Started, Lost | that stays, and so does the journal, until the source has asked |

use std::fmt;
use std::path::Path;

use proto::containerd::v1::types::Status;
use serde::Serialize;

use crate::containerd::{Address, Containerd};
use crate::destination::{clean, lose};
use crate::error::{Error, Result};
use crate::journal::{self, Journal, Record, Role, Stage};
use crate::network::Moment;
use crate::shim::Shim;
use crate::source::{self, Known};

/// A migration, and what was done about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    pub namespace: String,
    pub id: String,
    pub role: Role,
    pub stage: Stage,
    pub migration: String,
    pub target: String,
    /// What it is, or what has become of it.
    pub state: String,
    /// It needs somebody still.
    pub open: bool,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, id, role, stage, state, .. } = self;
        let role = match role {
            Role::Source => "source",
            Role::Destination => "destination",
        };
        write!(f, "{namespace}/{id} {role} {stage:?}: {state}")
    }
}

impl Verdict {
    fn new(record: &Record, state: impl Into<String>, open: bool) -> Self {
        Self {
            namespace: record.namespace.clone(),
            id: record.id.clone(),
            role: record.role,
            stage: record.stage,
            migration: record.migration.clone(),
            target: record.target.clone(),
            state: state.into(),
            open,
        }
    }
}

/// What there is. Changes nothing.
///
/// # Errors
/// The journals could not be read.
pub fn status(state: &Path) -> Result<Vec<Verdict>> {
    let all = journal::list(state)?;
    Ok(all
        .into_iter()
        .map(|(_, record, busy)| {
            let state = match (busy, record.stage) {
                (false, Stage::Started) => "runs here; the source has not said that it knows",
                (true, Stage::Leaving) => "under way; the destination runs it, and its memory follows",
                (true, Stage::Copying | Stage::Receiving) if record.rounds > 0 => "under way; memory is sent ahead",
                (true, Stage::Arriving) => "under way; it runs here, and its memory follows",
                (true, _) => "under way",
                (false, Stage::Leaving) => {
                    "the destination has run it; it is not known whether its memory has come there"
                }
                (false, Stage::Arriving) => "it was started here; it is not known whether its memory has come",
                (false, Stage::Lost) => "lost, as its memory did not come; the source has not said that it knows",
                (false, Stage::Restoring) => "it is not known whether the destination runs it",
                (false, _) => "left behind",
            };
            Verdict::new(&record, state, !busy)
        })
        .collect())
}

/// Brings to its end what nobody works on; of one container, if its id is given.
///
/// # Errors
/// The journals could not be read. What could not be decided or done is in the verdicts.
pub async fn recover(state: &Path, id: Option<&str>) -> Result<Vec<Verdict>> {
    let mut verdicts = Vec::new();
    for (directory, record, _) in journal::list(state)? {
        if id.is_some_and(|id| id != record.id) {
            continue;
        }
        let Some(journal) = Journal::open(&directory)? else {
            verdicts.push(Verdict::new(&record, "under way", false));
            continue;
        };
        let done = match record.role {
            Role::Source => source_side(journal).await,
            Role::Destination => destination(journal).await,
        };
        let (text, open) = match done {
            Ok(Done::RunsHere) => ("runs here".to_owned(), false),
            Ok(Done::RunsThere) => ("runs at the destination".to_owned(), false),
            Ok(Done::Cleaned) => ("did not come to run here; nothing is left of it".to_owned(), false),
            Ok(Done::Lost) => (LOST.to_owned(), false),
            Ok(Done::LostHere) => (format!("{LOST}; the source has not said that it knows"), true),
            Ok(Done::StartedHere) => ("runs here; the source has not said that it knows".to_owned(), true),
            Err(err) => (err.chain(), true),
        };
        verdicts.push(Verdict::new(&record, text, open));
    }
    Ok(verdicts)
}

/// How a migration has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    RunsHere,
    RunsThere,
    Cleaned,
    StartedHere,
    /// The memory did not all come to the destination.
    Lost,
    LostHere,
}

const LOST: &str = "lost: it ran at the destination, and its memory did not all come there";

async fn containerd(record: &Record) -> Result<Containerd> {
    Containerd::connect(&Address { socket: record.containerd.clone(), namespace: record.namespace.clone() }).await
}

async fn source_side(mut journal: Journal) -> Result<Done> {
    let record = journal.record().clone();
    let containerd = containerd(&record).await?;
    let shim = shim(&containerd, &record).await?;
    match record.stage {
        Stage::Restoring | Stage::Leaving => {
            let undecided = |err| Error::Undecided { id: record.id.clone(), err: Box::new(err) };
            match source::ask_for(&journal).await.map_err(undecided)? {
                Known::Started(..) => journal.enter(Stage::Committed)?,
                Known::NotStarted if record.stage == Stage::Restoring => return resume(shim, journal).await,
                Known::Lost(_) | Known::NotStarted => {
                    source::lose(&containerd, shim.as_ref(), journal).await?;
                    return Ok(Done::Lost);
                }
            }
        }
        Stage::Committed => {}
        _ => return resume(shim, journal).await,
    }
    let mut problems: Vec<String> = source::release(journal.record()).await.into_iter().collect();
    source::let_go(&containerd, shim.as_ref(), &journal).await?;
    match source::tell(&journal).await {
        Ok(theirs) => problems.extend(theirs),
        // It then keeps its journal.
        Err(err) => tracing::warn!(err = err.chain(), "tell the destination"),
    }
    for problem in problems {
        tracing::warn!(id = record.id, problem, "a container that has moved");
    }
    journal.remove()?;
    Ok(Done::RunsThere)
}

/// The container's shim, if the container is still the one that was to be moved.
async fn shim(containerd: &Containerd, record: &Record) -> Result<Option<Shim>> {
    match containerd.task(&record.id).await? {
        Some(task) if task.pid == record.pid && task.status() != Status::Stopped => {
            Shim::connect(&record.id, task.pid, &record.migration).await.map(Some)
        }
        _ => Ok(None),
    }
}

async fn resume(shim: Option<Shim>, journal: Journal) -> Result<Done> {
    if let Some(shim) = shim {
        match shim.abort().await {
            // It was not dumped yet, or the shim has taken the dump back by itself.
            Err(Error::Shim { err: ttrpc::Error::RpcStatus(status), .. })
                if status.code() == ttrpc::Code::FAILED_PRECONDITION => {}
            aborted => aborted?,
        }
    }
    if journal.record().stage != Stage::Copying {
        journal.record().at(Moment::Aborted).await?;
    }
    journal.remove()?;
    Ok(Done::RunsHere)
}

/// The destination's side.
pub(crate) async fn destination(mut journal: Journal) -> Result<Done> {
    let record = journal.record().clone();
    let containerd = containerd(&record).await?;
    match record.stage {
        Stage::Started => Ok(Done::StartedHere),
        Stage::Lost => Ok(Done::LostHere),
        Stage::Starting => match containerd.task(&record.id).await? {
            Some(task) if task.status() == Status::Running => {
                // Nobody knows how far the hook had come.
                journal.record().at(Moment::TakeOver).await?;
                let stage = if record.lazy_pages { Stage::Arriving } else { Stage::Started };
                journal.change(|record| (record.stage, record.pid) = (stage, task.pid))?;
                if record.lazy_pages { arriving(&containerd, journal).await } else { Ok(Done::StartedHere) }
            }
            _ => discard(&containerd, journal).await,
        },
        Stage::Arriving => arriving(&containerd, journal).await,
        _ => discard(&containerd, journal).await,
    }
}

/// Who has fetched the memory is gone: it is all there, or the shim ends the container.
async fn arriving(containerd: &Containerd, mut journal: Journal) -> Result<Done> {
    let record = journal.record().clone();
    if let Some(shim) = shim(containerd, &record).await? {
        match shim.arrived().await {
            Ok(()) => {
                journal.enter(Stage::Started)?;
                return Ok(Done::StartedHere);
            }
            Err(err) => tracing::debug!(err = err.chain(), "the memory of a container that came"),
        }
    }
    lose(containerd, &mut journal).await?;
    Ok(Done::LostHere)
}

async fn discard(containerd: &Containerd, journal: Journal) -> Result<Done> {
    clean(containerd, &journal).await?;
    journal.remove()?;
    Ok(Done::Cleaned)
}
