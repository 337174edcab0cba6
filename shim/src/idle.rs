//! A shim spends nearly all of its life waiting for its containers to end. Once it has had nothing to do for a moment it
//! gives back the memory that starting them took: most of what was resident is the program itself.

use std::time::Duration;

use tokio::sync::Notify;

/// Longer than a client's pause between two calls.
const QUIET: Duration = Duration::from_secs(3);

static ACTIVITY: Notify = Notify::const_new();

/// To be called when an operation has ended.
pub(crate) fn active() {
    ACTIVITY.notify_one();
}

/// Never returns. Costs an idle shim no wake-up.
pub(crate) async fn release_memory_when_quiet() {
    loop {
        ACTIVITY.notified().await;
        while tokio::time::timeout(QUIET, ACTIVITY.notified()).await.is_ok() {}
        runtime_core::memory::release_idle();
    }
}
