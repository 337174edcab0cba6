//! Seccomp profiles, and the agent that answers for a process.

use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use libseccomp::{ScmpNotifReq, ScmpNotifResp, ScmpNotifRespFlags};
use runtime_core::ErrorKind;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

use crate::bundle::{Bundle, chain, exec};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a_start_container_hook_is_under_the_filter", a_start_container_hook_is_under_the_filter),
    ("every_action_does_what_it_says", every_action_does_what_it_says),
    ("a_filter_need_not_know_what_the_runtime_calls", a_filter_need_not_know_what_the_runtime_calls),
    ("an_agent_answers_for_the_process", an_agent_answers_for_the_process),
    ("an_agent_answers_for_an_exec", an_agent_answers_for_an_exec),
    ("an_agent_may_hold_what_the_runtime_calls", an_agent_may_hold_what_the_runtime_calls),
    ("without_an_agent_nothing_is_made", without_an_agent_nothing_is_made),
    ("a_profile_that_cannot_be_is_refused", a_profile_that_cannot_be_is_refused),
    ("a_listener_without_notifications_is_ignored", a_listener_without_notifications_is_ignored),
];

/// What an agent was told, and how many calls it answered.
type Told = (Value, usize);

/// How it answers.
#[derive(Clone, Copy)]
enum Answer {
    Errno(i32),
    Continue,
}

/// Takes connections until a thread of the test's ends, one agent for each.
struct Agent {
    path: PathBuf,
    listener: UnixListener,
}

impl Agent {
    fn new(directory: &Path) -> Self {
        let path = directory.join("agent.sock");
        Self { listener: UnixListener::bind(&path).unwrap(), path }
    }

    /// Answers for one process, until the last that has the filter is gone.
    fn serve(&self, answer: Answer) -> std::thread::JoinHandle<Told> {
        let listener = self.listener.try_clone().unwrap();
        std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            let (mut text, filter) = receive(&connection);
            // Exactly one state, and then the end.
            connection.read_to_end(&mut text).unwrap();
            (serde_json::from_slice(&text).unwrap(), answer_all(&filter, answer))
        })
    }
}

fn receive(connection: &std::os::unix::net::UnixStream) -> (Vec<u8>, OwnedFd) {
    let mut buffer = vec![0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message =
        recvmsg(connection, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let mut fds: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    assert_eq!(fds.len(), 1);
    buffer.truncate(message.bytes);
    (buffer, fds.remove(0))
}

fn answer_all(filter: &OwnedFd, answer: Answer) -> usize {
    let mut answered = 0;
    loop {
        let mut fds = [PollFd::new(filter, PollFlags::IN)];
        poll(&mut fds, None).unwrap();
        if !fds[0].revents().contains(PollFlags::IN) {
            return answered;
        }
        // The process may have died in between.
        let Ok(request) = ScmpNotifReq::receive(filter.as_raw_fd()) else { continue };
        let response = match answer {
            Answer::Errno(errno) => ScmpNotifResp::new_error(request.id, -errno, ScmpNotifRespFlags::empty()),
            Answer::Continue => ScmpNotifResp::new_continue(request.id, ScmpNotifRespFlags::empty()),
        };
        if response.respond(filter.as_raw_fd()).is_ok() {
            answered += 1;
        }
    }
}

fn notified(bundle: &mut Bundle, agent: &Agent, calls: &[&str]) {
    bundle.spec["annotations"] = json!({"org.example": "x"});
    bundle.spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": agent.path,
        "listenerMetadata": "MKDIR=42",
        "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
        "syscalls": [{"names": calls, "action": "SCMP_ACT_NOTIFY"}],
    });
}

/// Without no_new_privs it is in force long before the program is. Profiles that are older than these calls refuse them.
fn a_filter_need_not_know_what_the_runtime_calls() {
    for no_new_privileges in [true, false] {
        let mut bundle = Bundle::new("echo ran");
        bundle.spec["process"]["noNewPrivileges"] = no_new_privileges.into();
        let names = ["close_range", "faccessat2", "openat2", "clone3", "chdir", "getcwd"];
        let rule = json!({"names": names, "action": "SCMP_ACT_ERRNO"});
        bundle.spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
        assert_eq!(bundle.run(), (0, "ran".to_owned()), "no_new_privs {no_new_privileges}");
    }
}

