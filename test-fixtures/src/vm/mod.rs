//! A virtual machine: a kernel of its own, with all that a host's may lack. Its cgroup2 has every controller, its root
//! every capability, its kernel tracks dirty memory.
//!
//! It is QEMU without acceleration, run from a root tree of its own (`emulator`), so that it runs wherever nodes do; what
//! runs in it takes 5 to 10 times as long as on the host. It boots in some seconds, from a disk that is a node's root
//! tree. A second disk has rtc's binaries and what else the test brings, in `/opt/rtc`. An agent in it does what the
//! host says, over a virtio port. Nothing of a machine is ever written to the cached disk, and all of it ends with its
//! [`Vm`] as well as with a test that is killed: its life hangs on a pipe, as a node's does.
//!
//! `RTC_VM_ACCEL=kvm` runs machines on KVM, for hosts that have it.
//!
//! | module | what |
//! | --- | --- |
//! | `emulator` | QEMU and a kernel |
//! | `disk` | the root disk and the one of the test |
//! | `exec` | [`Vm::exec`], [`Vm::run`], [`Vm::spawn`] |
//! | `files` | [`Vm::write`], [`Vm::copy_in`] |
//! | `policy` | [`policy_compilers`] |
//! | `tests` | [`run_tests`]: a test binary's own tests, in a machine as on a host |
//! | [`frame`] | what the host and the agent (`src/bin/vm-agent`) say to one another |

mod disk;
mod emulator;
mod exec;
mod files;
pub mod frame;
mod policy;
mod tests;

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use self::emulator::Emulator;
use self::exec::Link;
pub use self::exec::{DEADLINE, VmRunning, VmStdin};
pub use self::policy::policy_compilers;
pub use self::tests::run_tests;
use crate::{Error, Result, Tree, artifact, owner, say};

/// Where the second disk is mounted in a machine; rtc's binaries are in its `bin`.
pub const BROUGHT: &str = "/opt/rtc";

/// How long a machine may take to boot.
const BOOT: Duration = Duration::from_secs(120);

macro_rules! systemd {
    () => {
        "init=/usr/lib/systemd/systemd systemd.unit=rtc-vm.target systemd.show_status=false systemd.log_target=console \
         systemd.log_level=warning systemd.gpt_auto=0 systemd.mask=systemd-journald.socket"
    };
}

const CONSOLE: &str = "console.log";
const SOCKET: &str = "agent.sock";

/// Who is PID 1 of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Init {
    /// A script that mounts what a host has.
    #[default]
    Plain,
    /// systemd, with its bus; cgroup2 alone.
    Systemd,
    /// systemd with v1's controllers and a unified tree beside them. No later one than Debian 13's does that.
    SystemdHybrid,
}

impl Init {
    /// Of the kernel's command line.
    fn words(self) -> &'static str {
        match self {
            Self::Plain => "init=/usr/lib/rtc-vm/init",
            Self::Systemd => systemd!(),
            Self::SystemdHybrid => concat!(
                systemd!(),
                " systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=0",
                " SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"
            ),
        }
    }
}

/// What a machine is to be. The default: Debian 14 with containerd 2.1, 2 processors, 2 GiB, rtc installed.
#[derive(Clone, Debug)]
pub struct VmConfig {
    pub tree: Tree,
    pub init: Init,
    pub processors: u32,
    pub memory_mib: u32,
    /// Whether rtc's binaries and the workload are brought. They have to be built then.
    pub rtc: bool,
    /// Files of the host that are brought: each with its path below [`BROUGHT`].
    pub files: Vec<(PathBuf, String)>,
    /// More parameters of the kernel: another security module, for instance.
    pub parameters: &'static str,
}

impl Default for VmConfig {
    fn default() -> Self {
        Self {
            tree: Tree::Forky,
            init: Init::default(),
            processors: 2,
            memory_mib: 2048,
            rtc: true,
            files: Vec::new(),
            parameters: "",
        }
    }
}

/// Why machines cannot run here, or `None` when they can. Makes what they need when it is missing; tests print the
/// reason and return.
pub fn skip_reason() -> Option<String> {
    if let Some(why) = crate::skip_reason() {
        return Some(why.to_owned());
    }
    prepare(Tree::Forky, &say).err().map(|error| format!("virtual machines cannot be had: {error}"))
}

/// Makes what machines of a suite need, when it is missing: the emulator, and the root disk.
///
/// # Errors
/// `Unsupported` where the host's architecture is another than the machines'; others when the making fails.
pub fn prepare(tree: Tree, progress: &dyn Fn(&str)) -> Result<()> {
    ensure(tree, progress).map(drop)
}

fn ensure(tree: Tree, progress: &dyn Fn(&str)) -> Result<(Emulator, PathBuf)> {
    if std::env::consts::ARCH != "x86_64" {
        let why = format!("the machines are x86_64, this host is {}", std::env::consts::ARCH);
        return Err(Error::Unsupported { what: "a virtual machine", why });
    }
    let emulator = Emulator::ensure(progress)?;
    let root = disk::ensure_root(tree, &emulator, progress)?;
    Ok((emulator, root))
}

/// A running machine. All methods may be called from several threads.
#[derive(Debug)]
pub struct Vm {
    name: String,
    /// The host's directory of this machine: its console, its socket, the disks' changes.
    directory: PathBuf,
    emulator: Child,
    lifeline: Option<ChildStdin>,
    link: Option<Arc<Link>>,
}

