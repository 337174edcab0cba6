//! Pods: containers that share namespaces, memory and connections, checkpointed and restored together through containerd.

#![expect(clippy::print_stderr, reason = "why a test is skipped")]

mod fails;
mod pod;
mod survives;

fn skipped() -> bool {
    let why = test_fixtures::skip_reason();
    if let Some(why) = why {
        eprintln!("skipped: {why}");
    }
    why.is_some()
}