/// And the runtime needs no more for it than any program that starts others, with a timeout and without.
fn a_start_container_hook_is_under_the_filter() {
    for no_new_privileges in [true, false] {
        let mut bundle = Bundle::new("cat /tmp/log");
        bundle.spec["process"]["noNewPrivileges"] = no_new_privileges.into();
        let names = [
            "mkdir",
            "mkdirat",
            "memfd_create",
            "pidfd_open",
            "pidfd_send_signal",
            "clone3",
            "waitid",
            "close_range",
            "execveat",
        ];
        let rule = json!({"names": names, "action": "SCMP_ACT_ERRNO"});
        bundle.spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
        let hook = |script: &str| json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"]});
        let mut timed = hook("cat > /dev/null; echo second >> /tmp/log");
        timed["timeout"] = 20.into();
        let first = hook("mkdir /tmp/made 2> /dev/null || echo no mkdir >> /tmp/log");
        bundle.spec["hooks"] = json!({"startContainer": [first, timed]});
        assert_eq!(bundle.run(), (0, "no mkdir\nsecond".to_owned()), "no_new_privs {no_new_privileges}");

        for (script, timeout, expected) in [
            ("kill -SYS $$", None, "startContainer hook /bin/sh ended with 159 (signal: bad system call)"),
            ("echo why; exit 3", Some(20), "startContainer hook /bin/sh ended with 3: why"),
            ("exec sleep 60", Some(1), "startContainer hook /bin/sh ran for more than 1 s"),
        ] {
            let mut hook = hook(script);
            if let Some(seconds) = timeout {
                hook["timeout"] = seconds.into();
            }
            bundle.spec["hooks"] = json!({"startContainer": [hook]});
            let (container, running) = bundle.create().unwrap_or_else(|err| panic!("{}", chain(&err)));
            let err = chain(&container.start().unwrap_err());
            assert!(err.contains(expected), "{err}");
            assert_eq!(running.finish().0, 1);
            container.delete(false).unwrap();
        }
        bundle.assert_nothing_left();
    }
}

