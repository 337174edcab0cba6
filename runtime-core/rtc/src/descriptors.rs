//! The descriptors that a process gets beside its stdio: those of systemd's socket activation (sd_listen_fds(3)), then those
//! that `--preserve-fds` asks for.

use std::os::fd::OwnedFd;

use crate::error::Error;

/// SD_LISTEN_FDS_START.
const FIRST: u16 = 3;

#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// The process's 3 and on.
    pub(crate) fds: Vec<OwnedFd>,
    /// Tells the process which of them are sockets to listen at.
    pub(crate) env: Vec<String>,
}

/// Takes over those of a container's init; no other process gets them, or anything else that was left open.
///
/// # Errors
/// As [`preserved`].
pub(crate) fn of_init(preserve: u16) -> Result<Passed, Error> {
    let mut passed = Passed::default();
    let listen = listen_fds();
    for number in FIRST..FIRST.saturating_add(listen) {
        passed.fds.extend(runtime_core::descriptors::inherited(number.into()));
    }
    if !passed.fds.is_empty() {
        // The program is PID 1 of its namespace.
        passed.env = vec![format!("LISTEN_FDS={}", passed.fds.len()), "LISTEN_PID=1".to_owned()];
        passed.env.extend(std::env::var("LISTEN_FDNAMES").ok().map(|names| format!("LISTEN_FDNAMES={names}")));
    }
    passed.fds.extend(preserved(FIRST.saturating_add(listen), preserve)?);
    Ok(passed)
}

/// Takes over those of a further process, for which no sockets are meant.
///
/// # Errors
/// As [`preserved`].
pub(crate) fn of_exec(preserve: u16) -> Result<Vec<OwnedFd>, Error> {
    preserved(FIRST, preserve)
}

/// # Errors
/// [`Error::PreservedFd`] for one that is not there.
fn preserved(first: u16, count: u16) -> Result<Vec<OwnedFd>, Error> {
    let take = |at| {
        let fd = runtime_core::descriptors::inherited(first.saturating_add(at).into());
        fd.ok_or(Error::PreservedFd { at, count })
    };
    let fds = (0..count).map(take).collect::<Result<_, _>>()?;
    runtime_core::descriptors::close_on_exec().map_err(Error::system("mark descriptors close-on-exec"))?;
    Ok(fds)
}

/// How many are meant for this process.
fn listen_fds() -> u16 {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
    match number("LISTEN_PID") {
        Some(pid) if pid == std::process::id() => {
            number("LISTEN_FDS").and_then(|count| u16::try_from(count).ok()).unwrap_or(0)
        }
        _ => 0,
    }
}
