//! Descriptors that this process was started with.

use std::os::fd::OwnedFd;

/// Takes over a descriptor by its number, and makes it close-on-exec. `None` when it is not open, or when this process has
/// opened it itself, which shows by its being close-on-exec already; so none can be taken twice. Not for 0, 1 and 2, which
/// are the standard library's.
pub fn inherited(number: i32) -> Option<OwnedFd> {
    (number > 2).then(|| crate::sys::fd::inherited(number)).flatten()
}

/// Lets no process that is started from now on inherit any descriptor but 0, 1 and 2.
///
/// # Errors
/// close_range(2)'s.
pub fn close_on_exec() -> std::io::Result<()> {
    Ok(crate::sys::fd::cloexec_from(3)?)
}
