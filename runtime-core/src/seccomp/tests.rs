use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::{Value, json};

use super::*;

const INSIDE: &str = "RTC_TEST_UNDER_SECCOMP";

fn profile(value: Value) -> LinuxSeccomp {
    serde_json::from_value(value).unwrap()
}

fn deny_mkdir() -> LinuxSeccomp {
    profile(json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            { "names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 123 },
            { "names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99,
              "args": [{ "index": 1, "value": 7, "valueTwo": 5, "op": "SCMP_CMP_MASKED_EQ" }] },
        ],
    }))
}

/// Runs `body` in a process of its own: a filter cannot be taken off again.
fn in_child(name: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("seccomp::tests::{name}"), "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn install_compiled(profile: &LinuxSeccomp) {
    let cache = tempfile::tempdir().unwrap();
    let filter = compile(profile, cache.path()).unwrap();
    nix::sys::prctl::set_no_new_privs().unwrap();
    // Kept: a profile under test may forbid what removing needs.
    drop(cache.keep());
    install(&filter).unwrap();
}

#[test]
fn an_installed_filter_answers_as_the_profile_says() {
    in_child("an_installed_filter_answers_as_the_profile_says", || {
        install_compiled(&deny_mkdir());
        assert_eq!(fs::create_dir("/tmp/never").unwrap_err().raw_os_error(), Some(123));
        let kill = |signal| nix::sys::signal::kill(nix::unistd::getpid(), signal);
        assert_eq!(kill(nix::sys::signal::SIGPIPE), Err(nix::errno::Errno::EADDRNOTAVAIL));
        assert_eq!(kill(nix::sys::signal::SIGCONT), Ok(()));
    });
}

#[test]
fn the_cache_gives_back_the_same_filter_and_is_private() {
    let cache = tempfile::tempdir().unwrap();
    let first = compile(&deny_mkdir(), &cache.path().join("seccomp")).unwrap();
    let file = fs::read_dir(cache.path().join("seccomp")).unwrap().next().unwrap().unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(compile(&deny_mkdir(), &cache.path().join("seccomp")).unwrap(), first);
    let sent: Filter = serde_json::from_slice(&serde_json::to_vec(&first).unwrap()).unwrap();
    assert_eq!(sent, first);
}

#[test]
fn a_filter_of_others_is_not_used() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can give a file away");
        return;
    }
    let cache = tempfile::tempdir().unwrap();
    let whole = compile(&deny_mkdir(), cache.path()).unwrap();
    let path = fs::read_dir(cache.path()).unwrap().next().unwrap().unwrap().path();
    let key = cache::key(&deny_mkdir()).unwrap();
    std::os::unix::fs::chown(&path, Some(1000), None).unwrap();
    assert_eq!(cache::read(cache.path(), &key), None);
    assert_eq!(compile(&deny_mkdir(), cache.path()).unwrap(), whole);
    assert_eq!(cache::read(cache.path(), &key).as_ref(), Some(&whole.program));
}

#[test]
fn a_damaged_cache_is_never_used() {
    let cache = tempfile::tempdir().unwrap();
    let whole = compile(&deny_mkdir(), cache.path()).unwrap();
    let path = fs::read_dir(cache.path()).unwrap().next().unwrap().unwrap().path();
    let good = fs::read(&path).unwrap();
    let key = cache::key(&deny_mkdir()).unwrap();
    assert_eq!(cache::read(cache.path(), &key).as_ref(), Some(&whole.program));
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, &bad).unwrap();
        assert_eq!(cache::read(cache.path(), &key), None, "byte {at}");
    }
    fs::write(&path, &good[..good.len() - 8]).unwrap();
    assert_eq!(cache::read(cache.path(), &key), None);
    assert_eq!(compile(&deny_mkdir(), cache.path()).unwrap(), whole);
    assert_eq!(fs::read(&path).unwrap(), good, "the damaged file was not replaced");
}

#[test]
fn notification_and_nonsense_are_refused_by_name() {
    let cache = tempfile::tempdir().unwrap();
    let error = |value: Value| compile(&profile(value), cache.path()).unwrap_err().to_string();
    let notify = json!({ "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_NOTIFY" }] });
    assert!(error(notify).contains("SCMP_ACT_NOTIFY"));
    let index = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["kill"], "action": "SCMP_ACT_ERRNO",
        "args": [{ "index": 6, "value": 0, "op": "SCMP_CMP_EQ" }] }] });
    assert!(error(index).contains("argument 6 of kill"));
}

