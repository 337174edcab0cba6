//! `rtc ps`: the host's ps(1), narrowed down to a container.

use std::collections::HashSet;
use std::ffi::OsString;
use std::process::{Command, ExitCode};

use crate::context::Context;
use crate::error::Error;
use crate::output;

/// Display the processes of a container
#[derive(Debug, clap::Args)]
pub(crate) struct Ps {
    /// "table" or "json"
    #[arg(short, long, default_value = "table")]
    format: String,

    /// The container's id, and after it options for ps(1), -ef if there are none
    // One argument, so that everything after the id is for ps, whatever it looks like.
    #[arg(value_names = ["container-id", "ps options"], required = true, num_args = 1.., trailing_var_arg = true)]
    args: Vec<OsString>,
}

impl Ps {
    pub(crate) fn run(self, context: &Context) -> Result<ExitCode, Error> {
        let Some((id, options)) = self.args.split_first() else { return Err(Error::EmptyId) };
        let container = context.load(&id.to_string_lossy())?;
        let pids: Vec<i32> = container.pids()?.into_iter().map(|pid| pid.as_raw()).collect();
        let text = match self.format.as_str() {
            "table" => table(&pids, options)?,
            // Go's encoding of a list that nothing was put into.
            "json" if pids.is_empty() => "null\n".to_owned(),
            "json" => output::json_line("the pids", &pids)?,
            _ => return Err(Error::Format),
        };
        output::print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn table(pids: &[i32], options: &[OsString]) -> Result<String, Error> {
    let default = [OsString::from("-ef")];
    let options = if options.is_empty() { &default } else { options };
    let output = Command::new("ps").args(options).output();
    let output = output.map_err(|err| Error::File { operation: "execute", path: "ps".into(), err })?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let output_text = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
        return Err(Error::Ps { status: output.status, output: output_text.trim_end().to_owned() });
    }
    narrow(&text, &pids.iter().copied().collect())
}

/// The header, and the lines of these processes.
fn narrow(text: &str, pids: &HashSet<i32>) -> Result<String, Error> {
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let column = header.split_ascii_whitespace().position(|title| title == "PID").ok_or(Error::NoPidField)?;
    let mut narrowed = format!("{header}\n");
    for line in lines.filter(|line| !line.trim().is_empty()) {
        let field = line.split_ascii_whitespace().nth(column).unwrap_or_default();
        let pid = field.parse().map_err(|_| Error::PidField(field.to_owned()))?;
        if pids.contains(&pid) {
            narrowed.push_str(line);
            narrowed.push('\n');
        }
    }
    Ok(narrowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_processes_are_left() {
        let text = "UID   PID  PPID CMD\nroot    1     0 init\nroot   17     1 sh -c 18\nroot   18    17 sleep\n";
        let narrowed = narrow(text, &HashSet::from([18])).unwrap();
        assert_eq!(narrowed, "UID   PID  PPID CMD\nroot   18    17 sleep\n");
    }

    #[test]
    fn output_without_pids_is_refused() {
        assert!(matches!(narrow("CMD\nsh\n", &HashSet::new()), Err(Error::NoPidField)));
        assert!(matches!(narrow("PID CMD\nsh sh\n", &HashSet::new()), Err(Error::PidField(field)) if field == "sh"));
    }
}
