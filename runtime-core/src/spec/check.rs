//! What the runtime specification demands and JSON cannot say. Looks at nothing outside of the spec.

use std::collections::HashSet;

use oci_spec::runtime::{Hooks, Linux, LinuxNamespaceType, LinuxSchedulerPolicy as Policy, Process, Scheduler, Spec};

use super::{Error, ids};
use crate::init::schedule::cpu_set;

/// # Errors
/// The first rule that the spec breaks.
pub(crate) fn check(spec: &Spec) -> Result<(), Error> {
    check_version(spec.version())?;
    if spec.annotations().iter().flatten().any(|(key, _)| key.is_empty()) {
        return Err(Error::Missing { field: "a key of annotations" });
    }
    if let Some(hooks) = spec.hooks() {
        check_hooks(hooks)?;
    }
    let process = spec.process().as_ref().ok_or(Error::Missing { field: "process" })?;
    check_process(process)?;
    let root = spec.root().as_ref().ok_or(Error::Missing { field: "root" })?;
    if root.path().as_os_str().is_empty() {
        return Err(Error::Missing { field: "root.path" });
    }
    let linux = spec.linux().as_ref().ok_or(Error::Missing { field: "linux" })?;
    check_supported(linux)?;
    if super::lacks_a_page_size(spec) {
        return Err(Error::Missing { field: "linux.resources.hugepageLimits.pageSize" });
    }
    check_namespaces(spec, linux)?;
    check_net_devices(linux)?;
    ids::check(linux, process)
}

fn check_net_devices(linux: &Linux) -> Result<(), Error> {
    let Some(devices) = linux.net_devices().as_ref().filter(|devices| !devices.is_empty()) else { return Ok(()) };
    if !linux.namespaces().iter().flatten().any(|namespace| namespace.typ() == LinuxNamespaceType::Network) {
        return Err(Error::Contradiction("linux.netDevices need a network namespace in linux.namespaces"));
    }
    let mut seen = HashSet::new();
    for (name, device) in devices {
        let new_name = device.name().as_ref().filter(|name| !name.is_empty()).unwrap_or(name);
        if let Some(value) = [name, new_name].into_iter().find(|name| !is_device_name(name)) {
            let (field, value) = ("linux.netDevices", value.clone());
            return Err(Error::Invalid { field, value, expected: "the name of a network device" });
        }
        if !seen.insert(new_name) {
            return Err(Error::Duplicate { field: "linux.netDevices", value: new_name.clone() });
        }
    }
    Ok(())
}

/// As the kernel has it (dev_valid_name); a pattern it would fill in with a number is none either.
fn is_device_name(name: &str) -> bool {
    let odd = |byte: u8| byte == b'/' || byte == b':' || byte == b'%' || byte == 0 || byte.is_ascii_whitespace();
    !name.is_empty() && name.len() < libc::IFNAMSIZ && name != "." && name != ".." && !name.bytes().any(odd)
}

/// SemVer 2.0.0, and a major version that is ours: 1, or what came before it.
fn check_version(version: &str) -> Result<(), Error> {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<Option<u32>> = core.split('.').map(|number| number.parse().ok()).collect();
    match numbers.as_slice() {
        [Some(0 | 1), Some(_), Some(_)] => Ok(()),
        [Some(_), Some(_), Some(_)] => Err(Error::Version(version.to_owned())),
        _ => Err(Error::Invalid { field: "ociVersion", value: version.to_owned(), expected: "a semantic version" }),
    }
}

#[allow(deprecated, reason = "prestart hooks are deprecated and in wide use")]
fn check_hooks(hooks: &Hooks) -> Result<(), Error> {
    let all = [
        hooks.prestart(),
        hooks.create_runtime(),
        hooks.create_container(),
        hooks.start_container(),
        hooks.poststart(),
        hooks.poststop(),
    ];
    for hook in all.into_iter().flatten().flatten() {
        if !hook.path().is_absolute() {
            let value = hook.path().display().to_string();
            return Err(Error::Invalid { field: "hooks.path", value, expected: "an absolute path" });
        }
        if let Some(timeout) = hook.timeout().filter(|timeout| *timeout <= 0) {
            let value = timeout.to_string();
            return Err(Error::Invalid { field: "hooks.timeout", value, expected: "greater than zero" });
        }
    }
    Ok(())
}

