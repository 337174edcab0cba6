//! Nothing is left of a create or an exec, whatever step of it fails.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use runtime_core::Error;
use runtime_core::fault::{Fault, How, Point, arm};
use runtime_core::init::Step;
use serde_json::json;

use crate::bundle::{Bundle, chain, children, exec};
use crate::systemd;

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a_create_that_fails_at_any_step_leaves_nothing", a_create_that_fails_at_any_step_leaves_nothing),
    ("a_create_in_a_user_namespace_leaves_nothing", a_create_in_a_user_namespace_leaves_nothing),
    ("an_exec_that_fails_at_any_step_leaves_the_container", an_exec_that_fails_at_any_step_leaves_the_container),
];

/// No longer than a test, also where it panics.
struct Armed;

impl Armed {
    fn new(fault: Fault) -> Self {
        arm(Some(fault));
        Self
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        arm(None);
    }
}

/// All that a container could leave outside of its own rootfs.
#[derive(Debug, PartialEq, Eq)]
struct Host {
    mounts: String,
    processes: BTreeSet<String>,
    cgroups: BTreeSet<PathBuf>,
    files: BTreeSet<PathBuf>,
    units: String,
    descriptors: Vec<String>,
}

impl Host {
    fn look(bundle: &Bundle) -> Self {
        runtime_core::children::sweep_orphans();
        let mut cgroups = BTreeSet::new();
        walk(Path::new("/sys/fs/cgroup"), &|_| true, &mut cgroups);
        cgroups.retain(|path| path.to_string_lossy().contains(&cgroup()));
        let mut files = BTreeSet::new();
        walk(bundle.path(), &|path| !path.ends_with("rootfs"), &mut files);
        let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let mut descriptors: Vec<_> = links
            .filter_map(|link| std::fs::read_link(link.path()).ok())
            .map(|path| path.display().to_string())
            .collect();
        // The listing's own.
        descriptors.retain(|target| !target.ends_with("/fd"));
        descriptors.sort();
        Self {
            mounts: std::fs::read_to_string("/proc/self/mountinfo").unwrap(),
            processes: processes(bundle),
            units: if systemd::is_driver(bundle) { systemd::units() } else { String::new() },
            cgroups,
            files,
            descriptors,
        }
    }
}

/// All of the tests' pid namespace; where there is none, ours and those of our names.
fn processes(bundle: &Bundle) -> BTreeSet<String> {
    let all = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    let all = all.filter(|name| name.parse::<u32>().is_ok());
    if !systemd::is_driver(bundle) {
        return all.collect();
    }
    let of_ours = |pid: &String| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        name.is_ok_and(|name| ["rtc-", "rtc/", "sleep"].iter().any(|ours| name.starts_with(ours)))
    };
    all.filter(of_ours).chain(children()).collect()
}

fn walk(dir: &Path, enter: &dyn Fn(&Path) -> bool, found: &mut BTreeSet<PathBuf>) {
    // A cgroup of somebody else's may go meanwhile.
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && enter(&path) {
            walk(&path, enter, found);
        }
        found.insert(path);
    }
}

pub(crate) fn cgroup() -> String {
    format!("rtc-test-fault-{}", std::process::id())
}

/// With something to do at each step.
pub(crate) fn bundle() -> Bundle {
    let mut bundle = Bundle::new("exec sleep 60");
    let hook = json!([{"path": "/bin/true"}]);
    bundle.spec["hooks"] = json!({"prestart": hook, "createRuntime": hook, "createContainer": hook});
    bundle.spec["domainname"] = "example".into();
    let linux = &mut bundle.spec["linux"];
    linux["cgroupsPath"] = format!("/{}", cgroup()).into();
    linux["resources"] = json!({"pids": {"limit": 100}});
    linux["seccomp"] =
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getcwd"], "action": "SCMP_ACT_LOG"}]});
    linux["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
    linux["maskedPaths"] = json!(["/proc/kcore"]);
    linux["readonlyPaths"] = json!(["/proc/sys"]);
    bundle.spec["process"]["rlimits"] = json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
    bundle.spec["process"]["oomScoreAdj"] = 500.into();
    let map = json!([{"containerID": 0, "hostID": 5000, "size": 100}]);
    bundle.spec["mounts"].as_array_mut().unwrap().extend([
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}),
        json!({"destination": "/m", "type": "bind", "source": "rootfs/etc", "options": ["bind", "idmap"], "uidMappings": map, "gidMappings": map}),
    ]);
    bundle
}

