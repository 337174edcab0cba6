//! What a process that hosts containers can do for a host with many of them.

/// Gives back the memory that only the last operation needed: the program's own read-only pages are unmapped, and the heap's
/// free pages returned. Takes some 100 us; the next operation maps again what it uses, from the page cache. For a caller
/// that has been idle for a while.
pub fn release_idle() {
    crate::sys::memory::release_idle();
}
