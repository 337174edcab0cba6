//! `ctr run` and its flags.

use std::time::Duration;

use test_fixtures::Image;

use crate::host::{Check, Host, LONG, Runtime};

pub(crate) const CHECKS: &[Check] = &[
    ("exit code, stdout and stderr", exit_code_and_streams),
    ("environment", environment),
    ("user", user),
    ("working directory", working_directory),
    ("capabilities", capabilities),
    ("no new privileges", no_new_privileges),
    ("read-only root", read_only_root),
    ("mounts", mounts),
    ("default filesystem", default_filesystem),
    ("pid file", pid_file),
    ("user namespace", user_namespace),
    ("host network", host_network),
    ("joined namespace", joined_namespace),
    ("host name", host_name),
    ("root directory of the host", root_directory),
    ("without pivot_root", without_pivot_root),
    ("privileged", privileged),
    ("devices", devices),
    ("seccomp", seccomp),
    ("terminal", terminal),
    ("resized terminal", resized_terminal),
    ("without stdio", without_stdio),
    ("an image of many layers", many_layers),
];

pub(crate) fn exit_code_and_streams(host: &Host) {
    let output = host.run(&[], &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((output.code(), output.stdout.as_slice(), output.stderr.as_slice()), (7, &b"out\n"[..], &b"err\n"[..]));
    assert_eq!(host.run(&[], &["true"]).code(), 0);
    assert_eq!(host.run_ok(&[], &["echo", "a  b", "c"]), "a  b c");
}

fn environment(host: &Host) {
    host.node.write("/tmp/env", "FROM_FILE=file\n").unwrap();
    let output = host.run_ok(&["--env", "A=b c", "--env", "EMPTY=", "--env-file", "/tmp/env"], &["env"]);
    host.node.remove("/tmp/env").unwrap();
    for line in ["A=b c", "EMPTY=", "FROM_FILE=file"] {
        assert!(output.lines().any(|l| l == line), "{line} not in {output}");
    }
    assert!(output.contains("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), "{output}");
}

fn user(host: &Host) {
    assert_eq!(host.run_ok(&[], &["sh", "-c", "id -u; id -g"]), "0\n0");
    assert_eq!(host.run_ok(&["--user", "1000:2000"], &["sh", "-c", "id -u; id -g"]), "1000\n2000");
    let output =
        host.run_ok(&["--user", "user"], &["sh", "-c", "id -u; id -g; touch /root/x 2>/dev/null || echo denied"]);
    assert_eq!(output, "1000\n1000\ndenied");
    // Its own stdout can be opened anew by its path.
    assert_eq!(host.run_ok(&["--user", "1000"], &["sh", "-c", "echo again"]), "again");
}

fn working_directory(host: &Host) {
    assert_eq!(host.run_ok(&[], &["pwd"]), "/");
    assert_eq!(host.run_ok(&["--cwd", "/home/user"], &["pwd"]), "/home/user");
    assert_eq!(host.run_ok(&["--cwd", "/made/for/it"], &["pwd"]), "/made/for/it");
}

/// The effective set as a number.
fn effective(host: &Host, flags: &[&str]) -> u64 {
    let line = host.run_ok(flags, &["grep", "CapEff", "/proc/self/status"]);
    u64::from_str_radix(line.split_whitespace().last().unwrap(), 16).unwrap()
}

fn capabilities(host: &Host) {
    const CHOWN: u64 = 1;
    const SYS_ADMIN: u64 = 1 << 21;
    let default = effective(host, &[]);
    assert_eq!(default & (CHOWN | SYS_ADMIN), CHOWN, "{default:x}");
    assert_eq!(effective(host, &["--cap-drop", "CAP_CHOWN"]), default & !CHOWN);
    assert_eq!(effective(host, &["--cap-add", "CAP_SYS_ADMIN"]), default | SYS_ADMIN);
    assert_eq!(effective(host, &["--user", "1000"]), 0);
}

fn no_new_privileges(host: &Host) {
    let line = |flags: &[&str]| host.run_ok(flags, &["grep", "NoNewPrivs", "/proc/self/status"]);
    assert!(line(&[]).ends_with('1'));
    assert!(line(&["--allow-new-privs"]).ends_with('0'));
}

fn read_only_root(host: &Host) {
    let output = host.run(&["--read-only"], &["touch", "/x"]);
    assert_ne!(output.code(), 0);
    assert!(output.error_text().contains("Read-only file system"), "{}", output.error_text());
    assert_eq!(host.run(&["--read-only"], &["touch", "/dev/shm/x"]).code(), 0, "tmpfs mounts stay writable");
    assert_eq!(host.run(&[], &["touch", "/x"]).code(), 0);
}

fn mounts(host: &Host) {
    host.node.write("/tmp/shared/file", "from the host").unwrap();
    let bind = |options: &str| format!("type=bind,src=/tmp/shared,dst=/mnt/deep,options={options}");
    assert_eq!(host.run_ok(&["--mount", &bind("rbind:ro")], &["cat", "/mnt/deep/file"]), "from the host");
    assert_ne!(host.run(&["--mount", &bind("rbind:ro")], &["touch", "/mnt/deep/x"]).code(), 0);
    host.run_ok(&["--mount", &bind("rbind:rw")], &["sh", "-c", "echo back > /mnt/deep/file"]);
    assert_eq!(host.node.read_text("/tmp/shared/file").unwrap(), "back");
    host.node.sh("rm -r /tmp/shared").unwrap();

    let tmpfs = "type=tmpfs,src=tmpfs,dst=/t,options=nosuid:noexec:size=64k";
    let line = host.run_ok(&["--mount", tmpfs], &["grep", " /t ", "/proc/mounts"]);
    for word in ["tmpfs", "nosuid", "noexec", "size=64k"] {
        assert!(line.contains(word), "{word} not in {line}");
    }
}

fn default_filesystem(host: &Host) {
    let script = "ls -l /dev/null /dev/fd /dev/ptmx /dev/stdout | awk '{print $1, $NF}'; cat /proc/1/comm
                  echo x > /dev/null; head -c 3 /dev/zero | wc -c; ls /proc/scsi 2>/dev/null | wc -l
                  wc -c < /proc/timer_list; touch /proc/sys/kernel/hostname";
    let output = host.run(&[], &["sh", "-c", script]);
    let expected = "crw-rw-rw- /dev/null\nlrwxrwxrwx /proc/self/fd\nlrwxrwxrwx pts/ptmx\nlrwxrwxrwx /proc/self/fd/1\nsh\n\
                    3\n0\n0";
    let mut lines: Vec<_> = output.text().lines().map(str::to_owned).collect();
    lines[..4].sort();
    let mut wanted: Vec<_> = expected.lines().collect();
    wanted[..4].sort_unstable();
    assert_eq!(lines, wanted);
    assert!(output.error_text().contains("Read-only file system"), "{}", output.error_text());
}

fn pid_file(host: &Host) {
    host.start_detached(&["--pid-file", "/tmp/pid"], "c1", &["sleep", "1000"]);
    assert_eq!(host.node.read_text("/tmp/pid").unwrap(), host.pid("c1").to_string());
    host.node.remove("/tmp/pid").unwrap();
    host.kill_and_remove("c1");
}

/// With layers that are copied for the user, and with layers that are mounted with the user's ids.
fn user_namespace(host: &Host) {
    // Each with ids of its own: containerd forgets the copies at a moment of its choosing.
    for (first, flags) in [(100_000, &[][..]), (300_000, &["--remap-labels"])] {
        let (uids, gids) = (format!("0:{first}:65536"), format!("0:{}:65536", first + 100_000));
        let look = "cat /proc/self/uid_map; stat -c %u:%g /bin/busybox; echo x > /new; stat -c %u:%g /new";
        let output = host.run_ok(&[&["--uidmap", &uids, "--gidmap", &gids], flags].concat(), &["sh", "-c", look]);
        let fields: Vec<_> = output.split_whitespace().collect();
        assert_eq!(fields, ["0", &first.to_string(), "65536", "0:0", "0:0"], "{flags:?}");
    }
}

fn host_network(host: &Host) {
    let of_node = host.node.run(["readlink", "/proc/1/ns/net"]).unwrap();
    assert_eq!(host.run_ok(&["--net-host"], &["readlink", "/proc/self/ns/net"]), of_node);
    assert_ne!(host.run_ok(&[], &["readlink", "/proc/self/ns/net"]), of_node);
}

fn joined_namespace(host: &Host) {
    host.start_detached(&[], "first", &["sleep", "1000"]);
    let pid = host.pid("first");
    for (kind, name) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid")] {
        let path = format!("/proc/{pid}/ns/{name}");
        let theirs = host.node.run(["readlink", &path]).unwrap();
        let flag = format!("{kind}:{path}");
        let inside = host.run_ok(&["--with-ns", &flag], &["readlink", &format!("/proc/self/ns/{name}")]);
        assert_eq!(inside, theirs, "{kind}");
    }
    host.kill_and_remove("first");
}

fn host_name(host: &Host) {
    assert_eq!(host.run_ok(&["--hostname", "box"], &["hostname"]), "box");
    assert_ne!(host.node.run(["hostname"]).unwrap(), "box");
}

/// A root filesystem outside of containerd: busybox alone.
fn make_root(host: &Host) {
    host.node
        .sh("mkdir -p /tmp/root/bin /tmp/root/proc /tmp/root/sys /tmp/root/dev /tmp/root/run
             cp /bin/busybox /tmp/root/bin/busybox; ln -s busybox /tmp/root/bin/sh; echo here > /tmp/root/mark")
        .unwrap();
}

fn root_directory(host: &Host) {
    make_root(host);
    let output = host.run_image(&["--rootfs"], "/tmp/root", &["/bin/busybox", "cat", "/mark"]);
    assert_eq!((output.code(), output.text().as_str()), (0, "here"), "{}", output.error_text());
    host.node.sh("rm -r /tmp/root").unwrap();
}

fn without_pivot_root(host: &Host) {
    let output = host.run_ok(&["--no-pivot"], &["sh", "-c", "head -n 1 /etc/passwd; ls -d /var/lib/containerd; true"]);
    assert_eq!(output, "root:x:0:0:root:/root:/bin/sh");
}

fn privileged(host: &Host) {
    let all = effective(host, &["--privileged"]);
    assert_ne!(all & 1 << 21, 0, "CAP_SYS_ADMIN in {all:x}");
    let mounts = host.run_ok(&["--privileged"], &["sh", "-c", "mount -t tmpfs t /mnt 2>&1 || mkdir /mnt && echo done"]);
    assert_eq!(mounts.lines().last(), Some("done"));
}

fn devices(host: &Host) {
    let output = host.run(&["--device", "/dev/fuse"], &["stat", "-c", "%F %t:%T", "/dev/fuse"]);
    assert_eq!(output.text(), "character special file a:e5", "{}", output.error_text());
    // No device but the allowed ones can be used, made by whatever hand: here the node's /dev/fuse without the flag.
    let script = "mknod /tmp/fuse c 10 229 && cat /tmp/fuse";
    let refused = host.run(&[], &["sh", "-c", script]);
    assert!(refused.error_text().contains("Operation not permitted"), "{}", refused.error_text());
    assert_eq!(host.run(&[], &["sh", "-c", "mknod /tmp/null c 1 3 && echo x > /tmp/null"]).code(), 0);
}

fn seccomp(host: &Host) {
    let mode = |flags: &[&str]| host.run_ok(flags, &["grep", "Seccomp:", "/proc/self/status"]);
    assert!(mode(&[]).ends_with('0'));
    assert!(mode(&["--seccomp"]).ends_with('2'));
    // The default profile, twice: the second one may come out of a cache.
    for _ in 0..2 {
        assert_eq!(host.run_ok(&["--seccomp"], &["sh", "-c", "id -u; ls / | wc -l > /dev/null; echo ok"]), "0\nok");
    }
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]}"#;
    host.node.write("/tmp/profile.json", profile).unwrap();
    let output = host.run(&["--seccomp", "--seccomp-profile", "/tmp/profile.json"], &["mkdir", "/tmp/x"]);
    host.node.remove("/tmp/profile.json").unwrap();
    assert!(output.error_text().contains("Function not implemented"), "{}", output.error_text());
    // Filters that are compiled are kept for the next container.
    host.node.sh("rm -rf /run/containerd/rtc/default/@seccomp").unwrap();
}

pub(crate) fn terminal(host: &Host) {
    // ctr tells the size when the process runs already.
    let script = "tty; until [ \"$(stty size 2>/dev/null)\" = '24 80' ]; do sleep 0.02; done; echo sized
                  read -r line; echo got $line >&2; exit 3";
    let mut terminal = host.spawn_tty(&[], &["sh", "-c", script]);
    terminal.expect("/dev/pts/0", LONG).unwrap();
    terminal.expect("sized", LONG).unwrap();
    terminal.send("word\n").unwrap();
    terminal.expect("got word", LONG).unwrap();
    let (status, _) = terminal.wait(LONG).unwrap();
    assert_eq!(status.code(), Some(3));
}

fn resized_terminal(host: &Host) {
    let script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.1; done";
    let mut terminal = host.spawn_tty(&[], &["sh", "-c", script]);
    terminal.expect("ready", LONG).unwrap();
    // ctr does not see a change before it listens for them, which it does not say.
    let resized = (0..50).any(|turn| {
        let rows = 37 + turn % 2;
        terminal.resize(101, rows).unwrap();
        terminal.expect(&format!("{rows} 101"), Duration::from_millis(500)).is_ok()
    });
    assert!(resized);
    // The signal goes to the foreground of the container's terminal: a loop of sh, which ends at an interrupt.
    terminal.send("\u{3}").unwrap();
    terminal.wait(LONG).unwrap();
}

fn without_stdio(host: &Host) {
    let output = host.run(&["--null-io"], &["sh", "-c", "echo lost; cat; exit 5"]);
    assert_eq!((output.code(), output.text().as_str()), (5, ""));
}

/// More lower directories than the one page of options holds that mount(2) takes.
fn many_layers(host: &Host) {
    if host.lane.lacks_controllers() || host.lane.runtime == Runtime::Runc {
        eprintln!("skipped: it takes long, and rtc's lanes with the other cgroup layout have it for each containerd");
        return;
    }
    let image = Image::Layered.name();
    host.node.import("default", &Image::Layered).unwrap();
    let before = host.ctr(&["snapshot", "ls"]).text().lines().count();
    assert!(before > usize::from(Image::LAYERS), "{before} snapshots");
    let output =
        host.run_image(&[], image, &["sh", "-c", "ls /layers | wc -l; grep -o lowerdir.* /proc/mounts | wc -c"]);
    assert_eq!(output.code(), 0, "{}", output.error_text());
    assert_eq!(output.text().lines().next(), Some(Image::LAYERS.to_string().as_str()));
    host.ctr_ok(&["image", "rm", "--sync", image]);
}
