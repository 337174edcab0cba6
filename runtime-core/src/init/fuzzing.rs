//! What comes to the init, and what the init reads, for [`crate::fuzzing`].

use super::channel::Channel;
use super::message::{Go, Received, Reply};
use super::{schedule, user};

/// Frames from the other end of the socket, which is then closed.
pub(crate) fn frames(bytes: &[u8]) {
    receive::<Received>(bytes);
    receive::<Reply>(bytes);
    receive::<Go>(bytes);
}

fn receive<T: serde::de::DeserializeOwned>(bytes: &[u8]) {
    let Ok((ours, theirs)) = Channel::pair() else { return };
    // As many as the socket's buffer takes: nobody reads them meanwhile.
    let sent = rustix::net::send(&theirs, bytes, rustix::net::SendFlags::DONTWAIT);
    drop(theirs);
    if sent.is_ok() {
        while ours.receive::<T>().is_ok() {}
    }
}

pub(crate) fn cpu_list(text: &str) -> Option<Vec<usize>> {
    let set = schedule::cpu_set(text)?;
    Some((0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}

pub(crate) fn node_list(text: &str) {
    schedule::node_mask(text);
}

pub(crate) fn passwd(text: &str) {
    for uid in [0, 33, u32::MAX] {
        assert_ne!(user::home_in(text, uid), Some(""), "no directory has an empty name");
    }
}

pub(crate) fn environment(given: &[String]) {
    let environment = user::environment(given, u32::MAX);
    assert_eq!(environment.iter().filter(|variable| variable.starts_with("HOME=")).count(), 1, "{environment:?}");
}
