//! What a checkpoint and a restore can be told.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

pub use criu::{CgroupMode, NetworkLock, PageServer, Transport};
use serde::{Deserialize, Serialize};

use super::hold::{Holder, RestoreHolder};
use super::input::Input;
use crate::Pid;
use crate::container::CreateOptions;
pub use crate::sealed::{Compression, InvalidCompression, InvalidRecipient, Recipient, SealOptions};

/// What CRIU is told beside what follows from the container. Kept in the checkpoint; restore replays it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CriuOptions {
    /// Carry established TCP connections.
    pub tcp_established: bool,
    /// Close TCP connections at restore.
    pub tcp_close: bool,
    /// Leave out connections that are not accepted yet.
    pub tcp_skip_in_flight: bool,
    /// Allow unix sockets whose other end is outside.
    pub ext_unix_sk: bool,
    /// Allow a session whose leader is outside.
    pub shell_job: bool,
    pub file_locks: bool,
    /// Give deleted files that are open a name again.
    pub link_remap: bool,
    /// Bytes; the largest deleted file that is carried.
    pub ghost_limit: Option<u32>,
    /// Leave the network namespace empty for somebody else to fill.
    pub empty_net_ns: bool,
    /// Free the parent's pages that a dump replaces.
    pub auto_dedup: bool,
    /// `Soft` where nothing is said.
    pub manage_cgroups: Option<CgroupMode>,
    pub network_lock: Option<NetworkLock>,
    /// Watch what the processes write from now on, so that a later dump can have this one for its parent.
    pub track_mem: bool,
    /// Where CRIU's plugins are, such as the one for CUDA. CRIU's own directory if nothing is said. Not kept in the checkpoint:
    /// it is code that runs as root, and whoever made the images does not say which.
    #[serde(skip)]
    pub libdir: Option<PathBuf>,
}

/// What CRIU calls external (`--external TYPE[ID]:VALUE`): not in the images. At a dump `VALUE` is a name for it; at a restore
/// `ID` is that name, and `VALUE` what takes its place.
///
/// Of the mounts all that the spec has are known without it, under their mount points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    kind: String,
    id: String,
    value: String,
}

/// What is no [`External`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what is external is TYPE[ID]:VALUE, and {given:?} is not")]
pub struct InvalidExternal {
    given: String,
}

impl External {
    /// A mount: which, and its name or source.
    pub(crate) fn mount(&self) -> Option<(&str, &str)> {
        (self.kind == "mnt").then_some((&self.id, &self.value))
    }
}

impl fmt::Display for External {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.kind, self.id)?;
        if self.value.is_empty() { Ok(()) } else { write!(f, ":{}", self.value) }
    }
}

impl FromStr for External {
    type Err = InvalidExternal;

    /// Some types need no value.
    fn from_str(text: &str) -> Result<Self, InvalidExternal> {
        let parse = || {
            let (kind, rest) = text.split_once('[')?;
            // A path may have brackets in it; the last one ends the id.
            let (id, value) = match rest.rsplit_once("]:") {
                Some((id, value)) => (id, Some(value).filter(|value| !value.is_empty())?),
                None => (rest.strip_suffix(']')?, ""),
            };
            let is_kind = !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_lowercase());
            let complete = is_kind && !id.is_empty() && (kind != "mnt" || !value.is_empty());
            complete.then(|| Self { kind: kind.to_owned(), id: id.to_owned(), value: value.to_owned() })
        };
        parse().ok_or_else(|| InvalidExternal { given: text.to_owned() })
    }
}

impl CriuOptions {
    /// What was said at the checkpoint, with what is said now over it.
    pub(in crate::container) fn over(&self, recorded: &Self) -> Self {
        Self {
            // Who asks for closed connections does not want the recorded ones back.
            tcp_established: self.tcp_established || recorded.tcp_established && !self.tcp_close,
            tcp_close: self.tcp_close || recorded.tcp_close,
            tcp_skip_in_flight: self.tcp_skip_in_flight || recorded.tcp_skip_in_flight,
            ext_unix_sk: self.ext_unix_sk || recorded.ext_unix_sk,
            shell_job: self.shell_job || recorded.shell_job,
            file_locks: self.file_locks || recorded.file_locks,
            link_remap: self.link_remap || recorded.link_remap,
            ghost_limit: self.ghost_limit.or(recorded.ghost_limit),
            empty_net_ns: self.empty_net_ns || recorded.empty_net_ns,
            auto_dedup: self.auto_dedup || recorded.auto_dedup,
            manage_cgroups: self.manage_cgroups.or(recorded.manage_cgroups),
            network_lock: self.network_lock.or(recorded.network_lock),
            track_mem: self.track_mem || recorded.track_mem,
            libdir: self.libdir.clone().or_else(|| recorded.libdir.clone()),
        }
    }
}

