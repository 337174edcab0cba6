//! Images that want out.

use std::os::unix::fs::symlink;

use runtime_core::ErrorKind;
use serde_json::json;

use crate::bundle::{Bundle, chain, exec};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("cve_2019_5736_the_init_cannot_be_overwritten", cve_2019_5736_the_init_cannot_be_overwritten),
    (
        "cve_2024_21626_no_working_directory_behind_a_descriptor",
        cve_2024_21626_no_working_directory_behind_a_descriptor,
    ),
    ("cve_2023_28642_no_mount_behind_a_symlink_for_proc", cve_2023_28642_no_mount_behind_a_symlink_for_proc),
    ("cve_2025_52565_an_exec_takes_no_terminal_but_a_pty", cve_2025_52565_an_exec_takes_no_terminal_but_a_pty),
    ("cve_2025_31133_no_magic_link_is_masked", cve_2025_31133_no_magic_link_is_masked),
    ("cve_2022_29162_nothing_is_inheritable_by_default", cve_2022_29162_nothing_is_inheritable_by_default),
    ("cve_2024_45310_nothing_is_made_outside_the_rootfs", cve_2024_45310_nothing_is_made_outside_the_rootfs),
    ("cve_2022_0811_a_sysctl_of_the_host_is_refused", cve_2022_0811_a_sysctl_of_the_host_is_refused),
    (
        "cve_2025_24965_nothing_is_written_through_the_images_links",
        cve_2025_24965_nothing_is_written_through_the_images_links,
    ),
    ("cve_2026_41579_a_link_for_dev_reaches_nothing", cve_2026_41579_a_link_for_dev_reaches_nothing),
    ("links_that_lead_round_are_refused_everywhere", links_that_lead_round_are_refused_everywhere),
    ("a_full_disk_leaves_nothing", a_full_disk_leaves_nothing),
    ("a_controller_that_is_missing_is_named", a_controller_that_is_missing_is_named),
    ("more_mounts_than_anybody_needs_are_made_or_refused", more_mounts_than_anybody_needs_are_made_or_refused),
];

/// The program is our own binary, as /proc/self/exe of an image made for it; the file behind it must stay as it is.
fn cve_2019_5736_the_init_cannot_be_overwritten() {
    let bundle = Bundle::new("exec sleep 60");
    let (container, running) = bundle.create().unwrap();
    let exe = format!("/proc/{}/exe", running.started.child.pid);
    let ours = std::fs::metadata("/proc/self/exe").unwrap();
    assert_eq!(std::fs::metadata(&exe).unwrap().len(), ours.len());
    let written = std::fs::OpenOptions::new().write(true).open(&exe);
    let Err(err) = written.and_then(|mut file| std::io::Write::write_all(&mut file, b"x")) else { panic!("written") };
    // EROFS on the overlay; ETXTBSY or EPERM on the memfd.
    assert!([30, 26, 1].contains(&err.raw_os_error().unwrap()), "{err}");
    container.delete(true).unwrap();
    running.finish();
}

fn cve_2024_21626_no_working_directory_behind_a_descriptor() {
    let leak = std::fs::File::open("/").unwrap();
    let flags = rustix::io::fcntl_getfd(&leak).unwrap();
    rustix::io::fcntl_setfd(&leak, flags - rustix::io::FdFlags::CLOEXEC).unwrap();
    for fd in 3..16 {
        // The host's root has /usr, the container's has not. A descriptor of the container's own root may be used.
        let mut bundle = Bundle::new("test -e bin/busybox && test ! -e usr && test ! -e ../usr");
        bundle.spec["process"]["cwd"] = format!("/proc/self/fd/{fd}").into();
        match bundle.create() {
            Err(err) => {
                assert!(chain(&err).contains("cwd") || chain(&err).contains("working directory"), "{fd}: {err}")
            }
            Ok((container, running)) => {
                container.start().unwrap();
                assert_eq!(running.finish().0, 0, "{fd}");
                container.delete(false).unwrap();
            }
        }
        bundle.assert_nothing_left();
    }
}

/// The image's /proc leads elsewhere, so that what the runtime writes to /proc would go to a file of the image's.
fn cve_2023_28642_no_mount_behind_a_symlink_for_proc() {
    for target in ["/tmp/proc", "../tmp/proc", "/proc2"] {
        let bundle = Bundle::new("true");
        let rootfs = bundle.path().join("rootfs");
        std::fs::create_dir_all(rootfs.join("tmp/proc/self/attr")).unwrap();
        std::fs::remove_dir(rootfs.join("proc")).unwrap();
        symlink(target, rootfs.join("proc")).unwrap();
        let (kind, refused) = bundle.refusal();
        assert_eq!(kind, ErrorKind::InvalidArgument, "{refused}");
        assert!(refused.contains("must be mounted on ordinary directory"), "{refused}");
    }
}

