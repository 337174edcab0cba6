//! Containers of a user other than root, and of root in a user namespace: the same with runc and with rtc, in the same
//! words. The user has the id 1000, and 65536 more in /etc/subuid and /etc/subgid.

use serde_json::{Value, json};
use test_fixtures::{Cgroups, Image, Output};

use crate::cli::program;
use crate::host::{Check, Host, LONG, Runtime};

pub(crate) const CHECKS: &[Check] = &[
    ("the spec of a user", spec),
    ("one id", one_id),
    ("a life without a cgroup", without_cgroup),
    ("several ids", several_ids),
    ("what a user may not have is refused", refusals),
    ("a user namespace is joined", joined),
    ("root of a user namespace", root_of_a_namespace),
    ("what others own is not used", hostile),
];

/// Of cgroup2: on v1 nothing is delegated to users.
pub(crate) const DELEGATED: &[Check] = &[("a delegated cgroup", delegated)];

const BUNDLE: &str = "/home/tester/bundle";
const RUNTIME_DIR: &str = "/run/user/1000";
const DELEGATE: &str = "/sys/fs/cgroup/tester";

pub(crate) fn prepare(host: &Host) {
    host.node
        .sh(&format!(
            "useradd --create-home --uid 1000 tester; mkdir -p {RUNTIME_DIR} {BUNDLE}; chmod 755 /home/tester; \
         chmod 700 {RUNTIME_DIR}; chown 1000:1000 {RUNTIME_DIR}"
        ))
        .unwrap();
    host.node.unpack(Image::Busybox, &format!("{BUNDLE}/rootfs")).unwrap();
    host.node.run(["chown", "-R", "1000:1000", BUNDLE]).unwrap();
    ok(host, "runc list");
    // The state's directory stays, with the cache of filters.
    configure(host, "true", |_| ());
    assert_eq!(run(host, &[]).code(), 0);
    if host.lane.cgroups == Cgroups::V2 {
        host.node
            .sh(&format!(
                "mkdir -p {DELEGATE}/shell; cd {DELEGATE}; if grep -q pids ../cgroup.controllers; then \
             echo +pids >../cgroup.subtree_control; fi; for d in . shell; do chown 1000 $d \
                 $d/cgroup.procs $d/cgroup.threads $d/cgroup.subtree_control; done"
            ))
            .unwrap();
    }
}

/// The user's, or for `root` of a namespace root's, in the bundle's directory.
fn shell(script: &str) -> Vec<String> {
    let enter = ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups", "env"];
    let variables =
        [format!("XDG_RUNTIME_DIR={RUNTIME_DIR}"), "HOME=/home/tester".to_owned(), "USER=tester".to_owned()];
    let script = ["sh".to_owned(), "-c".to_owned(), format!("cd {BUNDLE}; {script}")];
    enter.map(str::to_owned).into_iter().chain(variables).chain(script).collect()
}

fn user(host: &Host, script: &str) -> Output {
    host.node.exec(shell(&script.replace("PROGRAM", program(host)))).unwrap()
}

#[track_caller]
fn ok(host: &Host, script: &str) -> String {
    let output = user(host, script);
    assert_eq!((output.code(), output.error_text().as_str()), (0, ""), "{script}: {}", output.text());
    output.text()
}

/// It ends with `code`, and its last line has `words` in it.
#[track_caller]
fn refuses(host: &Host, script: &str, code: i32, words: &str) {
    let output = user(host, script);
    let text = output.error_text().replace("\\\"", "\"");
    assert_eq!(output.code(), code, "{script}: {} {text}", output.text());
    assert!(text.contains(words), "{script}: {text}");
}

fn run(host: &Host, flags: &[&str]) -> Output {
    user(host, &format!("PROGRAM {} run c1", flags.join(" ")))
}

#[track_caller]
fn run_ok(host: &Host) -> String {
    let output = run(host, &[]);
    assert_eq!((output.code(), output.error_text().as_str()), (0, ""), "{}", output.text());
    output.text()
}

/// The user's own spec for a shell with `script`, and what a check makes of it.
fn configure(host: &Host, script: &str, change: impl FnOnce(&mut Value)) {
    host.node.sh(&format!("rm -f {BUNDLE}/config.json")).unwrap();
    let made = user(host, "PROGRAM spec --rootless");
    assert_eq!(made.code(), 0, "{}", made.error_text());
    let path = format!("{BUNDLE}/config.json");
    let mut spec: Value = serde_json::from_slice(&host.node.read(&path).unwrap()).unwrap();
    spec["process"]["args"] = json!(["sh", "-c", script]);
    spec["process"]["terminal"] = json!(false);
    spec["root"]["readonly"] = json!(false);
    change(&mut spec);
    host.node.write(&path, spec.to_string()).unwrap();
}

