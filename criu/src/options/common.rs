//! What dump, pre-dump, restore and the page server have in common.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use proto::criu::rpc;
use serde::{Deserialize, Serialize};

/// CRIU's log, a file in the work directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A plain file name: CRIU refuses one with a slash.
    pub file: String,
    /// 0 messages only, 1 errors, 2 warnings, 3 information, 4 debugging.
    pub level: i32,
}

impl Default for Log {
    /// `criu.log` at level 4, as runc logs.
    fn default() -> Self {
        Self { file: "criu.log".to_owned(), level: 4 }
    }
}

/// What CRIU does with cgroups (`--manage-cgroups=MODE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupMode {
    Ignore,
    None,
    Props,
    /// Make and restore properties of cgroups that CRIU had to make itself.
    Soft,
    Full,
    Strict,
    Default,
}

/// A new root for the cgroups of one controller, or of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupRoot {
    pub controller: Option<String>,
    pub path: String,
}

/// How CRIU keeps packets out while TCP connections are frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkLock {
    Iptables,
    Nftables,
    Skip,
}

/// A mount whose content comes from outside the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtMount {
    /// At dump the mount point as the container sees it; at restore the value that was given at dump.
    pub key: String,
    /// At dump the name to find it by at restore; at restore the source path.
    pub value: String,
}

/// How pages travel.
#[derive(Debug)]
pub enum Transport {
    /// CRIU ignores the address when [`Common::lazy_pages`] is set and listens on every address; name a
    /// [`Common::config_file`] with `address` in it then.
    Address { address: String, port: u16 },
    /// A connected stream socket, handed to CRIU under its own number.
    Socket(OwnedFd),
}

/// A page server to write to, or to be.
#[derive(Debug)]
pub struct PageServer {
    pub transport: Transport,
}

/// A page server is named by `ADDRESS:PORT`, an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a page server is ADDRESS:PORT, and {given:?} is not")]
pub struct InvalidPageServer {
    given: String,
}

/// TLS of the page server's connection.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    pub ca_certificate: Option<String>,
    pub ca_revocation_list: Option<String>,
    pub certificate: Option<String>,
    pub key: Option<String>,
    pub no_common_name_verification: bool,
}

/// What dump, pre-dump and restore have in common. `new` leaves everything off.
#[derive(Debug)]
pub struct Common {
    pub images_dir: OwnedFd,
    /// Where CRIU writes logs and statistics; the images' directory if there is none.
    pub work_dir: Option<OwnedFd>,
    pub log: Log,
    /// The root directory of the process tree; at restore a mount point whose parent is not overmounted.
    pub root: Option<PathBuf>,
    /// Send notifications. Without it CRIU runs through.
    pub notify: bool,
    /// A file whose options override this request (`org.criu.config` with runc).
    pub config_file: Option<PathBuf>,
    pub shell_job: bool,
    pub ext_unix_sk: bool,
    pub tcp_established: bool,
    pub tcp_close: bool,
    pub file_locks: bool,
    pub link_remap: bool,
    /// Bytes; the largest deleted file that is carried in the image. CRIU's default is 1 MiB.
    pub ghost_limit: Option<u32>,
    pub evasive_devices: bool,
    pub force_irmap: bool,
    pub irmap_scan_paths: Vec<String>,
    /// `--external` strings, for instance `mnt[/data]:data` or `net[4026531840]:extRootNetNS`.
    pub external: Vec<String>,
    pub ext_mounts: Vec<ExtMount>,
    pub auto_ext_mnt: bool,
    pub ext_sharing: bool,
    pub ext_masters: bool,
    pub skip_mounts: Vec<String>,
    pub enable_fs: Vec<String>,
    /// Restore the network namespace empty (`--empty-ns net`, the only one that CRIU knows).
    pub empty_net_ns: bool,
    pub manage_cgroups: Option<CgroupMode>,
    pub cgroup_roots: Vec<CgroupRoot>,
    pub cgroup_props: Option<String>,
    pub cgroup_props_file: Option<PathBuf>,
    pub cgroup_dump_controllers: Vec<String>,
    pub cgroup_yard: Option<PathBuf>,
    pub network_lock: Option<NetworkLock>,
    pub auto_dedup: bool,
    pub lazy_pages: bool,
    pub page_server: Option<PageServer>,
    pub tls: Option<Tls>,
    /// CRIU writes a zero byte here when the lazy page server is ready; superseded by `status-ready`.
    pub status_fd: Option<OwnedFd>,
    pub orphan_pts_master: bool,
    pub weak_sysctls: bool,
    /// Bit mask of `--cpu-cap`.
    pub cpu_cap: Option<u32>,
    /// Seconds that CRIU gives the processes to freeze; its default is 10.
    pub timeout: Option<u32>,
    pub unprivileged: bool,
    pub mntns_compat_mode: bool,
    pub skip_file_rwx_check: bool,
    pub display_stats: bool,
    /// Where the plugins are (`--libdir`). There is no field for it in the request: CRIU is given it in its environment.
    pub libdir: Option<PathBuf>,
}