/// How long a CRIU that does nothing is waited for. CRIU's own patience with a process that does not stop is ten seconds, and
/// a disk or a network may be slow for some more.
pub const STALL: Duration = Duration::from_secs(60);

/// How to checkpoint a container.
#[derive(Debug)]
pub struct CheckpointOptions {
    /// Where the images go; made with mode 0700 if it is missing.
    pub image_dir: PathBuf,
    /// Where CRIU writes its log and statistics, kept as it is afterwards. Without it they are in the container's state
    /// directory while CRIU runs, and of a failure the log stays in the bundle as `criu-dump.log`.
    pub work_dir: Option<PathBuf>,
    /// Images of a pre-dump, or of a dump with tracked memory, relative to `image_dir`: what has not changed since is not
    /// written again. Turns CRIU's memory tracking on.
    pub parent: Option<PathBuf>,
    /// The container runs on afterwards; without it the container is ended once its images are complete.
    pub leave_running: bool,
    /// Write the memory alone, as the `parent` of a later checkpoint; the container runs on. Needs a kernel that tracks
    /// memory (CONFIG_MEM_SOFT_DIRTY), and is refused by name where it does not. What it writes cannot be restored and is
    /// described by no `rtc.json`.
    pub pre_dump: bool,
    /// Leave the memory where it is, and serve it on `page_server`'s port until `criu lazy-pages` has fetched all of it; the
    /// call returns then, or fails when that failed, and the container runs on here. Whoever has started the restored one
    /// elsewhere by then must end it. Without a `page_server`, and with a `holder`, nobody serves it: while the dump is held,
    /// what is not in the images is to be read from the processes themselves.
    pub lazy_pages: bool,
    /// With `lazy_pages` the address and port to listen on, which must be an address; without it, where the pages go
    /// instead of into `image_dir`: a page server, or a connected socket to one.
    pub page_server: Option<PageServer>,
    /// One zero byte is written here when the pages of `lazy_pages` are being served.
    pub status_fd: Option<OwnedFd>,
    /// Give the pages a checksum too, when the container runs again or has ended: they are read once more then, and at each
    /// restore. All small files have one in any case.
    pub checksum_pages: bool,
    /// Compress or encrypt the images, on their way to `image_dir`.
    pub seal: SealOptions,
    /// Who writes the container's standard input, where that is in this process: what it has in hand is carried too.
    pub input: Option<Arc<dyn Input>>,
    /// What is external beside what the spec says.
    pub external: Vec<External>,
    /// Processes that exec has started may end with the container; without it such a container is not checkpointed. Who
    /// has them as children has to wait for them meanwhile: the init does not end before.
    pub end_execs: bool,
    /// What exec's processes are called, for the message.
    pub exec_ids: HashMap<Pid, String>,
    pub criu: CriuOptions,
    /// What a dump that fails has written stays, to be looked at; it cannot be restored. Without it the directory is as before.
    pub keep_images: bool,
    /// Do not look for what CRIU would fail at; CRIU finds it, with the container frozen.
    pub skip_preflight: bool,
    /// How long CRIU may take; without it, as long as it wants. The time that `holder` takes does not count.
    pub limit: Option<Duration>,
    /// How long CRIU may show no sign of life before it is ended, [`STALL`] where nothing else is said: neither CPU time nor
    /// a line in its log. Does not count while it serves lazy pages.
    pub stall: Duration,
    /// Decides, once the images are complete and the processes stand still, whether the checkpoint goes through.
    pub holder: Option<Arc<dyn Holder>>,
}

impl CheckpointOptions {
    pub fn new(image_dir: PathBuf) -> Self {
        Self {
            image_dir,
            work_dir: None,
            parent: None,
            leave_running: false,
            pre_dump: false,
            lazy_pages: false,
            page_server: None,
            status_fd: None,
            checksum_pages: false,
            seal: SealOptions::default(),
            input: None,
            external: Vec::new(),
            end_execs: false,
            exec_ids: HashMap::new(),
            criu: CriuOptions::default(),
            keep_images: false,
            skip_preflight: false,
            limit: None,
            stall: STALL,
            holder: None,
        }
    }
}

/// A checkpoint that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpointed {
    /// Sum of the sizes of all files in the image directory, in bytes.
    pub bytes: u64,
    /// From the request to the end of CRIU.
    pub total: Duration,
    /// How long the processes were stopped, by CRIU's count. `None` if CRIU left no statistics.
    pub frozen: Option<Duration>,
}

