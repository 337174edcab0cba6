//! Events to containerd: in the order in which they were published, each until containerd has it.
//!
//! One queue, one sender. An event that containerd did not take is sent again, over a new connection, with growing
//! pauses, so a restart of containerd loses none; an event whose answer was lost in between arrives twice. Only what
//! containerd refuses for good is dropped, with a warning.

use std::time::{Duration, SystemTime};

use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use ttrpc::Code;

use crate::events::{Event, timestamp};

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// For one event; containerd answers within a millisecond unless it is stuck.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The end of the queue where events go in. Cheap to clone; the sender ends with the last of them.
#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    queue: mpsc::UnboundedSender<Envelope>,
    unsent: watch::Sender<usize>,
    namespace: String,
}

impl Publisher {
    /// Starts the sender. `address` is containerd's `TTRPC_ADDRESS`; nothing is connected until there is an event.
    pub(crate) fn start(address: &str, namespace: &str) -> Self {
        let (queue, events) = mpsc::unbounded_channel();
        let unsent = watch::Sender::new(0);
        let address = if address.contains("://") { address.to_owned() } else { format!("unix://{address}") };
        let sender = Sender { address, connection: None };
        tokio::spawn(sender.run(events, unsent.clone()));
        Self { queue, unsent, namespace: namespace.to_owned() }
    }

    /// Never blocks.
    pub(crate) fn publish(&self, event: Event) {
        let envelope = Envelope {
            timestamp: Some(timestamp(SystemTime::now())).into(),
            namespace: self.namespace.clone(),
            topic: event.topic.to_owned(),
            event: Some(event.message).into(),
            ..Envelope::default()
        };
        self.unsent.send_modify(|count| *count += 1);
        if self.queue.send(envelope).is_err() {
            tracing::error!(topic = event.topic, "the sender of events has ended");
        }
    }

    /// Waits until containerd has every event, at most for `limit`. Returns how many it has not.
    pub(crate) async fn drained(&self, limit: Duration) -> usize {
        let mut unsent = self.unsent.subscribe();
        if timeout(limit, unsent.wait_for(|count| *count == 0)).await.is_ok() {
            return 0;
        }
        *unsent.borrow()
    }
}

struct Sender {
    address: String,
    connection: Option<EventsClient>,
}

impl Sender {
    async fn run(mut self, mut events: mpsc::UnboundedReceiver<Envelope>, unsent: watch::Sender<usize>) {
        while let Some(envelope) = events.recv().await {
            self.deliver(ForwardRequest { envelope: Some(envelope).into(), ..ForwardRequest::default() }).await;
            unsent.send_modify(|count| *count -= 1);
        }
    }

    /// Returns when containerd has the event, or has refused it.
    async fn deliver(&mut self, request: ForwardRequest) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.forward(&request).await {
                Ok(()) => return,
                Err(err) if is_refusal(&err) => {
                    tracing::warn!(topic = request.envelope.topic, %err, "containerd refuses an event");
                    return;
                }
                Err(err) => {
                    tracing::debug!(topic = request.envelope.topic, %err, "event is sent again");
                    self.connection = None;
                    sleep(pause).await;
                    pause = LONGEST_PAUSE.min(pause * 2);
                }
            }
        }
    }

    async fn forward(&mut self, request: &ForwardRequest) -> ttrpc::Result<()> {
        let client = match self.connection.take() {
            Some(client) => client,
            None => EventsClient::new(Client::connect(&self.address).await?),
        };
        let context = ttrpc::context::with_duration(ANSWER_WITHIN);
        client.forward(context, request).await?;
        self.connection = Some(client);
        Ok(())
    }
}

/// Whether sending the same event again can only fail again.
fn is_refusal(err: &ttrpc::Error) -> bool {
    let ttrpc::Error::RpcStatus(status) = err else { return false };
    matches!(status.code(), Code::INVALID_ARGUMENT | Code::UNIMPLEMENTED | Code::PERMISSION_DENIED)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use async_trait::async_trait;
    use containerd_shim_protos::shim_async::{Events, create_events};
    use protobuf::well_known_types::empty::Empty;
    use ttrpc::r#async::{Server, TtrpcContext};

    use super::*;

    /// containerd's side: remembers topics and pids, and may refuse.
    #[derive(Clone, Default)]
    struct Recorder {
        seen: Arc<Mutex<Vec<String>>>,
        refuse: Option<Code>,
    }

    #[async_trait]
    impl Events for Recorder {
        async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
            self.seen.lock().unwrap().push(request.envelope.topic.clone());
            match self.refuse {
                Some(code) => Err(ttrpc::Error::RpcStatus(ttrpc::get_status(code, "no"))),
                None => Ok(Empty::default()),
            }
        }
    }

    async fn serve(address: &str, recorder: &Recorder) -> Server {
        std::fs::remove_file(address.strip_prefix("unix://").unwrap()).ok();
        let mut server =
            Server::new().bind(address).unwrap().register_service(create_events(Arc::new(recorder.clone())));
        server.start().await.unwrap();
        server
    }

    const ORDER: [&str; 3] = ["/tasks/create", "/tasks/start", "/tasks/paused"];

    fn publish_three(publisher: &Publisher) {
        publisher.publish(Event::create("c", "/b", &[], &Default::default(), "", 1));
        publisher.publish(Event::start("c", 1));
        publisher.publish(Event::paused("c"));
    }

    #[tokio::test]
    async fn events_wait_for_containerd_and_arrive_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let address = format!("unix://{}/ttrpc", directory.path().display());
        let publisher = Publisher::start(&address, "ns");
        publish_three(&publisher);
        assert_eq!(publisher.drained(Duration::from_millis(30)).await, 3);

        let recorder = Recorder::default();
        let mut server = serve(&address, &recorder).await;
        assert_eq!(publisher.drained(Duration::from_secs(5)).await, 0);
        assert_eq!(*recorder.seen.lock().unwrap(), ORDER);
        server.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn a_restart_of_containerd_loses_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let address = format!("unix://{}/ttrpc", directory.path().display());
        let publisher = Publisher::start(&address, "ns");
        let recorder = Recorder::default();

        let mut before = serve(&address, &recorder).await;
        publisher.publish(Event::create("c", "/b", &[], &Default::default(), "", 1));
        assert_eq!(publisher.drained(Duration::from_secs(5)).await, 0);
        before.shutdown().await.unwrap();

        publisher.publish(Event::start("c", 1));
        publisher.publish(Event::paused("c"));
        let mut after = serve(&address, &recorder).await;
        assert_eq!(publisher.drained(Duration::from_secs(10)).await, 0);
        assert_eq!(*recorder.seen.lock().unwrap(), ORDER);
        after.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn a_refused_event_does_not_hold_up_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let address = format!("unix://{}/ttrpc", directory.path().display());
        let recorder = Recorder { refuse: Some(Code::INVALID_ARGUMENT), ..Recorder::default() };
        let mut server = serve(&address, &recorder).await;
        let publisher = Publisher::start(&address, "ns");
        publish_three(&publisher);
        assert_eq!(publisher.drained(Duration::from_secs(5)).await, 0);
        assert_eq!(*recorder.seen.lock().unwrap(), ORDER);
        server.shutdown().await.unwrap();
    }
}