/// seccomp(2) number 470 and above are not in any profile of today; the default action here is another errno.
#[test]
fn a_newer_system_call_gets_enosys_and_an_older_one_the_default() {
    let value = json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "syscalls": [{ "names": ["read", "write", "openat2"], "action": "SCMP_ACT_ALLOW" }] });
    let cache = tempfile::tempdir().unwrap();
    let program = compile(&profile(value), cache.path()).unwrap().program;
    let arch = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };
    let openat2 = 437;
    let errno = |errno: i32| libc::SECCOMP_RET_ERRNO | errno as u32;
    assert_eq!(run(&program, arch, openat2), libc::SECCOMP_RET_ALLOW);
    assert_eq!(run(&program, arch, openat2 + 1), errno(libc::ENOSYS));
    assert_eq!(run(&program, arch, openat2 - 1), errno(libc::EPERM));
    assert_ne!(run(&program, arch ^ 0x100, openat2), libc::SECCOMP_RET_ALLOW);
}

/// Enough of a BPF machine for what libseccomp emits.
fn run(program: &[u8], arch: u32, number: u32) -> u32 {
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let instruction = &program[at * 8..at * 8 + 8];
        let code = u16::from_ne_bytes([instruction[0], instruction[1]]);
        let value = u32::from_ne_bytes(instruction[4..8].try_into().unwrap());
        at += 1;
        let test = match code {
            0x20 => {
                accumulator = [number, arch].get(value as usize / 4).copied().unwrap_or(0);
                continue;
            }
            0x06 => return value,
            0x05 => {
                at += value as usize;
                continue;
            }
            0x15 => accumulator == value,
            0x25 => accumulator > value,
            0x35 => accumulator >= value,
            0x45 => accumulator & value != 0,
            code => panic!("instruction {code:#x}"),
        };
        at += usize::from(if test { instruction[2] } else { instruction[3] });
    }
}

#[test]
fn a_tracer_answers_newer_system_calls_itself() {
    let traced = profile(
        json!({"defaultAction": "SCMP_ACT_TRACE", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}),
    );
    assert!(newer::prelude(&traced, libseccomp::ScmpAction::Trace(1), &[libseccomp::ScmpArch::native()]).is_empty());
}

#[test]
fn a_tree_of_many_calls_answers_as_the_list_would() {
    in_child("a_tree_of_many_calls_answers_as_the_list_would", || {
        let mut many = deny_mkdir();
        let names = [
            "acct",
            "add_key",
            "bpf",
            "chroot",
            "clock_adjtime",
            "clock_settime",
            "delete_module",
            "fanotify_init",
            "finit_module",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "get_mempolicy",
            "init_module",
            "io_uring_setup",
            "kcmp",
            "kexec_load",
            "keyctl",
            "lookup_dcookie",
            "mbind",
            "mount",
            "mount_setattr",
            "move_mount",
            "move_pages",
            "name_to_handle_at",
            "open_by_handle_at",
            "open_tree",
            "perf_event_open",
            "personality",
            "pivot_root",
            "process_vm_readv",
            "process_vm_writev",
            "ptrace",
            "quotactl",
            "reboot",
            "request_key",
            "setns",
            "swapon",
        ];
        assert!(names.len() > 32);
        let rule = json!({"names": names[..], "action": "SCMP_ACT_ERRNO", "errnoRet": 124});
        let mut rules = many.syscalls().clone().unwrap();
        rules.push(serde_json::from_value(rule).unwrap());
        many.set_syscalls(Some(rules));
        install_compiled(&many);
        assert_eq!(fs::create_dir("/tmp/never").unwrap_err().raw_os_error(), Some(123));
        assert_eq!(nix::unistd::chroot("/").unwrap_err() as i32, 124);
        assert_eq!(nix::unistd::pivot_root("/", "/").unwrap_err() as i32, 124);
        fs::read("/proc/self/status").unwrap();
    });
}
