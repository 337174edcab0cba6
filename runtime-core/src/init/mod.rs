//! What runs inside the container before the user's program.

/// The `argv[0]` that makes a binary hand over to [`main`].
pub const ARGV0: &str = "rtc-init";

/// Runs the steps of a container's init or of an exec'd process and becomes the user's program. Reads its orders from the
/// socket that the parent left it. Must be called before any thread is started.
pub fn main() -> ! {
    todo!()
}
