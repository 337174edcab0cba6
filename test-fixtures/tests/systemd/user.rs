//! Containers of a user who has a systemd: its units, over its own socket or its bus.
//!
//! The commands are no part of what that systemd has, as those of a login are not: it moves the processes for them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use test_fixtures::vm::BROUGHT;
use test_fixtures::{Output, Vm};

const UID: u32 = 1000;
const RUNTIME_DIR: &str = "/run/user/1000";
const BUNDLE: &str = "/srv/user";
const UNIT: &str = "p-u1.scope";
/// Of the service that is the user's systemd.
const MANAGER: &str = "/system.slice/rtctest-user.service";
const SCOPE: &str = "/user.slice/p-u1.scope";

/// Debian's `dbus-user-session`, less what it waits for.
const BUS_SOCKET: &str = "[Socket]\nListenStream=%t/bus\n";
const BUS_SERVICE: &str = "[Unit]\nRequires=dbus.socket\n[Service]\nType=notify\nNotifyAccess=main\n\
    ExecStart=/usr/bin/dbus-daemon --config-file=/srv/bus.conf --address=systemd: --nofork --nopidfile --systemd-activation\n";
const BUS: &str = "<busconfig><type>session</type><listen>unix:tmpdir=/tmp</listen><auth>EXTERNAL</auth>\
    <policy context=\"default\">\
    <allow send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/><allow own=\"*\"/></policy></busconfig>";

struct User<'a> {
    vm: &'a Vm,
    program: &'a str,
}

pub(crate) fn check(vm: &Vm) {
    prepare(vm);
    let rtc = format!("{BROUGHT}/bin/rtc");
    let user = User { vm, program: &rtc };
    user.lives();
    user.runs_in_its_own_part();
    user.runs_as_root_of_a_user_namespace();
    user.leaves_nothing_of_a_failure();
    user.is_told_what_is_missing();
    user.goes_over_the_bus();
}

fn prepare(vm: &Vm) {
    vm.write("/srv/bus.conf", BUS).unwrap();
    vm.write("/etc/systemd/user/dbus.socket", BUS_SOCKET).unwrap();
    vm.write("/etc/systemd/user/dbus.service", BUS_SERVICE).unwrap();
    vm.sh(&format!(
        "useradd --uid {UID} --create-home rtctest; mkdir -p {RUNTIME_DIR} {BUNDLE}/rootfs/bin; \
         cp /usr/bin/busybox {BUNDLE}/rootfs/bin; for name in sh sleep cat true; do ln -s busybox {BUNDLE}/rootfs/bin/$name; done; \
         chown -R {UID}:{UID} {RUNTIME_DIR} {BUNDLE}; chmod 700 {RUNTIME_DIR}"
    ))
    .unwrap();
    let manager = format!(
        "systemd-run --unit rtctest-user --uid {UID} --gid {UID} -p Type=notify -p Delegate=yes -p TimeoutStartSec=120 \
         -E HOME=/home/rtctest -E XDG_RUNTIME_DIR={RUNTIME_DIR} /usr/lib/systemd/systemd --user --unit=basic.target"
    );
    vm.sh(&manager).unwrap();
    User { vm, program: "" }.sh("systemctl --user start dbus.socket dbus.service");
}

