//! Mounts of a spec, for [`crate::fuzzing`].

use std::path::{Component, Path};

use oci_spec::runtime::Spec;

use super::options::Options;
use super::{Plan, PlanOptions};
use crate::cgroup::View;

/// The options of a mount, one a line.
pub(crate) fn options(text: &str) {
    let lines: Vec<&str> = text.lines().collect();
    let parsed = Options::parse(&lines);
    let given: usize = lines.iter().map(|line| line.len()).sum();
    let data: usize = parsed.data.iter().map(|(key, value)| key.len() + value.as_deref().map_or(0, str::len)).sum();
    assert!(data <= given, "more than was given: {:?}", parsed.data);
}

/// Wherever a spec wants its mounts, the plan has them below the root.
pub(crate) fn plan(spec: &Spec, cgroup: &View) {
    for user_namespace in [false, true] {
        let bundle = Path::new("/bundle");
        let options =
            PlanOptions { bundle, cgroup, no_pivot_root: false, user_namespace, network_namespace: user_namespace };
        let Ok(plan) = Plan::new(spec, &options) else { continue };
        for path in plan.mounts.iter().map(|entry| &entry.target).chain(&plan.masked).chain(&plan.readonly) {
            let odd = path.components().any(|part| matches!(part, Component::ParentDir));
            assert!(path.is_absolute() && !odd, "{} may lead out of the root", path.display());
        }
    }
}