fn namespaces(spec: &mut Value) -> &mut Vec<Value> {
    spec["linux"]["namespaces"].as_array_mut().unwrap()
}

/// The user's own id is root, and those of /etc/subuid come after it.
fn map_several(spec: &mut Value, first: u32) {
    let maps =
        json!([{"containerID": 0, "hostID": 1000, "size": 1}, {"containerID": 1, "hostID": first, "size": 65535}]);
    spec["linux"]["uidMappings"] = maps.clone();
    spec["linux"]["gidMappings"] = maps;
}

#[track_caller]
fn start_sleeping(host: &Host, id: &str) {
    let started = user(host, &format!("PROGRAM run -d {id} </dev/null >/tmp/{id}.log 2>&1"));
    let log = host.node.read_text(&format!("/tmp/{id}.log")).unwrap();
    host.node.remove(&format!("/tmp/{id}.log")).unwrap();
    assert_eq!((started.code(), log.as_str()), (0, ""));
}

fn state(host: &Host, id: &str) -> Value {
    serde_json::from_str(&ok(host, &format!("PROGRAM state {id}"))).unwrap()
}

#[track_caller]
fn end(host: &Host, id: &str) {
    ok(host, &format!("PROGRAM kill {id} KILL"));
    host.wait("it has stopped", || state(host, id)["status"] == "stopped");
    ok(host, &format!("PROGRAM delete {id}"));
}

fn spec(host: &Host) {
    let made = |program: &str| {
        let script = format!("rm -f config.json; {program} spec --rootless && cat config.json");
        let mut spec: Value = serde_json::from_str(&ok(host, &script)).unwrap();
        // These are each runtime's own.
        spec["hostname"] = Value::Null;
        spec["ociVersion"] = Value::Null;
        spec
    };
    let own = made(program(host));
    assert_eq!(own, made("runc"));
    assert_eq!(own["linux"]["uidMappings"], json!([{"containerID": 0, "hostID": 1000, "size": 1}]));
}

fn one_id(host: &Host) {
    let script = "id -u; cat /proc/self/setgroups; echo $(cat /proc/self/uid_map); stat -c %u /dev/null; \
                  touch /made; cat /proc/self/oom_score_adj; exit 5";
    configure(host, script, |spec| spec["process"]["oomScoreAdj"] = json!(500));
    let output = run(host, &[]);
    let text = "0\ndeny\n0 1000 1\n65534\n500";
    assert_eq!((output.code(), output.text().as_str(), output.error_text().as_str()), (5, text, ""));
    assert_eq!(ok(host, "stat -c %u rootfs/made; rm rootfs/made"), "1000");

    // A network of its own, and with it a sysfs of its own.
    configure(host, "ls /sys/class/net; ip link | grep -c UP", |spec| {
        namespaces(spec).push(json!({"type": "network"}));
        let sys = json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "ro"]});
        spec["mounts"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .filter(|mount| mount["destination"] == "/sys")
            .for_each(|mount| *mount = sys.clone());
    });
    assert_eq!(run_ok(host), "lo\n1");
    if host.lane.runtime == Runtime::Rtc {
        // The cgroups of the host are covered, though a bind of /sys has them below it.
        configure(host, "ls /sys/fs/cgroup; touch /sys/fs/cgroup/x 2>/dev/null || echo no", |_| ());
        assert_eq!(run_ok(host), "no");
        // On the host's network sysfs is the host's, and nothing in it can be written, its cgroups neither, asked for or not.
        for access in ["ro", "rw"] {
            configure(host, "ls /sys/class/net; mkdir /sys/fs/cgroup/tester/x 2>/dev/null || echo no", |spec| {
                let mounts = spec["mounts"].as_array_mut().unwrap();
                mounts.retain(|mount| mount["destination"] != "/sys/fs/cgroup" && mount["destination"] != "/sys");
                let options = ["nosuid", access];
                mounts.push(json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": options}));
            });
            assert_eq!(run_ok(host), "lo\nno", "{access}");
        }
        // What cannot be lowered stays.
        configure(host, "cat /proc/self/oom_score_adj", |spec| spec["process"]["oomScoreAdj"] = json!(-500));
        let output = run(host, &[]);
        assert_eq!((output.code(), output.text().as_str()), (0, "0"));
        assert!(output.error_text().contains("left oom_score_adj as it is"), "{}", output.error_text());
    }
}