fn check_supported(linux: &Linux) -> Result<(), Error> {
    let flags = linux.personality().as_ref().and_then(|personality| personality.flags().as_ref());
    let given = [("linux.personality.flags", flags.is_some_and(|flags| !flags.is_empty()))];
    match given.into_iter().find(|(_, given)| *given) {
        Some((field, _)) => Err(Error::Unsupported { field }),
        None => Ok(()),
    }
}

/// A process of a spec, or one to exec.
pub(crate) fn check_process(process: &Process) -> Result<(), Error> {
    let args = process.args().as_deref().unwrap_or_default();
    if args.first().is_none_or(|name| name.is_empty()) {
        return Err(Error::Missing { field: "process.args" });
    }
    if !process.cwd().is_absolute() {
        let value = process.cwd().display().to_string();
        return Err(Error::Invalid { field: "process.cwd", value, expected: "an absolute path" });
    }
    for variable in process.env().iter().flatten() {
        if !variable.contains('=') || variable.starts_with('=') {
            return Err(Error::Invalid { field: "process.env", value: variable.clone(), expected: "NAME=value" });
        }
    }
    let mut seen = HashSet::new();
    for limit in process.rlimits().iter().flatten() {
        if !seen.insert(limit.typ().to_string()) {
            return Err(Error::Duplicate { field: "process.rlimits", value: limit.typ().to_string() });
        }
        if limit.soft() > limit.hard() {
            let value = format!("{} soft {} hard {}", limit.typ(), limit.soft(), limit.hard());
            return Err(Error::Invalid { field: "process.rlimits", value, expected: "soft at most hard" });
        }
    }
    if let Some(io) = process.io_priority()
        && !(0..=7).contains(&io.priority())
    {
        let value = io.priority().to_string();
        return Err(Error::Invalid { field: "process.ioPriority.priority", value, expected: "between 0 and 7" });
    }
    if let Some(scheduler) = process.scheduler() {
        check_scheduler(scheduler)?;
    }
    // A container's first process is not concerned, but those of exec that take it over are.
    if let Some(affinity) = process.exec_cpu_affinity() {
        let lists = affinity.initial().iter().chain(affinity.cpu_affinity_final());
        if let Some(list) = lists.filter(|list| !list.is_empty()).find(|list| cpu_set(list).is_none()) {
            return Err(Error::Invalid {
                field: "process.execCPUAffinity",
                value: list.clone(),
                expected: "a list of CPUs",
            });
        }
    }
    if let Some(adj) = process.oom_score_adj()
        && !(-1000..=1000).contains(&adj)
    {
        let value = adj.to_string();
        return Err(Error::Invalid { field: "process.oomScoreAdj", value, expected: "between -1000 and 1000" });
    }
    Ok(())
}

/// What sched_setattr(2) would say EINVAL to, or take no notice of.
fn check_scheduler(scheduler: &Scheduler) -> Result<(), Error> {
    let policy = *scheduler.policy();
    if let Some(nice) = scheduler.nice().filter(|nice| !(-20..=19).contains(nice)) {
        let (field, value) = ("process.scheduler.nice", nice.to_string());
        return Err(Error::Invalid { field, value, expected: "between -20 and 19" });
    }
    let realtime = matches!(policy, Policy::SchedFifo | Policy::SchedRr);
    if scheduler.priority().is_some_and(|priority| priority != 0) && !realtime {
        return Err(Error::Contradiction("process.scheduler.priority needs SCHED_FIFO or SCHED_RR"));
    }
    let times = [scheduler.runtime(), scheduler.deadline(), scheduler.period()];
    if policy != Policy::SchedDeadline && times.into_iter().flatten().any(|time| *time != 0) {
        return Err(Error::Contradiction("process.scheduler's runtime, deadline and period need SCHED_DEADLINE"));
    }
    Ok(())
}

