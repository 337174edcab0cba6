//! The runtime's command line beside a shim: both runtimes answer the same, in the same words, with the same exit codes.
//! The containers are those that ctr makes; creating them is tested elsewhere.

use serde_json::Value;
use test_fixtures::{Cgroups, Output};

use crate::host::{Check, Host, LONG, Runtime};

pub(crate) const CHECKS: &[Check] = &[
    ("state", state),
    ("list", list),
    ("kill", kill),
    ("pause and resume", pause_and_resume),
    ("ps", ps),
    ("delete", delete),
    ("update", update),
    ("events, statistics", statistics),
    ("events, out of memory", out_of_memory),
    ("checkpoint", checkpoint),
    ("usage", usage),
    ("log", log),
    ("spec", spec),
    ("completion and manual pages", generated),
];

pub(crate) fn program(host: &Host) -> &'static str {
    match host.lane.runtime {
        Runtime::Runc => "runc",
        Runtime::Rtc => "rtc",
    }
}

/// Where the shim keeps the state of ctr's containers.
fn root(host: &Host) -> &'static str {
    match host.lane.runtime {
        Runtime::Runc => "/run/containerd/runc/default",
        Runtime::Rtc => "/run/containerd/rtc/default",
    }
}

fn runtime(host: &Host, arguments: &[&str]) -> Output {
    host.node.exec([program(host), "--root", root(host)].iter().chain(arguments)).unwrap()
}

#[track_caller]
fn ok(host: &Host, arguments: &[&str]) -> String {
    let output = runtime(host, arguments);
    assert_eq!((output.code(), output.error_text().as_str()), (0, ""), "{arguments:?}: {}", output.text());
    output.text()
}

/// It ends with `code`, and this is the message of its one line of log.
#[track_caller]
fn refuses(host: &Host, arguments: &[&str], code: i32, message: &str) {
    let output = runtime(host, arguments);
    let line = output.error_text();
    assert_eq!(output.code(), code, "{arguments:?}: {} {line}", output.text());
    assert_eq!(line.lines().count(), 1, "{arguments:?}: {line}");
    let expected = format!(" level=error msg=\"{}\"", message.replace('"', "\\\""));
    assert!(line.starts_with("time=\"2") && line.ends_with(&expected), "{arguments:?}: {line}");
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|err| panic!("{err}: {text}"))
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn status(host: &Host) -> String {
    json(&ok(host, &["state", "c1"]))["status"].as_str().unwrap().to_owned()
}

fn state(host: &Host) {
    host.start_detached(&[], "c1", &["sleep", "1000"]);
    let state = json(&ok(host, &["state", "c1"]));
    let expected = ["annotations", "bundle", "created", "id", "ociVersion", "owner", "pid", "rootfs", "status"];
    assert_eq!(keys(&state).into_iter().filter(|key| *key != "annotations").collect::<Vec<_>>(), expected[1..]);
    assert_eq!(state["pid"], host.pid("c1"));
    assert_eq!((&state["id"], &state["status"], &state["owner"]), (&"c1".into(), &"running".into(), &"".into()));
    let bundle = state["bundle"].as_str().unwrap();
    assert_eq!(state["rootfs"].as_str().unwrap(), format!("{bundle}/rootfs"));
    let created = state["created"].as_str().unwrap();
    assert!(created.starts_with("20") && created.ends_with('Z'), "{created}");
    host.ctr_ok(&["task", "kill", "-s", "KILL", "c1"]);
    host.wait_for_status("c1", "STOPPED");
    let stopped = json(&ok(host, &["state", "c1"]));
    assert_eq!((&stopped["pid"], &stopped["status"]), (&0.into(), &"stopped".into()));
    host.remove_stopped("c1");
    refuses(host, &["state", "c1"], 1, "container does not exist");
    refuses(host, &["state", "a/b"], 1, "invalid container ID format");
    refuses(host, &["state", ""], 1, "container id cannot be empty");
}

fn list(host: &Host) {
    // The directory is there, for a container has been run.
    assert_eq!(ok(host, &["list"]), "ID          PID         STATUS      BUNDLE      CREATED     OWNER");
    assert_eq!(ok(host, &["list", "--format", "json"]), "null");
    for id in ["c2", "c1"] {
        host.start_detached(&[], id, &["sleep", "1000"]);
    }
    assert_eq!(ok(host, &["list", "-q"]), "c1\nc2");
    let table = ok(host, &["list"]);
    let row: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!((row[0], row[1], row[2], row[5]), ("c1", host.pid("c1").to_string().as_str(), "running", "root"));
    let all = json(&ok(host, &["list", "-f", "json"]));
    let [first, second] = all.as_array().unwrap().as_slice() else { panic!("{all}") };
    assert_eq!((&first["id"], &second["id"], &second["owner"]), (&"c1".into(), &"c2".into(), &"root".into()));
    refuses(host, &["list", "--format", "xml"], 1, "invalid format option");
    for id in ["c1", "c2"] {
        host.kill_and_remove(id);
    }
}

