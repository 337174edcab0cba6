//! What runs inside the container before the user's program: a sealed copy of our own binary, with a single thread.
//!
//! It reads its orders from the socket that the parent left it ([`message`]), carries out the steps of [`Init::container`]
//! or [`Init::exec`], and becomes the program.

pub(crate) mod capabilities;
pub(crate) mod channel;
mod console;
mod descriptors;
mod executable;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod labels;
pub(crate) mod message;
pub(crate) mod rlimits;
pub(crate) mod schedule;
mod step;
mod steps;
mod user;

use std::convert::Infallible;
use std::os::fd::AsFd;

use channel::Channel;
use descriptors::Descriptors;
use message::{Environment, Failure, Go, Received, Reply};
pub use step::Step;
use step::at;
use steps::Init;

use crate::sys::clone::SOCKET_FD;

/// The `argv[0]` that makes a binary hand over to [`main`].
pub const ARGV0: &str = "rtc-init";

/// The init's name to the kernel (proc_pid_comm(5)), which its zombie keeps. execve(2) puts a file's name in its place, and
/// no file's name has a slash.
pub(crate) const COMM: &std::ffi::CStr = c"rtc/init";

/// Runs the steps of a container's init or of an exec'd process and becomes the user's program. Reads its orders from the
/// socket that the parent left it. Must be called before any thread is started.
pub fn main() -> ! {
    let Some(socket) = crate::sys::fd::inherited(SOCKET_FD) else { std::process::exit(1) };
    // prctl(2) names no failure of this for a string in memory.
    rustix::thread::set_name(COMM).ok();
    crate::sys::process::reset_signals();
    // A container that waits to be started ends of SIGTERM, as its program would before it has a handler.
    crate::sys::process::end_on_signals();
    let mut channel = Channel::new(socket);
    let failure = match run(&mut channel) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    // When the parent cannot be told either, the exit status is all that is left.
    let told = channel.send(&Reply::Failed(failure)).is_ok();
    std::process::exit(if told { 1 } else { 2 })
}

fn run(channel: &mut Channel) -> Result<Infallible, Failure> {
    // A limit or a mode of the caller's must not show in what is made here.
    rustix::process::umask(rustix::fs::Mode::empty());
    let orders: Received = at(Step::Orders, channel.receive())?;
    crate::fault::arm_init(&orders);
    let descriptors = at(Step::Descriptors, Descriptors::take(channel, orders.passed))?;
    let mut init = Init::new(channel, &orders, descriptors);
    match &orders.environment {
        Some(environment) => init.container(environment),
        None => init.exec(),
    }
}

impl Init<'_> {
    /// A new container, in runc's order.
    fn container(
        &mut self,
        environment: &Environment<crate::rootfs::Plan, oci_spec::runtime::Hook>,
    ) -> Result<Infallible, Failure> {
        let rootfs = &environment.rootfs;
        at(Step::JoinMountNamespace, self.join_mount_namespace())?;
        at(Step::CgroupNamespace, steps::cgroup_namespace(environment))?;
        let mut labels = at(Step::Labels, labels::Labels::open(&self.orders.process))?;
        at(Step::Keyring, self.keyring(&mut labels))?;
        at(Step::Loopback, steps::loopback(environment))?;

        at(Step::Mounts, self.mounts(environment))?;
        at(Step::ParentHooks, self.parent_hooks(environment))?;
        // Before pivot_root: the hooks must still see the host's mount table.
        at(Step::CreateContainerHooks, steps::create_container_hooks(environment))?;
        at(Step::PivotRoot, rootfs.pivot())?;

        at(Step::Hostname, steps::hostname(environment))?;
        at(Step::Domainname, steps::domainname(environment))?;
        let console = at(Step::Console, self.console(|| rootfs.console()))?;
        at(Step::Sysctl, rootfs.sysctl())?;
        // While the root can still be written.
        at(Step::MakeWorkingDirectory, self.make_working_directory())?;
        at(Step::Seal, rootfs.seal())?;
        // As far as a filter could be in the way.
        let hooks = at(Step::StartContainerHooks, steps::start_container_hooks(environment, &self.orders.process))?;

        self.become_user(labels)?;
        let program = at(Step::Executable, self.find_program())?;
        at(Step::Seccomp, self.notifying_seccomp())?;
        let ready = Reply::Ready { warnings: std::mem::take(&mut self.warnings) };
        at(Step::Ready, self.channel.send_with(&ready, console.as_ref().map(AsFd::as_fd)))?;
        drop(console);

        at(Step::Start, self.wait_for_start())?;
        // The hooks are under it, as with runc: they are the container's.
        at(Step::Seccomp, self.late_seccomp())?;
        at(Step::StartContainerHooks, hooks.run_plainly())?;
        at(Step::Descriptors, self.descriptors.keep_preserved())?;
        at(Step::Execve, program.execute())
    }

    /// A further process in the namespaces that it has been born or moved into.
    fn exec(&mut self) -> Result<Infallible, Failure> {
        // On the host's /proc; the next step takes it away.
        let mut labels = at(Step::Labels, labels::Labels::open(&self.orders.process))?;
        at(Step::JoinMountNamespace, self.join_mount_namespace())?;
        at(Step::Keyring, self.keyring(&mut labels))?;
        let console = at(Step::Console, self.console(crate::rootfs::open_console))?;

        self.become_user(labels)?;
        let program = at(Step::Executable, self.find_program())?;
        at(Step::Seccomp, self.notifying_seccomp())?;
        let ready = Reply::Ready { warnings: std::mem::take(&mut self.warnings) };
        at(Step::Ready, self.channel.send_with(&ready, console.as_ref().map(AsFd::as_fd)))?;
        drop(console);

        at(Step::Start, self.channel.receive::<Go>())?;
        at(Step::Descriptors, self.descriptors.keep_preserved())?;
        at(Step::Seccomp, self.late_seccomp())?;
        at(Step::Execve, program.execute())
    }

    /// From the runtime's rights down to the process's own.
    fn become_user(&mut self, labels: labels::Labels) -> Result<(), Failure> {
        at(Step::Rlimits, self.rlimits())?;
        at(Step::Schedule, schedule::apply(&self.orders.process.schedule))?;
        at(Step::Labels, labels.write())?;
        at(Step::NoNewPrivileges, self.no_new_privileges())?;
        at(Step::Stdio, user::own_null())?;
        at(Step::Stdio, user::own_stdio(&self.orders.process))?;
        // Before a filter, which may refuse what it takes.
        at(Step::WorkingDirectory, self.try_working_directory())?;
        // A leaked host directory fd defeats the rootfs (CVE-2024-21626). Before any filter, which may not know close_range(2);
        // what is opened from here on is opened close-on-exec.
        at(Step::Descriptors, crate::sys::fd::cloexec_from(SOCKET_FD))?;
        // Without no_new_privs the filter needs CAP_SYS_ADMIN, so it comes before the capabilities go.
        at(Step::Seccomp, self.early_seccomp())?;
        at(Step::Capabilities, self.limit_bounding())?;
        at(Step::User, user::change(&self.orders.process))?;
        at(Step::Capabilities, self.capabilities())?;
        at(Step::WorkingDirectory, self.working_directory())?;
        self.umask();
        Ok(())
    }
}