/// In an image directory whose memory is elsewhere: where it is to be had.
pub const PAGES_SOCKET: &str = "rtc-pages.sock";

/// How to restore a container.
#[derive(Debug)]
pub struct RestoreOptions {
    /// The container that comes into being: its id, bundle, stdio and the rest.
    pub create: CreateOptions,
    pub image_dir: PathBuf,
    /// As [`CheckpointOptions::work_dir`]; the log is `criu-restore.log`. With `lazy_pages` it is where the socket of
    /// `criu lazy-pages` is, and `image_dir` if nothing is said.
    pub work_dir: Option<PathBuf>,
    /// Fetch memory when it is used, from a running `criu lazy-pages`: for the images of a dump with
    /// [`CheckpointOptions::lazy_pages`].
    pub lazy_pages: bool,
    /// A file of age identities, one of which opens a checkpoint that is encrypted. With it no other is restored.
    pub decrypt_key: Option<PathBuf>,
    /// The same for whatever images are so, with a `criu lazy-pages` of our own ([`Started::arriving`]) that asks whoever
    /// listens on [`PAGES_SOCKET`] in `image_dir`, in the words of CRIU's page server.
    ///
    /// [`Started::arriving`]: crate::container::Started::arriving
    pub fetch_pages: bool,
    /// Over what the checkpoint itself says.
    pub criu: CriuOptions,
    /// Another AppArmor profile or SELinux context (`apparmor:NAME`, `selinux:CONTEXT`).
    pub lsm_profile: Option<String>,
    /// Another SELinux context for mounts.
    pub lsm_mount_context: Option<String>,
    /// What takes the place of what was external. A bind mount of the spec is named by its destination, and is one of another
    /// source then.
    pub external: Vec<External>,
    pub limit: Option<Duration>,
    /// As [`CheckpointOptions::stall`].
    pub stall: Duration,
    /// Decides, once everything is restored and nothing runs yet, whether the container comes into being.
    pub holder: Option<Arc<dyn RestoreHolder>>,
}

impl RestoreOptions {
    pub fn new(create: CreateOptions, image_dir: PathBuf) -> Self {
        Self {
            create,
            image_dir,
            work_dir: None,
            lazy_pages: false,
            decrypt_key: None,
            fetch_pages: false,
            criu: CriuOptions::default(),
            lsm_profile: None,
            lsm_mount_context: None,
            external: Vec::new(),
            limit: None,
            stall: STALL,
            holder: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_takes_what_the_checkpoint_says_and_adds_to_it() {
        let recorded = CriuOptions { tcp_established: true, ghost_limit: Some(1), ..CriuOptions::default() };
        let nothing = CriuOptions::default();
        assert_eq!(nothing.over(&recorded), recorded);
        let given = CriuOptions { file_locks: true, ghost_limit: Some(2), ..CriuOptions::default() };
        let both = given.over(&recorded);
        assert!(both.tcp_established && both.file_locks);
        assert_eq!(both.ghost_limit, Some(2));
    }

    #[test]
    fn a_checkpoint_names_no_code_for_a_restore() {
        let told = CriuOptions { libdir: Some("/p".into()), file_locks: true, ..CriuOptions::default() };
        assert!(!serde_json::to_string(&told).unwrap().contains("/p"));
        let read: CriuOptions = serde_json::from_str(r#"{"libdir":"/p","fileLocks":true}"#).unwrap();
        assert_eq!(read, CriuOptions { file_locks: true, ..CriuOptions::default() });
    }

    #[test]
    fn what_is_external_has_a_type_and_an_id() {
        for text in ["mnt[/a]:/b", "mnt[/a[0]:x]:b", "veth[eth0]:v@br0", "tty[1:2]", "file[1f:2a]"] {
            assert_eq!(text.parse::<External>().unwrap().to_string(), text);
        }
        assert_eq!("mnt[/a[0]:x]:b".parse::<External>().unwrap().mount(), Some(("/a[0]:x", "b")));
        assert_eq!("tty[1:2]".parse::<External>().unwrap().mount(), None);
        for wrong in ["", "mnt", "mnt[/a]", "mnt[/a]:", "[x]:y", "mnt[]:x", "M[x]:y", "mnt/a:b"] {
            assert!(wrong.parse::<External>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn connections_that_are_to_be_closed_are_not_restored() {
        let recorded = CriuOptions { tcp_established: true, ..CriuOptions::default() };
        let both = CriuOptions { tcp_close: true, ..CriuOptions::default() }.over(&recorded);
        assert!(both.tcp_close && !both.tcp_established);
    }
}