/// What stands where an exec's terminal is opened is the container's to choose.
fn cve_2025_52565_an_exec_takes_no_terminal_but_a_pty() {
    let fakes = [
        "ln -s /etc/passwd /dev/pts/ptmx",
        "ln -s /proc/self/fd/0 /dev/pts/ptmx",
        "echo > /dev/pts/ptmx",
        "mkdir /dev/pts/ptmx",
        "rmdir /dev/pts && ln -s /tmp /dev/pts && echo > /tmp/ptmx",
    ];
    for fake in fakes {
        let mut bundle = Bundle::new(&format!("mkdir /dev/pts && {fake} && echo > /tmp/up; exec sleep 60"));
        bundle.spec["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/dev/pts");
        let (container, running) = bundle.create().unwrap_or_else(|err| panic!("{}", chain(&err)));
        container.start().unwrap();
        crate::process::wait_for(&bundle.path().join("rootfs/tmp/up"));
        let mut process = bundle.spec["process"].clone();
        process["args"] = json!(["true"]);
        process["terminal"] = true.into();
        let refused = chain(&exec(&container, process, true).map(drop).unwrap_err());
        assert!(
            refused.contains("failed to set up the console") && refused.contains("/dev/pts/ptmx"),
            "{fake}: {refused}"
        );
        assert_eq!(container.pids().unwrap().len(), 1, "{fake}");
        container.delete(true).unwrap();
        running.finish();
        bundle.assert_nothing_left();
    }
}

/// A masked path that is a link of /proc/PID would put the mask over what the link leads to, on the host perhaps.
fn cve_2025_31133_no_magic_link_is_masked() {
    for (field, path) in
        [("maskedPaths", "/proc/self/fd/0"), ("readonlyPaths", "/proc/self/cwd"), ("maskedPaths", "/etc/link")]
    {
        let mut bundle = Bundle::new("true");
        symlink("/proc/self/root", bundle.path().join("rootfs/etc/link")).unwrap();
        bundle.spec["linux"][field] = json!([path]);
        let (kind, refused) = bundle.refusal();
        assert_eq!(kind, ErrorKind::InvalidArgument, "{refused}");
        assert!(refused.contains(path), "{refused}");
    }
}

fn cve_2022_29162_nothing_is_inheritable_by_default() {
    let bundle = Bundle::new("exec sleep 60");
    let (container, running) = bundle.create().unwrap();
    container.start().unwrap();
    let process = json!({"user": {"uid": 0, "gid": 0}, "args": ["grep", "CapInh", "/proc/self/status"], "env": ["PATH=/bin"], "cwd": "/"});
    // Silent about capabilities: the container's are taken, which have no inheritable ones.
    let (code, output) = exec(&container, process, false).unwrap().finish();
    assert_eq!((code, output.as_str()), (0, "CapInh:\t0000000000000000"));
    container.delete(true).unwrap();
    running.finish();
}

/// Mount points are made beneath the rootfs even where another container swaps a directory of a shared volume for a link.
fn cve_2024_45310_nothing_is_made_outside_the_rootfs() {
    let outside = tempfile::tempdir_in("/tmp").unwrap();
    let mut bundle = Bundle::new("true");
    symlink(outside.path(), bundle.path().join("rootfs/etc/volume")).unwrap();
    symlink(format!("../../..{}", outside.path().display()), bundle.path().join("rootfs/etc/up")).unwrap();
    for target in ["/etc/volume/made/deep", "/etc/up/made/deep"] {
        bundle.spec["mounts"].as_array_mut().unwrap().push(json!({"destination": target, "type": "tmpfs"}));
    }
    let source = bundle.path().join("pid");
    std::fs::write(&source, "").unwrap();
    bundle.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"destination": "/etc/volume/file", "type": "bind", "source": source, "options": ["bind"]}));
    assert_eq!(bundle.run().0, 0);
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    // The links lead nowhere in the image: what they stand for is made there, as with runc.
    let inside = format!("rootfs{}", outside.path().display());
    assert!(bundle.path().join(&inside).join("made/deep").is_dir());
    assert!(bundle.path().join(&inside).join("file").is_file());
    symlink("round", bundle.path().join("rootfs/etc/round")).unwrap();
    bundle.spec["mounts"].as_array_mut().unwrap().push(json!({"destination": "/etc/round/x", "type": "tmpfs"}));
    assert_eq!(bundle.refusal().0, ErrorKind::InvalidArgument);
}

