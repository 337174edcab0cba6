//! `exec`: a further process in a running container.

use std::os::fd::AsFd;

use rustix::io::Errno;

use super::launch::{self, Launch, LentOrders};
use super::namespaces::Namespaces;
use super::{Container, ExecOptions, Started, Status, process};
use crate::{Error, Result, spec};

pub(super) fn exec(container: &Container, options: &ExecOptions) -> Result<Started> {
    let id = container.id();
    spec::check_process(&options.process)?;
    if !rustix::process::geteuid().is_root() {
        spec::rootless::check_process(&options.process)?;
    }
    let status = container.status()?;
    let problem = match status {
        Status::Created | Status::Running => None,
        Status::Paused if options.ignore_paused => None,
        Status::Paused => Some("cannot exec in a paused container"),
        // Its init may still be in the host's root.
        Status::Creating => Some("cannot exec in a container in the creating state"),
        Status::Stopped => Some("cannot exec in a stopped container"),
    };
    if let Some(problem) = problem {
        return Err(Error::WrongStatus { id: id.clone(), problem, status });
    }
    let namespaces = namespaces(container)?;
    let mut spec = options.process.clone();
    if spec.capabilities().is_none() {
        spec.set_capabilities(container.state.capabilities.clone());
    }
    if spec.rlimits().is_none() {
        spec.set_rlimits(container.state.rlimits.clone());
    }
    if spec.exec_cpu_affinity().is_none() {
        spec.set_exec_cpu_affinity(container.state.exec_cpu_affinity.clone());
    }
    let schedule = process::exec_schedule(&spec, &container.state.schedule);
    let cgroup = container.state.cgroup.below(&options.sub_cgroups).map_err(container.cgroup_failed())?;
    let launch = Launch {
        id,
        namespaces: &namespaces,
        cgroup: &cgroup,
        linux: None,
        oom_score_adj: spec.oom_score_adj(),
        // Whoever names a cgroup does not want another.
        init: container.pid().filter(|_| options.sub_cgroups.is_empty()),
        start_socket: None,
        class: container.state.class.as_ref(),
        preserve_fds: &options.preserve_fds,
    };
    let mut orders = LentOrders {
        id: id.as_str().to_owned(),
        environment: None,
        passed: launch.passed(),
        keyring: container.state.keyring,
        process: process::resolve(id, &spec, schedule, &options.stdio)?,
        seccomp: container.state.seccomp.as_ref(),
        #[cfg(feature = "fault-points")]
        fault: crate::fault::for_init(),
    };
    let launched = launch.run(&options.stdio, &mut orders)?;
    let state = container.state.hook_state("running");
    let listener = container.state.seccomp.as_ref().and_then(|filter| filter.listener.as_ref());
    let console = launched.ready(|| Ok(()), listener.map(|listener| (listener, &state)), None)?;
    if let Some(path) = &options.pid_file {
        launch::write_pid_file(id, path, launched.pid()?)?;
    }
    launched.execute().inspect_err(|_| {
        // The first error is the one to tell.
        options.pid_file.as_ref().and_then(|path| std::fs::remove_file(path).ok());
    })?;
    match launched.into_parts() {
        Some((child, _)) => Ok(Started { child, console, input: Vec::new(), arriving: None }),
        None => Err(Error::NotFound { id: id.clone() }),
    }
}

/// Those of the init. Looked at by pid and joined by pidfd; that the pid was the init's all the while is checked last.
fn namespaces(container: &Container) -> Result<Namespaces> {
    let stopped = || Error::WrongStatus {
        id: container.id().clone(),
        problem: "cannot exec in a stopped container",
        status: Status::Stopped,
    };
    let (pid, pidfd) = container.pid().zip(container.pidfd.as_ref()).ok_or_else(stopped)?;
    let namespaces = Namespaces::of(pid, pidfd.as_fd());
    if !super::status::alive(container) {
        return Err(stopped());
    }
    namespaces.map_err(|err: Errno| Error::System {
        id: container.id().clone(),
        operation: "look at the namespaces",
        err: err.into(),
    })
}