impl User<'_> {
    fn spec() -> Value {
        json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "process": {
                "user": {"uid": 0, "gid": 0}, "args": ["sh", "-c", "while :; do sleep 1; done"], "env": ["PATH=/bin"],
                "cwd": "/",
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            ],
            "linux": {
                "cgroupsPath": ":p:u1",
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "cgroup"}, {"type": "user"}],
                "uidMappings": [{"containerID": 0, "hostID": UID, "size": 1}],
                "gidMappings": [{"containerID": 0, "hostID": UID, "size": 1}],
                "resources": {"devices": [{"allow": false, "access": "rwm"}], "pids": {"limit": 30}},
            },
        })
    }

    fn configure(&self, change: impl FnOnce(&mut Value)) {
        let mut spec = Self::spec();
        change(&mut spec);
        self.vm.write(&format!("{BUNDLE}/config.json"), spec.to_string()).unwrap();
    }

    /// With what a login gives, or `variables` in its place.
    fn exec_with(&self, variables: &str, command: &str) -> Output {
        let line = format!(
            "cd {BUNDLE}; exec setpriv --reuid {UID} --regid {UID} --clear-groups env -i HOME=/home/rtctest \
             PATH=/usr/sbin:/usr/bin:/sbin:/bin {variables} {command}"
        );
        self.vm.exec(["sh", "-c", &line]).unwrap()
    }

    fn exec(&self, command: &str) -> Output {
        self.exec_with(&format!("XDG_RUNTIME_DIR={RUNTIME_DIR}"), command)
    }

    #[track_caller]
    fn sh(&self, command: &str) -> String {
        let output = self.exec(command);
        assert_eq!(output.code(), 0, "{command}: {} {}", output.text(), output.error_text());
        output.text()
    }

    #[track_caller]
    fn ok(&self, arguments: &str) -> String {
        self.sh(&format!("{} --systemd-cgroup {arguments}", self.program))
    }

    /// A container that runs, with stdio that keeps nobody waiting.
    #[track_caller]
    fn start(&self) {
        let log = "/run/user/1000/u1.log";
        let line = format!("sh -c '{} --systemd-cgroup create u1 </dev/null >{log} 2>&1'", self.program);
        let output = self.exec(&line);
        assert_eq!(output.code(), 0, "{}", self.vm.read_text(log).unwrap_or_default());
        self.ok("start u1");
    }

    #[track_caller]
    fn refused(&self, variables: &str) -> String {
        let output = self.exec_with(variables, &format!("{} --systemd-cgroup run u1", self.program));
        assert!(output.code() != 0, "it ran");
        self.assert_nothing_left();
        output.error_text()
    }

    fn show(&self, property: &str) -> String {
        self.sh(&format!("systemctl --user show -P {property} {UNIT}")).trim().to_owned()
    }

    /// Of a process, in the hierarchy.
    fn cgroup(&self, pid: &str) -> String {
        self.vm.read_text(&format!("/proc/{pid}/cgroup")).unwrap()
    }

    #[track_caller]
    fn assert_nothing_left(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.show("LoadState") != "not-found" {
            assert!(Instant::now() < deadline, "the unit is left: {}", self.show("ActiveState"));
        }
        assert_eq!(self.ok("list -q"), "");
        self.vm.sh("! pgrep rtc-placeholder").unwrap();
    }

    fn lives(&self) {
        self.configure(|_| ());
        self.start();
        let scope = format!("{MANAGER}{SCOPE}");
        assert_eq!(self.show("ControlGroup"), scope);
        assert_eq!(self.show("TasksMax"), "30");
        let pids_max = || self.vm.read_text(&format!("/sys/fs/cgroup{scope}/pids.max")).unwrap();
        assert_eq!(pids_max(), "30");
        let state: Value = serde_json::from_str(&self.ok("state u1")).unwrap();
        assert_eq!(self.cgroup(&state["pid"].to_string()), format!("0::{scope}"));
        // A process of exec is in it too.
        let exec =
            format!("{} --systemd-cgroup exec -d --pid-file /run/user/1000/exec.pid u1 sleep 1000", self.program);
        self.sh(&format!("sh -c '{exec} </dev/null >/dev/null 2>&1'"));
        let executed = self.vm.read_text("/run/user/1000/exec.pid").unwrap();
        assert_eq!(self.cgroup(&executed), format!("0::{scope}"));
        self.vm.run(["rm", "/run/user/1000/exec.pid"]).unwrap();
        self.ok("pause u1");
        assert!(self.ok("state u1").contains("\"paused\""));
        self.ok("resume u1");
        self.ok("update --pids-limit 40 u1");
        assert_eq!(self.show("TasksMax"), "40");
        assert_eq!(pids_max(), "40");
        self.ok("delete --force u1");
        self.assert_nothing_left();
    }

    /// Where a process may be cloned straight into a unit.
    fn runs_in_its_own_part(&self) {
        self.configure(|spec| spec["process"]["args"] = json!(["cat", "/proc/self/cgroup"]));
        let inside = format!("systemd-run --user --quiet --wait --collect --pipe --working-directory {BUNDLE}");
        assert_eq!(self.sh(&format!("{inside} {} --systemd-cgroup run u1", self.program)).trim(), "0::/");
        self.assert_nothing_left();
    }

    /// As Podman calls a runtime: root there, and its own uid to the user's systemd.
    fn runs_as_root_of_a_user_namespace(&self) {
        self.configure(|spec| {
            spec["process"]["args"] = json!(["cat", "/proc/self/cgroup"]);
            for maps in ["uidMappings", "gidMappings"] {
                spec["linux"][maps][0]["hostID"] = json!(0);
            }
        });
        let run = format!("unshare --user --map-root-user {} --systemd-cgroup run u1", self.program);
        assert_eq!(self.sh(&run).trim(), "0::/");
        self.assert_nothing_left();
    }

    fn leaves_nothing_of_a_failure(&self) {
        self.configure(|spec| spec["process"]["args"] = json!(["no-such-program"]));
        let said = self.refused(&format!("XDG_RUNTIME_DIR={RUNTIME_DIR}"));
        assert!(said.contains("no-such-program"), "{said}");
    }

    fn is_told_what_is_missing(&self) {
        self.configure(|_| ());
        let root = format!("{RUNTIME_DIR}/rtc");
        let run = |variables: &str| {
            let program = format!("{} --root {root} --systemd-cgroup run u1", self.program);
            let output = self.exec_with(variables, &program);
            assert!(output.code() != 0, "it ran");
            output.error_text()
        };
        let said = run("LANG=C");
        assert!(said.contains("neither XDG_RUNTIME_DIR nor DBUS_SESSION_BUS_ADDRESS"), "{said}");
        let said = run("XDG_RUNTIME_DIR=/nowhere");
        assert!(said.contains("reach systemd at /nowhere/bus"), "{said}");
        let said = run("DBUS_SESSION_BUS_ADDRESS=tcp:host=h,port=1");
        assert!(said.contains("names no unix socket"), "{said}");
        self.assert_nothing_left();
    }

    fn goes_over_the_bus(&self) {
        let private = format!("{RUNTIME_DIR}/systemd/private");
        self.vm.run(["mv", &private, &format!("{private}.off")]).unwrap();
        self.configure(|spec| spec["process"]["args"] = json!(["true"]));
        self.ok("run u1");
        let root = format!("--root {RUNTIME_DIR}/rtc");
        let by_address = format!("DBUS_SESSION_BUS_ADDRESS=unix:path={RUNTIME_DIR}/bus");
        let output = self.exec_with(&by_address, &format!("{} {root} --systemd-cgroup run u1", self.program));
        assert_eq!(output.code(), 0, "{}", output.error_text());
        self.vm.run(["mv", &format!("{private}.off"), &private]).unwrap();
        self.assert_nothing_left();
    }
}
