//! `rtc checkpoint`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use runtime_core::container::{
    CgroupMode, CheckpointOptions, Compression, Container, CriuOptions, External, NetworkLock, PageServer, Recipient,
    SealOptions, Status, parse_network_lock,
};

use crate::context::Context;
use crate::error::Error;
use crate::preflight::{self, Format};
use crate::progress::Progress;

/// Checkpoint a running container
///
/// Its processes end and the container is deleted, unless it is left running. `rtc restore` makes it again from the
/// images, which say everything that was said here.
#[derive(Debug, clap::Args)]
pub(crate) struct Checkpoint {
    /// The container's id
    #[arg(value_name = "container-id")]
    id: String,

    /// Where CRIU's images go [default: checkpoint, in the current directory]
    #[arg(long, value_name = "DIR")]
    image_path: Option<PathBuf>,

    /// Where CRIU's log and statistics go
    #[arg(long, value_name = "DIR")]
    work_path: Option<PathBuf>,

    /// Images of an earlier pre-dump, relative to the image path
    #[arg(long, value_name = "DIR")]
    parent_path: Option<PathBuf>,

    /// Leave the container running
    #[arg(long)]
    leave_running: bool,

    /// Allow established TCP connections
    #[arg(long)]
    tcp_established: bool,

    /// Leave out established TCP connections: they are closed at restore
    #[arg(long)]
    tcp_close: bool,

    /// Leave out TCP connections that are not accepted yet
    #[arg(long)]
    tcp_skip_in_flight: bool,

    /// Give deleted files that are open a name again
    #[arg(long)]
    link_remap: bool,

    /// The largest deleted file that is carried, in bytes or with K, M or G behind it [default: 1M]
    #[arg(long, value_name = "SIZE", value_parser = ghost_limit)]
    ghost_limit: Option<u32>,

    /// Allow unix sockets whose other end is outside the container
    #[arg(long)]
    ext_unix_sk: bool,

    /// Allow a terminal that is not the container's own
    #[arg(long)]
    shell_job: bool,

    /// Leave the memory where it is and serve it to `criu lazy-pages`, at the address and port of --page-server
    #[arg(long)]
    lazy_pages: bool,

    /// Write a zero byte to this descriptor when the pages of --lazy-pages are being served
    #[arg(long, value_name = "FD", allow_negative_numbers = true)]
    status_fd: Option<i32>,

    /// Send the memory to the page server at ADDRESS:PORT instead of writing it into the images
    #[arg(long, value_name = "ADDRESS:PORT")]
    page_server: Option<String>,

    /// Carry file locks
    #[arg(long)]
    file_locks: bool,

    /// Write the memory alone, as the parent of a later checkpoint, and leave the container running
    #[arg(long)]
    pre_dump: bool,

    /// What to do with cgroups: soft, full, strict or ignore [default: soft]
    #[arg(long, value_name = "MODE", value_parser = cgroup_mode)]
    manage_cgroups_mode: Option<CgroupMode>,

    /// Create a namespace at restore, but leave what is in it to somebody else: network
    #[arg(long, value_name = "NAMESPACE")]
    empty_ns: Vec<String>,

    /// Free the parent's pages that this dump replaces
    #[arg(long)]
    auto_dedup: bool,

    /// Give the memory a checksum as well, which each restore then compares
    #[arg(long)]
    checksum_pages: bool,

    /// Compress the images on their way to the disk: zstd, or zstd:LEVEL with a level from 1 to 19 [default level: 1]
    #[arg(long, value_name = "ALGORITHM", num_args = 0..=1, require_equals = true, default_missing_value = "zstd")]
    compress: Option<Compression>,

    /// Encrypt the images on their way to the disk, for a recipient of age's (age1…); several times for several
    #[arg(long, value_name = "RECIPIENT")]
    encrypt_recipient: Vec<Recipient>,

    /// Encrypt the images for the recipients, or for the owners of the identities, in a file of age's
    #[arg(long, value_name = "FILE")]
    encrypt_key: Vec<PathBuf>,

    /// Only tell what would stand in the way, and touch nothing; fails if the checkpoint would be refused
    #[arg(long)]
    check: bool,

    /// With --check: also whether the host that this file of `rtc features --host` is from could restore it
    #[arg(long, value_name = "FILE", requires = "check")]
    target: Option<PathBuf>,

    /// With --check: text or json
    #[arg(long, value_name = "FORMAT", requires = "check", default_value = "text", hide_default_value = true)]
    format: Format,

    /// Do not look first for what CRIU would fail at
    #[arg(long, conflicts_with = "check")]
    skip_check: bool,

    /// Watch what is written to memory from now on, for a later dump that has this one for its parent
    #[arg(long)]
    track_mem: bool,

