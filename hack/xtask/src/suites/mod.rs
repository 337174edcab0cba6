//! The field's public suites for OCI runtimes, run against rtc and its peers, each in a node of its own.
//!
//! | module | what |
//! | --- | --- |
//! | `suite` | the suites, and the scripts that run them |
//! | `tap` | what the suites say |
//! | `table` | what is told of it |

mod suite;
mod table;
mod tap;

use std::fs::{self, File};
use std::process::Stdio;

use test_fixtures::{Cgroups, Node, NodeConfig, Tree, artifact};

use self::suite::{Runtime, Suite};
use self::table::Row;
use self::tap::Results;
use crate::error::Error;
use crate::process::say;
use crate::{build, host};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The suites to run; all without one
    suites: Vec<Suite>,
    /// The runtimes to run them against; all without one
    #[arg(long = "runtime")]
    runtimes: Vec<Runtime>,
    /// How cgroups are mounted: hybrid or v2; each that this host has without one
    #[arg(long, value_parser = cgroups)]
    cgroups: Option<Cgroups>,
    /// Only the files of tests whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Take the binaries that are there
    #[arg(long)]
    no_build: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Error> {
    host::prepare_for_nodes()?;
    if !args.no_build {
        build::all()?;
    }
    let layouts = args.cgroups.map_or_else(Cgroups::supported, |layout| vec![layout]);
    let mut rows = Vec::new();
    for &suite in given_or_all(&args.suites) {
        for &cgroups in &layouts {
            for &runtime in given_or_all(&args.runtimes) {
                say(&format!("{suite} on {} with {runtime}", table::layout(cgroups)));
                rows.push(Row { suite, cgroups, runtime, results: run_one(suite, cgroups, runtime, &args.only)? });
            }
        }
    }
    say(&format!("\n{}", table::counts(&rows)));
    say(&table::differences(&rows));
    Ok(())
}

/// Runs a suite to its end, and keeps what it says in `target/suites`.
fn run_one(suite: Suite, cgroups: Cgroups, runtime: Runtime, only: &str) -> Result<Results, Error> {
    let config = NodeConfig { tree: Tree::Suites, cgroups, containerd: false, ..NodeConfig::default() };
    let node = Node::start(config)?;
    if cgroups == Cgroups::Hybrid && runtime == Runtime::Crun {
        // It refuses a hybrid host whose unified tree has any controller, if only hugetlb, though it needs none of it.
        node.sh("mount --bind /dev/null /sys/fs/cgroup/unified/cgroup.controllers")?;
    }
    let named = format!("{suite}-{}-{runtime}", table::layout(cgroups));
    let directory = artifact::workspace().join("target/suites");
    let path = directory.join(format!("{named}.tap"));
    let failed = |operation| {
        let path = path.clone();
        move |source| Error::File { operation, path, source }
    };
    // A file: it can be looked at meanwhile, and its end does not wait for a process that outlives the suite.
    let file = fs::create_dir_all(&directory).and_then(|()| File::create(&path)).map_err(failed("create"))?;
    let mut command = node.command(["sh", "-uc", suite.script(), "sh", runtime.name(), only], false);
    let status = command.stdin(Stdio::null()).stdout(file).status();
    let status = status.map_err(|source| Error::Spawn { command: named.clone(), source })?;
    if !status.success() {
        return Err(Error::Command { command: named, status });
    }
    let output = fs::read(&path).map_err(failed("read"))?;
    Ok(tap::parse(&String::from_utf8_lossy(&output)))
}

fn given_or_all<T: clap::ValueEnum>(given: &[T]) -> &[T] {
    if given.is_empty() { T::value_variants() } else { given }
}

fn cgroups(name: &str) -> Result<Cgroups, String> {
    let all = [Cgroups::Hybrid, Cgroups::V2];
    let known = all.into_iter().find(|&cgroups| table::layout(cgroups) == name);
    known.ok_or_else(|| format!("one of {}", all.map(table::layout).join(", ")))
}