fn every_action_does_what_it_says() {
    // ENOMSG; 31 is SIGSYS.
    for (action, errno, expected) in [
        ("SCMP_ACT_ERRNO", Value::from(42), "No message of desired type"),
        ("SCMP_ACT_ERRNO", Value::Null, "Operation not permitted"),
        ("SCMP_ACT_TRACE", Value::Null, "Function not implemented"),
        ("SCMP_ACT_LOG", Value::Null, "code 0"),
        ("SCMP_ACT_ALLOW", Value::Null, "code 0"),
        ("SCMP_ACT_TRAP", Value::Null, "code 159"),
        ("SCMP_ACT_KILL", Value::Null, "code 159"),
        ("SCMP_ACT_KILL_THREAD", Value::Null, "code 159"),
        ("SCMP_ACT_KILL_PROCESS", Value::Null, "code 159"),
    ] {
        for no_new_privileges in [true, false] {
            let mut bundle = Bundle::new("mkdir /tmp/x; echo code $?");
            bundle.spec["process"]["noNewPrivileges"] = no_new_privileges.into();
            let mut rule = json!({"names": ["mkdir", "mkdirat"], "action": action});
            if !errno.is_null() {
                rule["errnoRet"] = errno.clone();
            }
            let other = if action == "SCMP_ACT_ALLOW" { "SCMP_ACT_LOG" } else { "SCMP_ACT_ALLOW" };
            bundle.spec["linux"]["seccomp"] = json!({"defaultAction": other, "syscalls": [rule],
                "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], "flags": ["SECCOMP_FILTER_FLAG_TSYNC"]});
            let (_, output) = bundle.run();
            assert!(output.contains(expected), "{action} {no_new_privileges}: {output}");
        }
    }
}

fn an_agent_answers_for_the_process() {
    for no_new_privileges in [true, false] {
        let mut bundle = Bundle::new("mkdir /tmp/x; mkdir /tmp/y; exit 3");
        bundle.spec["process"]["noNewPrivileges"] = no_new_privileges.into();
        let agent = Agent::new(bundle.path());
        notified(&mut bundle, &agent, &["mkdir", "mkdirat"]);
        let serving = agent.serve(Answer::Errno(42));
        let (container, running) = bundle.create().unwrap_or_else(|err| panic!("{}", chain(&err)));
        let pid = running.started.child.pid.as_raw();
        container.start().unwrap_or_else(|err| panic!("{}", chain(&err)));
        let (code, output) = running.finish();
        assert_eq!(code, 3);
        assert_eq!(output.matches("No message of desired type").count(), 2, "{output}");
        container.delete(false).unwrap();
        let (told, answered) = serving.join().unwrap();
        assert_eq!(answered, 2);
        let expected = json!({
            "ociVersion": "1.2.0",
            "fds": ["seccompFd"],
            "pid": pid,
            "metadata": "MKDIR=42",
            "state": {"ociVersion": "1.2.0", "id": "test", "status": "creating", "pid": pid, "bundle": bundle.path(),
                "annotations": {"org.example": "x"}},
        });
        assert_eq!(told, expected);
        bundle.assert_nothing_left();
    }
}

fn an_agent_answers_for_an_exec() {
    let mut bundle = Bundle::new("exec sleep 60");
    let agent = Agent::new(bundle.path());
    notified(&mut bundle, &agent, &["mkdir", "mkdirat"]);
    let first = agent.serve(Answer::Continue);
    let (container, running) = bundle.create().unwrap_or_else(|err| panic!("{}", chain(&err)));
    container.start().unwrap();
    let second = agent.serve(Answer::Errno(42));
    let mut process = bundle.spec["process"].clone();
    process["args"] = json!(["mkdir", "/tmp/x"]);
    let executed = exec(&container, process, false).unwrap_or_else(|err| panic!("{}", chain(&err)));
    let (init, pid) = (running.started.child.pid.as_raw(), executed.started.child.pid.as_raw());
    let (code, output) = executed.finish();
    assert!(code == 1 && output.contains("No message of desired type"), "{output}");
    let (told, answered) = second.join().unwrap();
    assert_eq!((told["pid"].as_i64(), answered), (Some(pid.into()), 1));
    assert_eq!((&told["state"]["status"], &told["state"]["pid"]), (&json!("running"), &json!(init)));
    container.delete(true).unwrap();
    running.finish();
    first.join().unwrap();
    bundle.assert_nothing_left();
}

/// What the runtime itself does between the filter and the program goes to the agent as well.
fn an_agent_may_hold_what_the_runtime_calls() {
    let calls = ["openat", "close", "sendmsg", "recvmsg", "setresuid", "capset", "execve", "prctl", "fcntl", "umask"];
    for no_new_privileges in [true, false] {
        let mut bundle = Bundle::new("id -u");
        bundle.spec["process"]["noNewPrivileges"] = no_new_privileges.into();
        bundle.spec["process"]["user"] = json!({"uid": 33, "gid": 33});
        let agent = Agent::new(bundle.path());
        notified(&mut bundle, &agent, &calls);
        let serving = agent.serve(Answer::Continue);
        assert_eq!(bundle.run(), (0, "33".to_owned()));
        assert!(serving.join().unwrap().1 > 3);
    }
}

fn without_an_agent_nothing_is_made() {
    let mut bundle = Bundle::new("true");
    let agent = Agent::new(bundle.path());
    notified(&mut bundle, &agent, &["mkdir"]);
    let path = agent.path.display().to_string();
    drop(agent);
    let (kind, refused) = bundle.refusal();
    assert_eq!(kind, ErrorKind::FailedPrecondition, "{refused}");
    assert!(refused.contains(&path) && refused.contains("onnection refused"), "{refused}");
}

fn a_profile_that_cannot_be_is_refused() {
    let notify = json!([{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]);
    let rule = |action: &str| json!([{"names": ["mkdir"], "action": action, "errnoRet": 1}]);
    let cases = [
        (json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": notify}), "needs a listenerPath"),
        (json!({"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/x"}), "default action"),
        (json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}), "listenerMetadata needs a listenerPath"),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x",
                "syscalls": [{"names": ["write"], "action": "SCMP_ACT_NOTIFY"}]}),
            "write",
        ),
        (json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}), "takes no errno"),
        (json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rule("SCMP_ACT_KILL")}), "SCMP_ACT_KILL takes no errno"),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}),
            "argument 6",
        ),
    ];
    for (profile, text) in cases {
        let mut bundle = Bundle::new("true");
        bundle.spec["linux"]["seccomp"] = profile;
        let (kind, refused) = bundle.refusal();
        assert_eq!(kind, ErrorKind::InvalidArgument, "{refused}");
        assert!(refused.contains(text), "{refused}");
    }
}

fn a_listener_without_notifications_is_ignored() {
    let mut bundle = Bundle::new("echo ran");
    bundle.spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/no/such/socket",
        "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]});
    assert_eq!(bundle.run(), (0, "ran".to_owned()));
}