    /// How to keep packets out meanwhile: iptables, nftables or skip
    #[arg(long, value_name = "METHOD", value_parser = parse_network_lock)]
    network_lock: Option<NetworkLock>,

    /// A thing that is not in the images, under a name for restore: TYPE[ID]:NAME, as CRIU takes it
    #[arg(long, value_name = "EXTERNAL")]
    external: Vec<External>,

    /// Where CRIU's plugins are
    #[arg(long, value_name = "DIR")]
    libdir: Option<PathBuf>,

    /// End processes that exec has started with the container; a checkpoint does not carry them, and is refused else
    #[arg(long)]
    end_execs: bool,

    /// Keep what a checkpoint that fails has written, to be looked at; it cannot be restored
    #[arg(long)]
    keep_images: bool,
}

impl Checkpoint {
    pub(crate) fn run(self, context: &Context) -> Result<ExitCode, Error> {
        let container = context.load(&self.id)?;
        match container.status()? {
            status @ (Status::Creating | Status::Created | Status::Stopped) => {
                return Err(Error::CannotCheckpoint { status });
            }
            Status::Running | Status::Paused => {}
        }
        let options = self.options()?;
        if self.check {
            let target = self.target.as_deref().map(preflight::read_target).transpose()?;
            let report = container.check_checkpoint(&options, target.as_ref())?;
            return preflight::print(&report, self.format, "checkpointed");
        }
        let progress = Progress::of_dump(&container, &options.image_dir);
        container.checkpoint(&options)?;
        drop(progress);
        if !options.leave_running && !options.pre_dump {
            delete(&container);
        }
        Ok(ExitCode::SUCCESS)
    }

    fn options(&self) -> Result<CheckpointOptions, Error> {
        if let Some(other) = self.empty_ns.iter().find(|namespace| *namespace != "network") {
            return Err(Error::EmptyNamespace(other.clone()));
        }
        let image_dir = absolute(self.image_path.as_deref().unwrap_or(Path::new("checkpoint")))?;
        if let Some(parent) = &self.parent_path {
            check_parent(&image_dir, parent)?;
        }
        let mut options = CheckpointOptions::new(image_dir);
        options.work_dir = self.work_path.as_deref().map(absolute).transpose()?;
        options.parent = self.parent_path.clone();
        options.leave_running = self.leave_running;
        options.pre_dump = self.pre_dump;
        options.checksum_pages = self.checksum_pages;
        options.lazy_pages = self.lazy_pages;
        options.skip_preflight = self.skip_check;
        options.page_server = self.page_server()?;
        // Any number below zero is runc's way to say none.
        if let Some(number) = self.status_fd.filter(|number| *number >= 0) {
            let fd = runtime_core::descriptors::inherited(number);
            options.status_fd = Some(fd.ok_or(Error::StatusFd(number))?);
        }
        options.criu = CriuOptions {
            tcp_established: self.tcp_established,
            tcp_skip_in_flight: self.tcp_skip_in_flight,
            ext_unix_sk: self.ext_unix_sk,
            shell_job: self.shell_job,
            file_locks: self.file_locks,
            link_remap: self.link_remap,
            empty_net_ns: !self.empty_ns.is_empty(),
            auto_dedup: self.auto_dedup,
            manage_cgroups: self.manage_cgroups_mode,
            tcp_close: self.tcp_close,
            ghost_limit: self.ghost_limit,
            network_lock: self.network_lock,
            track_mem: self.track_mem,
            libdir: self.libdir.as_deref().map(absolute).transpose()?,
        };
        options.seal = SealOptions {
            compress: self.compress,
            recipients: self.encrypt_recipient.clone(),
            key_files: self.encrypt_key.iter().map(|path| absolute(path)).collect::<Result<_, _>>()?,
        };
        options.external = self.external.clone();
        options.end_execs = self.end_execs;
        options.keep_images = self.keep_images;
        Ok(options)
    }

    fn page_server(&self) -> Result<Option<PageServer>, Error> {
        let given = self.page_server.as_deref().filter(|text| !text.is_empty());
        given.map(|text| text.parse().map_err(|_| Error::PageServer)).transpose()
    }
}

/// The images are complete; what is left behind by a failure here `rtc delete` removes.
fn delete(container: &Container) {
    if let Err(err) = container.delete(true) {
        tracing::warn!("{}", runtime_core::error::chain(&err));
    }
}

fn check_parent(image_dir: &Path, parent: &Path) -> Result<(), Error> {
    if parent.is_absolute() {
        return Err(Error::AbsoluteParent);
    }
    let path = image_dir.join(parent);
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(Error::Parent { path, err: std::io::ErrorKind::NotADirectory.into() }),
        Err(err) => Err(Error::Parent { path, err }),
    }
}

pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|err| Error::File { operation: "resolve", path: path.to_owned(), err })
}

