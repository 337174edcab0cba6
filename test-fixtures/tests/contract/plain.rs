//! The smallest round through `ctr run` and `ctr task`, for a containerd that has no whole lane of its own.

use crate::host::Check;
use crate::{run, task};

pub(crate) const CHECKS: &[Check] = &[
    ("run", run::exit_code_and_streams),
    ("terminal", run::terminal),
    ("pause and resume", task::pause_and_resume),
    ("events", task::events),
];