fn faults(bundle: &Bundle) -> impl Iterator<Item = Fault> {
    let systemd = systemd::is_driver(bundle);
    let points = Point::ALL.iter().filter(move |point| systemd || !Point::OF_SYSTEMD.contains(point));
    let runtime = points.map(|point| Fault::Runtime(*point));
    // The fault travels with the orders, and execve(2) does not come back.
    let steps = Step::ALL.iter().filter(|step| !matches!(step, Step::Orders | Step::Execve));
    // What the init does is the same whoever has made its cgroup: with systemd one step stands for all, for a machine is slow.
    let steps = steps.take(if systemd { 1 } else { Step::ALL.len() });
    runtime.chain(steps.flat_map(|step| [Fault::Init(*step, How::Fails), Fault::Init(*step, How::Dies)]))
}

fn expect_injected(fault: Fault, err: &Error) {
    let said = chain(err);
    if matches!(fault, Fault::Init(Step::Ready, _)) {
        // It is gone when it is spoken to next, and no longer there to say why.
        return;
    }
    let expected: &[_] = match fault {
        Fault::Init(_, How::Dies) => &["ended with 9 without a word", "it died before it executed the program"],
        _ => &["obey the test"],
    };
    assert!(expected.iter().any(|expected| said.contains(expected)), "{fault:?}: {said}");
    assert!(!matches!(err, Error::RollBack { .. }), "{fault:?}: {said}");
}

pub(crate) fn fails_everywhere(bundle: &Bundle) {
    // What is made once in a process, the sealed binary among it, is made here.
    let (container, running) = bundle.create().unwrap_or_else(|err| panic!("{}", chain(&err)));
    container.start().unwrap();
    container.delete(true).unwrap();
    running.finish();
    drop(container);
    std::fs::remove_file(bundle.path().join("pid")).unwrap();
    let before = Host::look(bundle);
    for fault in faults(bundle) {
        let armed = Armed::new(fault);
        match bundle.create() {
            Err(err) => expect_injected(fault, &err),
            Ok((container, running)) => {
                let late = matches!(fault, Fault::Init(Step::Ready | Step::Start | Step::StartContainerHooks, _));
                assert!(late, "{fault:?} did not fail the create");
                match container.start() {
                    Err(err) => expect_injected(fault, &err),
                    Ok(()) => panic!("{fault:?} did not fail the start"),
                }
                assert!([1, 9].contains(&running.finish().0), "{fault:?}");
                container.delete(false).unwrap_or_else(|err| panic!("{fault:?}: {}", chain(&err)));
                std::fs::remove_file(bundle.path().join("pid")).unwrap();
            }
        }
        drop(armed);
        assert_eq!(Host::look(bundle), before, "{fault:?}");
    }
    // And the same container can be made after all that.
    let (container, running) = bundle.create().unwrap_or_else(|err| panic!("{}", chain(&err)));
    container.delete(true).unwrap();
    running.finish();
    bundle.assert_nothing_left();
}

fn a_create_that_fails_at_any_step_leaves_nothing() {
    fails_everywhere(&bundle());
}

fn a_create_in_a_user_namespace_leaves_nothing() {
    let mut bundle = bundle();
    crate::namespaces::user_namespace(&mut bundle);
    fails_everywhere(&bundle);
}

fn an_exec_that_fails_at_any_step_leaves_the_container() {
    let bundle = bundle();
    let (container, running) = bundle.create().unwrap_or_else(|err| panic!("{}", chain(&err)));
    container.start().unwrap();
    let process = json!({"user": {"uid": 33, "gid": 33}, "args": ["true"], "env": ["PATH=/bin"], "cwd": "/"});
    assert_eq!(exec(&container, process.clone(), false).unwrap().finish().0, 0);
    let before = Host::look(&bundle);
    let mut failed = 0;
    for fault in faults(&bundle) {
        let armed = Armed::new(fault);
        match exec(&container, process.clone(), false) {
            Err(err) => {
                expect_injected(fault, &err);
                failed += 1;
            }
            // A step that an exec has not.
            Ok(executed) => assert_eq!(executed.finish().0, 0, "{fault:?}"),
        }
        drop(armed);
        assert_eq!(Host::look(&bundle), before, "{fault:?}");
        assert_eq!(container.pids().unwrap().len(), 1, "{fault:?}");
    }
    assert!(failed > 30, "{failed} faults were met");
    container.delete(true).unwrap();
    running.finish();
    bundle.assert_nothing_left();
}