impl PageServer {
    /// # Errors
    /// dup(2)'s, for a socket.
    pub fn try_clone(&self) -> io::Result<Self> {
        let transport = match &self.transport {
            Transport::Address { address, port } => Transport::Address { address: address.clone(), port: *port },
            Transport::Socket(socket) => Transport::Socket(socket.try_clone()?),
        };
        Ok(Self { transport })
    }

    pub(crate) fn inherited(&self) -> Option<BorrowedFd<'_>> {
        match &self.transport {
            Transport::Address { .. } => None,
            Transport::Socket(socket) => Some(socket.as_fd()),
        }
    }

    pub(crate) fn encode(&self) -> rpc::CriuPageServerInfo {
        match &self.transport {
            Transport::Address { address, port } => rpc::CriuPageServerInfo {
                address: Some(address.clone()),
                port: Some((*port).into()),
                ..Default::default()
            },
            Transport::Socket(socket) => rpc::CriuPageServerInfo { fd: Some(socket.as_raw_fd()), ..Default::default() },
        }
    }
}

impl FromStr for PageServer {
    type Err = InvalidPageServer;

    fn from_str(text: &str) -> Result<Self, InvalidPageServer> {
        let parse = || {
            let (address, port) = text.rsplit_once(':')?;
            let address = match address.strip_prefix('[') {
                Some(address) => address.strip_suffix(']')?,
                None => Some(address).filter(|address| !address.contains(':'))?,
            };
            let port = port.parse().ok().filter(|&port| port > 0)?;
            let address = Some(address).filter(|address| !address.is_empty())?.to_owned();
            Some(Self { transport: Transport::Address { address, port } })
        };
        parse().ok_or_else(|| InvalidPageServer { given: text.to_owned() })
    }
}

impl Common {
    pub fn new(images_dir: OwnedFd) -> Self {
        Self {
            images_dir,
            work_dir: None,
            log: Log::default(),
            root: None,
            notify: false,
            config_file: None,
            shell_job: false,
            ext_unix_sk: false,
            tcp_established: false,
            tcp_close: false,
            file_locks: false,
            link_remap: false,
            ghost_limit: None,
            evasive_devices: false,
            force_irmap: false,
            irmap_scan_paths: Vec::new(),
            external: Vec::new(),
            ext_mounts: Vec::new(),
            auto_ext_mnt: false,
            ext_sharing: false,
            ext_masters: false,
            skip_mounts: Vec::new(),
            enable_fs: Vec::new(),
            empty_net_ns: false,
            manage_cgroups: None,
            cgroup_roots: Vec::new(),
            cgroup_props: None,
            cgroup_props_file: None,
            cgroup_dump_controllers: Vec::new(),
            cgroup_yard: None,
            network_lock: None,
            auto_dedup: false,
            lazy_pages: false,
            page_server: None,
            tls: None,
            status_fd: None,
            orphan_pts_master: false,
            weak_sysctls: false,
            cpu_cap: None,
            timeout: None,
            unprivileged: false,
            mntns_compat_mode: false,
            skip_file_rwx_check: false,
            display_stats: false,
            libdir: None,
        }
    }

