//! A bundle with a busybox, a root for state, and a container in them.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::Path;

use runtime_core::container::{CgroupDriver, Container, CreateOptions, ExecOptions, Started, Stdio};
use runtime_core::{ContainerId, Error, ErrorKind};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const BUSYBOX: &str = "/usr/bin/busybox";

pub(crate) struct Bundle {
    directory: TempDir,
    pub(crate) spec: Value,
    pub(crate) terminal: bool,
    pub(crate) cgroup_driver: CgroupDriver,
}

/// A process with its output.
pub(crate) struct Running {
    pub(crate) started: Started,
    output: File,
}

impl Running {
    /// Waits for the end; the exit code and all output.
    pub(crate) fn finish(mut self) -> (u32, String) {
        let exit = self.started.child.wait().unwrap();
        let mut text = Vec::new();
        // A pty's master reads EIO once the slave is closed.
        if self.output.read_to_end(&mut text).is_err() {
            assert!(self.started.console.is_some());
        }
        (exit.code, String::from_utf8(text).unwrap().trim_end().replace("\r\n", "\n"))
    }
}

impl Bundle {
    /// Runs `script` in a shell, in new namespaces.
    pub(crate) fn new(script: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("rtc-test-").tempdir_in("/tmp").unwrap();
        make_readable(directory.path());
        let rootfs = directory.path().join("rootfs");
        for name in ["bin", "etc", "proc", "dev", "tmp", "sys"] {
            std::fs::create_dir_all(rootfs.join(name)).unwrap();
        }
        std::fs::copy(BUSYBOX, rootfs.join("bin/busybox")).unwrap();
        for name in [
            "sh", "cat", "id", "sleep", "true", "ls", "hostname", "stty", "tty", "kill", "grep", "readlink", "ip",
            "umask", "uname", "cut", "ionice", "mkdir", "rmdir", "stat", "mount", "sort", "test", "touch",
        ] {
            symlink("busybox", rootfs.join("bin").join(name)).unwrap();
        }
        std::fs::write(rootfs.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/srv:/bin/sh\n").unwrap();
        let spec = json!({
            "ociVersion": "1.2.0",
            "hostname": "inside",
            "root": {"path": "rootfs"},
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": ["sh", "-c", script],
                "env": ["PATH=/bin"],
                "cwd": "/",
                "noNewPrivileges": true,
                "capabilities": {"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"]},
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666", "mode=0620"]},
            ],
            "linux": {"namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"},
            ]},
        });
        Self { directory, spec, terminal: false, cgroup_driver: CgroupDriver::Cgroupfs }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn root(&self) -> std::path::PathBuf {
        self.path().join("state")
    }

    pub(crate) fn create(&self) -> Result<(Container, Running), Error> {
        self.create_as("test")
    }

    pub(crate) fn create_as(&self, id: &str) -> Result<(Container, Running), Error> {
        let (stdio, output) = stdio(self.terminal);
        let (container, started) =
            Container::create(CreateOptions { pid_file: Some(self.path().join("pid")), ..self.options(id, stdio) })?;
        Ok((container, running(started, output)))
    }

    pub(crate) fn options(&self, id: &str, stdio: Stdio) -> CreateOptions {
        let spec = serde_json::from_value(self.spec.clone()).unwrap();
        let id = ContainerId::parse(id).unwrap();
        let options = CreateOptions::new(id, self.root(), self.path().to_owned(), spec, stdio);
        CreateOptions { cgroup_driver: self.cgroup_driver, ..options }
    }

    /// Create, start, wait and delete; the exit code and the output.
    pub(crate) fn run(&self) -> (u32, String) {
        let (container, running) = self.create().unwrap_or_else(|err| panic!("{}", chain(&err)));
        container.start().unwrap_or_else(|err| panic!("{}", chain(&err)));
        let result = running.finish();
        container.delete(false).unwrap_or_else(|err| panic!("{}", chain(&err)));
        self.assert_nothing_left();
        result
    }

    /// The error of a create that has to fail, with nothing left of it.
    pub(crate) fn refused(&self) -> String {
        self.refusal().1
    }

    /// With what a caller can do about it.
    pub(crate) fn refusal(&self) -> (ErrorKind, String) {
        let err = match self.create() {
            Ok(_) => panic!("created"),
            Err(err) => err,
        };
        self.assert_nothing_left();
        (err.kind(), chain(&err))
    }

    pub(crate) fn assert_nothing_left(&self) {
        let left: Vec<_> = std::fs::read_dir(self.root())
            .map(|entries| entries.flatten().map(|entry| entry.file_name()).filter(|name| name != "@seccomp").collect())
            .unwrap_or_default();
        assert!(left.is_empty(), "state left: {left:?}");
        // The tests are PID 1 of their namespace: orphans come to them, as they come to a shim.
        runtime_core::children::sweep_orphans();
        assert_eq!(children(), Vec::<String>::new(), "processes left");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.path().to_str().unwrap()), "mounts left");
    }
}

pub(crate) fn exec(container: &Container, process: Value, terminal: bool) -> Result<Running, Error> {
    let (stdio, output) = stdio(terminal);
    let process = serde_json::from_value(process).unwrap();
    container.exec(ExecOptions::new(process, stdio)).map(|started| running(started, output))
}

fn running(mut started: Started, output: Option<File>) -> Running {
    let console = || started.console.as_ref().map(|console| console.try_clone().unwrap().into());
    let output = output.or_else(console).unwrap();
    started.console = started.console.take();
    Running { started, output }
}

pub(crate) fn stdio(terminal: bool) -> (Stdio, Option<File>) {
    if terminal {
        return (Stdio::Terminal, None);
    }
    let (reader, writer) = std::io::pipe().unwrap();
    let fds = Stdio::Fds {
        stdin: File::open("/dev/null").unwrap().into(),
        stdout: writer.try_clone().unwrap().into(),
        stderr: writer.into(),
    };
    (fds, Some(File::from(OwnedFd::from(reader))))
}

fn make_readable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

pub(crate) fn children() -> Vec<String> {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    threads
        .flat_map(|thread| {
            let list = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

/// An error with all its sources.
pub(crate) fn chain(err: &(dyn std::error::Error + 'static)) -> String {
    let messages = std::iter::successors(Some(err), |err| err.source()).map(ToString::to_string);
    messages.collect::<Vec<_>>().join(": ")
}
