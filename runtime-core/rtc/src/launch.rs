//! What the commands that make a process have in common: `create`, `run`, `restore` and `exec`.
//!
//! ```text
//!   Launch::foreground / detached   the sockets are connected, signals held back, the host's terminal found
//!   stdio                           what the process gets
//!       (the process is made)
//!   attach                          its terminal goes to the console socket, or is relayed
//!       (the process runs)
//!   wait                            foreground: signals go on to it, until it ends
//! ```

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::ExitCode;

use runtime_core::Pid;
use runtime_core::children::Child;
use runtime_core::container::{Container, CreateOptions, Started, Stdio};

use crate::bundle::Bundle;
use crate::checkpoint::absolute;
use crate::context::{Context, parse_id};
use crate::descriptors;
use crate::error::Error;
use crate::fd_socket::FdSocket;
use crate::foreground::Foreground;
use crate::notify::Host;

/// The options of a new container.
#[derive(Debug, clap::Args)]
pub(crate) struct New {
    /// The new container's id
    #[arg(value_name = "container-id")]
    id: String,

    /// The bundle's directory [default: the current one]
    #[arg(short, long, value_name = "DIR")]
    pub(crate) bundle: Option<PathBuf>,

    /// Read the spec from FILE, below the bundle, in place of its config.json
    #[arg(short = 'f', long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Write the process's id to FILE
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,

    /// Do not pivot into the root filesystem, which is then possible on a ramdisk
    #[arg(long)]
    no_pivot: bool,

    /// Let the container have the caller's session keyring
    #[arg(long)]
    no_new_keyring: bool,

    /// Pass N descriptors more (after stdio and those of $LISTEN_FDS)
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u16,
}

impl New {
    /// Before the bundle's directory is entered.
    pub(crate) fn absolute(mut self) -> Result<Self, Error> {
        self.pid_file = pid_file(self.pid_file)?;
        Ok(self)
    }

    pub(crate) fn id(&self) -> Result<runtime_core::ContainerId, Error> {
        parse_id(&self.id)
    }

    pub(crate) fn options(self, context: &Context, bundle: Bundle, stdio: Stdio) -> Result<CreateOptions, Error> {
        let Bundle { path, mut spec, config } = bundle;
        let passed = descriptors::of_init(self.preserve_fds)?;
        if let Some(mut process) = spec.process().clone().filter(|_| !passed.env.is_empty()) {
            let env = process.env().iter().flatten().cloned().chain(passed.env).collect();
            process.set_env(Some(env));
            spec.set_process(Some(process));
        }
        let mut options = CreateOptions::new(parse_id(&self.id)?, context.root.clone(), path, spec, stdio);
        options.config = config;
        options.no_pivot_root = self.no_pivot;
        options.no_new_keyring = self.no_new_keyring;
        options.pid_file = self.pid_file;
        options.preserve_fds = passed.fds;
        options.notify_socket = Host::given().is_some();
        options.rootless_cgroup = context.rootless_cgroup()?;
        options.cgroup_driver = context.cgroup_driver()?;
        Ok(options)
    }
}

/// Absolute; none for an empty path.
pub(crate) fn pid_file(path: Option<PathBuf>) -> Result<Option<PathBuf>, Error> {
    path.filter(|path| !path.as_os_str().is_empty()).map(|path| absolute(&path)).transpose()
}

/// Who gets what of a process that this one does not stay with.
#[derive(Debug, clap::Args)]
pub(crate) struct Console {
    /// Send the terminal's master to the unix socket at PATH
    #[arg(long, value_name = "PATH")]
    console_socket: Option<PathBuf>,

    /// Send a pidfd of the process to the unix socket at PATH
    #[arg(long, value_name = "PATH")]
    pidfd_socket: Option<PathBuf>,
}

pub(crate) struct Launch {
    terminal: bool,
    console: Option<FdSocket>,
    pidfd: Option<FdSocket>,
    foreground: Option<Foreground>,
}

impl Launch {
    /// The caller ends once the process is made.
    ///
    /// # Errors
    /// A terminal and no socket for it, or the other way round; a socket that nobody listens at.
    pub(crate) fn detached(console: &Console, terminal: bool) -> Result<Self, Error> {
        match (terminal, console.given()) {
            (true, None) => Err(Error::NoConsoleSocket),
            (false, Some(_)) => Err(Error::NeedlessConsoleSocket),
            (_, path) => {
                let connect = |path: &PathBuf| FdSocket::connect(path);
                Ok(Self {
                    terminal,
                    console: path.map(connect).transpose()?,
                    pidfd: console.pidfd_socket.as_ref().map(connect).transpose()?,
                    foreground: None,
                })
            }
        }
    }

