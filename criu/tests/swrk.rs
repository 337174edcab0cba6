//! Every path of a request, against a scripted CRIU.

mod fake;

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use criu::{
    After, Answer, CgroupMode, CgroupRoot, Common, Criu, Error, ExtMount, InheritFd, MINIMUM, NetworkLock,
    Notification, PreDumpOptions, RestoreOptions, Version,
};
use fake::{Fake, chain, common, criu, dump, dumped, is_dead, run_dump, script};
use proto::criu::rpc::{CriuFeatures, CriuReq, CriuReqType, CriuResp, CriuRestoreResp, CriuVersion};
use test_fixtures::fake_criu::{FakeCriu, Step, notification, reply};

#[test]
fn a_version_is_read_and_compared() {
    let answer = |major_number, minor_number| {
        let version = CriuVersion { major_number, minor_number, sublevel: Some(1), ..Default::default() };
        let response = CriuResp { version: Some(version), ..reply(CriuReqType::Version, true) };
        script(vec![Step::Receive, Step::Send(response)])
    };
    assert_eq!(criu().version(&answer(4, 2)).unwrap(), Version { major: 4, minor: 2, sublevel: 1 });
    let err = criu().require(MINIMUM, &answer(3, 15)).unwrap_err();
    assert_eq!(err.to_string(), "/usr/sbin/criu is CRIU 3.15.1, which is too old: 3.16 or newer is needed");
}

#[test]
fn an_old_criu_is_blamed_for_what_failed() {
    let answer = |minor_number| {
        let version = CriuVersion { major_number: 3, minor_number, ..Default::default() };
        let response = CriuResp { version: Some(version), ..reply(CriuReqType::Version, true) };
        script(vec![Step::Receive, Step::Send(response)])
    };
    let failed = || Error::RequestTooLong { operation: "dump", bytes: 1 };
    assert!(matches!(criu().blame(failed(), MINIMUM, &answer(15)), Error::TooOld { .. }));
    assert!(matches!(criu().blame(failed(), MINIMUM, &answer(16)), Error::RequestTooLong { .. }));
}

#[test]
fn features_are_asked_for_and_read() {
    let features = CriuFeatures { mem_track: Some(false), lazy_pages: Some(true), pidfd_store: None };
    let response = CriuResp { features: Some(features), ..reply(CriuReqType::FeatureCheck, true) };
    let fake = script(vec![Step::Receive, Step::Send(response)]);
    let found = criu().features(&fake).unwrap();
    assert!(!found.mem_track && found.lazy_pages && !found.pidfd_store);
    let asked = fake.0.received()[0].features.unwrap();
    assert!(asked.mem_track() && asked.lazy_pages() && asked.pidfd_store());
}

