//! The plan carried out on friendly and on hostile trees, each time in namespaces of its own. Needs root.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use super::{Error, Plan, PlanOptions};
use crate::cgroup::View;

const INSIDE: &str = "RTC_TEST_IN_NAMESPACES";
/// A tmpfs of the test's own mount namespace is mounted here.
const BUNDLE: &str = "/mnt";
const ROOT: &str = "/mnt/rootfs";

/// Of an init that opens every source itself.
fn unasked(_: usize) -> Result<Option<std::os::fd::OwnedFd>, Error> {
    Ok(None)
}

/// Runs `body` in this test's process if that is in namespaces of its own already, else this test again in such ones.
fn in_namespaces(name: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        rustix::mount::mount("tmpfs", BUNDLE, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
        fs::create_dir(ROOT).unwrap();
        return body();
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: mounting needs root");
        return;
    }
    let output = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--ipc", "--uts", "--net", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("rootfs::tests::{name}"), "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{text}");
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "the test did not run inside: {text}");
}

/// What `ctr run` gives.
fn default_spec() -> Value {
    json!({
        "ociVersion": "1.1.0",
        "root": { "path": "rootfs" },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] },
            { "destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k", "ro"] },
        ],
        "linux": {
            "namespaces": [{ "type": "mount" }, { "type": "ipc" }, { "type": "uts" }, { "type": "network" }],
            "sysctl": { "net.ipv4.ip_forward": "1" },
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/version", "/proc/cmdline", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

fn plan_of(spec: &Value) -> Result<Plan, Error> {
    plan_with(spec, false)
}

fn plan_with(spec: &Value, no_pivot_root: bool) -> Result<Plan, Error> {
    let spec = serde_json::from_value(spec.clone()).unwrap();
    let cgroup = View::V1(Vec::new());
    let options = PlanOptions {
        bundle: Path::new(BUNDLE),
        cgroup: &cgroup,
        no_pivot_root,
        user_namespace: false,
        network_namespace: true,
    };
    // As it arrives in the init.
    Plan::new(&spec, &options).map(|plan| serde_json::from_slice(&serde_json::to_vec(&plan).unwrap()).unwrap())
}

fn add_mount(spec: &mut Value, mount: Value) {
    spec["mounts"].as_array_mut().unwrap().push(mount);
}

fn bind(source: &str, destination: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": "bind", "source": source, "options": options })
}

fn is_null(path: &str) -> bool {
    let stat = fs::metadata(path).unwrap();
    stat.file_type().is_char_device() && stat.rdev() == rustix::fs::makedev(1, 3)
}

#[test]
fn the_default_spec_is_carried_out_whole() {
    in_namespaces("the_default_spec_is_carried_out_whole", || {
        let mut spec = default_spec();
        spec["root"]["readonly"] = json!(true);
        fs::write("/mnt/hosts", "hosts").unwrap();
        add_mount(&mut spec, bind("/mnt/hosts", "/etc/hosts", &["rbind", "rprivate", "ro"]));
        let plan = plan_of(&spec).unwrap();
        let start = Instant::now();
        plan.mount(unasked).unwrap();
        let mounted = start.elapsed();
        plan.pivot().unwrap();
        let pivoted = start.elapsed();
        let console = plan.console().unwrap();
        plan.sysctl().unwrap();
        let set = start.elapsed();
        plan.seal().unwrap();
        println!("mount {mounted:?}, pivot {pivoted:?}, console and sysctl {set:?}, seal {:?}", start.elapsed());

        for (name, minor) in [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)] {
            let stat = fs::metadata(format!("/dev/{name}")).unwrap();
            assert_eq!((stat.rdev(), stat.mode()), (rustix::fs::makedev(1, minor), 0o20666), "{name}");
        }
        assert!(is_null("/proc/version") && is_null("/proc/cmdline"));
        assert_eq!(fs::read_dir("/proc/acpi").map_or(0, Iterator::count), 0);
        let read_only = |path: &str| {
            let error = fs::write(path, "").unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{path}");
        };
        for path in ["/new", "/run/new", "/proc/sys/kernel/hostname", "/etc/hosts", "/sys/new"] {
            read_only(path);
        }
        fs::write("/dev/new", "").unwrap();
        fs::write("/dev/null", "gone").unwrap();
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim(), "1");
        assert_eq!(fs::read_link("/dev/ptmx").unwrap(), Path::new("pts/ptmx"));
        assert_eq!(fs::metadata("/dev/shm").unwrap().permissions().mode() & 0o7777, 0o1777);
        let slave = rustix::fs::fstat(&console.slave).unwrap();
        assert_eq!(fs::metadata("/dev/console").unwrap().rdev(), slave.st_rdev);
        rustix::io::write(&console.slave, b"x").unwrap();
        assert_eq!(rustix::io::read(&console.master, &mut [0; 8][..]).unwrap(), 1);

        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains("/mnt"), "the old root is still there:\n{table}");
        assert!(table.lines().all(|line| !line.contains(" shared:")), "{table}");
    });
}

