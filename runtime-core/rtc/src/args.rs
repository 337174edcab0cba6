//! The command line: what is common to all commands. The options of each command are in its own file.

use std::path::PathBuf;

use clap::{Args as _, Parser, Subcommand};

/// The layout of runc's help, whose first lines are looked at by scripts.
macro_rules! help_template {
    () => {
        "NAME:\n   {name} - {about}\n\nUSAGE:\n   {usage}\n\n{all-args}"
    };
}
pub(crate) use help_template;

/// Open Container Initiative runtime
///
/// Runs containers from OCI bundles: a bundle is a directory with a root filesystem and a file "config.json" that says
/// how to run it. `rtc spec` writes such a file.
#[derive(Debug, Parser)]
#[command(name = "rtc", disable_version_flag = true, help_template = help_template!())]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,

    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Global {
    /// Log debug messages as well
    #[arg(long)]
    pub(crate) debug: bool,

    /// Write the log to FILE instead of stderr; errors go to both
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,

    /// The log's format: "text" or "json"
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: String,

    /// Where the state of containers is kept; it should be on a tmpfs [default: /run/rtc, or rtc below $XDG_RUNTIME_DIR
    /// for users other than root]
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,

    #[arg(long, hide = true)]
    pub(crate) criu: Option<String>,

    /// Let systemd make the cgroups; `cgroupsPath` then has the form "slice:prefix:name"
    #[arg(long)]
    pub(crate) systemd_cgroup: bool,

    /// crun's name for how the cgroups are made
    #[arg(long, hide = true, value_parser = ["cgroupfs", "systemd"])]
    pub(crate) cgroup_manager: Option<String>,

    /// Go on without cgroups that the caller may not make, where the spec names none and asks for no limits, and with
    /// --systemd-cgroup let the user's own systemd make them: "true", "false" or "auto", which is true for users other
    /// than root and for root of a user namespace
    #[arg(long, value_name = "BOOL", default_value = "auto")]
    pub(crate) rootless: String,

    /// Print the version
    #[arg(short = 'v', long)]
    pub(crate) version: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Checkpoint(crate::checkpoint::Checkpoint),
    Completion(crate::completion::Completion),
    Create(crate::create::Create),
    Delete(crate::delete::Delete),
    Diff(crate::diff::Diff),
    Events(crate::events::Events),
    Exec(Box<crate::exec::Exec>),
    Features(crate::features::Features),
    Inspect(crate::inspect::Inspect),
    Kill(crate::kill::Kill),
    List(crate::list::List),
    #[command(hide = true)]
    Man(crate::man::Man),
    Migrate(crate::migrate::Migrate),
    Pause(crate::pause::Pause),
    Pod(crate::pod::Pod),
    Ps(crate::ps::Ps),
    Restore(Box<crate::restore::Restore>),
    Resume(crate::resume::Resume),
    Run(crate::run::Run),
    Spec(crate::spec::Spec),
    Start(crate::start::Start),
    State(crate::state::State),
    Stats(crate::stats::Stats),
    Update(Box<crate::update::Update>),
}

type Define = fn(clap::Command) -> clap::Command;

/// Each command's name and how it is defined.
const DEFINITIONS: &[(&str, Define)] = &[
    ("checkpoint", crate::checkpoint::Checkpoint::augment_args),
    ("completion", crate::completion::Completion::augment_args),
    ("create", crate::create::Create::augment_args),
    ("delete", crate::delete::Delete::augment_args),
    ("diff", crate::diff::Diff::augment_args),
    ("events", crate::events::Events::augment_args),
    ("exec", crate::exec::Exec::augment_args),
    ("features", crate::features::Features::augment_args),
    ("inspect", crate::inspect::Inspect::augment_args),
    ("kill", crate::kill::Kill::augment_args),
    ("list", crate::list::List::augment_args),
    ("man", crate::man::Man::augment_args),
    ("migrate", crate::migrate::Migrate::augment_args),
    ("pause", crate::pause::Pause::augment_args),
    ("pod", crate::pod::Pod::augment_args),
    ("ps", crate::ps::Ps::augment_args),
    ("restore", crate::restore::Restore::augment_args),
    ("resume", crate::resume::Resume::augment_args),
    ("run", crate::run::Run::augment_args),
    ("spec", crate::spec::Spec::augment_args),
    ("start", crate::start::Start::augment_args),
    ("state", crate::state::State::augment_args),
    ("stats", crate::stats::Stats::augment_args),
    ("update", crate::update::Update::augment_args),
];

impl Command {
    /// The definition of one command: to make those of all takes longer than anything that a command like `state` does.
    pub(crate) fn definition(name: &str) -> Option<clap::Command> {
        let (name, define) = DEFINITIONS.iter().find(|(known, _)| *known == name)?;
        Some(define(clap::Command::new(*name)))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn there_is_one_definition_of_each_command() {
        for command in Args::command().get_subcommands() {
            let name = command.get_name();
            let alone = Command::definition(name).unwrap_or_else(|| panic!("{name} has none"));
            let arguments = |command: &clap::Command| format!("{:?}", command.get_arguments().collect::<Vec<_>>());
            assert_eq!(arguments(&alone), arguments(command), "{name}");
        }
        assert!(Command::definition("nothing").is_none());
    }
}
