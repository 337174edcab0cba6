//! A start of a container whose memory follows (post-copy).

use std::pin::pin;
use std::time::Instant;

use proto::stream::message::Kind as Message;
use proto::stream::{Arrived, Started};
use tokio::sync::mpsc;

use super::arrive::Arrival;
use super::clean::lose;
use super::pages::Fetcher;
use super::{Running, deliver, undo, unsettled};
use crate::error::{Error, Result};
use crate::journal::{Journal, Record, Stage};
use crate::link::Link;
use crate::network::Moment;
use crate::report::micros;
use crate::shim::Shim;

/// Starts the container, which the source hears, and returns when all of its memory is here.
///
/// # Errors
/// It did not start, and nothing is left of it; or it ran and its memory did not come, and it has ended.
pub(super) async fn start(arrival: &Arrival, link: &mut Link, mut journal: Journal) -> Result<Running> {
    let fetcher = match Fetcher::listen(&journal.images()) {
        Ok(fetcher) => fetcher,
        Err(err) => return Err(undo(arrival, journal, err).await),
    };
    let begun = Instant::now();
    let (say, outbox) = mpsc::channel(1);
    let (others, mut packets) = mpsc::channel(1);
    let mut fetch = Box::pin(fetcher.run(link, outbox, others));
    let (started, failed) = {
        let mut start = pin!(arrival.start_with_network(&journal));
        tokio::select! {
            started = &mut start => (started, None),
            // CRIU has been hung up on. What the start comes to has to be known all the same.
            failed = &mut fetch => (start.await, Some(failed)),
        }
    };
    let (pid, network) = match started {
        Ok(started) => started,
        Err(err) => return Err(undo(arrival, journal, failed.and_then(Result::err).unwrap_or(err)).await),
    };
    let id = &arrival.offer.id;
    let written = journal.change(|record| (record.stage, record.pid) = (Stage::Arriving, pid));
    written.map_err(|err| unsettled(id, err))?;
    let time = begun.elapsed();
    tracing::info!(id, pid, milliseconds = time.as_millis(), "restored; its memory follows");
    // If nobody sends it any more, the fetch has failed.
    say.send(Message::Started(Started { pid, restore_us: micros(time) })).await.ok();
    drop(say);
    let fetched = async move {
        match failed {
            Some(failed) => failed,
            None => fetch.await,
        }
    };
    let delivered = async {
        while let Some(packets) = packets.recv().await {
            deliver(network.as_ref(), packets);
        }
    };
    let record = journal.record().clone();
    // The shim's word alone counts, and it is always given: who is hung up on fails.
    let (arrived, fetched, hook, ()) =
        tokio::join!(arrived(arrival, &record, pid), fetched, record.at(Moment::Started), delivered);
    if let Err(err) = arrived {
        let err = fetched.err().unwrap_or(err);
        lose(&arrival.containerd, &mut journal).await.map_err(|err| unsettled(id, err))?;
        return Err(Error::Lost { id: id.clone(), err: Box::new(err) });
    }
    journal.enter(Stage::Started).map_err(|err| unsettled(id, err))?;
    link.send(Message::Arrived(Arrived {})).await?;
    let after = [hook, arrival.settle(&journal).await];
    let problems = after.into_iter().filter_map(|done| Some(done.err()?.chain())).collect();
    Ok(Running { journal, network, problems })
}

async fn arrived(arrival: &Arrival, record: &Record, pid: u32) -> Result<()> {
    let shim = Shim::connect(&arrival.offer.id, pid, &record.migration).await?;
    shim.arrived().await
}
