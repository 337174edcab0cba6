//! The workloads: each is started, checkpointed with its end, restored, and looked at.

mod files;
mod kernel;
mod memory;
mod network;
mod programs;
mod streams;

use crate::container::Scene;
use crate::failure::Result;

/// What rtc is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expected {
    GoesOn,
    /// Refused before it is frozen, for a reason that has these words.
    Refused(&'static str),
}

pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// What is looked at after the restore.
    pub(crate) looked_at: &'static str,
    pub(crate) expected: Expected,
    pub(crate) run: fn(Scene<'_>) -> Result,
}

/// A group of rows is a test.
pub(crate) const GROUPS: &[(&str, &[Row])] = &[
    ("memory and processes", memory::ROWS),
    ("files", files::ROWS),
    ("streams within the container", streams::ROWS),
    ("network", network::ROWS),
    ("what the kernel has", kernel::ROWS),
    ("real programs", programs::ROWS),
];