fn kill(host: &Host) {
    host.start_detached(&[], "c1", &["sleep", "1000"]);
    ok(host, &["kill", "c1", "0"]);
    refuses(host, &["kill", "c1", "NONE"], 1, "unknown signal \"NONE\"");
    assert_eq!(status(host), "running");
    ok(host, &["kill", "c1", "sigkill"]);
    host.wait_for_status("c1", "STOPPED");
    refuses(host, &["kill", "c1"], 1, "container not running");
    refuses(host, &["kill", "c1", "0"], 1, "container not running");
    ok(host, &["kill", "--all", "c1", "KILL"]);
    ok(host, &["kill", "c1", "KILL", "--all"]);
    host.remove_stopped("c1");
    refuses(host, &["kill", "c1"], 1, "container does not exist");
}

fn pause_and_resume(host: &Host) {
    host.start_detached(&[], "c1", &["sleep", "1000"]);
    refuses(host, &["resume", "c1"], 1, "container not paused");
    ok(host, &["pause", "c1"]);
    assert_eq!(status(host), "paused");
    refuses(host, &["pause", "c1"], 1, "container not running");
    ok(host, &["resume", "c1"]);
    assert_eq!(status(host), "running");
    host.ctr_ok(&["task", "kill", "-s", "KILL", "c1"]);
    host.wait_for_status("c1", "STOPPED");
    refuses(host, &["pause", "c1"], 1, "container not running");
    refuses(host, &["resume", "c1"], 1, "container not paused");
    host.remove_stopped("c1");
}

fn ps(host: &Host) {
    host.start_detached(&[], "c1", &["sh", "-c", "sleep 1000 & wait"]);
    host.wait("two processes", || json(&ok(host, &["ps", "--format", "json", "c1"])).as_array().unwrap().len() == 2);
    let table = ok(host, &["ps", "c1"]);
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.starts_with("UID"), "{table}");
    let narrow = ok(host, &["ps", "c1", "-o", "pid,args"]);
    assert!(narrow.contains(&format!("{} sh -c", host.pid("c1"))), "{narrow}");
    refuses(host, &["ps", "c1", "-o", "args"], 1, "couldn't find PID field in ps output");
    refuses(host, &["ps", "-f", "xml", "c1"], 1, "invalid format option");
    host.kill_and_remove("c1");
}

fn delete(host: &Host) {
    host.start_detached(&[], "c1", &["sleep", "1000"]);
    refuses(host, &["delete", "c1"], 1, "cannot delete container c1 that is not stopped: running");
    ok(host, &["pause", "c1"]);
    refuses(host, &["delete", "c1"], 1, "cannot delete container c1 that is not stopped: paused");
    ok(host, &["resume", "c1"]);
    ok(host, &["delete", "c1", "--force"]);
    refuses(host, &["delete", "c1"], 1, "container does not exist");
    ok(host, &["delete", "--force", "c1"]);
    host.wait_for_status("c1", "STOPPED");
    host.ctr_ok(&["task", "delete", "-f", "c1"]);
    host.ctr_ok(&["container", "delete", "c1"]);
}

