//! The virtual machines themselves: what they have that a host may lack, that commands and files get there, that nothing
//! is left of one. What the runtimes do in one is tested in `contract`.

use std::fs;
use std::io::Write;
use std::time::Duration;

use test_fixtures::vm::DEADLINE;
use test_fixtures::{Error, Vm, VmConfig};

#[test]
fn a_machine() {
    if let Some(why) = test_fixtures::vm::skip_reason() {
        eprintln!("skipped: {why}");
        return;
    }
    let vm = Vm::boot(&VmConfig { rtc: false, ..VmConfig::default() }).unwrap();
    has_what_hosts_may_lack(&vm);
    runs_commands(&vm);
    takes_files(&vm);
    kills_what_takes_too_long(&vm);
    tells_of_its_end(vm);
}

fn has_what_hosts_may_lack(vm: &Vm) {
    let controllers = vm.read_text("/sys/fs/cgroup/cgroup.controllers").unwrap();
    for controller in ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"] {
        assert!(controllers.split(' ').any(|one| one == controller), "{controller}: {controllers}");
    }
    let last: u32 = vm.read_text("/proc/sys/kernel/cap_last_cap").unwrap().parse().unwrap();
    let all = format!("CapBnd:\t{:016x}", (1_u64 << (last + 1)) - 1);
    assert_eq!(vm.run(["grep", "CapBnd", "/proc/self/status"]).unwrap(), all);
    vm.run(["criu", "check", "--feature", "mem_dirty_track"]).unwrap();
    // A new machine and its host agree about the time, or certificates and files would be from the future.
    let there: u64 = vm.run(["date", "+%s"]).unwrap().parse().unwrap();
    let here = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(here.abs_diff(there) < 60, "{here} here, {there} there");
}

fn runs_commands(vm: &Vm) {
    let output = vm.exec(["sh", "-c", "cat; echo err >&2; exit 7"]).unwrap();
    assert_eq!((output.code(), output.text().as_str(), output.error_text().as_str()), (7, "", "err"));
    let killed = vm.exec(["sh", "-c", "kill -KILL $$"]).unwrap();
    assert_eq!(killed.code(), 137);
    assert!(matches!(vm.exec(["/no/such/program"]), Err(Error::Spawn { .. })));
    // Several at once, and bytes that are no text.
    let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n * 7) as u8).collect();
    let copies = [vm.spawn(["cat"]).unwrap(), vm.spawn(["cat"]).unwrap()];
    for copy in &copies {
        copy.stdin().write_all(&bytes).unwrap();
    }
    for copy in copies {
        assert!(copy.wait(DEADLINE).unwrap().stdout == bytes, "not what was sent");
    }
}

fn takes_files(vm: &Vm) {
    vm.write("/tmp/some/where/file", "what is in it").unwrap();
    assert_eq!(vm.read_text("/tmp/some/where/file").unwrap(), "what is in it");
    assert!(!vm.exists("/tmp/some/where/else").unwrap());
    let own = std::env::current_exe().unwrap();
    vm.copy_in(&own, "/tmp/test").unwrap();
    let size = fs::metadata(own).unwrap().len().to_string();
    assert_eq!(vm.run(["stat", "-c", "%a %s", "/tmp/test"]).unwrap(), format!("755 {size}"));
}

fn kills_what_takes_too_long(vm: &Vm) {
    let late = vm.exec_within(Duration::from_secs(1), ["sh", "-c", "echo before; sleep 7657"]);
    let Err(Error::Timeout { output, .. }) = late else { panic!("{late:?}") };
    assert_eq!(output, "before\n");
    vm.sh("for _ in $(seq 100); do pgrep -xf 'sleep 7657' || exit 0; sleep 0.1; done; exit 1").unwrap();
}

fn tells_of_its_end(vm: Vm) {
    let directory = std::env::temp_dir().join(vm.name());
    assert!(directory.is_dir());
    let ended = vm.exec(["sh", "-c", "echo going >/dev/console; echo o >/proc/sysrq-trigger; sleep 1000"]);
    let Err(Error::Machine { console, .. }) = ended else { panic!("{ended:?}") };
    assert!(console.contains("going"), "{console}");
    drop(vm);
    assert!(!directory.exists());
}
