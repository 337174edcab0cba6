//! `ctr events`: what everybody who listens to containerd hears.

use serde_json::Value;
use test_fixtures::node::Running;

use crate::host::Host;

/// A listener, which ends when it is dropped.
pub(crate) struct Events(Running);

#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) topic: String,
    pub(crate) message: Value,
}

impl Events {
    /// Returns when it hears.
    pub(crate) fn listen(host: &Host) -> Self {
        let events = Self(host.node.spawn(["ctr", "events"]).unwrap());
        // ctr prints nothing when it has subscribed: something has to happen that it may see.
        host.wait("ctr listens", || {
            host.ctr_ok(&["namespace", "create", "probe"]);
            host.ctr_ok(&["namespace", "remove", "probe"]);
            events.text().contains("probe")
        });
        events
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout_so_far()).into_owned()
    }

    /// What it has heard until now. A line: date, time, zone, its name, namespace, topic, message.
    pub(crate) fn seen(&self) -> Vec<Event> {
        let text = self.text();
        let whole = text.lines().filter(|line| line.ends_with('}'));
        whole
            .filter_map(|line| {
                let (head, json) = line.split_once(" {")?;
                let topic = head.split(' ').next_back()?.to_owned();
                Some(Event { topic, message: serde_json::from_str(&format!("{{{json}")).ok()? })
            })
            .collect()
    }
}