impl Vm {
    /// Boots a machine and returns when it takes commands. Blocks; makes what is missing for it first.
    ///
    /// # Errors
    /// `Machine` with its console when it does not come up; nothing is left then.
    pub fn boot(config: &VmConfig) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let (emulator, root) = ensure(config.tree, &say)?;
        let name = owner::name("vm", COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = owner::make_directory(&name)?;
        let spawned =
            bring(config, &emulator, &directory).and_then(|()| spawn(&emulator, &directory, &line(config, &root)));
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                // Nobody asks for what is in it.
                fs::remove_dir_all(&directory).ok();
                return Err(error);
            }
        };
        let lifeline = child.stdin.take();
        let mut vm = Self { name, directory, emulator: child, lifeline, link: None };
        let link = vm.connect()?;
        let ready = link.wait_until_ready(BOOT);
        vm.link = Some(link);
        if ready { Ok(vm) } else { Err(vm.error("did not come up")) }
    }

    /// The emulator does not start the machine before the port is connected.
    fn connect(&mut self) -> Result<Arc<Link>> {
        let path = self.directory.join(SOCKET);
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match UnixStream::connect(&path).and_then(Link::new) {
                Ok(link) => return Ok(link),
                Err(_) if Instant::now() < deadline && matches!(self.emulator.try_wait(), Ok(None)) => {
                    sleep(Duration::from_millis(5));
                }
                Err(_) => return Err(self.error("was not started")),
            }
        }
    }

    /// No other living machine has it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All that the kernel and init have said.
    pub fn console(&self) -> String {
        let read = |name| fs::read(self.directory.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&[read("emulator.log"), read(CONSOLE)].concat()).into_owned()
    }

    fn link(&self) -> &Arc<Link> {
        // There is one from the moment that `boot` has made the machine on.
        self.link.as_ref().unwrap_or_else(|| unreachable!("a machine without a link"))
    }

    fn error(&self, what: &str) -> Error {
        Error::Machine { machine: self.name.clone(), what: what.to_owned(), console: self.console() }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(self.emulator.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                // unshare takes the emulator with it (--kill-child).
                self.emulator.kill().ok();
            }
            sleep(Duration::from_millis(2));
        }
        if std::thread::panicking() {
            say(&format!("console of {}:\n{}", self.name, self.console()));
        }
        // The files of a machine that is gone: their loss is no failure.
        fs::remove_dir_all(&self.directory).ok();
    }
}

/// Makes the second disk.
fn bring(config: &VmConfig, emulator: &Emulator, directory: &Path) -> Result<()> {
    let brought = directory.join("brought");
    let mut files = vec![(artifact::find(artifact::VM_AGENT)?, format!("bin/{}", artifact::VM_AGENT))];
    if config.rtc {
        for name in [artifact::SHIM, artifact::WORKLOAD] {
            files.push((artifact::find(name)?, format!("bin/{name}")));
        }
        // The command lines are not in every build.
        for name in [artifact::CLI, artifact::MIGRATE] {
            files.extend(artifact::find(name).ok().map(|path| (path, format!("bin/{name}"))));
        }
    }
    for (from, to) in files.iter().chain(&config.files) {
        disk::lay(from, &brought.join(to))?;
    }
    disk::make(emulator, &brought, &directory.join("brought.img"), disk::size_mib(&brought))
}

/// The emulator's command line. It runs in the machine's directory; the host's files are below `/mnt`.
fn line(config: &VmConfig, root: &Path) -> Vec<String> {
    let accel = std::env::var("RTC_VM_ACCEL").unwrap_or_else(|_| "tcg,thread=multi,tb-size=512".to_owned());
    let append = format!(
        "root=/dev/nvme0n1 rw console=ttyS0 quiet loglevel=4 panic=-1 random.trust_cpu=on {} {}",
        config.init.words(),
        config.parameters
    );
    let mut line = vec!["qemu-system-x86_64".to_owned()];
    let mut add = |words: &[&str]| line.extend(words.iter().map(|word| (*word).to_owned()));
    add(&["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    add(&["-machine", "q35", "-accel", &accel, "-cpu", "max"]);
    add(&["-smp", &config.processors.to_string(), "-m", &config.memory_mib.to_string()]);
    add(&["-kernel", Emulator::kernel(), "-append", &append]);
    // NVMe needs no module; but the order of two of its disks is chance.
    add(&["-drive", &format!("if=none,id=root,format=raw,snapshot=on,file=/mnt{}", root.display())]);
    add(&["-device", "nvme,drive=root,serial=root"]);
    add(&["-drive", "if=none,id=brought,format=raw,snapshot=on,file=brought.img"]);
    add(&["-device", "virtio-blk-pci,drive=brought"]);
    add(&["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent"]);
    add(&["-chardev", &format!("socket,id=agent,path={SOCKET},server=on,wait=on")]);
    add(&["-serial", &format!("file:{CONSOLE}")]);
    line
}

fn spawn(emulator: &Emulator, directory: &Path, line: &[String]) -> Result<Child> {
    let log_path = directory.join("emulator.log");
    let log = File::create(&log_path).map_err(Error::path("create", &log_path))?;
    let mut command = emulator.command(directory);
    // Changes of the disks go to a file in `TMPDIR`.
    command
        .args(["env", "TMPDIR=."])
        .args(["sh", "-c", include_str!("lifeline.sh"), "sh"])
        .args(line)
        .stdin(Stdio::piped())
        .stdout(log.try_clone().map_err(Error::path("open", &log_path))?)
        .stderr(log);
    command.spawn().map_err(|source| Error::Spawn { command: "unshare".to_owned(), source })
}