pub(crate) fn cgroup_mode(text: &str) -> Result<CgroupMode, &'static str> {
    match text {
        "" | "soft" => Ok(CgroupMode::Soft),
        "full" => Ok(CgroupMode::Full),
        "strict" => Ok(CgroupMode::Strict),
        "ignore" => Ok(CgroupMode::Ignore),
        _ => Err("Invalid manage cgroups mode"),
    }
}

fn ghost_limit(text: &str) -> Result<u32, &'static str> {
    runtime_core::container::parse_ghost_limit(text)
        .ok_or("a number of bytes below 4G, or one with K, M or G behind it")
}

#[cfg(test)]
mod tests {
    use clap::{FromArgMatches, Subcommand};

    use super::*;

    fn options(line: &str) -> Result<CheckpointOptions, Error> {
        let command = crate::args::Command::augment_subcommands(clap::Command::new("rtc"));
        let matches = command.try_get_matches_from(line.split(' ')).unwrap();
        match crate::args::Command::from_arg_matches(&matches).unwrap() {
            crate::args::Command::Checkpoint(checkpoint) => checkpoint.options(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_said_is_what_criu_is_told() {
        let options = options(
            "rtc checkpoint web --image-path /i --work-path w --tcp-established --file-locks --lazy-pages \
             --page-server [::1]:7 --status-fd -1 --manage-cgroups-mode ignore --empty-ns network --leave-running \
             --checksum-pages --tcp-close --ghost-limit 2M --network-lock skip --external mnt[/a]:a \
             --external tty[1:2] --libdir /p --track-mem --end-execs --keep-images --compress --encrypt-key k \
             --encrypt-key /l \
             --encrypt-recipient age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p",
        );
        let options = options.unwrap();
        assert_eq!(options.image_dir, Path::new("/i"));
        assert_eq!(options.work_dir, Some(std::env::current_dir().unwrap().join("w")));
        assert!(options.checksum_pages && options.leave_running && options.lazy_pages && !options.pre_dump);
        assert!(options.page_server.is_some() && options.status_fd.is_none());
        let seal = &options.seal;
        assert_eq!(seal.compress, Some("zstd".parse().unwrap()));
        assert_eq!(seal.key_files, [std::env::current_dir().unwrap().join("k"), "/l".into()]);
        assert!(seal.recipients[0].to_string().starts_with("age1ql3z7hjy54"));
        let criu = options.criu;
        assert!(criu.tcp_established && criu.file_locks && criu.empty_net_ns && !criu.shell_job);
        assert_eq!(criu.manage_cgroups, Some(CgroupMode::Ignore));
        assert!(criu.tcp_close && criu.track_mem && options.end_execs && options.keep_images);
        assert_eq!((criu.ghost_limit, criu.network_lock), (Some(2 << 20), Some(NetworkLock::Skip)));
        assert_eq!(criu.libdir.as_deref(), Some(Path::new("/p")));
        assert_eq!(options.external.iter().map(ToString::to_string).collect::<Vec<_>>(), ["mnt[/a]:a", "tty[1:2]"]);
    }

    #[test]
    fn a_compression_may_have_a_level() {
        let level = |given: &str| options(&format!("rtc checkpoint --compress={given} web")).unwrap().seal.compress;
        assert_eq!(level("zstd:7").unwrap().to_string(), "zstd:7");
        // The word behind it is the container's.
        assert!(options("rtc checkpoint --compress web").unwrap().seal.compress.is_some());
        assert!(options("rtc checkpoint web").unwrap().seal.compress.is_none());
    }

    #[test]
    fn a_check_has_its_own_options() {
        let command = crate::args::Command::augment_subcommands(clap::Command::new("rtc"));
        let parse = |line: &str| command.clone().try_get_matches_from(line.split(' ')).map(drop);
        parse("rtc checkpoint --check --format json --target /t web").unwrap();
        parse("rtc features --host").unwrap();
        for line in ["--format json web", "--target /t web", "--check", "--check --skip-check web"] {
            assert!(parse(&format!("rtc checkpoint {line}")).is_err(), "{line}");
        }
        assert!(options("rtc checkpoint web --skip-check").unwrap().skip_preflight);
    }

    #[test]
    fn what_cannot_be_is_refused_in_runcs_words() {
        for (given, message) in [
            ("--parent-path /x", "--parent-path must be relative"),
            ("--image-path /proc --parent-path none", "invalid --parent-path: stat /proc/none"),
            ("--empty-ns pid", "namespace \"pid\" is not supported"),
            ("--page-server nowhere", "Use --page-server ADDRESS:PORT to specify page server"),
            ("--status-fd 9999", "no descriptor 9999 for --status-fd"),
        ] {
            let err = options(&format!("rtc checkpoint web {given}")).unwrap_err();
            assert_eq!(err.to_string(), message);
        }
    }
}
