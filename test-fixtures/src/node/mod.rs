//! A node: a host of its own, as far as containers can tell, in namespaces and cgroups of this host.
//!
//! Start, in order: a fresh cgroup in every hierarchy; a shell that joins them and unshares mount, pid, uts, net, ipc
//! and cgroup namespaces (`enter.sh`); the node's file system, an overlay on the shared root tree with its upper layer
//! on tmpfs, and pivot_root (`init.sh`); `tini` as PID 1; rtc's binaries and containerd's configuration; containerd.
//! Nothing of it is mounted on the host, and nothing is shared between nodes but the root tree's files.
//!
//! A node's life hangs on a pipe, the lifeline, that its process holds open and PID 1's child reads: a node ends with
//! its [`Node`] as well as with a test that is killed. Its cgroups are removed by `drop`, or by the next node's start.
//!
//! | module | what |
//! | --- | --- |
//! | `exec` | [`Node::exec`], [`Node::run`], [`Node::spawn`], [`Node::spawn_tty`] |
//! | `containerd` | stop, start and kill containerd, read its log |
//! | `files` | read, write and copy a node's files |
//! | `leaks` | [`Node::snapshot`], [`Node::assert_no_leaks`] |
//! | `link` | [`Node::link`], [`Node::bridge`] |
//! | `cgroups` | the cgroup directories on the host |

mod cgroups;
mod containerd;
mod exec;
mod files;
mod leaks;
mod link;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

pub use self::cgroups::Cgroups;
use self::cgroups::{Hierarchy, NodeCgroups};
pub use self::exec::{DEADLINE, Output, Running, Terminal};
pub use self::leaks::Snapshot;
use crate::{Error, Image, Result, Tree, artifact, owner};

/// In a node's directory: what lies above the root tree.
const LAYER: &str = "layer";

/// What a node is to be. The default: Debian 13 with containerd 1.7, this host's first cgroup layout, rtc installed.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    pub tree: Tree,
    pub cgroups: Cgroups,
    /// Imported into containerd's `default` namespace.
    pub images: Vec<Image>,
    /// Whether rtc's binaries are put into `/usr/local/bin`. They have to be built then.
    pub rtc: bool,
    /// Whether containerd is started.
    pub containerd: bool,
}

impl Default for NodeConfig {
    fn default() -> Self {
        let cgroups = Cgroups::supported().first().copied().unwrap_or(Cgroups::V2);
        Self { tree: Tree::default(), cgroups, images: Vec::new(), rtc: true, containerd: true }
    }
}

/// A running node. All methods may be called from several threads.
#[derive(Debug)]
pub struct Node {
    name: String,
    tree: Tree,
    layout: Cgroups,
    /// The host's number of the node's PID 1.
    pid: u32,
    cgroups: NodeCgroups,
    /// The host's directory of this node: its logs, and the mount point of its tmpfs.
    directory: PathBuf,
    containerd: Mutex<Option<Child>>,
    init: Child,
    lifeline: Option<ChildStdin>,
}

impl Node {
    /// Starts a node and returns when its containerd answers and its images are there. Blocks; makes the root tree first
    /// when this host has none.
    ///
    /// # Errors
    /// With the node's own log when a part of it fails; nothing is left then.
    pub fn start(config: NodeConfig) -> Result<Self> {
        let node = Self::boot(config.tree, config.cgroups, config.rtc)?;
        if config.containerd {
            node.write_containerd_config()?;
            node.start_containerd()?;
            for image in &config.images {
                node.import("default", image)?;
            }
        }
        Ok(node)
    }