fn without_cgroup(host: &Host) {
    configure(host, "sleep 1000", |_| ());
    start_sleeping(host, "c1");
    assert_eq!(state(host, "c1")["status"], "running");
    assert!(ok(host, "PROGRAM list").contains(" tester"));
    assert_eq!(ok(host, &format!("stat -c %a {RUNTIME_DIR}/PROGRAM")), "1700");
    assert_eq!(user(host, "PROGRAM exec c1 sh -c 'exit 5'").code(), 5);
    refuses(host, "PROGRAM exec -g 7 c1 true", 255, "cannot set any additional groups in a rootless container");
    // The terminal is set up a moment after the start; its size comes last.
    let wait = "until [ \"$(stty size)\" = \"24 80\" ]; do sleep 0.02; done";
    let terminal = format!("{} exec -t c1 sh -c '{wait}; tty; stat -c %u /dev/pts/0; exit 4'", program(host));
    let mut terminal = host.node.spawn_tty(shell(&format!("exec {terminal}"))).unwrap();
    terminal.expect("/dev/pts/0\r\n0\r\n", LONG).unwrap();
    assert_eq!(terminal.wait(LONG).unwrap().0.code(), Some(4));
    assert_eq!(user(host, "PROGRAM pause c1").code(), 1);
    refuses(host, "PROGRAM resume c1", 1, "container not paused");
    assert_eq!(user(host, "PROGRAM update --pids-limit 10 c1").code(), 1);
    if host.lane.runtime == Runtime::Rtc {
        refuses(host, "PROGRAM pause c1", 1, "the container has no cgroup, and a pause needs one");
        refuses(host, "PROGRAM update --pids-limit 10 c1", 1, "the container has no cgroup, and an update needs one");
        refuses(host, "PROGRAM events --stats c1", 1, "the container has no cgroup, and a statistic needs one");
        // A process that an exec has begun is none of the init's.
        ok(host, "PROGRAM exec -d c1 sleep 999 >/dev/null 2>&1 </dev/null");
        let pids: Vec<u32> = serde_json::from_str(&ok(host, "PROGRAM ps -f json c1")).unwrap();
        assert_eq!((pids.len(), u64::from(pids[0])), (2, state(host, "c1")["pid"].as_u64().unwrap()));
        ok(host, "PROGRAM kill -a c1 WINCH");
        let refused = "a rootless container cannot be checkpointed or restored";
        refuses(host, "PROGRAM checkpoint --image-path /tmp/images c1", 1, refused);
        assert!(!host.node.exists("/tmp/images"));
        assert_eq!(state(host, "c1")["status"], "running");
    }
    end(host, "c1");
}

fn several_ids(host: &Host) {
    let script = "id -u; id -g; cat /proc/self/setgroups; wc -l </proc/self/gid_map; touch /tmp/made";
    configure(host, script, |spec| {
        map_several(spec, 100_000);
        spec["process"]["user"] = json!({"uid": 5, "gid": 6});
        spec["mounts"].as_array_mut().unwrap().push(json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}));
    });
    assert_eq!(run_ok(host), "5\n6\nallow\n2");
    configure(host, "true", |spec| map_several(spec, 300_000));
    refuses(host, "PROGRAM run c1", 1, "");
    if host.lane.runtime == Runtime::Rtc {
        refuses(host, "PROGRAM run c1", 1, "newuidmap: uid range");
        refuses(host, "PROGRAM run c1", 1, "/etc/subuid does not give all of these ids to user tester");
        refuses(host, "PATH=/usr/local/bin PROGRAM run c1", 1, "newuidmap is not in $PATH");
        configure(host, "true", |spec| map_several(spec, 100_000));
        let weak = "mkdir bin; cp /usr/bin/newuidmap bin; PATH=$PWD/bin:$PATH PROGRAM run c1; c=$?; rm -r bin; exit $c";
        refuses(host, weak, 1, "newuidmap has no set-user-id bit of root's, and no file capabilities");
        refuses(host, "setpriv --no-new-privs PROGRAM run c1", 1, "the caller has no_new_privs set");
    }
    refuses(host, "PROGRAM state c1", 1, "container does not exist");
}

