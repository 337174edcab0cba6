//! Makes the table of criu's README: what happens to workloads that are checkpointed and restored.

use std::fs;
use std::path::Path;

use test_fixtures::artifact;

use crate::error::Error;
use crate::process::{self, cargo, say};
use crate::{build, host};

/// Between these lines of the README stands the table.
const BEGIN: &str = "<!-- cargo xtask workloads -->";
const END: &str = "<!-- /cargo xtask workloads -->";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only the rows whose name contains this; they are shown, and the README stays as it is
    #[arg(long)]
    only: Option<String>,
    /// Take the binaries that are there
    #[arg(long)]
    no_build: bool,
}

/// The README is written before the verdict: what is not as it should be is seen there.
pub(crate) fn run(args: &Args) -> Result<(), Error> {
    host::prepare_for_nodes()?;
    if !args.no_build {
        build::all()?;
    }
    say("each workload twice with rtc and twice with runc; this takes some minutes");
    let table = artifact::workspace().join("target/workloads.md");
    let mut command = cargo();
    command.args(["test", "--quiet", "--workspace", "--test", "workloads"]).env("RTC_WORKLOADS_TABLE", &table);
    if let Some(only) = &args.only {
        return process::run(command.env("RTC_WORKLOADS_ONLY", only));
    }
    remove(&table)?;
    let ran = process::run(&mut command);
    // Without a table it has not come to its end, and has said why.
    if table.exists() {
        let readme = artifact::workspace().join("criu/README.md");
        let text = replaced(&read(&readme)?, &read(&table)?).ok_or(Error::Markers { path: readme.clone() })?;
        fs::write(&readme, text).map_err(failed("write", &readme))?;
        say(&format!("written to {}", readme.display()));
    }
    ran
}

/// The text with another table between the markers, or nothing if they are not there.
fn replaced(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(failed("read", path))
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(failed("remove", path)(source)),
        _ => Ok(()),
    }
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { operation, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_what_is_between_the_markers() {
        let text = format!("head\n{BEGIN}\n| old |\n{END}\ntail\n");
        let expected = format!("head\n{BEGIN}\n| new |\n{END}\ntail\n");
        assert_eq!(replaced(&text, "| new |\n").as_deref(), Some(expected.as_str()));
        assert_eq!(replaced(&expected, "| new |\n").as_deref(), Some(expected.as_str()));
        assert_eq!(replaced("no markers", "| new |\n"), None);
    }
}