fn check_namespaces(spec: &Spec, linux: &Linux) -> Result<(), Error> {
    let mut seen = HashSet::new();
    for namespace in linux.namespaces().iter().flatten() {
        if !seen.insert(namespace.typ().to_string()) {
            return Err(Error::Duplicate { field: "linux.namespaces", value: namespace.typ().to_string() });
        }
        if let Some(path) = given_path(namespace.path())
            && !path.is_absolute()
        {
            let value = path.display().to_string();
            return Err(Error::Invalid { field: "linux.namespaces.path", value, expected: "an absolute path" });
        }
    }
    let find = |kind| linux.namespaces().iter().flatten().find(|namespace| namespace.typ() == kind);
    if find(LinuxNamespaceType::Mount).is_none() {
        return Err(Error::Contradiction("a container needs a mount namespace in linux.namespaces"));
    }
    let mapped = |maps: &Option<Vec<_>>| maps.as_ref().is_some_and(|maps| !maps.is_empty());
    let mapped = (mapped(linux.uid_mappings()), mapped(linux.gid_mappings()));
    match find(LinuxNamespaceType::User).map(|namespace| given_path(namespace.path()).is_some()) {
        Some(false) if mapped != (true, true) => {
            return Err(Error::Contradiction("a new user namespace needs linux.uidMappings and linux.gidMappings"));
        }
        None if mapped != (false, false) => {
            return Err(Error::Contradiction("linux.uidMappings and linux.gidMappings need a user namespace"));
        }
        _ => {}
    }
    if find(LinuxNamespaceType::Uts).is_none() && (spec.hostname().is_some() || spec.domainname().is_some()) {
        return Err(Error::Contradiction("hostname and domainname need a UTS namespace"));
    }
    let offsets = linux.time_offsets().as_ref().is_some_and(|offsets| !offsets.is_empty());
    if offsets && find(LinuxNamespaceType::Time).is_none_or(|namespace| given_path(namespace.path()).is_some()) {
        return Err(Error::Contradiction("linux.timeOffsets need a new time namespace"));
    }
    Ok(())
}

/// containerd and CRI write an empty path where they mean none.
pub(crate) fn given_path(path: &Option<std::path::PathBuf>) -> Option<&std::path::Path> {
    path.as_deref().filter(|path| !path.as_os_str().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(edit: impl FnOnce(&mut serde_json::Value)) -> Result<(), String> {
        let mut json = serde_json::json!({
            "ociVersion": "1.2.0",
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/"},
            "root": {"path": "rootfs"},
            "linux": {"namespaces": [{"type": "mount"}, {"type": "uts"}]},
        });
        edit(&mut json);
        check(&serde_json::from_value(json).unwrap()).map_err(|err| err.to_string())
    }

    #[test]
    fn a_plain_spec_passes() {
        spec(|_| {}).unwrap();
    }

    #[test]
    fn what_is_missing_or_contradictory_is_named() {
        let cases: [(&str, serde_json::Value, &str); 9] = [
            ("/process", serde_json::Value::Null, "process is missing"),
            ("/root", serde_json::Value::Null, "root is missing"),
            ("/process/args", serde_json::json!([]), "process.args is missing"),
            ("/process/cwd", "tmp".into(), "not an absolute path"),
            ("/linux/namespaces", serde_json::json!([{"type": "mount"}, {"type": "mount"}]), "has mnt twice"),
            ("/linux/namespaces", serde_json::json!([{"type": "pid"}]), "mount namespace"),
            ("/linux/namespaces", serde_json::json!([{"type": "mount"}, {"type": "user"}]), "uidMappings"),
            ("/linux/namespaces", serde_json::json!([{"type": "mount", "path": "x"}]), "not an absolute path"),
            ("/linux/uidMappings", serde_json::json!([{"containerID": 0, "hostID": 1, "size": 1}]), "user namespace"),
        ];
        for (pointer, value, expected) in cases {
            let result = spec(|json| {
                let (parent, key) = pointer.rsplit_once('/').unwrap();
                json.pointer_mut(parent).unwrap()[key] = value;
            });
            assert!(result.clone().is_err_and(|err| err.contains(expected)), "{pointer}: {result:?}");
        }
    }

    #[test]
    fn rlimits_are_unique_and_ordered() {
        let limits = |limits: serde_json::Value| spec(|json| json["process"]["rlimits"] = limits);
        let limit = serde_json::json!({"type": "RLIMIT_CORE", "soft": 1, "hard": 2});
        limits(serde_json::json!([limit])).unwrap();
        assert!(limits(serde_json::json!([limit, limit])).is_err());
        assert!(limits(serde_json::json!([{"type": "RLIMIT_CORE", "soft": 3, "hard": 2}])).is_err());
    }
}