#[test]
fn without_pivot_root_the_rootfs_is_the_root_too() {
    in_namespaces("without_pivot_root_the_rootfs_is_the_root_too", || {
        let plan = plan_with(&default_spec(), true).unwrap();
        plan.mount(unasked).unwrap();
        plan.pivot().unwrap();
        plan.seal().unwrap();
        fs::write("/mark", "").unwrap();
        assert!(!Path::new("/mnt").exists() && !Path::new("/usr").exists());
        assert!(is_null("/proc/version"));
    });
}

#[test]
fn cve_2023_25809_without_a_cgroup_the_hosts_are_covered() {
    in_namespaces("cve_2023_25809_without_a_cgroup_the_hosts_are_covered", || {
        let mut spec = default_spec();
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| mount["destination"] != "/sys");
        // As `rtc spec --rootless` has them.
        mounts.push(bind("/sys", "/sys", &["rbind", "ro"]));
        mounts.push(json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup" }));
        let plan = plan_of(&spec).unwrap();
        plan.mount(unasked).unwrap();
        plan.pivot().unwrap();
        plan.seal().unwrap();
        assert_eq!(fs::read_dir("/sys/fs/cgroup").unwrap().count(), 0);
        let made = fs::create_dir("/sys/fs/cgroup/made").unwrap_err();
        assert_eq!(made.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    });
}

#[test]
fn cve_2023_27561_a_symlink_for_proc_or_sys_is_refused() {
    in_namespaces("cve_2023_27561_a_symlink_for_proc_or_sys_is_refused", || {
        fs::create_dir(format!("{ROOT}/elsewhere")).unwrap();
        symlink("/elsewhere", format!("{ROOT}/proc")).unwrap();
        let plan = plan_of(&default_spec()).unwrap();
        assert!(
            matches!(plan.mount(unasked), Err(Error::NotADirectory { target, .. }) if target == Path::new("/proc"))
        );
    });
}

#[test]
fn cve_2019_16884_nothing_is_mounted_inside_proc() {
    in_namespaces("cve_2019_16884_nothing_is_mounted_inside_proc", || {
        fs::create_dir(format!("{ROOT}/proc")).unwrap();
        symlink("/proc", format!("{ROOT}/innocent")).unwrap();
        fs::write("/mnt/cpuinfo", "mine").unwrap();
        for target in ["/proc/self", "/proc/sys/kernel", "/innocent/sys", "/innocent"] {
            let mut spec = default_spec();
            add_mount(&mut spec, bind("/mnt", target, &["bind"]));
            let error = plan_of(&spec).unwrap().mount(unasked).unwrap_err();
            assert!(matches!(error, Error::InsideProc { .. }), "{target}: {error}");
        }
        let mut spec = default_spec();
        add_mount(&mut spec, bind("/mnt/cpuinfo", "/proc/cpuinfo", &["bind"]));
        plan_of(&spec).unwrap().mount(unasked).unwrap();
        assert_eq!(fs::read_to_string(format!("{ROOT}/proc/cpuinfo")).unwrap(), "mine");
    });
}

#[test]
fn cve_2021_30465_symlinks_in_a_target_stay_inside_the_rootfs() {
    in_namespaces("cve_2021_30465_symlinks_in_a_target_stay_inside_the_rootfs", || {
        fs::create_dir_all("/mnt/victim").unwrap();
        symlink("/mnt/victim", format!("{ROOT}/a")).unwrap();
        symlink("../../../mnt/victim", format!("{ROOT}/b")).unwrap();
        fs::create_dir_all(format!("{ROOT}/mnt/victim")).unwrap();
        fs::write("/mnt/file", "x").unwrap();
        let mut spec = default_spec();
        add_mount(&mut spec, bind("/mnt/file", "/a/deep/file", &["bind"]));
        add_mount(&mut spec, bind("/mnt/file", "/b/other", &["bind"]));
        plan_of(&spec).unwrap().mount(unasked).unwrap();
        assert_eq!(fs::read_dir("/mnt/victim").unwrap().count(), 0);
        assert_eq!(fs::read_to_string(format!("{ROOT}/mnt/victim/deep/file")).unwrap(), "x");
        assert_eq!(fs::read_to_string(format!("{ROOT}/mnt/victim/other")).unwrap(), "x");
    });
}

#[test]
fn cve_2025_31133_what_stands_for_dev_null_is_never_used() {
    in_namespaces("cve_2025_31133_what_stands_for_dev_null_is_never_used", || {
        // No tmpfs on /dev: the image's own directory is filled.
        let mut spec = default_spec();
        spec["mounts"] = json!([spec["mounts"][0]]);
        fs::create_dir(format!("{ROOT}/dev")).unwrap();
        symlink("/proc/sys/kernel/core_pattern", format!("{ROOT}/dev/null")).unwrap();
        assert!(plan_of(&spec).unwrap().mount(unasked).is_err());
        fs::remove_file(format!("{ROOT}/dev/null")).unwrap();
        fs::write(format!("{ROOT}/dev/null"), "").unwrap();
        assert!(matches!(plan_of(&spec).unwrap().mount(unasked), Err(Error::WrongDevice { .. })));
        fs::remove_file(format!("{ROOT}/dev/null")).unwrap();

        // Replaced after it was made: the mask is still the host's null device.
        let plan = plan_of(&spec).unwrap();
        plan.mount(unasked).unwrap();
        plan.pivot().unwrap();
        fs::remove_file("/dev/null").unwrap();
        symlink("/proc/sys/kernel/core_pattern", "/dev/null").unwrap();
        plan.seal().unwrap();
        assert!(is_null("/proc/version"));
    });
}

#[test]
fn a_masked_symlink_masks_what_it_leads_to_inside() {
    in_namespaces("a_masked_symlink_masks_what_it_leads_to_inside", || {
        let mut spec = default_spec();
        fs::write(format!("{ROOT}/secret"), "secret").unwrap();
        fs::create_dir(format!("{ROOT}/dir")).unwrap();
        fs::write(format!("{ROOT}/dir/secret"), "secret").unwrap();
        symlink("/../secret", format!("{ROOT}/link")).unwrap();
        spec["linux"]["maskedPaths"] = json!(["/link", "/dir", "/missing/x"]);
        let plan = plan_of(&spec).unwrap();
        plan.mount(unasked).unwrap();
        plan.pivot().unwrap();
        plan.seal().unwrap();
        assert!(is_null("/secret"));
        assert_eq!(fs::read_dir("/dir").unwrap().count(), 0);
    });
}

#[test]
fn cve_2025_52565_a_symlink_for_the_console_is_refused() {
    in_namespaces("cve_2025_52565_a_symlink_for_the_console_is_refused", || {
        let plan = plan_of(&default_spec()).unwrap();
        plan.mount(unasked).unwrap();
        plan.pivot().unwrap();
        symlink("/proc/sys/kernel/core_pattern", "/dev/console").unwrap();
        assert!(matches!(plan.console(), Err(Error::HostileTarget { .. })));
        fs::remove_file("/dev/console").unwrap();
        // A ptmx that is no devpts's.
        rustix::mount::mount("tmpfs", "/dev/pts", "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
        fs::write("/dev/pts/ptmx", "").unwrap();
        assert!(matches!(plan.console(), Err(Error::WrongDevice { .. })));
    });
}

#[test]
fn cve_2025_52881_sysctl_does_not_use_the_images_proc() {
    in_namespaces("cve_2025_52881_sysctl_does_not_use_the_images_proc", || {
        let mut spec = default_spec();
        spec["mounts"] = json!([]);
        fs::create_dir_all(format!("{ROOT}/proc/sys/net/ipv4")).unwrap();
        fs::write(format!("{ROOT}/proc/sys/net/ipv4/ip_forward"), "mine").unwrap();
        let plan = plan_of(&spec).unwrap();
        plan.mount(unasked).unwrap();
        plan.pivot().unwrap();
        plan.sysctl().unwrap();
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(), "mine");
        rustix::mount::mount("proc", "/proc", "proc", rustix::mount::MountFlags::empty(), None).unwrap();
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim(), "1");
    });
}

