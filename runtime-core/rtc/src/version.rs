//! `rtc --version`.

use std::process::ExitCode;

use crate::error::Error;
use crate::output;

pub(crate) fn run() -> Result<ExitCode, Error> {
    let mut text = format!("rtc version {}\n", env!("CARGO_PKG_VERSION"));
    if let Some(commit) = COMMIT {
        text.push_str(&format!("commit: {commit}\n"));
    }
    text.push_str(&format!("spec: {}\n", runtime_core::spec::VERSION));
    text.push_str(&format!("libseccomp: {}\n", runtime_core::libseccomp_version()));
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What it was built from, where the builder said so.
pub(crate) const COMMIT: Option<&str> = option_env!("RTC_COMMIT");
