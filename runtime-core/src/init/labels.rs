//! AppArmor and SELinux labels that the kernel gives the process at execve.

use std::fs::File;
use std::io::Write;

use rustix::fs::{Mode, OFlags, PROC_SUPER_MAGIC};
use rustix::io::Errno;

use super::message::Process;

const KEY_CREATE: &str = "/proc/thread-self/attr/keycreate";

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
    #[error("AppArmor profile {0:?} is not loaded on this host")]
    NoProfile(String),
    #[error("SELinux label {0:?} is not valid in this host's policy")]
    NoLabel(String),
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
    files: Vec<(File, &'static str, Label)>,
    /// SELinux's, of the keys that the thread makes.
    keys: Option<(File, String)>,
}

#[derive(Debug)]
enum Label {
    AppArmor(String),
    SeLinux(String),
}

impl Label {
    fn text(&self) -> String {
        match self {
            Self::AppArmor(profile) => format!("exec {profile}"),
            Self::SeLinux(label) => label.clone(),
        }
    }

    /// The kernel's answer to a label that it does not know, in words.
    fn refused(self, path: &'static str, err: std::io::Error) -> Error {
        match (self, err.raw_os_error().map(Errno::from_raw_os_error)) {
            (Self::AppArmor(profile), Some(Errno::NOENT)) => Error::NoProfile(profile),
            (Self::SeLinux(label), Some(Errno::INVAL)) => Error::NoLabel(label),
            (label, _) => Error::Write { label: label.text(), path, err },
        }
    }
}

impl Labels {
    pub(super) fn open(process: &Process) -> Result<Self, Error> {
        let mut files = Vec::new();
        let mut keys = None;
        if let Some(profile) = &process.apparmor_profile {
            let label = Label::AppArmor(profile.clone());
            files.push(match open("/proc/thread-self/attr/apparmor/exec") {
                // Linux before 5.8 has one directory for all.
                Err(Error::Open { err: Errno::NOENT, .. }) => {
                    (open("/proc/thread-self/attr/exec")?, "/proc/thread-self/attr/exec", label)
                }
                other => (other?, "/proc/thread-self/attr/apparmor/exec", label),
            });
        }
        if let Some(label) = &process.selinux_label {
            files.push((
                open("/proc/thread-self/attr/exec")?,
                "/proc/thread-self/attr/exec",
                Label::SeLinux(label.clone()),
            ));
            keys = Some((open(KEY_CREATE)?, label.clone()));
        }
        Ok(Self { files, keys })
    }

    /// Lets the process's label be that of the keys that `make` makes: its session keyring is its own.
    pub(super) fn with_keys<T, E: From<Error>>(&mut self, make: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let Some((mut file, label)) = self.keys.take() else { return make() };
        let mut set = |text: &str| {
            file.write_all(text.as_bytes()).map_err(|err| Label::SeLinux(text.to_owned()).refused(KEY_CREATE, err))
        };
        set(&label)?;
        let made = make()?;
        // Its default, for whatever comes.
        set("\n")?;
        Ok(made)
    }

    pub(super) fn write(self) -> Result<(), Error> {
        for (mut file, path, label) in self.files {
            file.write_all(label.text().as_bytes()).map_err(|err| label.refused(path, err))?;
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
    fn a_label_that_the_kernel_does_not_know_is_named() {
        let refused =
            |label: Label, errno: i32| label.refused("/proc/x", std::io::Error::from_raw_os_error(errno)).to_string();
        let profile = || Label::AppArmor("web".to_owned());
        assert_eq!(refused(profile(), libc::ENOENT), "AppArmor profile \"web\" is not loaded on this host");
        assert_eq!(refused(profile(), libc::EACCES), "write label \"exec web\" to /proc/x");
        let label = Label::SeLinux("u:r:t:s0".to_owned());
        assert_eq!(refused(label, libc::EINVAL), "SELinux label \"u:r:t:s0\" is not valid in this host's policy");
    }

    #[test]
    fn cve_2025_52881_a_label_file_outside_proc_is_refused() {
        assert!(matches!(open("/dev/null"), Err(Error::NotProc("/dev/null"))));
    }
}