#[test]
fn a_dump_tells_its_options_and_its_notifications() {
    let dir = tempfile::tempdir().unwrap();
    let fake = script(vec![
        Step::Receive,
        Step::Send(notification("pre-dump", None)),
        Step::Receive,
        Step::Send(notification("post-dump", None)),
        Step::Receive,
        Step::Send(dumped()),
    ]);
    let mut options = dump(dir.path());
    options.after = After::Run;
    options.tcp_skip_in_flight = true;
    options.parent_img = Some("../1".to_owned());
    options.track_mem = true;
    options.freeze_cgroup = Some("/sys/fs/cgroup/freezer/x".to_owned());
    options.common = Common {
        work_dir: Some(File::open("/").unwrap().into()),
        root: Some("/rootfs".into()),
        tcp_established: true,
        ext_unix_sk: true,
        shell_job: true,
        file_locks: true,
        link_remap: true,
        ghost_limit: Some(7),
        empty_net_ns: true,
        external: vec!["mnt[/data]:data".to_owned()],
        ext_mounts: vec![ExtMount { key: "/etc/hosts".to_owned(), value: "/etc/hosts".to_owned() }],
        manage_cgroups: Some(CgroupMode::Soft),
        cgroup_roots: vec![CgroupRoot { controller: None, path: "/a".to_owned() }],
        network_lock: Some(NetworkLock::Nftables),
        config_file: Some("/etc/criu/runc.conf".into()),
        timeout: Some(3),
        ..options.common
    };
    let (images, work) = (options.common.images_dir.as_raw_fd(), options.common.work_dir.as_ref().unwrap().as_raw_fd());
    let mut told = Vec::new();
    let mut notify = |notification: Notification, _: BorrowedFd<'_>| {
        told.push(format!("{notification:?}"));
        Ok(Answer::Acknowledge)
    };
    criu().start(options, &fake).unwrap().run(&mut notify, None).unwrap();
    assert_eq!(told, ["PreDump", "PostDump"]);

    let received = fake.0.received();
    assert_eq!(received[0].r#type(), CriuReqType::Dump);
    let opts = received[0].opts.as_ref().unwrap();
    assert_eq!((opts.images_dir_fd, opts.work_dir_fd, opts.pid), (images, Some(work), Some(42)));
    assert!(opts.leave_running() && opts.tcp_established() && opts.ext_unix_sk() && opts.shell_job());
    assert!(opts.file_locks() && opts.link_remap() && opts.tcp_skip_in_flight() && opts.track_mem());
    assert!(opts.notify_scripts() && !opts.tcp_close() && opts.auto_dedup.is_none());
    assert_eq!((opts.ghost_limit, opts.empty_ns, opts.timeout), (Some(7), Some(0x4000_0000), Some(3)));
    assert_eq!((opts.manage_cgroups_mode, opts.network_lock), (Some(3), Some(2)));
    assert_eq!((opts.root(), opts.parent_img(), opts.config_file()), ("/rootfs", "../1", "/etc/criu/runc.conf"));
    assert_eq!(opts.freeze_cgroup(), "/sys/fs/cgroup/freezer/x");
    assert_eq!((opts.external[0].as_str(), opts.ext_mnt[0].key.as_str()), ("mnt[/data]:data", "/etc/hosts"));
    assert_eq!((opts.cg_root[0].ctrl.as_deref(), opts.cg_root[0].path.as_str()), (None, "/a"));
    assert!(received[1..].iter().all(|answer| answer.notify_success() && answer.r#type() == CriuReqType::Notify));
}

#[test]
fn a_pre_dump_ends_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let fake = script(vec![Step::Receive, Step::Send(reply(CriuReqType::SinglePreDump, true))]);
    criu().start(PreDumpOptions::new(common(dir.path()), 42), &fake).unwrap().run(&mut (), None).unwrap();
    let received = fake.0.received();
    assert_eq!(received[0].r#type(), CriuReqType::SinglePreDump);
    assert!(received[0].opts.as_ref().unwrap().track_mem());
}

#[test]
fn a_restore_hands_over_the_terminal_and_the_pid() {
    let dir = tempfile::tempdir().unwrap();
    let (mut theirs, ours) = io::pipe().unwrap();
    let restored = CriuResp { restore: Some(CriuRestoreResp { pid: 4711 }), ..reply(CriuReqType::Restore, true) };
    let fake = script(vec![
        Step::Receive,
        Step::Send(notification("setup-namespaces", Some(4711))),
        Step::Receive,
        Step::SendWithFds(notification("orphan-pts-master", None), vec![ours.into()]),
        Step::Receive,
        Step::Send(restored),
    ]);
    let mut options = RestoreOptions::new(common(dir.path()));
    options.rst_sibling = true;
    options.inherit_fds = vec![InheritFd { key: "pipe:[5]".to_owned(), fd: File::open("/dev/null").unwrap().into() }];
    let number = options.inherit_fds[0].fd.as_raw_fd();
    let mut master: Option<OwnedFd> = None;
    let mut pid = 0;
    let mut notify = |notification: Notification, _: BorrowedFd<'_>| {
        match notification {
            Notification::OrphanPtsMaster(fd) => master = Some(fd),
            Notification::SetupNamespaces { pid: found } => pid = found,
            _ => {}
        }
        Ok(Answer::Acknowledge)
    };
    let reply = criu().start(options, &fake).unwrap().run(&mut notify, None).unwrap();
    assert_eq!((reply.pid, pid), (4711, 4711));
    // What arrived is the other end of this pipe.
    File::from(master.unwrap()).write_all(b"x").unwrap();
    let mut byte = [0];
    io::Read::read_exact(&mut theirs, &mut byte).unwrap();
    let received = fake.0.received();
    let opts = received[0].opts.as_ref().unwrap();
    assert!(opts.rst_sibling());
    assert_eq!((opts.inherit_fd[0].key.as_str(), opts.inherit_fd[0].fd), ("pipe:[5]", number));
}

#[test]
fn external_files_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let fake = script(vec![
        Step::Receive,
        Step::Send(notification("query-ext-files", None)),
        Step::Receive,
        Step::Send(dumped()),
    ]);
    let mut notify = |_: Notification, _: BorrowedFd<'_>| Ok(Answer::External(vec!["file[1:2]".to_owned()]));
    criu().start(dump(dir.path()), &fake).unwrap().run(&mut notify, None).unwrap();
    assert_eq!(fake.0.received()[1].opts.as_ref().unwrap().external, ["file[1:2]"]);
}