/// A sysctl that no namespace of the container's holds is the host's (as the core pattern of CRI-O's CVE).
fn cve_2022_0811_a_sysctl_of_the_host_is_refused() {
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    for key in [
        "kernel.core_pattern",
        "kernel.shm_rmid_forced+kernel.core_pattern",
        "net/../kernel/core_pattern",
        "vm.swappiness",
    ] {
        let mut bundle = Bundle::new("true");
        bundle.spec["linux"]["sysctl"] = json!({key: "1"});
        let (kind, refused) = bundle.refusal();
        assert_eq!(kind, ErrorKind::InvalidArgument, "{refused}");
        assert!(refused.contains(key), "{refused}");
    }
    let mut bundle = Bundle::new("true");
    bundle.spec["linux"]["sysctl"] = json!({"kernel.shm_rmid_forced": "1+kernel.core_pattern=|/tmp/x"});
    bundle.refused();
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), pattern);
}

/// A link to itself, and two to one another, wherever the runtime looks into the image.
fn links_that_lead_round_are_refused_everywhere() {
    let with = |change: &dyn Fn(&mut Bundle)| {
        let mut bundle = Bundle::new("true");
        let etc = bundle.path().join("rootfs/etc");
        for (link, target) in [("self", "self"), ("a", "/etc/b"), ("b", "../etc/a")] {
            symlink(target, etc.join(link)).unwrap();
        }
        change(&mut bundle);
        bundle.refusal()
    };
    let mount = |target: &'static str| {
        move |bundle: &mut Bundle| {
            bundle.spec["mounts"].as_array_mut().unwrap().push(json!({"destination": target, "type": "tmpfs"}));
        }
    };
    for target in ["/etc/self", "/etc/a", "/etc/b/below"] {
        let (kind, refused) = with(&mount(target));
        assert_eq!(kind, ErrorKind::InvalidArgument, "{refused}");
        assert!(refused.contains(target), "{refused}");
    }
    let (kind, refused) = with(&|bundle| bundle.spec["process"]["cwd"] = "/etc/a".into());
    assert_eq!(kind, ErrorKind::InvalidArgument, "{refused}");
    assert!(refused.contains("/etc/a"), "{refused}");
    let (kind, refused) = with(&|bundle| bundle.spec["process"]["args"] = json!(["/etc/self"]));
    assert_eq!(kind, ErrorKind::InvalidArgument, "{refused}");
    assert!(refused.contains("/etc/self"), "{refused}");
    with(&|bundle| bundle.spec["linux"]["maskedPaths"] = json!(["/etc/a/below"]));
    with(&|bundle| bundle.spec["root"]["path"] = "rootfs/etc/self".into());
}

/// The state's file system is full, to the byte and to the directory: an error that says where, and the id is free again.
fn a_full_disk_leaves_nothing() {
    let bundle = Bundle::new("true");
    let root = bundle.root();
    std::fs::create_dir(&root).unwrap();
    // Some inodes for the state's own directory, and none for more.
    for (limit, fill) in [("size=64k", true), ("nr_inodes=1", false), ("nr_inodes=2", false)] {
        let data = std::ffi::CString::new(limit).unwrap();
        rustix::mount::mount("tmpfs", &root, "tmpfs", rustix::mount::MountFlags::empty(), data.as_c_str()).unwrap();
        if fill {
            let filled = std::fs::write(root.join("@full"), vec![0; 1 << 20]);
            assert_eq!(filled.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
        }
        let refused = chain(&bundle.create().map(drop).unwrap_err());
        assert!(refused.contains("No space left on device"), "{limit}: {refused}");
        assert!(refused.contains(root.to_str().unwrap()), "{limit}: {refused}");
        assert!(!root.join("test").exists(), "{limit}");
        rustix::mount::unmount(&root, rustix::mount::UnmountFlags::empty()).unwrap();
        bundle.assert_nothing_left();
    }
    assert_eq!(bundle.run().0, 0);
}

/// No kernel has the controller of this limit: it is refused by what was asked for, with nothing made.
fn a_controller_that_is_missing_is_named() {
    let mut bundle = Bundle::new("true");
    bundle.spec["linux"]["cgroupsPath"] = "/rtc-test-missing".into();
    bundle.spec["linux"]["resources"] = json!({"unified": {"nosuch.max": "1"}});
    let refused = bundle.refused();
    assert!(refused.contains("nosuch"), "{refused}");
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        assert!(!hierarchy.path().join("rtc-test-missing").exists(), "{}", hierarchy.path().display());
    }
}