fn update(host: &Host) {
    host.start_detached(&[], "c1", &["sleep", "1000"]);
    if host.has_controller("memory") {
        let file = match host.lane.cgroups {
            Cgroups::Hybrid => "/sys/fs/cgroup/memory/default/c1/memory.limit_in_bytes",
            Cgroups::V2 => "/sys/fs/cgroup/default/c1/memory.max",
        };
        let limit = || host.node.read_text(file).unwrap().trim().to_owned();
        ok(host, &["update", "--memory", "64m", "c1"]);
        assert_eq!(limit(), (64 << 20).to_string());
        host.node.write("/tmp/resources.json", r#"{ "memory": { "limit": 50331648 } }"#).unwrap();
        ok(host, &["update", "c1", "-r", "/tmp/resources.json"]);
        host.node.remove("/tmp/resources.json").unwrap();
        assert_eq!(limit(), (48 << 20).to_string());
    }
    for (arguments, option) in [(["--cpu-period", "fast"], "cpu-period"), (["--memory", "much"], "memory")] {
        let output = runtime(host, &[&["update"], &arguments[..], &["c1"]].concat());
        assert_eq!(output.code(), 1);
        assert!(output.error_text().contains(&format!("invalid value for {option}: ")), "{}", output.error_text());
    }
    refuses(host, &["update", "--l3-cache-schema", "L3:0=1", "c1"], 1, "Intel RDT/CAT: l3 cache schema is not enabled");
    host.kill_and_remove("c1");
}

fn statistics(host: &Host) {
    host.start_detached(&[], "c1", &["sleep", "1000"]);
    let event = json(&ok(host, &["events", "--stats", "c1"]));
    assert_eq!((&event["type"], &event["id"]), (&"stats".into(), &"c1".into()));
    let data = &event["data"];
    let parts = ["blkio", "cpu", "cpuset", "hugetlb", "intel_rdt", "memory", "network_interfaces", "pids"];
    assert_eq!(keys(data), parts);
    assert_eq!(keys(&data["cpu"]["throttling"]), [""; 0]);
    assert!(data["cpu"]["usage"]["total"].as_u64().unwrap() > 0, "{data}");
    let mut usage = vec!["kernel", "total", "user"];
    if host.lane.cgroups == Cgroups::Hybrid {
        usage.extend(["percpu", "percpu_kernel", "percpu_user"]);
        assert_eq!(data["cpuset"].as_object().unwrap().len(), 11, "{data}");
    }
    usage.sort_unstable();
    assert_eq!(keys(&data["cpu"]["usage"]), usage);
    if host.has_controller("memory") {
        assert!(data["memory"]["usage"]["usage"].as_u64().unwrap() > 0, "{data}");
        let raw = data["memory"]["raw"].as_object().unwrap();
        assert!(raw.contains_key("pgfault") && raw.contains_key("inactive_file"), "{data}");
    }
    if host.has_controller("pids") {
        assert_eq!(data["pids"]["current"], 1);
    }

    refuses(host, &["events", "--interval", "0s", "c1"], 1, "duration interval must be greater than 0");
    let events = host.node.spawn([program(host), "--root", root(host), "events", "--interval", "100ms", "c1"]).unwrap();
    host.wait("two events", || events.stdout_so_far().iter().filter(|byte| **byte == b'\n').count() >= 2);
    host.kill_and_remove("c1");
    // It ends with the container.
    let output = events.wait(LONG).unwrap();
    assert_eq!(output.code(), 0, "{}", output.error_text());
    assert!(output.text().lines().all(|line| json(line)["type"] == "stats"), "{}", output.text());
}

fn out_of_memory(host: &Host) {
    if !host.has_controller("memory") {
        eprintln!("skipped: there is no memory controller");
        return;
    }
    host.start_detached(&["--memory-limit", "33554432"], "c1", &["sleep", "1000"]);
    let events = host.node.spawn([program(host), "--root", root(host), "events", "--interval", "1h", "c1"]).unwrap();
    // Only then does it watch: it says nothing before the first event.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let hog = ["task", "exec", "--exec-id", "hog", "c1", "dd", "if=/dev/zero", "of=/dev/null", "bs=256M"];
    assert_eq!(host.ctr(&hog).code(), 137);
    host.wait("an oom", || !events.stdout_so_far().is_empty());
    host.kill_and_remove("c1");
    let output = events.wait(LONG).unwrap();
    assert!(output.text().lines().all(|line| line == r#"{"type":"oom","id":"c1"}"#), "{}", output.text());
}

fn checkpoint(host: &Host) {
    host.start_detached(&[], "c1", &["sh", "-c", "while true; do sleep 0.2; done"]);
    refuses(host, &["checkpoint", "--parent-path", "/x", "c1"], 1, "--parent-path must be relative");
    host.node.sh("rm -rf checkpoint").unwrap();
    let made = runtime(host, &["checkpoint", "--image-path", "/tmp/images", "--leave-running", "c1"]);
    assert_eq!(made.code(), 0, "{}", made.error_text());
    assert!(host.node.exists("/tmp/images/inventory.img"));
    assert_eq!(status(host), "running");
    ok(host, &["kill", "c1", "KILL"]);
    host.wait_for_status("c1", "STOPPED");
    refuses(host, &["checkpoint", "c1"], 1, "Container cannot be checkpointed in stopped state");
    host.remove_stopped("c1");
    host.node.sh("rm -rf /tmp/images").unwrap();
}

fn usage(host: &Host) {
    let says = |arguments: &[&str], code: i32, out: &str, error: &str| {
        let output = host.node.exec([program(host)].iter().chain(arguments)).unwrap();
        let (text, line) = (output.text(), output.error_text());
        assert_eq!(output.code(), code, "{arguments:?}: {text} {line}");
        assert!(text.starts_with(out), "{arguments:?}: {text}");
        let error = error.replace('"', "\\\"").replace("PROGRAM", program(host));
        assert!(line.contains(&error) && line.is_empty() == error.is_empty(), "{arguments:?}: {line}");
    };
    says(&["state"], 1, "Incorrect Usage.\n\nNAME:\n", "PROGRAM: \"state\" requires exactly 1 argument(s)");
    says(&["kill", "a", "b", "c"], 1, "Incorrect Usage.\n", "PROGRAM: \"kill\" requires a maximum of 2 argument(s)");
    says(&["ps"], 1, "Incorrect Usage.\n", "PROGRAM: \"ps\" requires a minimum of 1 argument(s)");
    let unknown = "flag provided but not defined: -foo";
    says(&["state", "--foo", "c1"], 1, &format!("Incorrect Usage: {unknown}\n\nNAME:\n"), unknown);
    says(&["nothing"], 3, "", "No help topic for 'nothing'");
    says(&["--log-format", "xml", "list"], 1, "", "invalid log-format: xml");
    says(&["--root", "/", "list"], 1, "", "Option --root argument should not be set to /");
    says(&["--root", "/tmp/none", "list"], 1, "", "open /tmp/none: no such file or directory");
    says(&["-h"], 0, &format!("NAME:\n   {} - Open Container Initiative runtime\n", program(host)), "");
    says(&["kill", "--help"], 0, &format!("NAME:\n   {} kill - ", program(host)), "");
    says(&["--version"], 0, &format!("{} version ", program(host)), "");
    says(&[], 0, "NAME:\n", "");
}

fn log(host: &Host) {
    for (format, start) in
        [("json", "{\"level\":\"error\",\"msg\":\"container does not exist\",\"time\":\"2"), ("text", "time=\"2")]
    {
        let output = runtime(host, &["--log", "/tmp/log", "--log-format", format, "state", "none"]);
        assert_eq!((output.code(), output.error_text().as_str()), (1, "container does not exist"));
        let line = host.node.read_text("/tmp/log").unwrap();
        assert!(line.starts_with(start), "{line}");
        host.node.remove("/tmp/log").unwrap();
    }
    host.start_detached(&[], "c1", &["sleep", "1000"]);
    ok(host, &["--debug", "--log", "/tmp/log", "exec", "c1", "true"]);
    let lines = host.node.read_text("/tmp/log").unwrap();
    for words in [" level=debug msg=", "nsexec container setup", "child process in init()", "setns_init: about to exec"]
    {
        assert!(lines.contains(words), "{words}: {lines}");
    }
    host.node.remove("/tmp/log").unwrap();
    host.kill_and_remove("c1");
}

fn spec(host: &Host) {
    let made = |name: &str, arguments: &[&str]| {
        host.node.sh("mkdir /tmp/bundle").unwrap();
        host.node.run([name, "spec", "--bundle", "/tmp/bundle"].iter().chain(arguments)).unwrap();
        let mut spec = json(&host.node.read_text("/tmp/bundle/config.json").unwrap());
        let again = host.node.exec([name, "spec", "-b", "/tmp/bundle"]).unwrap();
        assert!(again.error_text().contains("File config.json exists. Remove it first"), "{}", again.error_text());
        host.node.sh("rm -r /tmp/bundle").unwrap();
        // These are each runtime's own.
        spec["hostname"] = Value::Null;
        spec["ociVersion"] = Value::Null;
        spec
    };
    for arguments in [&[][..], &["--rootless"]] {
        assert_eq!(made(program(host), arguments), made("runc", arguments), "{arguments:?}");
    }
}

fn generated(host: &Host) {
    if host.lane.runtime == Runtime::Runc {
        eprintln!("skipped: runc's come from its build");
        return;
    }
    host.node.run(["rtc", "completion", "bash"]).and_then(|script| host.node.write("/tmp/rtc.bash", script)).unwrap();
    let words = "source /tmp/rtc.bash; COMP_WORDS=(rtc sta); COMP_CWORD=1; _rtc rtc sta rtc; echo ${COMPREPLY[*]}";
    let offered = host.node.run(["bash", "-c", words]).unwrap();
    assert!(offered.contains("state") && offered.contains("stats"), "{offered}");
    host.node
        .sh("mkdir /tmp/man && rtc man /tmp/man && test -s /tmp/man/rtc-state.1 && rm -r /tmp/man /tmp/rtc.bash")
        .unwrap();
}
