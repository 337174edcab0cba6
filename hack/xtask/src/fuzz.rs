//! libFuzzer on everything that reads bytes from outside, through cargo-fuzz.
//!
//! Without a sanitizer, which takes a nightly compiler: what is looked for are panics, and there is next to no unsafe code
//! that they could miss.

use std::fs;
use std::path::{Path, PathBuf};

use test_fixtures::artifact::workspace;

use crate::error::Error;
use crate::host;
use crate::process::{cargo, run, say, succeeds};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A program of fuzz/fuzz_targets; without one all, one after the other
    target: Option<String>,
    /// How long each runs
    #[arg(long, default_value = "60")]
    seconds: u32,
}

/// What the release build is made for takes long, and hides what goes wrong.
const PROFILE: [(&str, &str); 3] = [
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "2"),
];

/// What libFuzzer finds for itself goes below `target/fuzz`; what it fails with, to `fuzz/artifacts`.
pub(crate) fn run_targets(args: &Args) -> Result<(), Error> {
    host::prepare_for_fuzzing()?;
    if !succeeds(cargo().args(["fuzz", "--version"])) {
        say("installing cargo-fuzz (some minutes, once)");
        // As in `test`.
        run(cargo().args(["install", "cargo-fuzz", "--locked", "--debug"]))?;
    }
    let names = match &args.target {
        Some(target) => vec![target.clone()],
        None => targets()?,
    };
    for target in names {
        say(&format!("{target}: {} s", args.seconds));
        fuzz(&target, args.seconds)?;
    }
    Ok(())
}

fn fuzz(target: &str, seconds: u32) -> Result<(), Error> {
    let found = workspace().join("target/fuzz/corpus").join(target);
    fs::create_dir_all(&found).map_err(|source| Error::File { operation: "create", path: found.clone(), source })?;
    let stored = workspace().join("fuzz/corpus").join(target);
    let mut command = cargo();
    command.args(["fuzz", "run", "--sanitizer", "none", "--target-dir", "target/fuzz", target]);
    command.args([&found, &stored]).arg("--");
    // Seconds for one input, MiB, bytes.
    command.args(["-timeout=10", "-rss_limit_mb=1024", "-max_len=8192", "-print_final_stats=1"]);
    command.arg(format!("-max_total_time={seconds}"));
    run(command.envs(PROFILE))
}

fn targets() -> Result<Vec<String>, Error> {
    let directory = workspace().join("fuzz/fuzz_targets");
    let failed = |source| Error::File { operation: "list", path: directory.clone(), source };
    let entries = fs::read_dir(&directory).map_err(failed)?;
    let paths: Vec<PathBuf> =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>().map_err(failed)?;
    let mut names: Vec<String> =
        paths.iter().filter_map(|path| Path::file_stem(path)).map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}