#[test]
fn tmpcopyup_keeps_what_the_image_had() {
    in_namespaces("tmpcopyup_keeps_what_the_image_had", || {
        fs::create_dir_all(format!("{ROOT}/var/sub")).unwrap();
        fs::write(format!("{ROOT}/var/sub/file"), "text").unwrap();
        std::os::unix::fs::chown(format!("{ROOT}/var/sub/file"), Some(7), Some(8)).unwrap();
        fs::set_permissions(format!("{ROOT}/var/sub/file"), fs::Permissions::from_mode(0o4750)).unwrap();
        symlink("sub/file", format!("{ROOT}/var/link")).unwrap();
        std::os::unix::fs::chown(format!("{ROOT}/var"), Some(9), Some(9)).unwrap();
        // cap_net_bind_service+ep, version 2 (linux/capability.h).
        let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let file = format!("{ROOT}/var/sub/file");
        rustix::fs::setxattr(&file, "security.capability", &capability, rustix::fs::XattrFlags::empty()).unwrap();
        let long_ago =
            fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_nanos(77_000_000_003));
        for path in ["var/sub/file", "var/sub", "var"] {
            fs::File::open(format!("{ROOT}/{path}")).unwrap().set_times(long_ago).unwrap();
        }
        let mut spec = default_spec();
        add_mount(
            &mut spec,
            json!({ "destination": "/var", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"] }),
        );
        plan_of(&spec).unwrap().mount(unasked).unwrap();
        assert_eq!(fs::read_to_string(format!("{ROOT}/var/link")).unwrap(), "text");
        let stat = fs::metadata(format!("{ROOT}/var/sub/file")).unwrap();
        assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid()), (0o4750, 7, 8));
        for path in ["var/sub/file", "var/sub", "var"] {
            let stat = fs::metadata(format!("{ROOT}/{path}")).unwrap();
            assert_eq!((stat.mtime(), stat.mtime_nsec()), (77, 3), "{path}");
        }
        let mut value = [0; 20];
        assert_eq!(rustix::fs::getxattr(&file, "security.capability", &mut value[..]), Ok(20));
        assert_eq!(value, capability);
        let stat_var = fs::metadata(format!("{ROOT}/var")).unwrap();
        assert_eq!((stat_var.uid(), stat_var.gid()), (9, 9));
        assert_ne!(stat.dev(), fs::metadata(ROOT).unwrap().dev());
    });
}