    /// The node's namespaces, file system and PID 1, and nothing more.
    fn boot(tree: Tree, layout: Cgroups, rtc: bool) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        if !Cgroups::supported().contains(&layout) {
            let why = "no such hierarchy is mounted".to_owned();
            return Err(Error::Unsupported { what: "this cgroup layout", why });
        }
        let root = tree.ensure(crate::say)?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("node{}-{number}", std::process::id());
        let cgroups = NodeCgroups::create(number)?;
        let directory = match owner::make_directory(&cgroups.name) {
            Ok(directory) => directory,
            Err(error) => {
                cgroups.remove();
                return Err(error);
            }
        };
        let spawned = lay_binaries(&directory.join(LAYER), rtc)
            .and_then(|()| spawn_init(&root, &directory, &name, &cgroups, layout));
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                cgroups.remove();
                // Nobody asks for what is in it.
                fs::remove_dir_all(&directory).ok();
                return Err(error);
            }
        };
        let lifeline = child.stdin.take();
        let mut output = child.stdout.take().map(|stdout| BufReader::new(stdout).lines());
        let ready = output.as_mut().and_then(read_ready);
        let mut node = Self {
            name,
            tree,
            layout,
            pid: ready.unwrap_or(0),
            cgroups,
            directory,
            containerd: Mutex::new(None),
            init: child,
            lifeline,
        };
        if ready.is_none() {
            node.end();
            return Err(Error::Node { log: node.log("init.log"), node: node.name.clone() });
        }
        // Not PID 1 alone: the process that forked it is in the node's cgroup too.
        node.cgroups.settle(&[node.pid, node.init.id()])?;
        if let Some(lifeline) = &mut node.lifeline {
            lifeline.write_all(b"go\nup\n").map_err(Error::path("write to PID 1 of", &node.name))?;
        }
        match output.and_then(|mut output| output.next()) {
            Some(Ok(line)) if line == "up" => Ok(node),
            _ => Err(Error::Node { log: node.log("init.log"), node: node.name.clone() }),
        }
    }

    /// The node's host name; no other living node has it.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn tree(&self) -> Tree {
        self.tree
    }

    pub fn cgroups(&self) -> Cgroups {
        self.layout
    }

    /// The host's number of the node's PID 1.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// One of the files that are written on the host while the node lives.
    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.directory.join(name)).unwrap_or_default()
    }

    /// Ends all that is in the node. May be called twice.
    fn end(&mut self) {
        drop(self.lifeline.take());
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(self.init.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                // unshare takes PID 1 with it (--kill-child).
                self.init.kill().ok();
            }
            sleep(Duration::from_millis(1));
        }
        let containerd = self.containerd.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(mut containerd) = containerd.take() {
            // It ended with the node; nobody asks how.
            containerd.wait().ok();
        }
        self.cgroups.remove();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            crate::say(&format!("containerd's log of {}:\n{}", self.name, self.containerd_log()));
        }
        // Logs of a node that is gone: their loss is no failure.
        fs::remove_dir_all(&self.directory).ok();
    }
}

/// Makes the layer above the root tree: rtc's binaries, hard-linked, so that the nodes run them from the host's disk and
/// share their pages as the processes of one host do.
fn lay_binaries(layer: &Path, rtc: bool) -> Result<()> {
    let directory = layer.join("usr/local/bin");
    fs::create_dir_all(&directory).map_err(Error::path("create", &directory))?;
    if !rtc {
        return Ok(());
    }
    // The command line is not in every build.
    let binaries = [
        Some((artifact::SHIM, artifact::find(artifact::SHIM)?)),
        artifact::find(artifact::CLI).ok().map(|path| (artifact::CLI, path)),
        artifact::find(artifact::MIGRATE).ok().map(|path| (artifact::MIGRATE, path)),
    ];
    for (name, path) in binaries.into_iter().flatten() {
        let link = directory.join(name);
        // Another file system than the build's has to have a copy.
        if fs::hard_link(&path, &link).is_err() {
            fs::copy(&path, &link).map_err(Error::path("copy", &path))?;
        }
    }
    Ok(())
}

fn spawn_init(root: &Path, directory: &Path, name: &str, cgroups: &NodeCgroups, layout: Cgroups) -> Result<Child> {
    let directories: Vec<String> = cgroups.directories().map(|d| d.display().to_string()).collect();
    let layout = match layout {
        Cgroups::V2 => "v2".to_owned(),
        Cgroups::Hybrid => cgroups.hierarchies.iter().map(Hierarchy::word).collect::<Vec<_>>().join(" "),
    };
    let mount_point = directory.join("mnt");
    fs::create_dir_all(&mount_point).map_err(Error::path("create", &mount_point))?;
    let log_path = directory.join("init.log");
    let log = File::create(&log_path).map_err(Error::path("create", &log_path))?;
    let mut command = Command::new("setsid");
    command
        .args(["sh", "-c", include_str!("enter.sh"), "sh", &directories.join(" ")])
        .arg(format!("{}:{}", directory.join(LAYER).display(), root.display()))
        .arg(mount_point)
        .args([name, &layout, include_str!("init.sh")])
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log);
    command.spawn().map_err(|source| Error::Spawn { command: "unshare".to_owned(), source })
}

/// Reads until the node says that it is ready; `None` when it ended before.
fn read_ready(output: &mut Lines<BufReader<ChildStdout>>) -> Option<u32> {
    let mut pid = None;
    for line in output {
        let line = line.ok()?;
        if line == "ready" {
            return pid;
        }
        pid = line.strip_prefix("pid ").and_then(|n| n.parse().ok()).or(pid);
    }
    None
}
