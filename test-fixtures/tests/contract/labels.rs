//! AppArmor's profiles and SELinux's labels. Each needs a kernel that runs the module, and the compiler of its policy: the
//! machines of `vm` are booted so and bring it.

use std::path::{Path, PathBuf};

use test_fixtures::Image;
use test_fixtures::vm::BROUGHT;

use crate::host::{Check, Host};
use crate::kernel::{CONFIG, ROOTFS, exec, remove, start};

pub(crate) const APPARMOR: &[Check] = &[
    ("a profile confines the container and what is executed in it", profile_confines),
    ("a profile that is not loaded is refused by name", profile_is_missing),
];

pub(crate) const SELINUX: &[Check] = &[
    ("labels are those of the process, its keys and its mounts", labels_confine),
    ("a label that the policy does not have is refused by name", label_is_invalid),
];

/// Why there can be no profiles here.
pub(crate) fn lacks_apparmor() -> Option<String> {
    let parameter = "/sys/module/apparmor/parameters/enabled";
    let runs = std::fs::read(parameter).is_ok_and(|text| text.starts_with(b"Y"));
    if runs { lacks_compiler("apparmor_parser") } else { Some(format!("no {parameter}")) }
}

/// Why there can be no labels here. The directory is there with the module alone, whether it has a policy or not.
pub(crate) fn lacks_selinux() -> Option<String> {
    let directory = "/sys/fs/selinux";
    if Path::new(directory).exists() { lacks_compiler("secilc") } else { Some(format!("no {directory}")) }
}

fn lacks_compiler(name: &str) -> Option<String> {
    (!brought(name).exists()).then(|| format!("nobody brought {name}"))
}

fn brought(name: &str) -> PathBuf {
    Path::new(BROUGHT).join("policy").join(name)
}

/// The profile takes one file from a container, and nothing else.
const PROFILE: &str = "profile rtc-test flags=(attach_disconnected,mediate_deleted) {\n  file,\n  capability,\n  network,\n  \
                       signal,\n  ptrace,\n  unix,\n  deny /secret r,\n}\n";

/// Loads the profile, once for the node's kernel.
pub(crate) fn prepare_apparmor(host: &Host) {
    host.node.copy_in(&brought("apparmor_parser"), "/tmp/apparmor_parser").unwrap();
    host.node.write("/tmp/profile", PROFILE).unwrap();
    host.node.run(["mount", "-t", "securityfs", "securityfs", "/sys/kernel/security"]).unwrap();
    host.node.run(["/tmp/apparmor_parser", "--replace", "--skip-cache", "/tmp/profile"]).unwrap();
}

/// With no_new_privs, which ctr asks for: the change of profile at execve(2) is from no profile, so the kernel makes it.
fn profile_confines(host: &Host) {
    let flags = ["-d", "--runtime", host.lane.runtime.name(), "--apparmor-profile", "rtc-test"];
    let command = [Image::Busybox.name(), "c1", "sh", "-c", "echo hidden >/secret; exec sleep 7659"];
    host.ctr_ok(&[&["run"], &flags[..], &command].concat());
    let told = exec(host, "grep NoNewPrivs /proc/1/status; cat /proc/1/attr/current /proc/self/attr/current");
    assert_eq!(
        told.split_whitespace().collect::<Vec<_>>(),
        ["NoNewPrivs:", "1", "rtc-test", "(enforce)", "rtc-test", "(enforce)"]
    );
    let denied = exec(host, "cat /secret 2>&1 && exit 1; echo other >/other; cat /other");
    assert!(denied.contains("Permission denied") && denied.ends_with("other"), "{denied}");
    host.kill_and_remove("c1");
    let without = host.run_ok(&[], &["sh", "-c", "cat /proc/self/attr/current; echo open >/secret; cat /secret"]);
    assert_eq!(without.split_whitespace().collect::<Vec<_>>(), ["unconfined", "open"]);
}

fn profile_is_missing(host: &Host) {
    let line = [
        "run",
        "--rm",
        "--runtime",
        host.lane.runtime.name(),
        "--apparmor-profile",
        "nosuch",
        Image::Busybox.name(),
        "c1",
        "true",
    ];
    host.ctr_refuses(&line, &["AppArmor profile \"nosuch\" is not loaded"]);
}

/// Compiles and loads the policy, once for the node's kernel, and lets it rule.
pub(crate) fn prepare_selinux(host: &Host) {
    host.node.run(["mount", "-t", "selinuxfs", "selinuxfs", "/sys/fs/selinux"]).unwrap();
    host.node.copy_in(&brought("secilc"), "/tmp/secilc").unwrap();
    host.node.write("/tmp/policy.cil", include_str!("policy.cil")).unwrap();
    // In one write, as the kernel wants it.
    let load = "cd /tmp; ./secilc -c 33 -o policy -f /dev/null policy.cil; dd if=policy of=/sys/fs/selinux/load bs=16M; \
                echo 1 >/sys/fs/selinux/enforce";
    host.node.sh(load).unwrap();
}

fn labels_confine(host: &Host) {
    let secret = "[{\"destination\": \"/secret\", \"type\": \"tmpfs\", \"source\": \"tmpfs\", \
                  \"options\": [\"context=u:object_r:secret_t:s0\"]}]";
    let change = format!(
        ".process.selinuxLabel = \"u:r:box_t:s0\" | .linux.mountLabel = \"u:object_r:data_t:s0\" | .mounts += {secret} \
         | .linux.maskedPaths -= [\"/proc/keys\"]"
    );
    start(host, &change, "echo hidden >/secret/file; echo open >/run/file; exec sleep 7660");
    assert_eq!(exec(host, "tr -d '\\0' </proc/1/attr/current"), "u:r:box_t:s0");
    assert_eq!(exec(host, "tr -d '\\0' </proc/self/attr/current"), "u:r:box_t:s0");
    let mounts = exec(host, "cat /proc/self/mountinfo");
    let run = mounts.lines().find(|line| line.contains(" /run ")).unwrap();
    assert!(run.contains("context=u:object_r:data_t:s0"), "{run}");
    let read = exec(host, "cat /run/file; cat /secret/file 2>&1 && exit 1; echo $?");
    assert!(read.starts_with("open") && read.contains("Permission denied"), "{read}");
    // A key that is not the container's own cannot be seen by it.
    let keys = exec(host, "cat /proc/keys");
    assert!(keys.contains("_ses.c1"), "the session keyring has another label: {keys}");
    remove(host);
}

fn label_is_invalid(host: &Host) {
    start(host, ".", "exec sleep 7661");
    let change = ".process.selinuxLabel = \"u:r:nosuch_t:s0\" | .linux.cgroupsPath = \"/default/c2\"";
    let changed = host.node.run(["jq", change, CONFIG]).unwrap();
    host.node.write("/tmp/invalid.json", changed).unwrap();
    let line = ["run", "-d", "--runtime", host.lane.runtime.name(), "--config", "/tmp/invalid.json", "c2"];
    host.ctr_refuses(&line, &["SELinux label \"u:r:nosuch_t:s0\" is not valid"]);
    host.node.run(["rm", "/tmp/invalid.json"]).unwrap();
    remove(host);
    assert!(!host.node.exists(ROOTFS));
}
