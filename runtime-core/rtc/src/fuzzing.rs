//! Values of options, and what a container says to the service manager, for the package `fuzz`. Only with the feature
//! `fuzzing`.

use std::time::Duration;

use oci_spec::runtime::User;

use crate::{events, exec, kill, notify, update};

/// A message of a container's to the socket of sd_notify: no other line than the one that is passed on gets through.
pub fn notify_message(bytes: &[u8]) {
    if let Some(ready) = notify::ready_in(bytes) {
        assert!(ready.starts_with(b"READY=") && !ready.contains(&b'\n'), "{ready:?}");
    }
}

/// Values of options: a duration, a size, a signal, a user, a cgroup.
pub fn option_values(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(duration) = events::duration(text) {
        assert!(duration == Duration::ZERO || text.bytes().any(|byte| byte.is_ascii_digit()), "{text:?}: {duration:?}");
    }
    assert!(update::parse_bytes(text).is_none_or(|bytes| bytes >= -1), "{text:?} is less than nothing");
    if let Some(Some(signal)) = kill::number(text) {
        assert!((1..=64).contains(&signal.as_raw()), "{text:?} is {signal:?}");
    }
    exec::user(User::default(), Some(text), &[]).ok();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    exec::sub_cgroups(&lines).ok();
}
