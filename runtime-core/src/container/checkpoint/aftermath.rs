//! What a CRIU that ended in the middle of a dump has left in the container, and how it is taken back.
//!
//! | it has left | and |
//! | --- | --- |
//! | processes that it held | the kernel lets them go when their tracer is gone |
//! | its code in a process, which runs it | the code sees its socket closed, and returns to where the process was; some pages stay mapped |
//! | sockets in repair mode, in which they neither send nor receive | are taken out of it here |
//! | the network locked: a table of nftables or a chain of iptables, named after CRIU | is removed here |
//!
//! When it is us who end a CRIU, the container is frozen first, so that no process runs before that is done. When somebody
//! else kills it (SIGKILL), the processes run at once, and two things cannot be cured:
//! - While CRIU lets a process execute single system calls, to get its code in and out, the process has foreign registers and
//!   a breakpoint behind the call: without CRIU it dies of SIGTRAP. Tried with CRIU 4.2.1, some ten milliseconds of a dump.
//! - While its TCP sockets are in repair mode, a process that is quicker than us has an error (EINVAL) from one.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use criu::{Answer, LoggedLock, Notification};
use nix::sched::{CloneFlags, setns};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::dump::LOG;
use super::lock;
use super::options::NetworkLock;
use super::work::OURS;
use super::{netfilter, network};
use crate::Pid;
use crate::container::Container;
use crate::container::kill::DEADLINE;
use crate::sys::net::end_repair;

/// The longest name of a table that CRIU 4.2 gives: its buffer cuts it off.
const LONGEST_NAME: usize = 26;

/// A dump that may end badly.
#[derive(Debug)]
pub(super) struct Aftermath<'a> {
    container: &'a Container,
    /// The init's network namespace: the init may not survive.
    network: Option<File>,
    init: Option<Pid>,
    /// CRIU may have locked by iptables.
    iptables: bool,
}

impl<'a> Aftermath<'a> {
    pub(super) fn new(container: &'a Container, lock: Option<NetworkLock>) -> Self {
        let open = |pid: Pid| File::open(format!("/proc/{pid}/ns/net")).ok();
        let init = container.pid();
        Self { container, network: init.and_then(open), init, iptables: is_iptables(lock) }
    }

    /// After a dump that ended the container for good: the network that it had joined is unlocked for its others.
    pub(super) fn leave(&self, log: &Path) {
        if let Err(err) = self.unlock(log, None) {
            self.warn("unlock the network", &err);
        }
    }

    /// The notifications of the dump, and what comes before its CRIU is killed.
    pub(super) fn around<'n>(&'n self, notify: &'n mut dyn criu::Notify) -> Around<'n> {
        Around { container: self.container, notify }
    }

    /// After a dump that failed. Does nothing where CRIU has taken everything back itself.
    pub(super) fn take_back(&self, log: &Path, failure: &criu::Error) {
        match self.container.pids() {
            Ok(pids) => pids.into_iter().for_each(|pid| self.end_repair(pid)),
            Err(err) => self.warn("list the processes", &err),
        }
        if let Err(err) = self.unlock(log, Some(failure)) {
            self.warn("unlock the network", &err);
        }
    }

