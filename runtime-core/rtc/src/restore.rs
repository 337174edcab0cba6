//! `rtc restore`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use runtime_core::container::{
    CgroupMode, Container, CriuOptions, External, NetworkLock, RestoreCheck, RestoreOptions, parse_network_lock,
};

use crate::bundle::Bundle;
use crate::checkpoint::{absolute, cgroup_mode};
use crate::context::Context;
use crate::error::Error;
use crate::launch::{Console, Launch, New, remove, undo};
use crate::notify::Host;
use crate::preflight::{self, Format};
use crate::progress::Progress;

/// Restore a container from a checkpoint
///
/// The checkpoint says how it was made; what is given here is over it.
#[derive(Debug, clap::Args)]
pub(crate) struct Restore {
    #[command(flatten)]
    new: New,

    #[command(flatten)]
    console: Console,

    /// Where CRIU's images are [default: checkpoint, in the current directory]
    #[arg(long, value_name = "DIR")]
    image_path: Option<PathBuf>,

    /// Where CRIU's log goes
    #[arg(long, value_name = "DIR")]
    work_path: Option<PathBuf>,

    /// Return once the container runs
    #[arg(short, long)]
    detach: bool,

    /// Do not delete the container at the end
    #[arg(long)]
    keep: bool,

    /// Do not reap the orphans of the container
    #[arg(long)]
    no_subreaper: bool,

    /// Allow established TCP connections
    #[arg(long)]
    tcp_established: bool,

    /// Close TCP connections
    #[arg(long)]
    tcp_close: bool,

    /// Allow unix sockets whose other end is outside the container
    #[arg(long)]
    ext_unix_sk: bool,

    /// Allow a terminal that is not the container's own
    #[arg(long)]
    shell_job: bool,

    /// Restore file locks
    #[arg(long)]
    file_locks: bool,

    /// What to do with cgroups: soft, full, strict or ignore [default: soft]
    #[arg(long, value_name = "MODE", value_parser = cgroup_mode)]
    manage_cgroups_mode: Option<CgroupMode>,

    /// Create a namespace, but leave what is in it to somebody else: network
    #[arg(long, value_name = "NAMESPACE")]
    empty_ns: Vec<String>,

    /// Bring memory from a "criu lazy-pages" as the processes touch it
    #[arg(long)]
    lazy_pages: bool,

    /// Free the parent's pages that a dump has replaced
    #[arg(long)]
    auto_dedup: bool,

    /// A file of age's identities, one of which opens the checkpoint; one that is not encrypted is then refused
    #[arg(long, value_name = "FILE")]
    decrypt_key: Option<PathBuf>,

    /// Another security profile, as TYPE:NAME
    #[arg(long, value_name = "TYPE:NAME")]
    lsm_profile: Option<String>,

    /// Another SELinux context for mounts
    #[arg(long, value_name = "CONTEXT")]
    lsm_mount_context: Option<String>,

    /// Only tell what would stand in the way, and make nothing; fails if the restore would be refused
    #[arg(long)]
    check: bool,

    /// With --check: text or json
    #[arg(long, value_name = "FORMAT", requires = "check", default_value = "text", hide_default_value = true)]
    format: Format,

    /// How packets were kept out at the checkpoint: iptables, nftables or skip
    #[arg(long, value_name = "METHOD", value_parser = parse_network_lock)]
    network_lock: Option<NetworkLock>,

    /// What takes the place of a thing that is not in the images: TYPE[NAME]:VALUE, as CRIU takes it. mnt[DESTINATION]:SOURCE
    /// gives a bind mount of the spec another source
    #[arg(long, value_name = "EXTERNAL")]
    external: Vec<External>,

    /// Where CRIU's plugins are
    #[arg(long, value_name = "DIR")]
    libdir: Option<PathBuf>,
}

impl Restore {
    pub(crate) fn run(self, context: &Context) -> Result<ExitCode, Error> {
        if let Some(other) = self.empty_ns.iter().find(|namespace| *namespace != "network") {
            return Err(Error::EmptyNamespace(other.clone()));
        }
        // Before the bundle's directory is entered.
        let image_dir = absolute(self.image_path.as_deref().unwrap_or(Path::new("checkpoint")))?;
        let work_dir = self.work_path.as_deref().map(absolute).transpose()?;
        let libdir = self.libdir.as_deref().map(absolute).transpose()?;
        let decrypt_key = self.decrypt_key.as_deref().map(absolute).transpose()?;
        let new = self.new.absolute()?;
        let bundle = Bundle::load(new.bundle.as_deref(), new.config.as_deref())?;
        if self.check {
            let check = RestoreCheck {
                id: &new.id()?,
                image_dir: &image_dir,
                bundle: &bundle.path,
                spec: &bundle.spec,
                config: bundle.config.as_deref(),
                cgroup_driver: context.cgroup_driver()?,
                decrypt_key: decrypt_key.as_deref(),
            };
            return preflight::print(&Container::check_restore(&check)?, self.format, "restored");
        }
        let mut launch = match self.detach {
            true => Launch::detached(&self.console, bundle.terminal())?,
            false => Launch::foreground(&self.console, bundle.terminal(), !self.no_subreaper)?,
        };
        let mut options = RestoreOptions::new(new.options(context, bundle, launch.stdio()?)?, image_dir);
        options.work_dir = work_dir;
        options.criu = CriuOptions {
            tcp_established: self.tcp_established,
            ext_unix_sk: self.ext_unix_sk,
            shell_job: self.shell_job,
            file_locks: self.file_locks,
            empty_net_ns: !self.empty_ns.is_empty(),
            auto_dedup: self.auto_dedup,
            manage_cgroups: self.manage_cgroups_mode,
            tcp_close: self.tcp_close,
            network_lock: self.network_lock,
            libdir,
            ..CriuOptions::default()
        };
        options.lazy_pages = self.lazy_pages;
        options.decrypt_key = decrypt_key;
        options.lsm_profile = self.lsm_profile;
        options.lsm_mount_context = self.lsm_mount_context;
        options.external = self.external;
        let progress = Progress::of_restore(&options.image_dir);
        let (container, mut started) = Container::restore(options)?;
        // Before the container's own output comes.
        drop(progress);
        launch.attach(&mut started, "standard").inspect_err(|_| undo(&container))?;
        if let Some(host) = Host::given() {
            launch.notify_restored(&host, &started);
        }
        let code = launch.wait(&started.child).inspect_err(|_| undo(&container))?;
        if !self.detach && !self.keep {
            remove(&container);
        }
        Ok(code)
    }
}
