//! `--check` of `rtc checkpoint` and `rtc restore`: what would stand in the way.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use runtime_core::container::{HostDescription, Report, Severity};

use crate::error::Error;
use crate::output;

/// Bytes of the description of a host; it has some hundred. What is longer is cut off, and so none.
const LONGEST: u64 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// Fails, with everything said, if it would be refused.
pub(crate) fn print(report: &Report, format: Format, done: &str) -> Result<ExitCode, Error> {
    match format {
        Format::Text => output::print(&text(report, done))?,
        Format::Json => output::print(&(output::json_pretty("the report", report, "    ")? + "\n"))?,
    }
    Ok(if report.refuses() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn text(report: &Report, done: &str) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let severity = match finding.severity {
            Severity::Refuse => "refuse",
            Severity::Warn => "warn",
        };
        text.push_str(&format!("{severity}: {finding}\n"));
    }
    let verdict = if report.refuses() { "cannot" } else { "can" };
    text.push_str(&format!("It {verdict} be {done}.\n"));
    text
}

pub(crate) fn describe_host() -> Result<ExitCode, Error> {
    let description = HostDescription::of_this_machine();
    output::print(&(output::json_pretty("the description", &description, "    ")? + "\n"))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn read_target(path: &Path) -> Result<HostDescription, Error> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(LONGEST).read_to_end(&mut bytes));
    read.map_err(|err| Error::File { operation: "read", path: path.to_owned(), err })?;
    serde_json::from_slice(&bytes).map_err(|err| Error::Target { path: path.to_owned(), err })
}

#[cfg(test)]
mod tests {
    use runtime_core::container::{Finding, FindingKind};

    use super::*;

    fn finding(severity: Severity) -> Finding {
        let (what, why, remedy) = ("fd 3 is x".to_owned(), "it is so".to_owned(), "close it".to_owned());
        Finding { kind: FindingKind::File, severity, pid: Some(7), what, why, remedy }
    }

    #[test]
    fn the_text_has_a_line_for_each_finding_and_a_verdict() {
        assert_eq!(text(&Report::default(), "restored"), "It can be restored.\n");
        let report = Report { findings: vec![finding(Severity::Warn), finding(Severity::Refuse)] };
        let expected = "warn: process 7: fd 3 is x: it is so; close it\n\
                        refuse: process 7: fd 3 is x: it is so; close it\n\
                        It cannot be checkpointed.\n";
        assert_eq!(text(&report, "checkpointed"), expected);
    }

    #[test]
    fn a_file_that_describes_no_host_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host.json");
        assert!(matches!(read_target(&path), Err(Error::File { .. })));
        assert!(matches!(read_target(Path::new("/dev/zero")), Err(Error::Target { .. })));
        fs::write(&path, "{}").unwrap();
        assert!(matches!(read_target(&path), Err(Error::Target { .. })));
        fs::write(&path, serde_json::to_string(&HostDescription::of_this_machine()).unwrap()).unwrap();
        assert_eq!(read_target(&path).unwrap(), HostDescription::of_this_machine());
    }
}