    /// Takes the TCP sockets of a process out of repair mode.
    fn end_repair(&self, pid: Pid) {
        // A process that has just ended has none.
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return };
        let is_socket =
            |path: &Path| fs::read_link(path).is_ok_and(|link| link.to_string_lossy().starts_with("socket:"));
        let sockets = entries.flatten().filter(|entry| is_socket(&entry.path()));
        let sockets: Vec<i32> = sockets.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        let Some(process) = rustix::process::Pid::from_raw(pid.as_raw()).filter(|_| !sockets.is_empty()) else {
            return;
        };
        let Ok(pidfd) = pidfd_open(process, PidfdFlags::empty()) else { return };
        for number in sockets {
            let Ok(socket) = pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()) else { continue };
            if let Err(err) = end_repair(&socket) {
                self.warn("end the repair mode of a socket", &err);
            }
        }
    }

    /// In the network namespace of the container.
    fn unlock(&self, log: &Path, failure: Option<&criu::Error>) -> io::Result<()> {
        let (Some(network), Some(init)) = (&self.network, self.init) else { return Ok(()) };
        let names = table_names(criu::logged_run_ids(log), init);
        // The chain has the same name for all: it may be that of another dump, of a container in the same network.
        let chain = match criu::logged_network_lock(log) {
            _ if !self.iptables => false,
            Ok(LoggedLock::Never) => false,
            Ok(LoggedLock::Locked) => true,
            // It may have been killed in the middle of that, unless it had a last word.
            Ok(LoggedLock::Unlocked) => !matches!(failure, Some(criu::Error::Failed { .. })),
            // It did not come so far as to have a log.
            Err(err) if err.kind() == io::ErrorKind::NotFound => false,
            Err(err) => return Err(err),
        };
        // A thread for it alone, which joins the namespace and ends in it.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("criu-unlock".to_owned()).spawn_scoped(scope, || {
                setns(network, CloneFlags::CLONE_NEWNET)?;
                names.iter().try_for_each(|name| netfilter::delete_table(name))?;
                if chain { netfilter::delete_chain() } else { Ok(()) }
            })?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn warn(&self, what: &str, err: &(dyn std::error::Error + 'static)) {
        tracing::warn!(id = %self.container.id(), err, what, "after a dump");
    }
}

/// Before a container is deleted: unlocks the network that it has joined, if the process that dumped it was killed and has left
/// CRIU's log.
pub(in crate::container) fn unlock_left(container: &Container) {
    let work = container.directory.path().join(OURS);
    let log = work.join(LOG);
    let Some(init) = container.state.init.as_ref().filter(|_| log.exists()) else { return };
    let joined = crate::spec::load_file(&container.state.config()).ok().and_then(|spec| network::joined(&spec));
    let network = joined.and_then(|path| File::open(path).ok());
    Aftermath { container, network, init: Some(init.pid), iptables: is_iptables(lock::left(&work)) }.leave(&log);
}

/// Also when nobody knows.
fn is_iptables(lock: Option<NetworkLock>) -> bool {
    lock.is_none_or(|lock| lock == NetworkLock::Iptables)
}

/// After a restore that failed: the mounts are gone with CRIU's mount namespace, and the directory that they were on is empty.
pub(in crate::container) fn remove_mount_dir(log: &Path) {
    let Some(dir) = criu::logged_mount_dir(log) else { return };
    match fs::remove_dir(&dir) {
        // CRIU has removed it itself, if it was not killed.
        Err(err) if err.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(dir = %dir.display(), %err, "remove the mount directory of a failed restore");
        }
        _ => {}
    }
}

/// CRIU 4 names its table after the run, an older one after the process.
fn table_names(runs: Vec<String>, init: Pid) -> Vec<String> {
    let names = runs.into_iter().chain([init.to_string()]).map(|name| format!("CRIU-{name}"));
    names.flat_map(|name| [name.chars().take(LONGEST_NAME).collect(), name]).collect()
}

pub(super) struct Around<'a> {
    container: &'a Container,
    notify: &'a mut dyn criu::Notify,
}

impl criu::Notify for Around<'_> {
    fn notify(
        &mut self,
        notification: Notification,
        criu: std::os::fd::BorrowedFd<'_>,
    ) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        self.notify.notify(notification, criu)
    }

    /// What CRIU lets go then stays where it is until [`Aftermath::take_back`] is done, and the dump thaws the container.
    fn before_kill(&mut self) {
        if let Err(err) = self.container.state.cgroup.freeze(DEADLINE) {
            tracing::warn!(id = %self.container.id(), err = &err as &dyn std::error::Error, "freeze before criu is killed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_the_name_of_a_run_whole_or_cut_off_or_of_a_process() {
        let names = table_names(vec!["ab306baf-a9a6-45c3-a714-9a55d7e0a182".to_owned()], Pid::new(39).unwrap());
        let run = ["CRIU-ab306baf-a9a6-45c3-a7", "CRIU-ab306baf-a9a6-45c3-a714-9a55d7e0a182"];
        assert_eq!(names, [run[0], run[1], "CRIU-39", "CRIU-39"]);
    }
}
