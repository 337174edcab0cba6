//! Compiled filters on disk: `HEADER`, the SHA-256 of key and program, the program.
//!
//! The key is the SHA-256 of all that the program depends on. It goes into the checksum too, so that neither a damaged
//! file nor one under another's name is ever installed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use libseccomp::ScmpVersion;
use oci_spec::runtime::LinuxSeccomp;
use sha2::{Digest, Sha256};

use super::{Error, hex};

/// Changed whenever the same profile would be compiled into another program.
const HEADER: &[u8; 8] = b"rtcbpf2\n";
const SUM: usize = 32;
/// BPF_MAXINSNS of 8 bytes.
const LONGEST: usize = 4096 * 8;

pub(super) type Key = [u8; SUM];

pub(super) fn key(profile: &LinuxSeccomp) -> Result<Key, Error> {
    let library = ScmpVersion::current().map_err(|err| Error::Library {
        operation: "find",
        what: "libseccomp's version".to_owned(),
        err,
    })?;
    let mut sum = Sha256::new();
    sum.update(HEADER);
    sum.update(format!("{} {library}\n", std::env::consts::ARCH));
    sum.update(serde_json::to_vec(profile).map_err(Error::Json)?);
    Ok(sum.finalize().into())
}

/// `None` if there is no file, or none that can be trusted.
pub(super) fn read(cache: &Path, key: &Key) -> Option<Vec<u8>> {
    let path = cache.join(hex(key));
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path).ok()?;
    // Whoever could write it would choose the filter.
    if !rustix::fs::fstat(&file).is_ok_and(|stat| stat.st_uid == rustix::process::geteuid().as_raw()) {
        return None;
    }
    let program = parse(file, key);
    if program.is_none() {
        tracing::warn!(path = %path.display(), "a cached seccomp filter is damaged: compiling it again");
    }
    program
}

pub(super) fn parse(file: File, key: &Key) -> Option<Vec<u8>> {
    let limit = HEADER.len() + SUM + LONGEST;
    let mut bytes = Vec::with_capacity(limit.min(16 << 10));
    file.take(limit as u64 + 1).read_to_end(&mut bytes).ok()?;
    let rest = bytes.strip_prefix(HEADER)?;
    let (sum, program) = rest.split_at_checked(SUM)?;
    let whole = !program.is_empty() && program.len() <= LONGEST && program.len().is_multiple_of(8);
    (whole && sum == checksum(key, program)).then(|| program.to_vec())
}

/// Whole or not at all: under a name of its own, then renamed.
pub(super) fn write(cache: &Path, key: &Key, program: &[u8]) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(cache)?;
    let path = cache.join(hex(key));
    let thread = rustix::thread::gettid().as_raw_nonzero();
    let new = path.with_extension(thread.to_string());
    // What a process of this id left when it was killed.
    match fs::remove_file(&new) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let written =
        [HEADER.as_slice(), &checksum(key, program), program].iter().try_for_each(|part| file.write_all(part));
    let done = written.and_then(|()| fs::rename(&new, &path));
    if done.is_err() {
        // The first error is the one to tell.
        drop(fs::remove_file(&new));
    }
    done
}

fn checksum(key: &Key, program: &[u8]) -> [u8; SUM] {
    Sha256::new().chain_update(key).chain_update(program).finalize().into()
}
