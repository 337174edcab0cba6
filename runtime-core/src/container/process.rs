//! A spec's process, resolved for the init.

use std::path::Path;

use oci_spec::runtime::{Linux, Process as Spec};

use super::Stdio;
use crate::init::capabilities::Sets;
use crate::init::message::Process;
use crate::init::schedule::Schedule;
use crate::{ContainerId, Error, Result};

/// # Errors
/// [`Error::Unsupported`] for a label of a security module that this host does not run.
pub(super) fn resolve(id: &ContainerId, spec: &Spec, schedule: Schedule, stdio: &Stdio) -> Result<Process> {
    let unsupported = |what| Error::Unsupported { id: id.clone(), what };
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let apparmor_profile = given(spec.apparmor_profile());
    if apparmor_profile.is_some() && !starts_with_y("/sys/module/apparmor/parameters/enabled") {
        return Err(unsupported("process.apparmorProfile (AppArmor)"));
    }
    let selinux_label = given(spec.selinux_label());
    if selinux_label.is_some() && !Path::new("/sys/fs/selinux/enforce").exists() {
        return Err(unsupported("process.selinuxLabel (SELinux)"));
    }
    let user = spec.user();
    let cell = |value: u64| u16::try_from(value).unwrap_or(u16::MAX);
    Ok(Process {
        args: spec.args().clone().unwrap_or_default(),
        env: spec.env().clone().unwrap_or_default(),
        cwd: spec.cwd().clone(),
        terminal: matches!(stdio, Stdio::Terminal),
        console_size: spec
            .console_size()
            .map(|size| (cell(size.width()), cell(size.height())))
            .filter(|size| *size != (0, 0)),
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        set_groups: true,
        umask: user.umask(),
        capabilities: Sets::new(spec.capabilities().as_ref()),
        no_new_privileges: spec.no_new_privileges().unwrap_or(false),
        rlimits: spec.rlimits().iter().flatten().map(Into::into).collect(),
        schedule,
        apparmor_profile,
        selinux_label,
    })
}

/// Of a container's first process, whom `execCPUAffinity` does not concern.
pub(super) fn schedule(spec: &Spec, linux: Option<&Linux>) -> Schedule {
    Schedule {
        scheduler: spec.scheduler().clone(),
        io_priority: *spec.io_priority(),
        personality: linux.and_then(|linux| linux.personality().as_ref()).map(|personality| personality.domain()),
        cpus: None,
        initial_cpus: None,
        memory: linux.and_then(|linux| linux.memory_policy().clone()),
        cpuset: linux.is_some_and(has_cpuset),
    }
}

/// Of a further process in a container with that of `init`.
pub(super) fn exec_schedule(spec: &Spec, init: &Schedule) -> Schedule {
    let affinity = spec.exec_cpu_affinity().as_ref();
    let given = |cpus: &Option<String>| cpus.clone().filter(|cpus| !cpus.is_empty());
    Schedule {
        scheduler: spec.scheduler().clone().or_else(|| init.scheduler.clone()),
        io_priority: spec.io_priority().or(init.io_priority),
        personality: init.personality,
        cpus: affinity.and_then(|cpus| given(cpus.cpu_affinity_final())),
        initial_cpus: affinity.and_then(|cpus| given(cpus.initial())),
        memory: init.memory.clone(),
        cpuset: init.cpuset,
    }
}

fn has_cpuset(linux: &Linux) -> bool {
    let cpu = linux.resources().as_ref().and_then(|resources| resources.cpu().as_ref());
    cpu.and_then(|cpu| cpu.cpus().as_ref()).is_some_and(|cpus| !cpus.is_empty())
}

fn starts_with_y(path: &str) -> bool {
    std::fs::read(path).is_ok_and(|text| text.starts_with(b"Y"))
}
