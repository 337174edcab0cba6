//! A bundle as containerd would make one, and a container in it that counts.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use runtime_core::container::{
    CheckpointOptions, Checkpointed, Container, CreateOptions, ExecOptions, RestoreOptions, Started, Stdio,
};
use runtime_core::{ContainerId, Error, Signal};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const COUNT: &str = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done";

pub(crate) struct Bundle {
    directory: TempDir,
    pub(crate) spec: Value,
}

/// A running container with its output.
pub(crate) struct Counter {
    pub(crate) container: Container,
    pub(crate) started: Started,
    pub(crate) output: BufReader<File>,
}

impl Bundle {
    pub(crate) fn new(script: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("rtc-bundle-").tempdir_in("/run").unwrap();
        let path = directory.path();
        fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        for name in ["rootfs/bin", "rootfs/etc", "rootfs/var", "data"] {
            fs::create_dir_all(path.join(name)).unwrap();
        }
        let busybox = path.join("rootfs/bin/busybox");
        fs::copy(super::BUSYBOX, &busybox).unwrap();
        fs::set_permissions(&busybox, PermissionsExt::from_mode(0o755)).unwrap();
        fs::copy(super::WORKLOAD, path.join("rootfs/bin/workload")).unwrap();
        for name in ["sh", "sleep", "cat", "ip", "mv", "rm", "head", "usleep", "xargs"] {
            symlink("busybox", path.join("rootfs/bin").join(name)).unwrap();
        }
        // The way to a mount point may lead over a symlink of the image.
        symlink("/run", path.join("rootfs/var/run")).unwrap();
        fs::write(path.join("hosts"), "127.0.0.1 localhost\n").unwrap();
        let spec = spec(path, script);
        Self { directory, spec }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn images(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub(crate) fn mount(&mut self, mount: Value) {
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
    }

    pub(crate) fn write_config(&self) {
        fs::write(self.path().join("config.json"), serde_json::to_vec(&self.spec).unwrap()).unwrap();
    }

    /// Writes config.json and says what the container is made from.
    pub(crate) fn options(&self, id: &str, stdio: Stdio) -> CreateOptions {
        self.write_config();
        let spec = serde_json::from_value(self.spec.clone()).unwrap();
        let root = self.path().join("state");
        CreateOptions::new(ContainerId::parse(id).unwrap(), root, self.path().to_owned(), spec, stdio)
    }

    /// Creates and starts.
    pub(crate) fn start(&self) -> Counter {
        let (stdio, output) = pipes();
        let (container, started) = ok(Container::create(self.options("first", stdio)));
        ok(container.start());
        Counter { container, started, output }
    }

    pub(crate) fn restore(&self, id: &str, images: &Path) -> Counter {
        ok(self.try_restore(id, images))
    }

    pub(crate) fn try_restore(&self, id: &str, images: &Path) -> Result<Counter, Error> {
        let (stdio, output) = pipes();
        let options = RestoreOptions::new(self.options(id, stdio), images.to_owned());
        let (container, started) = Container::restore(options)?;
        Ok(Counter { container, started, output })
    }

    pub(crate) fn assert_no_state(&self, id: &str) {
        assert!(!self.path().join("state").join(id).exists(), "state of {id} left");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains("criu-root"), "mount left: {mounts}");
    }

    /// The error of a restore that has to fail, with nothing left of it.
    pub(crate) fn refused(&self, images: &Path) -> String {
        let refused = match self.try_restore("refused", images) {
            Ok(_) => panic!("restored"),
            Err(err) => chain(&err),
        };
        self.assert_no_state("refused");
        refused
    }
}

impl Counter {
    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().parse().unwrap_or_else(|_| panic!("not a number: {line:?}"))
    }

    /// Reads on; every number follows the one before. The last.
    pub(crate) fn goes_on_after(&mut self, last: u64) -> u64 {
        for expected in last + 1..last + 6 {
            assert_eq!(self.next(), expected);
        }
        last + 5
    }

    /// Checkpoints, and leaves it running.
    pub(crate) fn snapshot(&self, images: PathBuf) -> Checkpointed {
        let mut options = CheckpointOptions::new(images);
        options.leave_running = true;
        ok(self.container.checkpoint(&options))
    }

    /// Checkpoints, which ends it, and deletes it. The last number that it wrote, or `last` if it wrote none since.
    pub(crate) fn freeze_dry(self, images: PathBuf, last: u64) -> u64 {
        ok(self.container.checkpoint(&CheckpointOptions::new(images)));
        self.gone(137, last)
    }

    pub(crate) fn kill(self) {
        ok(self.container.kill(Signal::KILL, false));
        assert_eq!(self.started.child.wait().unwrap().code, 137);
        ok(self.container.delete(false));
    }

    /// Its end has come: reaped, deleted, and the rest of its output read.
    pub(crate) fn gone(mut self, code: u32, last: u64) -> u64 {
        assert_eq!(self.started.child.wait().unwrap().code, code);
        ok(self.container.delete(false));
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        rest.lines().last().map_or(last, |line| line.parse().unwrap())
    }

    /// Runs a further process; its exit code and output.
    pub(crate) fn exec(&self, bundle: &Bundle, script: &str) -> (u32, String) {
        let mut process = bundle.spec["process"].clone();
        process["args"] = json!(["sh", "-c", script]);
        let process = serde_json::from_value(process).unwrap();
        let (stdio, mut output) = pipes();
        let started = ok(self.container.exec(ExecOptions::new(process, stdio)));
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        (started.child.wait().unwrap().code, text)
    }
}

/// stdin is at its end, stdout and stderr are one pipe.
pub(crate) fn pipes() -> (Stdio, BufReader<File>) {
    let (stdin, closed) = std::io::pipe().unwrap();
    drop(closed);
    let (reader, writer) = std::io::pipe().unwrap();
    let stdio = Stdio::Fds { stdin: stdin.into(), stdout: writer.try_clone().unwrap().into(), stderr: writer.into() };
    (stdio, BufReader::new(File::from(OwnedFd::from(reader))))
}

pub(crate) fn ok<T>(result: Result<T, Error>) -> T {
    result.unwrap_or_else(|err| panic!("{}", chain(&err)))
}

/// An error with all its sources.
pub(crate) fn chain(err: &(dyn std::error::Error + 'static)) -> String {
    let messages = std::iter::successors(Some(err), |err| err.source()).map(ToString::to_string);
    messages.collect::<Vec<_>>().join(": ")
}

/// The mounts, masks and namespaces of containerd's default.
fn spec(bundle: &Path, script: &str) -> Value {
    let capabilities = json!(["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_NET_RAW", "CAP_SETUID", "CAP_SETGID"]);
    json!({
        "ociVersion": "1.2.0",
        "hostname": "inside",
        "root": {"path": "rootfs"},
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["sh", "-c", script],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": {"bounding": capabilities, "permitted": capabilities, "effective": capabilities},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "mode=1777"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/data", "type": "bind", "source": bundle.join("data"), "options": ["rbind", "rw"]},
            {"destination": "/etc/hosts", "type": "bind", "source": bundle.join("hosts"), "options": ["rbind", "ro"]},
            {"destination": "/var/run/hosts", "type": "bind", "source": bundle.join("hosts"), "options": ["bind", "ro"]},
        ],
        "linux": {
            "cgroupsPath": "/rtc-checkpoint-test",
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"},
            ],
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
