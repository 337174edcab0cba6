//! `rtc inspect`.
//!
//! - `tree`: a checkpoint as a tree. `process`, `files`: parts of it.
//! - `pod`: the checkpoint of a pod.
//! - `style`: colours, and what of a name may be printed. `number`: bytes and times as people read them.

pub(crate) mod files;
pub(crate) mod number;
mod pod;
mod process;
pub(crate) mod style;
mod tree;

use std::path::PathBuf;
use std::process::ExitCode;

use runtime_core::container::{Inspection, PodManifest, Verify};

use crate::error::Error;
use crate::output;
use style::{Style, escape_json};

/// Show what is in a checkpoint
///
/// Processes, memory, open files, sockets, mounts, options, timings and sizes, of a checkpoint or pre-dump that rtc, runc or
/// CRIU itself has made; of a pod's, what its containers share and then each of them. If something in it is missing or damaged, that is told, the rest is shown, and the command ends
/// with 1.
#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    /// The image directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,

    /// "text" or "json"
    #[arg(short, long, default_value = "text")]
    format: String,

    /// Read every file that has a checksum, and compare it
    #[arg(long)]
    verify: bool,

    /// A file of age's identities, for a checkpoint that is encrypted; without it, what can be told without is
    #[arg(long, value_name = "FILE")]
    decrypt_key: Option<PathBuf>,
}

impl Inspect {
    pub(crate) fn run(self) -> Result<ExitCode, Error> {
        let format = Format::parse(&self.format)?;
        let verify = if self.verify { Verify::Contents } else { Verify::Sizes };
        let manifest = PodManifest::read(&self.directory).map_err(Error::Pod)?;
        if let Some(manifest) = manifest {
            let (text, problems) =
                pod::show(&self.directory, &manifest, (verify, self.decrypt_key.as_deref()), format)?;
            output::print(&text)?;
            return self.judge(problems);
        }
        let inspection =
            Inspection::read(&self.directory, verify, self.decrypt_key.as_deref()).map_err(Error::Images)?;
        let text = match format {
            Format::Text => tree::draw(&inspection, Style::of_stdout()),
            Format::Json => escape_json(&output::json_pretty("the checkpoint", &inspection, "  ")?) + "\n",
        };
        output::print(&text)?;
        self.judge(inspection.contents.problems.len())
    }

    fn judge(self, problems: usize) -> Result<ExitCode, Error> {
        match problems {
            0 => Ok(ExitCode::SUCCESS),
            count => Err(Error::DamagedCheckpoint { directory: self.directory, count }),
        }
    }
}

/// How to print it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Json,
}

impl Format {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(Error::Format),
        }
    }
}
