//! Finding the program and becoming it.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// Worded as runc words it, which users and the programs over containerd know.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum Error {
    #[error("exec: {0:?}: executable file not found in $PATH")]
    NotInPath(String),
    #[error("exec: {name:?}: stat {name}")]
    Stat {
        name: String,
        #[source]
        err: Errno,
    },
    #[error("exec: {name:?}: {reason}")]
    Unfit { name: String, reason: &'static str },
    #[error("exec: {0:?}: a string of its arguments or environment holds a zero byte")]
    ZeroByte(String),
    #[error("exec {path}")]
    Exec {
        path: PathBuf,
        #[source]
        err: Errno,
    },
}

/// A program with its arguments and environment, ready for execve(2).
#[derive(Debug)]
pub(super) struct Program {
    path: PathBuf,
    c_path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    /// Looks the program up as the user that the caller has become; its `PATH` is the process's own.
    pub(super) fn find(args: &[String], env: &[String]) -> Result<Self, Error> {
        let name = args.first().map(String::as_str).unwrap_or_default();
        let path = lookup(name, env)?;
        let strings = |list: &[String]| {
            list.iter()
                .map(|text| CString::new(text.as_str()))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|_| Error::ZeroByte(name.to_owned()))
        };
        let c_path = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| Error::ZeroByte(name.to_owned()))?;
        Ok(Self { path, c_path, args: strings(args)?, env: strings(env)? })
    }

    pub(super) fn execute(&self) -> Result<Infallible, Error> {
        nix::unistd::execve(&self.c_path, &self.args, &self.env)
            .map_err(|err| Error::Exec { path: self.path.clone(), err })
    }
}

fn lookup(name: &str, env: &[String]) -> Result<PathBuf, Error> {
    if name.contains('/') {
        return check(Path::new(name)).map(|()| name.into()).map_err(|problem| match problem {
            Problem::Stat(err) => Error::Stat { name: name.to_owned(), err },
            Problem::Unfit(reason) => Error::Unfit { name: name.to_owned(), reason },
        });
    }
    let path = env.iter().rev().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or_default();
    if name.is_empty() {
        return Err(Error::NotInPath(String::new()));
    }
    let mut denied = false;
    for directory in path.split(':') {
        let candidate = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Problem::Unfit(DENIED)) => denied = true,
            Err(_) => {}
        }
    }
    // As execvp(3): a file that may not be executed is worth more to the user than that it was not found elsewhere.
    if denied {
        return Err(Error::Unfit { name: name.to_owned(), reason: DENIED });
    }
    Err(Error::NotInPath(name.to_owned()))
}

const DENIED: &str = "permission denied";

enum Problem {
    Stat(Errno),
    Unfit(&'static str),
}

fn check(path: &Path) -> Result<(), Problem> {
    let metadata = std::fs::metadata(path)
        .map_err(|err| Problem::Stat(Errno::from_raw(err.raw_os_error().unwrap_or_default())))?;
    if metadata.is_dir() {
        return Err(Problem::Unfit("is a directory"));
    }
    let kind = metadata.file_type();
    if kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device() {
        return Err(Problem::Unfit(DENIED));
    }
    let asked = rustix::fs::accessat(rustix::fs::CWD, path, rustix::fs::Access::EXEC_OK, rustix::fs::AtFlags::EACCESS);
    if metadata.mode() & 0o111 == 0 || denies(asked) {
        return Err(Problem::Unfit(DENIED));
    }
    Ok(())
}

/// The container's seccomp filter may be in force by now, and one that does not know faccessat2(2) refuses it with one of
/// the two errors that the file system never gives: then execve(2) will tell.
fn denies(asked: rustix::io::Result<()>) -> bool {
    !matches!(asked, Ok(()) | Err(rustix::io::Errno::PERM | rustix::io::Errno::NOSYS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(args: &[&str], env: &[&str]) -> String {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        match Program::find(&owned(args), &owned(env)) {
            Ok(program) => program.path.display().to_string(),
            Err(err) => err.to_string(),
        }
    }

    #[test]
    fn the_messages_are_runcs() {
        assert_eq!(message(&["foo"], &["PATH=/bin"]), r#"exec: "foo": executable file not found in $PATH"#);
        assert_eq!(message(&["/foo"], &[]), r#"exec: "/foo": stat /foo"#);
        assert_eq!(message(&["/etc"], &[]), r#"exec: "/etc": is a directory"#);
        assert_eq!(message(&["/etc/passwd"], &[]), r#"exec: "/etc/passwd": permission denied"#);
        assert_eq!(message(&["passwd"], &["PATH=/etc"]), r#"exec: "passwd": permission denied"#);
    }

    #[test]
    fn a_filter_that_does_not_know_faccessat2_denies_nothing() {
        use rustix::io::Errno;
        assert!(!denies(Ok(())));
        assert!(!denies(Err(Errno::PERM)));
        assert!(!denies(Err(Errno::NOSYS)));
        assert!(denies(Err(Errno::ACCESS)));
    }

    #[test]
    fn the_last_path_counts_and_is_searched_in_order() {
        assert_eq!(message(&["sh"], &["PATH=/nowhere", "PATH=/etc:/bin"]), "/bin/sh");
    }
}