    /// The directory that the log is in.
    pub(crate) fn log_dir(&self) -> BorrowedFd<'_> {
        self.work_dir.as_ref().unwrap_or(&self.images_dir).as_fd()
    }

    /// Descriptors that the CRIU process must have, under their own numbers.
    pub(crate) fn inherited(&self) -> Vec<BorrowedFd<'_>> {
        self.page_server.as_ref().and_then(PageServer::inherited).into_iter().collect()
    }

    pub(crate) fn encode(&self) -> rpc::CriuOpts {
        let mut opts = rpc::CriuOpts {
            images_dir_fd: self.images_dir.as_raw_fd(),
            work_dir_fd: self.work_dir.as_ref().map(AsRawFd::as_raw_fd),
            log_file: Some(self.log.file.clone()),
            log_level: Some(self.log.level),
            root: self.root.as_deref().map(text),
            notify_scripts: flag(self.notify),
            config_file: self.config_file.as_deref().map(text),
            shell_job: flag(self.shell_job),
            ext_unix_sk: flag(self.ext_unix_sk),
            tcp_established: flag(self.tcp_established),
            tcp_close: flag(self.tcp_close),
            file_locks: flag(self.file_locks),
            link_remap: flag(self.link_remap),
            ghost_limit: self.ghost_limit,
            evasive_devices: flag(self.evasive_devices),
            force_irmap: flag(self.force_irmap),
            irmap_scan_paths: self.irmap_scan_paths.clone(),
            auto_dedup: flag(self.auto_dedup),
            lazy_pages: flag(self.lazy_pages),
            status_fd: self.status_fd.as_ref().map(AsRawFd::as_raw_fd),
            orphan_pts_master: flag(self.orphan_pts_master),
            weak_sysctls: flag(self.weak_sysctls),
            cpu_cap: self.cpu_cap,
            timeout: self.timeout,
            unprivileged: flag(self.unprivileged),
            mntns_compat_mode: flag(self.mntns_compat_mode),
            skip_file_rwx_check: flag(self.skip_file_rwx_check),
            display_stats: flag(self.display_stats),
            ..Default::default()
        };
        self.encode_external(&mut opts);
        self.encode_cgroups(&mut opts);
        self.encode_network(&mut opts);
        opts
    }

    fn encode_external(&self, opts: &mut rpc::CriuOpts) {
        opts.external = self.external.clone();
        opts.ext_mnt =
            self.ext_mounts.iter().map(|m| rpc::ExtMountMap { key: m.key.clone(), val: m.value.clone() }).collect();
        opts.auto_ext_mnt = flag(self.auto_ext_mnt);
        opts.ext_sharing = flag(self.ext_sharing);
        opts.ext_masters = flag(self.ext_masters);
        opts.skip_mnt = self.skip_mounts.clone();
        opts.enable_fs = self.enable_fs.clone();
    }

    fn encode_cgroups(&self, opts: &mut rpc::CriuOpts) {
        opts.manage_cgroups_mode = self.manage_cgroups.map(|mode| match mode {
            CgroupMode::Ignore => rpc::CriuCgMode::Ignore,
            CgroupMode::None => rpc::CriuCgMode::CgNone,
            CgroupMode::Props => rpc::CriuCgMode::Props,
            CgroupMode::Soft => rpc::CriuCgMode::Soft,
            CgroupMode::Full => rpc::CriuCgMode::Full,
            CgroupMode::Strict => rpc::CriuCgMode::Strict,
            CgroupMode::Default => rpc::CriuCgMode::Default,
        } as i32);
        opts.cg_root = self
            .cgroup_roots
            .iter()
            .map(|root| rpc::CgroupRoot { ctrl: root.controller.clone(), path: root.path.clone() })
            .collect();
        opts.cgroup_props = self.cgroup_props.clone();
        opts.cgroup_props_file = self.cgroup_props_file.as_deref().map(text);
        opts.cgroup_dump_controller = self.cgroup_dump_controllers.clone();
        opts.cgroup_yard = self.cgroup_yard.as_deref().map(text);
    }

    fn encode_network(&self, opts: &mut rpc::CriuOpts) {
        opts.empty_ns = self.empty_net_ns.then_some(libc::CLONE_NEWNET.unsigned_abs());
        opts.network_lock = self.network_lock.map(|lock| match lock {
            NetworkLock::Iptables => rpc::CriuNetworkLockMethod::Iptables,
            NetworkLock::Nftables => rpc::CriuNetworkLockMethod::Nftables,
            NetworkLock::Skip => rpc::CriuNetworkLockMethod::Skip,
        } as i32);
        opts.ps = self.page_server.as_ref().map(PageServer::encode);
        if let Some(tls) = &self.tls {
            opts.tls = Some(true);
            opts.tls_cacert = tls.ca_certificate.clone();
            opts.tls_cacrl = tls.ca_revocation_list.clone();
            opts.tls_cert = tls.certificate.clone();
            opts.tls_key = tls.key.clone();
            opts.tls_no_cn_verify = flag(tls.no_common_name_verification);
        }
    }
}

