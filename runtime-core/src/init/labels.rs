//! AppArmor and SELinux labels that the kernel gives the process at execve.

use std::fs::File;
use std::io::Write;

use rustix::fs::{Mode, OFlags, PROC_SUPER_MAGIC};
use rustix::io::Errno;

use super::message::Process;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    #[error("open {path}")]
    Open {
        path: &'static str,
        #[source]
        err: Errno,
    },
    #[error("{0} is not in a proc file system")]
    NotProc(&'static str),
    #[error("write label {label:?} to {path}")]
    Write {
        label: String,
        path: &'static str,
        #[source]
        err: std::io::Error,
    },
}

/// Open label files of the calling thread. They are opened on the host's /proc, before the container's can be in the way
/// (CVE-2025-52881), and written later, when the mounts are done that the label may forbid.
#[derive(Debug)]
pub(super) struct Labels {
    files: Vec<(File, &'static str, String)>,
}

impl Labels {
    pub(super) fn open(process: &Process) -> Result<Self, Error> {
        let mut files = Vec::new();
        if let Some(profile) = &process.apparmor_profile {
            let label = format!("exec {profile}");
            files.push(match open("/proc/thread-self/attr/apparmor/exec") {
                // Linux before 5.8 has one directory for all.
                Err(Error::Open { err: Errno::NOENT, .. }) => {
                    (open("/proc/thread-self/attr/exec")?, "/proc/thread-self/attr/exec", label)
                }
                other => (other?, "/proc/thread-self/attr/apparmor/exec", label),
            });
        }
        if let Some(label) = &process.selinux_label {
            files.push((open("/proc/thread-self/attr/exec")?, "/proc/thread-self/attr/exec", label.clone()));
        }
        Ok(Self { files })
    }

    pub(super) fn write(self) -> Result<(), Error> {
        for (mut file, path, label) in self.files {
            file.write_all(label.as_bytes()).map_err(|err| Error::Write { label, path, err })?;
        }
        Ok(())
    }
}

fn open(path: &'static str) -> Result<File, Error> {
    let fail = |err| Error::Open { path, err };
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).map_err(fail)?;
    if rustix::fs::fstatfs(&file).map_err(fail)?.f_type != PROC_SUPER_MAGIC {
        return Err(Error::NotProc(path));
    }
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cve_2025_52881_a_label_file_outside_proc_is_refused() {
        assert!(matches!(open("/dev/null"), Err(Error::NotProc("/dev/null"))));
    }
}