#[test]
fn a_refused_notification_is_the_error_and_criu_hears_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let fake = script(vec![
        Step::Receive,
        Step::Send(notification("post-dump", None)),
        Step::Receive,
        Step::Send(notification("network-unlock", None)),
        Step::Receive,
        Step::Send(reply(CriuReqType::Dump, false)),
    ]);
    let mut notify = |notification: Notification, _: BorrowedFd<'_>| match notification {
        Notification::PostDump => Err("the destination is not ready".into()),
        _ => Ok(Answer::Acknowledge),
    };
    let err = criu().start(dump(dir.path()), &fake).unwrap().run(&mut notify, None).unwrap_err();
    assert_eq!(chain(&err), "criu dump was stopped at post-dump: the destination is not ready");
    let answers: Vec<_> = fake.0.received()[1..].iter().map(CriuReq::notify_success).collect();
    assert_eq!(answers, [false, true]);
}

#[test]
fn a_held_notification_costs_no_time_of_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let fake =
        script(vec![Step::Receive, Step::Send(notification("post-dump", None)), Step::Receive, Step::Send(dumped())]);
    let mut notify = |_: Notification, _: BorrowedFd<'_>| {
        std::thread::sleep(Duration::from_millis(700));
        Ok(Answer::Acknowledge)
    };
    let limit = Some(Duration::from_millis(500));
    criu().start(dump(dir.path()), &fake).unwrap().run(&mut notify, limit).unwrap();
}

#[test]
fn a_failure_carries_the_log_line_its_path_and_advice() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("criu.log");
    let text = "(00.1) Error (criu/mem.c:1): mem: Dirty tracking is OFF\n(00.2) Error (criu/x.c:1): Dumping FAILED.\n";
    std::fs::write(&log, text).unwrap();
    let failed = CriuResp { cr_errno: Some(52), ..reply(CriuReqType::Dump, false) };
    let fake = script(vec![Step::Receive, Step::Send(failed)]);
    let err = criu().start(dump(dir.path()), &fake).unwrap().run(&mut (), None).unwrap_err();
    let failure = err.failure().unwrap();
    assert_eq!(failure.line.as_deref(), Some("Error (criu/mem.c:1): mem: Dirty tracking is OFF"));
    assert_eq!(failure.log.as_deref(), Some(log.canonicalize().unwrap().as_path()));
    assert_eq!(failure.errno, Some(52));
    assert!(failure.advice.unwrap().contains("CONFIG_MEM_SOFT_DIRTY"));
    assert!(err.to_string().contains("criu.log"), "{err}");
}

#[test]
fn a_failure_without_a_log_carries_the_replys_words() {
    let failed = CriuResp { cr_errmsg: Some("no such task\n".to_owned()), ..reply(CriuReqType::Dump, false) };
    let (result, _fake) = run_dump(vec![Step::Receive, Step::Send(failed)], None);
    assert_eq!(result.unwrap_err().to_string(), "criu dump failed: no such task");
}

#[test]
fn a_criu_that_dies_is_noticed_with_its_status() {
    let (result, _fake) = run_dump(vec![Step::Receive, Step::Die], None);
    assert!(matches!(result, Err(Error::Died { status: 137, .. })), "{result:?}");
}

#[test]
fn a_criu_that_fails_after_its_reply_has_failed() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake(FakeCriu::with_process(vec![Step::Receive, Step::Send(dumped())], "read -r _; exit 3"));
    let result = criu().start(dump(dir.path()), &fake).unwrap().run(&mut (), None);
    assert!(matches!(result, Err(Error::Died { status: 3, .. })), "{result:?}");
}

#[test]
fn a_criu_that_is_slow_is_hung_up_on_first() {
    let started = Instant::now();
    let (result, fake) = run_dump(vec![Step::Receive, Step::AwaitHangUp], Some(Duration::from_millis(100)));
    assert!(matches!(result, Err(Error::Deadline { .. })), "{result:?}");
    assert!(fake.0.hung_up());
    // It ended by itself: nobody waited for the end of the grace period.
    assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
}

