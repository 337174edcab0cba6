//! The steps that need no module of their own.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use oci_spec::runtime::Hook;
use rustix::fs::Mode;
use rustix::io::Errno;

use super::capabilities::Sets;
use super::channel::{self, Channel};
use super::descriptors::Descriptors;
use super::executable::{self, Program};
use super::labels::{self, Labels};
use super::message::{Environment, Go, Process, Received, Reply};
use super::{console, rlimits, user};
use crate::hooks::{self, Surroundings};
use crate::rootfs::{self, Console, Plan};
use crate::seccomp;

type Given = Environment<Plan, Hook>;

/// The init at work.
pub(super) struct Init<'a> {
    pub(super) channel: &'a mut Channel,
    pub(super) orders: &'a Received,
    pub(super) descriptors: Descriptors,
    /// What was degraded, for the parent to log.
    pub(super) warnings: Vec<String>,
    /// The process's, less what is not ours to give.
    capability_sets: Sets,
    /// Open until the parent has a duplicate.
    listener: Option<OwnedFd>,
    in_working_directory: bool,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum DirectoryError {
    #[error("chdir to cwd ({cwd:?}) set in config.json failed")]
    Change {
        cwd: std::path::PathBuf,
        #[source]
        err: Errno,
    },
    #[error("mkdir {cwd:?} for cwd set in config.json")]
    Make {
        cwd: std::path::PathBuf,
        #[source]
        err: std::io::Error,
    },
    #[error("look whether the working directory {cwd:?} is in the container's root")]
    Look {
        cwd: std::path::PathBuf,
        #[source]
        err: Errno,
    },
    #[error("the working directory {cwd:?} is outside of the container's root")]
    Outside { cwd: std::path::PathBuf },
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum KeyringError {
    #[error(transparent)]
    Label(#[from] labels::Error),
    #[error("join the session keyring")]
    Join(#[source] Errno),
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum FilterError {
    #[error(transparent)]
    Seccomp(#[from] seccomp::Error),
    #[error(transparent)]
    Channel(#[from] channel::Error),
    #[error("look for a free descriptor")]
    Descriptor(#[source] Errno),
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum MountsError {
    #[error(transparent)]
    Channel(#[from] channel::Error),
    #[error("no mount came for entry {0} of the mounts")]
    Missing(usize),
    #[error(transparent)]
    Rootfs(#[from] rootfs::Error),
}

impl MountsError {
    pub(super) fn rootfs(&self) -> Option<&rootfs::Error> {
        match self {
            Self::Rootfs(err) => Some(err),
            Self::Channel(_) | Self::Missing(_) => None,
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum ConsoleError {
    #[error(transparent)]
    Rootfs(#[from] rootfs::Error),
    #[error("make the pty the controlling terminal")]
    Take(#[source] Errno),
}

impl<'a> Init<'a> {
    pub(super) fn new(channel: &'a mut Channel, orders: &'a Received, descriptors: Descriptors) -> Self {
        Self {
            channel,
            orders,
            descriptors,
            warnings: Vec::new(),
            capability_sets: Sets::default(),
            listener: None,
            in_working_directory: false,
        }
    }

    pub(super) fn join_mount_namespace(&mut self) -> Result<(), Errno> {
        let Some(namespace) = self.descriptors.mount_namespace.take() else { return Ok(()) };
        // A pidfd or a namespace's own descriptor. Root and working directory become the namespace's.
        nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNS)
            .map_err(|err| Errno::from_raw_os_error(err as i32))
    }

    pub(super) fn mounts(&self, environment: &Given) -> Result<(), MountsError> {
        environment.rootfs.mount(|place| {
            if !environment.sources.contains(&place) {
                return Ok(None);
            }
            self.channel.send(&Reply::Source { place })?;
            let (Go, mount) = self.channel.receive_with()?;
            mount.map(Some).ok_or(MountsError::Missing(place))
        })
    }

    /// A keyring of the container's own, so that it does not see the keys of whoever started the runtime.
    pub(super) fn keyring(&mut self, labels: &mut Labels) -> Result<(), KeyringError> {
        if !self.orders.keyring {
            return Ok(());
        }
        labels.with_keys(|| self.join_keyring().map_err(KeyringError::Join))
    }

    fn join_keyring(&self) -> Result<(), Errno> {
        let name = CString::new(format!("_ses.{}", self.orders.id)).map_err(|_| Errno::INVAL)?;
        match crate::sys::keyring::join_session(&name) {
            // A kernel without keyrings has nothing to hide.
            Err(Errno::NOSYS) => Ok(()),
            Err(err) => Err(err),
            // Only a new container's keyring has to be made searchable; it is then so for further processes.
            Ok(_) if self.orders.environment.is_none() => Ok(()),
            Ok(key) => crate::sys::keyring::allow_user_search(key),
        }
    }

    /// The parent runs prestart and createRuntime hooks meanwhile.
    pub(super) fn parent_hooks(&self, environment: &Given) -> Result<(), channel::Error> {
        if !environment.parent_hooks {
            return Ok(());
        }
        self.channel.send(&Reply::Hooks)?;
        self.channel.receive::<Go>().map(drop)
    }

    /// From the creator, or from whoever comes to the start socket. What fails afterwards is told to that one.
    pub(super) fn wait_for_start(&mut self) -> Result<(), channel::Error> {
        match self.descriptors.start_socket.take() {
            None => self.channel.receive::<Go>().map(drop),
            Some(socket) => {
                *self.channel = Channel::accept_start(socket)?;
                Ok(())
            }
        }
    }

    /// The pty's master, if the process is to have one.
    pub(super) fn console(
        &self,
        open: impl FnOnce() -> Result<Console, rootfs::Error>,
    ) -> Result<Option<OwnedFd>, ConsoleError> {
        let process = &self.orders.process;
        if !process.terminal {
            return Ok(None);
        }
        console::take(open()?, process.console_size).map(Some).map_err(ConsoleError::Take)
    }

    /// A path inside the container's root, after pivot_root; runc makes it as well.
    pub(super) fn make_working_directory(&self) -> Result<(), DirectoryError> {
        let cwd = &self.orders.process.cwd;
        if cwd.as_os_str() == "/" || cwd.is_dir() {
            return Ok(());
        }
        std::fs::create_dir_all(cwd).map_err(|err| DirectoryError::Make { cwd: cwd.clone(), err })
    }

    pub(super) fn rlimits(&mut self) -> Result<(), rlimits::Error> {
        rlimits::apply(None, &self.orders.process.rlimits, &mut self.warnings)
    }

    pub(super) fn no_new_privileges(&self) -> Result<(), Errno> {
        if self.orders.process.no_new_privileges { rustix::thread::set_no_new_privs(true) } else { Ok(()) }
    }

    pub(super) fn early_seccomp(&mut self) -> Result<(), FilterError> {
        match &self.orders.seccomp {
            Some(filter) if !self.orders.process.no_new_privileges => self.install(filter),
            _ => Ok(()),
        }
    }

    /// With an agent, while its creator is there to tell it.
    pub(super) fn notifying_seccomp(&mut self) -> Result<(), FilterError> {
        match &self.orders.seccomp {
            Some(filter) if self.orders.process.no_new_privileges && filter.listener.is_some() => self.install(filter),
            _ => Ok(()),
        }
    }

    /// As late as can be, so that the filter need not allow what the steps before do.
    pub(super) fn late_seccomp(&mut self) -> Result<(), FilterError> {
        match &self.orders.seccomp {
            Some(filter) if self.orders.process.no_new_privileges && filter.listener.is_none() => self.install(filter),
            _ => Ok(()),
        }
    }

    fn install(&mut self, filter: &seccomp::Filter) -> Result<(), FilterError> {
        if filter.listener.is_some() {
            // The kernel takes the lowest number that is free, and there is no other thread to take it first.
            let next = rustix::io::fcntl_dupfd_cloexec(self.channel.as_fd(), 0).map_err(FilterError::Descriptor)?;
            let fd = next.as_raw_fd();
            drop(next);
            self.channel.send(&Reply::Listener { fd })?;
        }
        self.listener = seccomp::install(filter)?;
        Ok(())
    }

    pub(super) fn limit_bounding(&mut self) -> Result<(), Errno> {
        let mut sets = self.orders.process.capabilities;
        sets.limit_to_ours(&mut self.warnings)?;
        self.capability_sets = sets;
        sets.limit_bounding()
    }

    pub(super) fn capabilities(&mut self) -> Result<(), Errno> {
        self.capability_sets.apply(&mut self.warnings)
    }

    /// With the runtime's rights first: the directory may be closed to the user, and to root over NFS.
    pub(super) fn try_working_directory(&mut self) -> Result<(), DirectoryError> {
        match self.change_directory() {
            Err(DirectoryError::Change { err: Errno::ACCESS, .. }) => Ok(()),
            other => other,
        }
    }

    pub(super) fn working_directory(&mut self) -> Result<(), DirectoryError> {
        if self.in_working_directory { Ok(()) } else { self.change_directory() }
    }

    fn change_directory(&mut self) -> Result<(), DirectoryError> {
        let cwd = &self.orders.process.cwd;
        rustix::process::chdir(cwd).map_err(|err| DirectoryError::Change { cwd: cwd.clone(), err })?;
        // The kernel says "(unreachable)" for a directory that a leaked descriptor has led to (CVE-2024-21626). Looked at as
        // early as can be: a seccomp filter may refuse getcwd(2), and nothing changes the directory any more.
        match rustix::process::getcwd(Vec::new()) {
            Ok(path) if path.as_bytes().starts_with(b"/") => {}
            Ok(_) | Err(Errno::NOENT) => return Err(DirectoryError::Outside { cwd: cwd.clone() }),
            Err(err) => return Err(DirectoryError::Look { cwd: cwd.clone(), err }),
        }
        self.in_working_directory = true;
        Ok(())
    }

    pub(super) fn umask(&self) {
        rustix::process::umask(Mode::from_bits_truncate(self.orders.process.umask.unwrap_or(0o022)));
    }

    pub(super) fn find_program(&self) -> Result<Program, executable::Error> {
        let process = &self.orders.process;
        Program::find(&process.args, &user::environment(&process.env, process.uid))
    }
}

/// Only now: its root is the cgroup that the caller is in, and the parent has put us into ours before the orders.
pub(super) fn cgroup_namespace(environment: &Given) -> Result<(), Errno> {
    if !environment.new_cgroup_namespace {
        return Ok(());
    }
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP).map_err(|err| Errno::from_raw_os_error(err as i32))
}

pub(super) fn loopback(environment: &Given) -> Result<(), Errno> {
    if environment.new_network_namespace { crate::sys::net::loopback_up() } else { Ok(()) }
}

pub(super) fn hostname(environment: &Given) -> Result<(), Errno> {
    environment.hostname.as_ref().map_or(Ok(()), |name| rustix::system::sethostname(name.as_bytes()))
}

pub(super) fn domainname(environment: &Given) -> Result<(), Errno> {
    environment.domainname.as_ref().map_or(Ok(()), |name| rustix::system::setdomainname(name.as_bytes()))
}

pub(super) fn create_container_hooks(environment: &Given) -> Result<(), hooks::Error> {
    let state = environment.hook_state.at("creating", Some(own_pid()));
    // In the root filesystem to be, as with runc: hooks change it by relative paths.
    let surroundings = Surroundings { directory: Some(environment.rootfs.root()), ..Surroundings::default() };
    hooks::run_in(surroundings, "createContainer", &environment.create_container, &state)
}

/// With the process's own environment, as with runc.
pub(super) fn start_container_hooks<'a>(
    environment: &'a Given,
    process: &Process,
) -> Result<hooks::Prepared<'a>, hooks::Error> {
    let row = environment.start_container.as_slice();
    let state = environment.hook_state.at("created", Some(own_pid()));
    let env = if row.is_empty() { Vec::new() } else { user::environment(&process.env, process.uid) };
    let surroundings = Surroundings { env: Some(&env), ..Surroundings::default() };
    hooks::prepare(surroundings, "startContainer", row, &state)
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}
