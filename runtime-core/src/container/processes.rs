//! The processes of a container: those of its cgroup or, where it has none, of its pid namespace.

use std::collections::HashSet;
use std::path::PathBuf;

use super::Container;
use crate::{Pid, Result, cgroup, stat};

pub(super) fn pids(container: &Container) -> Result<Vec<Pid>> {
    let cgroup = &container.state.cgroup;
    if !cgroup.is_none() {
        return cgroup.pids().map_err(container.cgroup_failed());
    }
    if container.state.shared_pid_namespace {
        let err = cgroup::Error::None { operation: "a list of the processes in a pid namespace that is not its own" };
        return Err(container.cgroup_failed()(err));
    }
    let init = container.pid().filter(|_| super::status::alive(container));
    Ok(init.map(|init| in_namespace_of(init, &table())).unwrap_or_default())
}

/// What /proc tells of one process.
struct Row {
    pid: Pid,
    parent: i32,
    namespace: Option<PathBuf>,
}

/// Everything that can be seen. What ends meanwhile is left out.
fn table() -> Vec<Row> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::new));
    pids.filter_map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let namespace = std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        Some(Row { pid, parent: stat::parent(&stat)?, namespace })
    })
    .collect()
}

/// The processes of the init's namespace, whoever began them, and their descendants, which may be in namespaces below.
fn in_namespace_of(init: Pid, table: &[Row]) -> Vec<Pid> {
    let own = table.iter().find(|row| row.pid == init).and_then(|row| row.namespace.as_ref());
    let mut found: HashSet<i32> = table
        .iter()
        .filter(|row| row.pid == init || own.is_some() && row.namespace.as_ref() == own)
        .map(|row| row.pid.as_raw())
        .collect();
    loop {
        let before = found.len();
        let children = table.iter().filter(|row| found.contains(&row.parent)).map(|row| row.pid.as_raw());
        found.extend(children.collect::<Vec<_>>());
        if found.len() == before {
            break;
        }
    }
    let mut pids: Vec<Pid> = table.iter().map(|row| row.pid).filter(|pid| found.contains(&pid.as_raw())).collect();
    pids.sort();
    pids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_namespace_has_its_own_and_those_below() {
        let row = |pid, parent, namespace: &str| Row {
            pid: Pid::new(pid).unwrap(),
            parent,
            namespace: Some(namespace).filter(|text| !text.is_empty()).map(PathBuf::from),
        };
        // The init, its child, a grandchild in a namespace below, an exec from outside, and what one cannot look into.
        let table = [
            row(1, 0, "pid:[1]"),
            row(10, 1, "pid:[2]"),
            row(11, 10, "pid:[2]"),
            row(12, 11, "pid:[3]"),
            row(20, 1, "pid:[2]"),
            row(30, 1, ""),
        ];
        let pids =
            |init| in_namespace_of(Pid::new(init).unwrap(), &table).iter().map(|pid| pid.as_raw()).collect::<Vec<_>>();
        assert_eq!(pids(10), [10, 11, 12, 20]);
        assert_eq!(pids(30), [30]);
    }
}
