//! sched_setattr(2), ioprio_set(2), personality(2) and set_mempolicy(2).

use rustix::io::Errno;

use super::process::errno;

/// The first version of `struct sched_attr` (linux/sched/types.h), 48 bytes; times are in nanoseconds.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// Filled in by [`set_attributes`].
    pub(crate) size: u32,
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
}

const IOPRIO_WHO_PROCESS: libc::c_int = 1;
const IOPRIO_CLASS_SHIFT: u32 = 13;

/// Of the calling thread.
pub(crate) fn set_attributes(attributes: Attributes) -> Result<(), Errno> {
    let attributes = Attributes { size: size_of::<Attributes>() as u32, ..attributes };
    // SAFETY: the kernel reads the structure, whose size is in its first field, and writes that field at most.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if result < 0 { Err(errno()) } else { Ok(()) }
}

/// Of the calling thread; `class` as in linux/ioprio.h.
pub(crate) fn set_io_priority(class: u32, priority: u32) -> Result<(), Errno> {
    let value = class << IOPRIO_CLASS_SHIFT | priority;
    // SAFETY: takes three numbers.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) };
    if result < 0 { Err(errno()) } else { Ok(()) }
}

/// Of the calling thread; linux/personality.h has the numbers.
pub(crate) fn set_personality(personality: u32) -> Result<(), Errno> {
    // SAFETY: takes a number.
    let result = unsafe { libc::personality(libc::c_ulong::from(personality)) };
    if result < 0 { Err(errno()) } else { Ok(()) }
}

/// Of the calling thread; linux/mempolicy.h has the modes, to which the flags are added. Bit 0 of the first word is node 0.
pub(crate) fn set_memory_policy(mode: libc::c_int, nodes: &[u64]) -> Result<(), Errno> {
    // The kernel takes one bit less than it is told of.
    let bits = if nodes.is_empty() { 0 } else { nodes.len() * u64::BITS as usize + 1 };
    let mask = if nodes.is_empty() { std::ptr::null() } else { nodes.as_ptr() };
    // SAFETY: the kernel reads `bits - 1` bits, which are what `nodes` holds, and keeps no pointer.
    let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) };
    if result < 0 { Err(errno()) } else { Ok(()) }
}
