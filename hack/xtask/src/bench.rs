//! Makes a node and runs the benchmark (`hack/bench`) in it.

use std::fs;
use std::process::Command;

use test_fixtures::{Cgroups, Image, Node, NodeConfig, Tree, artifact};

use crate::error::Error;
use crate::process::{self, say};
use crate::{build, host};

const BINARY: &str = "rtc-bench";
/// The least that a runtime could do, to measure how far from it they are.
const FLOOR: &str = "rtc-floor";
const ROOTFS: &str = "/var/lib/bench/rootfs";
const RESULT: &str = "/tmp/bench.json";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What the node is made of: bookworm, trixie or forky (containerd 1.6, 1.7, 2.1); crun needs trixie
    #[arg(long, default_value = "trixie", value_parser = crate::node::tree)]
    tree: Tree,
    /// Take the binaries that are there
    #[arg(long)]
    no_build: bool,
    /// For the benchmark itself, after `--`: see `-- --help`
    #[arg(last = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<(), Error> {
    host::prepare_for_nodes()?;
    if !args.no_build {
        build::all()?;
        build::binaries(&["--package", BINARY])?;
        build_floor()?;
    }
    let node = Node::start(NodeConfig { tree: args.tree, images: vec![Image::Workload], ..NodeConfig::default() })?;
    node.copy_in(&artifact::find(BINARY)?, "/usr/local/bin/rtc-bench")?;
    node.copy_in(&artifact::find(FLOOR)?, "/usr/local/bin/rtc-floor")?;
    node.unpack(Image::Workload, ROOTFS)?;
    if node.cgroups() == Cgroups::Hybrid {
        // crun refuses a hybrid host whose unified tree has any controller, if only hugetlb, though it needs none of it.
        node.sh("mount --bind /dev/null /sys/fs/cgroup/unified/cgroup.controllers")?;
    }
    say(&format!("{}; this takes some minutes", node.run(["containerd", "--version"])?));

    let mut command =
        node.command([BINARY, "--image", Image::Workload.name(), "--rootfs", ROOTFS, "--json", RESULT], false);
    command.args(&args.arguments);
    let status = command.status().map_err(|source| Error::Spawn { command: BINARY.to_owned(), source })?;
    if !status.success() {
        return Err(Error::Command { command: BINARY.to_owned(), status });
    }
    if node.exists(RESULT) {
        let path = artifact::workspace().join("target/bench.json");
        let write = fs::write(&path, node.read(RESULT)?);
        write.map_err(|source| Error::File { operation: "write", path: path.clone(), source })?;
        say(&format!("\nwritten to {}", path.display()));
    }
    Ok(())
}

fn build_floor() -> Result<(), Error> {
    let source = artifact::workspace().join("hack/bench/floor.c");
    let mut gcc = Command::new("gcc");
    gcc.args(["-O2", "-static", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(artifact::directory().join(FLOOR))
        .arg(source);
    process::run(&mut gcc)
}