fn refusals(host: &Host) {
    let refused = |change: &dyn Fn(&mut Value), words: &str| {
        configure(host, "true", change);
        refuses(host, "PROGRAM run c1", 1, words);
    };
    refused(&|spec| spec["linux"]["resources"] = json!({"pids": {"limit": 10}}), "pids");
    refused(&|spec| spec["linux"]["cgroupsPath"] = json!("/none/c1"), "unable to apply cgroup configuration: mkdir ");
    refused(
        &|spec| spec["process"]["user"]["additionalGids"] = json!([5]),
        "cannot set any additional groups in a rootless container",
    );
    refused(
        &|spec| {
            namespaces(spec).retain(|namespace| namespace["type"] != "user");
            let linux = spec["linux"].as_object_mut().unwrap();
            linux.remove("uidMappings");
            linux.remove("gidMappings");
        },
        "rootless container requires user namespaces",
    );
    refused(
        &|spec| spec["mounts"][2]["options"].as_array_mut().unwrap().push(json!("gid=5")),
        "cannot specify gid=5 mount option for rootless container",
    );
    if host.lane.runtime == Runtime::Rtc {
        let words = "cannot set pids limit: container could not join or create cgroup";
        refused(&|spec| spec["linux"]["resources"] = json!({"pids": {"limit": 10}}), words);
    }
    configure(host, "true", |_| ());
    refuses(host, "PROGRAM --rootless=false run c1", 1, "permission denied");
    refuses(host, "PROGRAM --rootless=yes run c1", 1, r#"strconv.ParseBool: parsing "yes": invalid syntax"#);
    refuses(host, "PROGRAM state c1", 1, "container does not exist");
}

fn joined(host: &Host) {
    let several = host.lane.runtime == Runtime::Rtc;
    configure(host, "sleep 1000", |spec| map_several(spec, 100_000));
    start_sleeping(host, "c1");
    let namespace = format!("/proc/{}/ns/user", state(host, "c1")["pid"]);
    let inode = host.node.run(["readlink", &namespace]).unwrap();
    configure(host, "sleep 1000", |spec| {
        map_several(spec, 100_000);
        let user = namespaces(spec).iter_mut().find(|namespace| namespace["type"] == "user").unwrap();
        user["path"] = json!(namespace);
        if several {
            // They are the namespace's, and need not be told again.
            let linux = spec["linux"].as_object_mut().unwrap();
            linux.remove("uidMappings");
            linux.remove("gidMappings");
        }
    });
    user(host, "PROGRAM run -d c2 </dev/null >/dev/null 2>&1");
    let look = "sh -c 'id -u; id -g; readlink /proc/self/ns/user; cat /proc/self/setgroups'";
    assert_eq!(ok(host, &format!("PROGRAM exec --user 5:6 c2 {look}")), format!("5\n6\n{inode}\nallow"));
    end(host, "c2");
    end(host, "c1");
}

/// As rootless engines call a runtime: with cgroups that are not theirs, and devices that they may not make.
fn root_of_a_namespace(host: &Host) {
    let script = "id -u; stat -c '%t:%T %u' /dev/null; echo x >/dev/null; echo $(cat /proc/self/uid_map)";
    let own = |spec: &mut Value| {
        namespaces(spec).retain(|namespace| namespace["type"] != "user");
        let linux = spec["linux"].as_object_mut().unwrap();
        linux.remove("uidMappings");
        linux.remove("gidMappings");
    };
    let inside = |script: &str| format!("exec unshare --map-root-user --mount --map-auto sh -c '{script}'");
    configure(host, script, own);
    assert_eq!(ok(host, &inside("unset USER; exec PROGRAM run c1")), "0\n1:3 65534\n0 1000 1 1 100000 65536");
    // Another root's than the user's: USER says so.
    assert!(ok(host, &inside("unset USER; PROGRAM list")).starts_with("ID "));
    refuses(host, &inside("USER=root exec PROGRAM run c1"), 1, "");

    // A namespace in the namespace, of ids that are not the user's.
    let nested = |spec: &mut Value, size: u32| {
        let maps = json!([{"containerID": 0, "hostID": 1, "size": size}]);
        spec["linux"]["uidMappings"] = maps.clone();
        spec["linux"]["gidMappings"] = maps;
    };
    configure(host, script, |spec| nested(spec, 1000));
    assert_eq!(ok(host, &inside("unset USER; exec PROGRAM run c1")), "0\n1:3 65534\n0 1 1000");
    configure(host, script, |spec| nested(spec, 100_000));
    refuses(host, &inside("unset USER; exec PROGRAM run c1"), 1, "");
    if host.lane.runtime == Runtime::Rtc {
        let words = "not all of these ids are mapped in our own user namespace";
        refuses(host, &inside("unset USER; exec PROGRAM run c1"), 1, words);
    }
}

fn hostile(host: &Host) {
    if host.lane.runtime == Runtime::Runc {
        eprintln!("skipped: runc trusts what it finds");
        return;
    }
    configure(host, "sleep 1000", |_| ());
    ok(host, "PROGRAM create c1 </dev/null >/dev/null 2>&1");
    // The init is a copy that nobody can write to, its owner neither (CVE-2019-5736).
    let exe = format!("/proc/{}/exe", state(host, "c1")["pid"]);
    assert!(ok(host, &format!("readlink {exe}")).starts_with("/memfd:rtc-init"));
    assert_ne!(user(host, &format!("echo x >{exe}")).code(), 0);
    assert!(ok(host, "PROGRAM state c1").contains("created"));

    // The state says what is signalled, removed and run: root does not act on a user's.
    let foreign = host.node.exec(["rtc", "--root", &format!("{RUNTIME_DIR}/rtc"), "delete", "-f", "c1"]).unwrap();
    assert_eq!(foreign.code(), 1);
    assert!(foreign.error_text().contains("belongs to user 1000, and not to user 0"), "{}", foreign.error_text());
    assert_eq!(state(host, "c1")["status"], "created");
    // Nor under another's name.
    ok(host, &format!("cp -r {RUNTIME_DIR}/rtc/c1 {RUNTIME_DIR}/rtc/c2"));
    refuses(host, "PROGRAM kill c2 KILL", 1, "is that of container c1, and not of c2");
    ok(host, &format!("rm -r {RUNTIME_DIR}/rtc/c2; PROGRAM delete -f c1"));

    // A runtime directory that others have been to first.
    host.node.sh("mkdir -m 1777 /tmp/shared; mkdir /tmp/shared/rtc /tmp/other; chmod 777 /tmp/shared/rtc").unwrap();
    refuses(host, "XDG_RUNTIME_DIR=/tmp/shared PROGRAM list", 1, "belongs to user 0");
    host.node.sh("rmdir /tmp/shared/rtc; ln -s /tmp/other /tmp/shared/rtc").unwrap();
    refuses(host, "XDG_RUNTIME_DIR=/tmp/shared PROGRAM list", 1, "no symlink");
    host.node.sh("rm -r /tmp/shared /tmp/other").unwrap();

    host.node.sh("cp /usr/local/bin/rtc /usr/local/bin/set-user-id; chmod 4755 /usr/local/bin/set-user-id").unwrap();
    refuses(host, "set-user-id --root /run/x list", 1, "rtc must not be set-user-id");
    host.node.run(["rm", "/usr/local/bin/set-user-id"]).unwrap();
}

fn delegated(host: &Host) {
    configure(host, "sleep 1000", |spec| spec["linux"]["cgroupsPath"] = json!("/tester/c1"));
    // A process is moved only below what both cgroups have in common.
    refuses(host, "PROGRAM run c1", 1, "unable to apply cgroup configuration: ");
    user(host, "PROGRAM delete -f c1");
    host.node.sh(&format!("rmdir {DELEGATE}/c1 2>/dev/null || true")).unwrap();

    let script = "PROGRAM run -d c1 </dev/null >/dev/null 2>&1".replace("PROGRAM", program(host));
    let start = || {
        let enter = format!("echo 0 >{DELEGATE}/shell/cgroup.procs; exec \"$@\"");
        let line = ["sh", "-c", &enter, "sh"].map(str::to_owned).into_iter().chain(shell(&script));
        host.node.run(line).unwrap();
    };
    start();
    ok(host, "PROGRAM pause c1");
    assert_eq!(state(host, "c1")["status"], "paused");
    ok(host, "PROGRAM resume c1");
    assert_eq!(host.node.read_text(&format!("{DELEGATE}/c1/cgroup.procs")).unwrap().lines().count(), 1);
    let pids: Vec<u64> = serde_json::from_str(&ok(host, "PROGRAM ps -f json c1")).unwrap();
    assert_eq!(pids, [state(host, "c1")["pid"].as_u64().unwrap()]);
    end(host, "c1");
    assert!(!host.node.exists(&format!("{DELEGATE}/c1")));

    if !host.has_controller("pids") {
        eprintln!("skipped: limits, there is no controller");
        return;
    }
    // A shell that cannot fork ends: not the container's own.
    let many = "sh -c 'for n in $(seq 20); do sleep 7659 & done'; exec sleep 1000";
    configure(host, many, |spec| {
        spec["linux"]["cgroupsPath"] = json!("/tester/c1");
        spec["linux"]["resources"] = json!({"pids": {"limit": 10}});
    });
    start();
    let events = || host.node.read_text(&format!("{DELEGATE}/c1/pids.events")).unwrap();
    host.wait("the limit has bitten", || events().lines().any(|line| line.starts_with("max ") && line != "max 0"));
    end(host, "c1");
}
