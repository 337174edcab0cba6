//! `rtc diff`.

mod tree;

use std::path::PathBuf;
use std::process::ExitCode;

use runtime_core::container::{Comparison, Inspection, Verify};

use crate::error::Error;
use crate::inspect::Format;
use crate::inspect::style::{Style, escape_json};
use crate::output;

/// Show what is different between two checkpoints
///
/// What grew, what is new and what is gone: memory of each process, images, open files and sockets, processes, mounts and
/// options. Differences are no failure.
#[derive(Debug, clap::Args)]
pub(crate) struct Diff {
    /// The earlier checkpoint's image directory
    #[arg(value_name = "BEFORE")]
    before: PathBuf,

    /// The later one's
    #[arg(value_name = "AFTER")]
    after: PathBuf,

    /// "text" or "json"
    #[arg(short, long, default_value = "text")]
    format: String,

    /// A file of age's identities, for checkpoints that are encrypted
    #[arg(long, value_name = "FILE")]
    decrypt_key: Option<PathBuf>,
}

impl Diff {
    pub(crate) fn run(self) -> Result<ExitCode, Error> {
        let format = Format::parse(&self.format)?;
        let read = |path: &PathBuf| -> Result<Inspection, Error> {
            let inspection =
                Inspection::read(path, Verify::Sizes, self.decrypt_key.as_deref()).map_err(Error::Images)?;
            if inspection.record.as_ref().and_then(|record| record.sealed.as_ref()).is_some_and(|sealed| !sealed.opened)
            {
                return Err(Error::Encrypted { directory: path.clone() });
            }
            // It compares what can be read; `rtc inspect` says what is wrong.
            let count = inspection.contents.problems.len();
            if count > 0 {
                tracing::warn!("{}", Error::DamagedCheckpoint { directory: path.clone(), count });
            }
            Ok(inspection)
        };
        let comparison = Comparison::new(&read(&self.before)?, &read(&self.after)?);
        output::print(&match format {
            Format::Text => tree::draw(&comparison, Style::of_stdout()),
            Format::Json => escape_json(&output::json_pretty("the comparison", &comparison, "  ")?) + "\n",
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
