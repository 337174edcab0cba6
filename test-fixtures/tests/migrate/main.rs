//! Live migration between two nodes, each with a containerd of its own. The wire between them is mostly a relay of the test's,
//! which sees every message and can cut it, or kill somebody, at any of them.

#![expect(clippy::print_stderr, reason = "why a test is skipped, and which case a failure belongs to")]

mod faults;
mod moves;
mod network;
mod postcopy;
mod precopy;
mod refused;
mod relay;
mod tls;
mod vm;
mod world;

fn skipped() -> bool {
    let why = test_fixtures::skip_reason();
    if let Some(why) = why {
        eprintln!("skipped: {why}");
    }
    why.is_some()
}
