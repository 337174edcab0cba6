//! The compilers of AppArmor's and SELinux's policies, for tests in machines whose kernel runs one of them. The trees have
//! neither, and all that these need beside glibc.
//!
//! Debian 13's. Cached as `$RTC_CACHE/vm/policy-HASH`.

use std::fs;
use std::path::PathBuf;

use super::emulator::Emulator;
use crate::tree::complete;
use crate::{Error, Result, cache, say};

const SCRIPT: &str = include_str!("policy.sh");
const PROGRAMS: [&str; 2] = ["apparmor_parser", "secilc"];

/// For [`VmConfig::files`](super::VmConfig::files): they are brought into the directory `policy`. Made when they are missing,
/// which takes some seconds and 2 MB.
///
/// # Errors
/// When they cannot be downloaded; nothing is left behind then.
pub fn policy_compilers() -> Result<Vec<(PathBuf, String)>> {
    let emulator = Emulator::ensure(say)?;
    let name = format!("policy-{}", cache::hash(["1", SCRIPT].into_iter().chain(PROGRAMS)));
    let path = cache::directory().join("vm").join(name);
    cache::ensure(&path, |partial| {
        fs::create_dir(partial).map_err(Error::path("create", partial))?;
        let mut command = emulator.command(partial);
        complete("download the compilers of policies", command.args(["sh", "-euc", SCRIPT]))
    })?;
    Ok(PROGRAMS.iter().map(|program| (path.join(program), format!("policy/{program}"))).collect())
}
