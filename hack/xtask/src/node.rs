//! A shell in a node.

use std::io::IsTerminal;
use std::process::ExitCode;

use test_fixtures::{Cgroups, Error as FixtureError, Image, Node, NodeConfig, Tree, artifact};

use crate::error::{self, Error};
use crate::host;
use crate::process::say;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What it is made of: bookworm, trixie or forky (containerd 1.6, 1.7, 2.1), or suites (forky with the public suites)
    #[arg(long, default_value = "trixie", value_parser = tree_or_suites)]
    tree: Tree,
    /// cgroup2 alone, where the host has the v1 hierarchies too
    #[arg(long)]
    v2: bool,
    /// What is run in it
    #[arg(default_value = "bash", trailing_var_arg = true)]
    command: Vec<String>,
}

/// Ends with the shell's exit code.
pub(crate) fn run(args: &Args) -> ExitCode {
    match shell(args) {
        Ok(code) => ExitCode::from(code),
        Err(error) => error::exit_code(Err(error)),
    }
}

fn shell(args: &Args) -> Result<u8, Error> {
    host::prepare_for_nodes()?;
    let mut config = NodeConfig { tree: args.tree, images: vec![Image::Busybox], ..NodeConfig::default() };
    if args.v2 {
        config.cgroups = Cgroups::V2;
    }
    config.rtc = is_built(artifact::SHIM);
    if is_built(artifact::WORKLOAD) {
        config.images.push(Image::Workload);
    }
    let rtc = if config.rtc { "and rtc" } else { "and no rtc: `cargo xtask build` makes it" };
    let names: Vec<_> = config.images.iter().map(Image::name).collect();
    let node = Node::start(config)?;
    say(&format!("node {} with {} {rtc}", node.name(), node.run(["containerd", "--version"])?));
    say(&format!("images: {}", names.join(", ")));
    let line = args.command.join(" ");
    let mut command = if std::io::stdin().is_terminal() {
        // A terminal of the node's own: job control, and `ctr run --tty`, need one.
        node.command(["script", "--quiet", "--return", "--command", &line, "/dev/null"], false)
    } else {
        node.command(&args.command, false)
    };
    if let Some(terminal) = std::env::var_os("TERM") {
        command.env("TERM", terminal);
    }
    let status = command.status().map_err(|source| Error::Spawn { command: line, source })?;
    Ok(u8::try_from(status.code().unwrap_or(255)).unwrap_or(255))
}

fn is_built(name: &str) -> bool {
    !matches!(artifact::find(name), Err(FixtureError::NotBuilt { .. }))
}

fn tree_or_suites(name: &str) -> Result<Tree, String> {
    if name == "suites" { Ok(Tree::Suites) } else { tree(name) }
}

pub(crate) fn tree(name: &str) -> Result<Tree, String> {
    let known = Tree::ALL.into_iter().find(|tree| tree.suite() == name);
    known.ok_or_else(|| format!("one of {}", Tree::ALL.map(Tree::suite).join(", ")))
}