    /// The caller stays with the process, and reaps orphans with `subreaper`.
    ///
    /// # Errors
    /// A console socket, which nobody would get a terminal from; no terminal here for a process that wants one.
    pub(crate) fn foreground(console: &Console, terminal: bool, subreaper: bool) -> Result<Self, Error> {
        if console.given().is_some() {
            return Err(Error::NeedlessConsoleSocket);
        }
        let pidfd = console.pidfd_socket.as_ref().map(|path| FdSocket::connect(path)).transpose()?;
        let foreground = Foreground::new(terminal, subreaper)?;
        Ok(Self { terminal, console: None, pidfd, foreground: Some(foreground) })
    }

    pub(crate) fn stdio(&mut self) -> Result<Stdio, Error> {
        if self.terminal {
            return Ok(Stdio::Terminal);
        }
        if let Some(foreground) = &mut self.foreground {
            return foreground.stdio();
        }
        let own = |fd: std::os::fd::BorrowedFd<'_>| -> Result<OwnedFd, Error> {
            fd.try_clone_to_owned().map_err(Error::system("duplicate the standard streams"))
        };
        Ok(Stdio::Fds {
            stdin: own(std::io::stdin().as_fd())?,
            stdout: own(std::io::stdout().as_fd())?,
            stderr: own(std::io::stderr().as_fd())?,
        })
    }

    /// `kind` is what goes with the pidfd: "standard" for a container's init, "setns" for a further process.
    pub(crate) fn attach(&mut self, started: &mut Started, kind: &str) -> Result<(), Error> {
        if let Some(socket) = &self.pidfd {
            socket.send(kind, started.child.pidfd())?;
        }
        if let Some(master) = started.console.as_ref().filter(|_| !started.input.is_empty()) {
            let master = master.try_clone().map_err(Error::system("duplicate the terminal"))?;
            let typed = std::fs::File::from(master).write_all(&started.input);
            typed.map_err(Error::system("type what was not read"))?;
        }
        match (started.console.take(), &self.console, &mut self.foreground) {
            // The name that Go gives a master.
            (Some(master), Some(socket), _) => socket.send("/dev/ptmx", master.as_fd()),
            (master, None, Some(foreground)) => foreground.attach(master),
            _ => Ok(()),
        }
    }

    /// Passes on what the container has to say to the service manager: meanwhile in the foreground, and before this returns
    /// for a container that nobody stays with. It is no error of the container's if that cannot be done.
    pub(crate) fn notify(&self, host: Host, socket: UnixDatagram, started: &Started) {
        let pidfd = started.child.pidfd();
        let passed_on = match &self.foreground {
            None => host.pass_on(&socket, started.child.pid, pidfd),
            Some(_) => host.pass_on_meanwhile(socket, pidfd),
        };
        if let Err(err) = passed_on {
            tracing::warn!("{}", runtime_core::error::chain(&err));
        }
    }

    /// The same for a restored container, which has said it in its earlier life.
    pub(crate) fn notify_restored(&self, host: &Host, started: &Started) {
        let own = Pid::new(std::process::id().cast_signed()).filter(|_| self.foreground.is_some());
        if let Err(err) = host.restored(own.unwrap_or(started.child.pid)) {
            tracing::warn!("{}", runtime_core::error::chain(&err));
        }
    }

    /// Returns at once for a detached process, else when it has ended, with its exit code.
    pub(crate) fn wait(self, child: &Child) -> Result<ExitCode, Error> {
        match self.foreground {
            None => Ok(ExitCode::SUCCESS),
            Some(foreground) => foreground.wait(child),
        }
    }
}

impl Console {
    fn given(&self) -> Option<&PathBuf> {
        self.console_socket.as_ref().filter(|path| !path.as_os_str().is_empty())
    }
}

/// Ends and removes a container whose command failed.
pub(crate) fn undo(container: &Container) {
    warn(container.delete(true));
}

/// Removes a container whose init has ended. Nothing has to be looked for and ended, which takes longer than the rest.
pub(crate) fn remove(container: &Container) {
    warn(container.delete(false));
}

/// The command's own end is not to be changed by what is left behind.
fn warn(deleted: runtime_core::Result<()>) {
    if let Err(err) = deleted {
        tracing::warn!("{}", runtime_core::error::chain(&err));
    }
}
