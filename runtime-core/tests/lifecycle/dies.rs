//! Who creates a container is killed in the middle of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use runtime_core::ContainerId;
use runtime_core::container::{Container, CreateOptions, Status};
use runtime_core::fault::{Fault, Point, arm};

use crate::bundle::{Bundle, Running, chain, stdio};

pub(crate) const TESTS: &[(&str, fn())] =
    &[("a_create_that_is_killed_has_a_cgroup_once_it_is_made", a_create_that_is_killed_has_a_cgroup_once_it_is_made)];

/// Names the bundle, in the process that creates and dies.
pub(crate) const BUNDLE: &str = "RTC_TEST_DIES";
/// The point at which it does, as JSON.
const POINT: &str = "RTC_TEST_DIES_AT";

const ID: &str = "killed";

pub(crate) fn create(path: &Path) {
    let point: Point = serde_json::from_str(&std::env::var(POINT).unwrap()).unwrap();
    let spec = serde_json::from_slice(&std::fs::read(path.join("config.json")).unwrap()).unwrap();
    let (stdio, _output) = stdio(false);
    arm(Some(Fault::Dies(point)));
    let id = ContainerId::parse(ID).unwrap();
    let options = CreateOptions::new(id, path.join("state"), path.to_owned(), spec, stdio);
    panic!("it did not die: {:?}", Container::create(options).map(drop));
}

/// A create of `bundle` that dies at `point`, and what it has left.
fn killed_at(bundle: &Bundle, point: Point) -> Container {
    std::fs::write(bundle.path().join("config.json"), bundle.spec.to_string()).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(BUNDLE, bundle.path()).env(POINT, serde_json::to_string(&point).unwrap());
    assert_eq!(command.status().unwrap().code(), Some(9), "{point:?}");
    let id = ContainerId::parse(ID).unwrap();
    Container::load(&bundle.root(), &id).unwrap_or_else(|err| panic!("{}", chain(&err)))
}

/// The directory in each hierarchy.
fn directories(name: &str) -> Vec<PathBuf> {
    let mounts = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    let all = mounts.chain(["/sys/fs/cgroup".into()]).map(|mount| mount.join(name));
    all.filter(|path| path.exists()).collect()
}

fn a_create_that_is_killed_has_a_cgroup_once_it_is_made() {
    let name = format!("rtc-test-dies-{}", std::process::id());
    let mut bundle = Bundle::new("exec sleep 100");
    bundle.spec["linux"]["cgroupsPath"] = format!("/{name}").into();
    // Not made yet: whoever is there later is another.
    let killed = killed_at(&bundle, Point::State);
    let (other, running): (_, Running) = bundle.create_as("other").unwrap_or_else(|err| panic!("{}", chain(&err)));
    other.start().unwrap();
    assert_eq!(killed.pids().unwrap(), []);
    killed.delete(true).unwrap_or_else(|err| panic!("{}", chain(&err)));
    assert_eq!(other.status().unwrap(), Status::Running);
    other.delete(true).unwrap();
    running.finish();
    // Made, whether that was written down or not.
    for point in [Point::Cgroup, Point::Owner] {
        let killed = killed_at(&bundle, point);
        assert_ne!(directories(&name), Vec::<PathBuf>::new(), "{point:?}");
        killed.delete(false).unwrap_or_else(|err| panic!("{}", chain(&err)));
        assert_eq!(directories(&name), Vec::<PathBuf>::new(), "{point:?}");
    }
    // There before, and empty: taken over by a create that was not cut off, and left by one that was.
    let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let first = Path::new(if v2 { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/pids" }).join(&name);
    std::fs::create_dir(&first).unwrap();
    killed_at(&bundle, Point::Cgroup).delete(true).unwrap();
    assert_eq!(directories(&name), std::slice::from_ref(&first));
    std::fs::remove_dir(first).unwrap();
    bundle.assert_nothing_left();
}
