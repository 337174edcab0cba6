//! `rtc list`.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;

use crate::context::Context;
use crate::error::Error;
use crate::output;
use crate::state::ContainerState;

/// List the containers of the state directory given by --root
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// "table" or "json"
    #[arg(short, long, default_value = "table")]
    format: String,

    /// Only the ids
    #[arg(short, long)]
    quiet: bool,
}

impl List {
    pub(crate) fn run(self, context: &Context) -> Result<ExitCode, Error> {
        let containers = containers(context)?;
        let text = match self.format.as_str() {
            _ if self.quiet => containers.iter().map(|container| format!("{}\n", container.id)).collect(),
            "table" => table(&containers),
            // Go's encoding of a list that nothing was put into.
            "json" if containers.is_empty() => "null\n".to_owned(),
            "json" => output::json_line("the list", &containers)?,
            _ => return Err(Error::Format),
        };
        output::print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn table(containers: &[ContainerState]) -> String {
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    rows.extend(containers.iter().map(|container| {
        let bundle = container.bundle.display().to_string();
        let (pid, created) = (container.pid.to_string(), container.created.clone());
        [container.id.clone(), pid, container.status.clone(), bundle, created, container.owner.clone()]
    }));
    output::table(&rows)
}

/// One that cannot be read is told on stderr and left out.
fn containers(context: &Context) -> Result<Vec<ContainerState>, Error> {
    Ok(directories(context)?.into_iter().filter_map(|(id, uid)| container(context, &id, uid)).collect())
}

/// What may be containers, by name, and to whom each belongs.
pub(crate) fn directories(context: &Context) -> Result<Vec<(String, u32)>, Error> {
    let failed = |err| Error::File { operation: "open", path: context.root.clone(), err };
    let entries = match std::fs::read_dir(&context.root) {
        // No container has been made yet. A root that somebody named has to be there, as with runc.
        Err(err) if err.kind() == ErrorKind::NotFound && !context.root_given => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        match entry.metadata() {
            // The cache of seccomp filters is beside the containers.
            Ok(metadata) if metadata.is_dir() && !name.starts_with('@') => found.push((name, metadata.uid())),
            Ok(_) => {}
            // Deleted meanwhile.
            Err(err) if err.kind() == ErrorKind::NotFound => {}
            Err(err) => return Err(failed(err)),
        }
    }
    found.sort();
    Ok(found)
}

fn container(context: &Context, id: &str, uid: u32) -> Option<ContainerState> {
    let state = context.load(id).and_then(|container| ContainerState::new(&container, user_name(uid)));
    state
        .inspect_err(|err| {
            writeln!(std::io::stderr(), "load container {id}: {}", runtime_core::error::chain(err)).unwrap_or_default()
        })
        .ok()
}

/// From /etc/passwd alone: a static binary has no name service. `#1000` where it is not there.
fn user_name(uid: u32) -> String {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    name_in(&users, uid).unwrap_or_else(|| format!("#{uid}"))
}

/// The format is passwd(5)'s.
fn name_in(users: &str, uid: u32) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        (id.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_named() {
        let users = "root:x:0:0:root:/root:/bin/bash\nbroken\ndaemon:x:1:1::/:/bin/false\n";
        assert_eq!(name_in(users, 0).as_deref(), Some("root"));
        assert_eq!(name_in(users, 1).as_deref(), Some("daemon"));
        assert_eq!(name_in(users, 2), None);
    }
}