/// Unset rather than false: an option that is not sent leaves what CRIU's own configuration file says.
pub(crate) fn flag(on: bool) -> Option<bool> {
    on.then_some(true)
}

/// protobuf strings are UTF-8: a path that is not is sent with replacement characters, and CRIU does not find it.
pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_has_its_own_field_of_the_request() {
        type Case = (fn(&mut Common), fn(&rpc::CriuOpts) -> bool);
        let cases: &[Case] = &[
            (|common| common.shell_job = true, rpc::CriuOpts::shell_job),
            (|common| common.ext_unix_sk = true, rpc::CriuOpts::ext_unix_sk),
            (|common| common.tcp_established = true, rpc::CriuOpts::tcp_established),
            (|common| common.tcp_close = true, rpc::CriuOpts::tcp_close),
            (|common| common.file_locks = true, rpc::CriuOpts::file_locks),
            (|common| common.link_remap = true, rpc::CriuOpts::link_remap),
            (|common| common.auto_dedup = true, rpc::CriuOpts::auto_dedup),
            (|common| common.lazy_pages = true, rpc::CriuOpts::lazy_pages),
            (|common| common.orphan_pts_master = true, rpc::CriuOpts::orphan_pts_master),
            (|common| common.evasive_devices = true, rpc::CriuOpts::evasive_devices),
        ];
        for (at, (tell, _)) in cases.iter().enumerate() {
            let mut common = Common::new(std::fs::File::open("/").unwrap().into());
            tell(&mut common);
            let opts = common.encode();
            let heard: Vec<usize> = (0..cases.len()).filter(|&other| cases[other].1(&opts)).collect();
            assert_eq!(heard, [at]);
        }
    }

    #[test]
    fn a_page_server_is_an_address_and_a_port() {
        let parsed = |text: &str| match text.parse::<PageServer>().map(|server| server.transport) {
            Ok(Transport::Address { address, port }) => Some((address, port)),
            Ok(Transport::Socket(_)) | Err(_) => None,
        };
        assert_eq!(parsed("10.0.0.1:27").unwrap(), ("10.0.0.1".to_owned(), 27));
        assert_eq!(parsed("[::1]:27277").unwrap(), ("::1".to_owned(), 27277));
        for wrong in ["", "host", "host:", ":27", "host:x", "host:0", "host:65536", "::1:27", "[::1:27"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }
}