/// What a spec of some megabytes can ask for: as many mounts as it likes, and variables beyond what execve(2) takes.
fn more_mounts_than_anybody_needs_are_made_or_refused() {
    let mut bundle = Bundle::new("true");
    let mounts = bundle.spec["mounts"].as_array_mut().unwrap();
    for number in 0..300 {
        mounts.push(json!({"destination": format!("/tmp/{number}"), "type": "tmpfs"}));
    }
    assert_eq!(bundle.run().0, 0);
    let mut bundle = Bundle::new("true");
    bundle.spec["process"]["env"] = json!(["PATH=/bin", format!("LONG={}", "x".repeat(4 << 20))]);
    let refused = match bundle.create() {
        // What only execve(2) finds, the start tells.
        Ok((container, running)) => {
            let refused = chain(&container.start().unwrap_err());
            container.delete(true).unwrap();
            running.finish();
            refused
        }
        Err(err) => chain(&err),
    };
    assert!(refused.contains("argument list too long"), "{refused}");
    bundle.assert_nothing_left();
}

/// Everything that the runtime itself puts into a rootfs, with the image's links to a directory of the host's in its way.
fn cve_2025_24965_nothing_is_written_through_the_images_links() {
    let outside = tempfile::tempdir_in("/tmp").unwrap();
    let mut bundle = Bundle::new("true");
    bundle.spec["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] == "/proc");
    let rootfs = bundle.path().join("rootfs");
    std::fs::remove_dir(rootfs.join("dev")).unwrap();
    symlink(outside.path(), rootfs.join("dev")).unwrap();
    symlink(outside.path().join("name"), rootfs.join("etc/hostname")).unwrap();
    symlink(outside.path().join("work"), rootfs.join("work")).unwrap();
    let file = bundle.path().join("hostname");
    std::fs::write(&file, "inside").unwrap();
    bundle.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"destination": "/etc/hostname", "type": "bind", "source": file, "options": ["bind"]}));
    bundle.spec["linux"]["devices"] = json!([{"path": "/dev/deep/mine", "type": "c", "major": 1, "minor": 3}]);
    bundle.spec["process"]["cwd"] = "/work/deep".into();
    match bundle.create() {
        // What the links stand for is made inside, or it is refused.
        Ok((container, running)) => {
            container.start().unwrap();
            running.finish();
            container.delete(true).unwrap();
        }
        Err(err) => assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{}", chain(&err)),
    }
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    bundle.assert_nothing_left();
}

/// The image's /dev is a link to a directory of the host's that has all that the runtime makes, replaces and binds over there.
fn cve_2026_41579_a_link_for_dev_reaches_nothing() {
    let names = ["ptmx", "fd", "stdin", "stdout", "stderr", "console", "null", "tty"];
    for (up, with_mounts) in [(false, true), (false, false), (true, true), (true, false)] {
        let outside = tempfile::tempdir_in("/tmp").unwrap();
        names.iter().for_each(|name| std::fs::write(outside.path().join(name), name).unwrap());
        let mut bundle = Bundle::new("true");
        bundle.terminal = true;
        bundle.spec["process"]["terminal"] = true.into();
        let rootfs = bundle.path().join("rootfs");
        std::fs::remove_dir(rootfs.join("dev")).unwrap();
        let target =
            if up { format!("../../../..{}", outside.path().display()).into() } else { outside.path().to_owned() };
        symlink(target, rootfs.join("dev")).unwrap();
        if !with_mounts {
            bundle.spec["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] == "/proc");
        }
        match bundle.create() {
            Ok((container, running)) => {
                container.start().unwrap_or_else(|err| panic!("{}", chain(&err)));
                running.finish();
                container.delete(true).unwrap();
            }
            // The terminal's multiplexer is looked for without following a link.
            Err(err) => assert!(chain(&err).contains("/dev"), "{}", chain(&err)),
        }
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), names.len(), "{up} {with_mounts}");
        for name in names {
            let file = outside.path().join(name);
            assert!(std::fs::symlink_metadata(&file).unwrap().is_file(), "{name} {up} {with_mounts}");
            assert_eq!(std::fs::read_to_string(&file).unwrap(), name, "{up} {with_mounts}");
        }
        bundle.assert_nothing_left();
    }
}