#[test]
fn options_longer_than_fsconfig_takes_are_mounted() {
    in_namespaces("options_longer_than_fsconfig_takes_are_mounted", || {
        let layer = |i: usize| format!("{BUNDLE}/a-layer-with-a-name-of-some-length-{i}");
        for i in 0..20 {
            fs::create_dir(layer(i)).unwrap();
            fs::write(format!("{}/{i}", layer(i)), "").unwrap();
        }
        let overlay = |layers: Vec<String>| {
            let mut spec = default_spec();
            let options = [format!("lowerdir={}", layers.join(":")), "ro".to_owned(), "nosuid".to_owned()];
            add_mount(
                &mut spec,
                json!({ "destination": "/o", "type": "overlay", "source": "overlay", "options": options }),
            );
            spec
        };
        let spec = overlay((0..20).map(layer).collect());
        plan_of(&spec).unwrap().mount(unasked).unwrap();
        assert_eq!(fs::read_dir(format!("{ROOT}/o")).unwrap().count(), 20);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let on: Vec<_> = mounts.lines().filter(|line| line.contains("/rootfs/o ")).collect();
        assert_eq!(on.len(), 1, "the scratch has gone: {on:?}");
        assert!(on[0].contains(" ro,nosuid,"), "{on:?}");
        let error = plan_of(&overlay((0..200).map(layer).collect())).unwrap().mount(unasked).unwrap_err();
        assert!(error.to_string().contains("and the kernel takes 4095"), "{error}");
        assert_eq!(error.kind(), crate::ErrorKind::InvalidArgument);
    });
}

#[test]
fn a_bad_mount_is_refused_with_source_target_and_reason() {
    in_namespaces("a_bad_mount_is_refused_with_source_target_and_reason", || {
        let mut spec = default_spec();
        add_mount(&mut spec, bind("/mnt/nowhere", "/data", &["bind"]));
        let error = plan_of(&spec).unwrap().mount(unasked).unwrap_err();
        assert_eq!(error.to_string(), "bind /mnt/nowhere on /data");
        let mut spec = default_spec();
        add_mount(&mut spec, json!({ "destination": "/x", "type": "tmpfs", "options": ["colour=red"] }));
        let error = plan_of(&spec).unwrap().mount(unasked).unwrap_err();
        assert!(error.to_string().starts_with("mount tmpfs on /x: "), "{error}");
        assert!(error.to_string().contains("colour"), "{error}");
    });
}

#[test]
fn what_cannot_work_is_refused_in_the_plan() {
    let mut no_namespace = default_spec();
    no_namespace["linux"]["namespaces"] = json!([]);
    assert!(matches!(plan_of(&no_namespace), Err(Error::NoMountNamespace)));
    let mut id_mapped = default_spec();
    add_mount(&mut id_mapped, bind("/mnt", "/x", &["bind", "idmap"]));
    assert!(matches!(plan_of(&id_mapped), Err(Error::InvalidMount { .. })));
    let mut propagation = default_spec();
    propagation["linux"]["rootfsPropagation"] = json!("sideways");
    assert!(matches!(plan_of(&propagation), Err(Error::InvalidPropagation(_))));
    let mut host_sysctl = default_spec();
    host_sysctl["linux"]["sysctl"] = json!({ "kernel.core_pattern": "|/x" });
    assert!(matches!(plan_of(&host_sysctl), Err(Error::InvalidSysctl { .. })));
}