#[test]
fn a_criu_that_hangs_is_killed_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let only_child = |pid: i32| -> Option<i32> {
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?.trim().parse().ok()
    };
    // The shell's child has a child of its own.
    let shell = "sh -c 'sleep 600 & wait' & exec sleep 600";
    let fake = Fake(FakeCriu::with_process(vec![Step::Receive, Step::Hang], shell));
    let worker = criu().start(dump(dir.path()), &fake).unwrap();
    let root = worker.pid();
    let until = Instant::now() + Duration::from_secs(5);
    let (child, grandchild) = loop {
        match only_child(root).and_then(|child| Some((child, only_child(child)?))) {
            Some(found) => break found,
            None => assert!(Instant::now() < until, "the stand-in has no grandchild"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let result = worker.run(&mut (), Some(Duration::from_millis(50)));
    assert!(matches!(result, Err(Error::Deadline { .. })), "{result:?}");
    for pid in [root, child, grandchild] {
        assert!(is_dead(pid), "{pid} lives");
    }
}

#[test]
fn a_worker_that_is_dropped_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let fake = script(vec![Step::AwaitHangUp]);
    let worker = criu().start(dump(dir.path()), &fake).unwrap();
    let pid = worker.pid();
    drop(worker);
    assert!(fake.0.hung_up());
    assert!(is_dead(pid));
}

#[test]
fn bad_framing_is_refused() {
    let (result, _fake) = run_dump(vec![Step::Receive, Step::SendBytes(vec![0xff; 9])], None);
    assert!(matches!(result, Err(Error::Decode { .. })), "{result:?}");

    let (result, _fake) = run_dump(vec![Step::Receive, Step::SendBytes(vec![0; 100_000])], None);
    assert!(matches!(result, Err(Error::ReplyTooLong { .. })), "{result:?}");

    let (result, _fake) = run_dump(vec![Step::Receive, Step::Send(reply(CriuReqType::Restore, true))], None);
    assert!(matches!(result, Err(Error::UnexpectedType { .. })), "{result:?}");

    let (result, _fake) = run_dump(vec![Step::Receive, Step::Send(reply(CriuReqType::Notify, true))], None);
    assert!(matches!(result, Err(Error::Incomplete { .. })), "{result:?}");

    let bare = notification("orphan-pts-master", None);
    let (result, _fake) = run_dump(vec![Step::Receive, Step::Send(bare)], None);
    assert!(matches!(result, Err(Error::Incomplete { what: "a descriptor", .. })), "{result:?}");
}

#[test]
fn cut_off_descriptors_are_refused_and_none_leaks() {
    let (mut read, write) = io::pipe().unwrap();
    let fds = (0..16).map(|_| write.try_clone().unwrap().into()).collect();
    drop(write);
    let steps = vec![Step::Receive, Step::SendWithFds(notification("orphan-pts-master", None), fds)];
    let (result, fake) = run_dump(steps, None);
    assert!(matches!(result, Err(Error::DescriptorsTruncated { .. })), "{result:?}");
    drop(fake.0.received());
    // The end of file comes only when every copy of the write end is closed.
    let mut nothing = Vec::new();
    io::Read::read_to_end(&mut read, &mut nothing).unwrap();
    assert!(nothing.is_empty());
}

#[test]
fn a_restore_without_a_pid_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let fake = script(vec![Step::Receive, Step::Send(reply(CriuReqType::Restore, true))]);
    let result = criu().start(RestoreOptions::new(common(dir.path())), &fake).unwrap().run(&mut (), None);
    assert!(matches!(result, Err(Error::Incomplete { .. })), "{result:?}");
}

#[test]
fn a_request_that_no_message_can_hold_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let fake = script(vec![Step::AwaitHangUp]);
    let mut options = dump(dir.path());
    options.common.external = vec!["x".repeat(1 << 20)];
    let result = criu().start(options, &fake).unwrap().run(&mut (), None);
    assert!(matches!(result, Err(Error::RequestTooLong { .. })), "{result:?}");
}

#[test]
fn a_missing_criu_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let err = Criu::at("/nonexistent/criu").start(dump(dir.path()), &criu::Direct).unwrap_err();
    assert_eq!(chain(&err), "start /nonexistent/criu: No such file or directory (os error 2)");
}

/// The real spawn: the child has the socket and the inherited descriptors under their numbers, and no others.
#[test]
fn the_child_has_its_descriptors_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("criu");
    let list = dir.path().join("fds");
    // Written by another process: a concurrent fork of this one would keep the file open for writing (ETXTBSY).
    let text = format!("#!/bin/sh\nls -l /proc/self/fd > {}\necho boom >&2\n", list.display());
    let write = "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"";
    let status = Command::new("sh").args(["-c", write, "sh", &text]).arg(&program).status().unwrap();
    assert!(status.success());
    let mut options = RestoreOptions::new(common(dir.path()));
    options.inherit_fds = vec![InheritFd { key: "k".to_owned(), fd: File::open("/dev/zero").unwrap().into() }];
    let inherited = options.inherit_fds[0].fd.as_raw_fd().to_string();
    let result = Criu::at(&program).start(options, &criu::Direct).unwrap().run(&mut (), None);
    // What it wrote to standard error is all that is known of its end.
    assert_eq!(result.unwrap_err().to_string(), "criu restore ended with status 0 in the middle of the request: boom");
    let fds = std::fs::read_to_string(list).unwrap();
    assert!(fds.lines().any(|line| line.ends_with(&format!(" {inherited} -> /dev/zero"))), "{fds}");
    // By its target, for its number may be another file's in there.
    assert!(!fds.lines().any(|line| line.ends_with(&format!(" -> {}", dir.path().display()))), "{fds}");
}
