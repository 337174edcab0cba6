//! The preflight refuses what CRIU refuses, and nothing else, and touches nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufRead;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use runtime_core::container::{
    CgroupDriver, CheckpointOptions, Container, FindingKind, HostDescription, Report, RestoreCheck, Severity, Status,
    Stdio,
};
use runtime_core::{ContainerId, ErrorKind};
use serde_json::json;

use crate::scene::{Bundle, COUNT, Counter, chain, ok, pipes};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("what the preflight refuses criu refuses too", refused_by_both),
    ("what criu can dump the preflight lets pass", passes),
    ("a preflight touches nothing", untouched),
    ("a preflight of many processes and files is quick", quick),
    ("a restore is looked at beforehand", restore),
];

/// The node's own programs, in the container too.
pub(crate) fn with_perl(script: &str) -> Bundle {
    let mut bundle = Bundle::new("");
    fs::write(bundle.path().join("data/script.pl"), script).unwrap();
    fs::create_dir_all(bundle.path().join("rootfs/usr")).unwrap();
    for library in ["lib", "lib64"] {
        symlink(format!("usr/{library}"), bundle.path().join("rootfs").join(library)).unwrap();
    }
    bundle.mount(json!({"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]}));
    bundle.spec["process"]["args"] = json!(["/usr/bin/perl", "/data/script.pl"]);
    let capabilities = &mut bundle.spec["process"]["capabilities"];
    for set in ["bounding", "permitted", "effective"] {
        for name in ["CAP_SYS_ADMIN", "CAP_SYS_PTRACE"] {
            capabilities[set].as_array_mut().unwrap().push(json!(name));
        }
    }
    bundle.spec["linux"]["sysctl"] = json!({"net.ipv4.ping_group_range": "0 0"});
    bundle.spec["linux"]["devices"] = json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]);
    let allow = json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"});
    bundle.spec["linux"]["resources"]["devices"].as_array_mut().unwrap().push(allow);
    bundle
}

/// Does something, says 0, and sleeps; says `no` where this kernel does not have it.
fn perl(body: &str) -> String {
    format!(
        "use Socket; use Fcntl ':flock'; $| = 1; our @keep;
         sub need {{ unless ($_[0]) {{ print \"no $!\\n\"; exit 1 }} $_[0] }}
         sub rest {{ select undef, undef, undef, 0.02 while 1 }}
         {body}
         print \"0\\n\"; rest();"
    )
}

/// Starts it; `None` if the kernel does not have what it wants.
fn started(bundle: &Bundle) -> Option<Counter> {
    let mut counter = bundle.start();
    let mut line = String::new();
    counter.output.read_line(&mut line).unwrap();
    if line.starts_with("no") {
        println!("not here: {line}");
        counter.gone(1, 0);
        return None;
    }
    assert_eq!(line, "0\n");
    Some(counter)
}

fn refused_by_both() {
    let mut seen = 0;
    for (body, kind, expected) in REFUSED {
        let bundle = with_perl(&perl(body));
        let Some(counter) = started(&bundle) else { continue };
        both_refuse(&bundle, &counter, *kind, expected);
        counter.kill();
        seen += 1;
    }
    assert!(seen >= 12, "only {seen}");
    memory_of_the_host();
    socket_to_the_outside();
    connected_to_the_outside();
    terminal_of_the_host();
    no_space();
}

/// What a process does that CRIU cannot dump.
const REFUSED: &[(&str, FindingKind, &str)] = &[
    ("my $p = \"\\0\" x 120; need(syscall(425, 8, $p) >= 0);", FindingKind::IoUring, "io_uring"),
    ("need(syscall(323, 1) >= 0);", FindingKind::File, "[userfaultfd]"),
    ("need(open(F, '+<', '/dev/fuse'));", FindingKind::File, "a character device 10:229"),
    (
        // All links, asked for and not read.
        "need(socket(N, 16, 3, 0)); my $m = pack('LSSLLx16', 32, 18, 0x301, 1, 0); need(send(N, $m, 0));",
        FindingKind::Socket,
        "messages that were not read",
    ),
    (
        "my ($d, $f, $t) = ('/run/m', 'x', 'fuse'); mkdir $d; need(open(F, '+<', '/dev/fuse'));
         my $o = 'fd=' . fileno(F) . ',rootmode=40000,user_id=0,group_id=0';
         need(syscall(165, $f, $d, $t, 0, $o) == 0); close F;",
        FindingKind::Mount,
        "a FUSE filesystem is mounted on /run/m",
    ),
    ("need(socket(F, 38, 5, 0));", FindingKind::Socket, "protocol ALG"),
    ("need(socket(F, 40, 1, 0));", FindingKind::Socket, "VSOCK"),
    ("need(socket(F, 2, 1, 262));", FindingKind::Socket, "MPTCP"),
    (
        "open(F, '+>', '/run/big'); syswrite(F, 'x' x 2000000); unlink '/run/big';",
        FindingKind::DeletedFile,
        "raise ghost-limit",
    ),
    (
        "open(F, '+>', '/run/one'); link('/run/one', '/run/two'); unlink '/run/one';",
        FindingKind::DeletedFile,
        "checkpoint with link-remap",
    ),
    ("open(F, '+>', '/run/l'); need(flock(F, LOCK_EX));", FindingKind::FileLock, "checkpoint with file-locks"),
    (
        "open(F, '+>', '/run/l'); my $l = pack('ssqqi', 1, 0, 0, 0, 0); need(fcntl(F, 6, $l));",
        FindingKind::FileLock,
        "checkpoint with file-locks",
    ),
    (
        "socket(L, 2, 1, 0); bind(L, sockaddr_in(0, inet_aton('127.0.0.1'))); listen(L, 1);
         socket(C, 2, 1, 0); need(connect(C, getsockname(L))); accept(S, L);",
        FindingKind::TcpConnection,
        "checkpoint with tcp-established",
    ),
    (
        "unless (fork) { syscall(272, 0x04000000); rest() } select undef, undef, undef, 0.2;",
        FindingKind::Namespace,
        "uts",
    ),
    (
        "unless (fork) { syscall(272, 0x02000000); rest() } select undef, undef, undef, 0.2;",
        FindingKind::Namespace,
        "a cgroup namespace",
    ),
    (
        "unless (fork) { syscall(272, 0x08000000); rest() } select undef, undef, undef, 0.2;",
        FindingKind::Namespace,
        "ipc",
    ),
    (
        "unless (fork) { syscall(272, 0x10000000); rest() } select undef, undef, undef, 0.2;",
        FindingKind::Namespace,
        "user",
    ),
    (
        "unless (fork) { syscall(272, 0x20000000); fork; rest() } select undef, undef, undef, 0.3;",
        FindingKind::Namespace,
        "a pid namespace",
    ),
    (
        "unless (fork) { syscall(101, 0, 0, 0, 0); rest() } select undef, undef, undef, 0.2;",
        FindingKind::Traced,
        "traced",
    ),
];

fn look(counter: &Counter, images: &std::path::Path) -> Report {
    ok(counter.container.check_checkpoint(&CheckpointOptions::new(images.to_owned()), None))
}

fn both_refuse(bundle: &Bundle, counter: &Counter, kind: FindingKind, expected: &str) {
    let images = bundle.images("one");
    let report = look(counter, &images);
    let found = report
        .findings
        .iter()
        .find(|finding| finding.kind == kind)
        .unwrap_or_else(|| panic!("{kind:?} {expected}: {report}"));
    assert_eq!(found.severity, Severity::Refuse, "{found}");
    assert!(found.to_string().contains(expected), "{expected}: {found}");
    // A checkpoint says the same, and has not begun.
    let mut options = CheckpointOptions::new(images.clone());
    options.leave_running = true;
    let err = counter.container.checkpoint(&options).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::FailedPrecondition);
    assert!(chain(&err).contains(expected), "{}", chain(&err));
    assert!(!images.exists() && !bundle.path().join("criu-dump.log").exists());
    // And CRIU, which was not asked by then, fails.
    options.skip_preflight = true;
    options.limit = Some(Duration::from_secs(30));
    let err = match counter.container.checkpoint(&options) {
        Ok(_) => panic!("criu dumps it: {found}"),
        Err(err) => chain(&err),
    };
    println!("{kind:?} {expected}: {err}");
    assert_eq!(counter.container.status().unwrap(), Status::Running);
}

/// Shared memory of System V, in an IPC namespace that is the node's.
fn memory_of_the_host() {
    let body = "my $id = shmget(0, 65536, 0600 | 01000); need(defined $id); need(syscall(30, $id, 0, 0) > 0); shmctl($id, 0, 0);";
    let mut bundle = with_perl(&perl(body));
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "ipc");
    bundle.spec["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/dev/mqueue");
    let counter = started(&bundle).unwrap();
    both_refuse(&bundle, &counter, FindingKind::Namespace, "shared memory /SYSV");
    counter.kill();
}

fn socket_to_the_outside() {
    let bundle = Bundle::new(COUNT);
    let (_ours, theirs) = UnixStream::pair().unwrap();
    let (stdio, output) = pipes();
    let Stdio::Fds { stdout, stderr, .. } = stdio else { unreachable!() };
    let stdio = Stdio::Fds { stdin: OwnedFd::from(theirs), stdout, stderr };
    let (container, started) = ok(Container::create(bundle.options("first", stdio)));
    ok(container.start());
    let mut counter = Counter { container, started, output };
    assert_eq!(counter.next(), 0);
    both_refuse(&bundle, &counter, FindingKind::UnixSocket, "from outside of the container");
    counter.kill();
}

/// Connected through a directory that both see, in a network namespace that both are in.
fn connected_to_the_outside() {
    use std::os::unix::net::{UnixDatagram, UnixListener};
    for (kind, number) in [("stream", 1), ("datagram", 2)] {
        let connect = format!("socket(F, 1, {number}, 0); need(connect(F, sockaddr_un('/data/socket')));");
        let mut bundle = with_perl(&perl(&connect));
        bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "network");
        bundle.spec["linux"].as_object_mut().unwrap().remove("sysctl");
        let path = bundle.path().join("data/socket");
        let stream = (number == 1).then(|| UnixListener::bind(&path).unwrap());
        let accept = std::thread::spawn(move || stream.map(|listener| (listener.accept().unwrap(), listener)));
        let _datagram = (number == 2).then(|| UnixDatagram::bind(&path).unwrap());
        let counter = started(&bundle).unwrap();
        let _accepted = accept.join().unwrap();
        both_refuse(&bundle, &counter, FindingKind::UnixSocket, "other end is outside");
        if kind == "datagram" {
            let mut options = CheckpointOptions::new(bundle.images("two"));
            (options.leave_running, options.criu.ext_unix_sk) = (true, true);
            ok(counter.container.checkpoint(&options));
        }
        counter.kill();
    }
}

fn terminal_of_the_host() {
    let bundle = Bundle::new(COUNT);
    let master = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
    rustix::pty::grantpt(&master).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let slave = fs::OpenOptions::new().read(true).write(true).open(name).unwrap();
    let (stdio, output) = pipes();
    let Stdio::Fds { stdout, stderr, .. } = stdio else { unreachable!() };
    let stdio = Stdio::Fds { stdin: slave.into(), stdout, stderr };
    let (container, started) = ok(Container::create(bundle.options("first", stdio)));
    ok(container.start());
    let mut counter = Counter { container, started, output };
    assert_eq!(counter.next(), 0);
    // CRIU dumps it as long as nobody has it for a controlling terminal.
    let report = look(&counter, &bundle.images("one"));
    let found = report.findings.iter().find(|finding| finding.kind == FindingKind::Terminal).expect("a terminal");
    assert_eq!(found.severity, Severity::Warn);
    let mut options = CheckpointOptions::new(bundle.images("one"));
    options.leave_running = true;
    ok(counter.container.checkpoint(&options));
    counter.kill();
}

fn no_space() {
    let bundle = with_perl(&perl("push @keep, join('', map { chr(rand 256) } 1 .. 1 << 16) x 128;"));
    let small = bundle.path().join("small");
    fs::create_dir(&small).unwrap();
    let data = Some("size=2m");
    nix::mount::mount(Some("small"), &small, Some("tmpfs"), nix::mount::MsFlags::empty(), data).unwrap();
    let counter = started(&bundle).unwrap();
    let report = look(&counter, &small.join("images"));
    assert!(report.refuses() && report.to_string().contains("bytes free"), "{report}");
    let mut options = CheckpointOptions::new(small.join("images"));
    options.skip_preflight = true;
    let err = counter.container.checkpoint(&options).unwrap_err();
    assert!(chain(&err).contains("o space left on device"), "{}", chain(&err));
    nix::mount::umount(&small).unwrap();

    // What an earlier checkpoint takes there is not free before the new one is complete.
    let data = Some("size=64m");
    nix::mount::mount(Some("small"), &small, Some("tmpfs"), nix::mount::MsFlags::empty(), data).unwrap();
    let images = small.join("images");
    fs::create_dir(&images).unwrap();
    fs::write(images.join("pages-1.img"), vec![7; 58 << 20]).unwrap();
    assert!(look(&counter, &images).refuses());
    fs::remove_file(images.join("pages-1.img")).unwrap();
    ok(counter.container.checkpoint(&CheckpointOptions::new(images)));
    counter.gone(137, 0);
    nix::mount::umount(&small).unwrap();
}

/// Of every kind that CRIU knows.
const KNOWN: &str = "
    syscall(290, 0, 0); syscall(291, 0); syscall(294, 0); syscall(283, 1, 0);
    my $m = \"\\0\" x 8; syscall(289, -1, $m, 8, 0);
    my $n = \"m\\0\"; my $f = syscall(319, $n, 0); open(M, \"+>&=$f\"); syswrite(M, 'x' x 3000000);
    pipe(R, W); socketpair(A, B, 1, 1, 0); socketpair(A2, B2, 1, 2, 0);
    socket(L, 2, 1, 0); bind(L, sockaddr_in(0, inet_aton('127.0.0.1'))); listen(L, 5);
    socket(U, 2, 2, 0); socket(T, 2, 1, 0); socket(T6, 10, 1, 0); socket(N, 16, 3, 0); socket(RAW, 2, 3, 1);
    socket(P, 17, 3, 0); need(socket(PING, 2, 2, 1));
    open(Z, '+<', '/dev/zero'); open(D, '<', '/data'); open(NS, '<', '/proc/self/ns/net');
    open(S, '+>', '/run/small'); syswrite(S, 'x' x 1000); unlink '/run/small';
    open(H, '+>', '/run/not (deleted)');
    open(G, '+>', '/run/sparse'); truncate(G, 50000000); unlink '/run/sparse';
    open(PTY, '+<', '/dev/pts/ptmx'); open(TTY, '<', '/dev/ptmx');
    unless (fork) { syscall(272, 0x00020000); rest() }
    unless (fork) { exit 0 }
    select undef, undef, undef, 0.2;";

fn passes() {
    let bundle = with_perl(&perl(KNOWN));
    let counter = started(&bundle).unwrap();
    let report = look(&counter, &bundle.images("one"));
    assert!(!report.refuses(), "{report}");
    let mut options = CheckpointOptions::new(bundle.images("one"));
    options.leave_running = true;
    ok(counter.container.checkpoint(&options));
    counter.kill();

    // What comes and goes is not refused if it is not there each time.
    let bundle = with_perl(&perl(
        "our $i = 0; unless (fork) { while (1) {
        socket(L, 2, 1, 0); bind(L, sockaddr_in(0, inet_aton('127.0.0.1'))); listen(L, 1);
        socket(C, 2, 1, 0); connect(C, getsockname(L)); select undef, undef, undef, 0.005;
        close C; close L; select undef, undef, undef, 0.1 } }",
    ));
    let counter = started(&bundle).unwrap();
    for _ in 0..5 {
        let mut options = CheckpointOptions::new(bundle.images("one"));
        options.leave_running = true;
        let made = counter.container.checkpoint(&options);
        let refused = made.err().map(|err| chain(&err)).unwrap_or_default();
        assert!(!refused.contains("a connection is only carried when"), "{refused}");
        fs::remove_dir_all(bundle.images("one")).ok();
    }
    counter.kill();

    // What CRIU's own configuration allows is not refused.
    let mut bundle = with_perl(&perl("open(F, '+>', '/run/l'); flock(F, LOCK_EX);"));
    let config = bundle.path().join("criu.conf");
    fs::write(&config, "file-locks\n").unwrap();
    bundle.spec["annotations"] = json!({"org.criu.config": config});
    let counter = started(&bundle).unwrap();
    assert!(!look(&counter, &bundle.images("one")).refuses());
    ok(counter.container.checkpoint(&CheckpointOptions::new(bundle.images("one"))));
    counter.gone(137, 0);
}

fn files_below(path: &std::path::Path) -> BTreeMap<std::path::PathBuf, (u64, i64, i64)> {
    use std::os::unix::fs::MetadataExt;
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(path).unwrap().flatten() {
        let metadata = entry.metadata().unwrap();
        found.insert(entry.path(), (metadata.len(), metadata.mtime(), metadata.mtime_nsec()));
        if metadata.is_dir() {
            found.extend(files_below(&entry.path()));
        }
    }
    found
}

fn untouched() {
    let bundle = Bundle::new(COUNT);
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    let pid = counter.container.pid().unwrap();
    let descriptors = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let (files, fds) = (files_below(bundle.path()), descriptors());
    let watch = nix::sys::inotify::Inotify::init(nix::sys::inotify::InitFlags::IN_NONBLOCK).unwrap();
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let unified = cgroup.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
    let directory = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(|root| format!("{root}{unified}/cgroup.events"));
    let events = directory.iter().find(|path| File::open(path).is_ok()).expect("cgroup.events");
    watch.add_watch(events.as_str(), nix::sys::inotify::AddWatchFlags::IN_MODIFY).unwrap();

    let done = AtomicBool::new(false);
    let stopped = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut stopped = 0;
            while !done.load(Ordering::Relaxed) {
                let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
                stopped += usize::from(!status.contains("TracerPid:\t0") || status.contains("State:\tt"));
            }
            stopped
        });
        for _ in 0..20 {
            let began = Instant::now();
            let report = look(&counter, &bundle.images("one"));
            assert!(!report.refuses(), "{report}");
            assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        }
        done.store(true, Ordering::Relaxed);
        sampler.join().unwrap()
    });
    assert_eq!(stopped, 0);
    assert!(watch.read_events().is_err(), "the cgroup was frozen");
    assert_eq!((files_below(bundle.path()), descriptors()), (files, fds));
    counter.goes_on_after(0);

    // A description of another host is compared.
    let here = serde_json::to_value(HostDescription::of_this_machine()).unwrap();
    let mut other = here.clone();
    other["architecture"] = json!("riscv64");
    let options = CheckpointOptions::new(bundle.images("one"));
    for (host, expected) in [(here, false), (other, true)] {
        let host: HostDescription = serde_json::from_value(host).unwrap();
        assert_eq!(ok(counter.container.check_checkpoint(&options, Some(&host))).refuses(), expected);
    }
    counter.kill();
}

fn quick() {
    let bundle = with_perl(&perl(
        "for my $i (1 .. 199) { unless (fork) { for my $j (1 .. 25) { open(my $f, '<', '/dev/null'); push @keep, $f } rest() } }
         select undef, undef, undef, 1;",
    ));
    let counter = started(&bundle).unwrap();
    let began = Instant::now();
    let report = look(&counter, &bundle.images("one"));
    let elapsed = began.elapsed();
    println!("preflight of {} processes: {elapsed:?}", ok(counter.container.pids()).len());
    assert!(!report.refuses(), "{report}");
    assert!(elapsed < Duration::from_secs(1), "{elapsed:?}");
    counter.kill();
}

fn restore() {
    let mut bundle = Bundle::new(COUNT);
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    let images = bundle.images("one");
    counter.freeze_dry(images.clone(), 0);
    let id = ContainerId::parse("second").unwrap();
    let config = std::cell::RefCell::new(None);
    let check = |bundle: &Bundle| {
        let config = config.borrow().clone();
        bundle.write_config();
        let spec = serde_json::from_value(bundle.spec.clone()).unwrap();
        let asked = RestoreCheck {
            id: &id,
            image_dir: &images,
            bundle: bundle.path(),
            spec: &spec,
            config: config.as_deref(),
            cgroup_driver: CgroupDriver::Cgroupfs,
            decrypt_key: None,
        };
        ok(Container::check_restore(&asked))
    };
    let kinds =
        |report: &Report| report.findings.iter().map(|finding| (finding.kind, finding.severity)).collect::<Vec<_>>();
    assert_eq!(kinds(&check(&bundle)), []);

    let good = bundle.spec.clone();
    bundle.spec["hostname"] = json!("other");
    assert_eq!(kinds(&check(&bundle)), [(FindingKind::Spec, Severity::Warn)]);
    // The spec's own file, where it is another, and no file without an end.
    let elsewhere = bundle.path().join("elsewhere.json");
    fs::write(&elsewhere, serde_json::to_vec(&good).unwrap()).unwrap();
    config.replace(Some(elsewhere));
    assert_eq!(kinds(&check(&bundle)), []);
    config.replace(Some("/dev/zero".into()));
    assert_eq!(kinds(&check(&bundle)), [(FindingKind::Spec, Severity::Warn)]);
    config.replace(None);
    bundle.spec = good.clone();
    bundle.spec["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/data");
    assert!(kinds(&check(&bundle)).contains(&(FindingKind::Mount, Severity::Refuse)));
    bundle.spec = good.clone();
    fs::rename(bundle.path().join("hosts"), bundle.path().join("hosts.away")).unwrap();
    assert!(check(&bundle).to_string().contains("hosts does not exist"));
    fs::rename(bundle.path().join("hosts.away"), bundle.path().join("hosts")).unwrap();
    bundle.spec["process"]["terminal"] = json!(true);
    assert!(kinds(&check(&bundle)).contains(&(FindingKind::Stdio, Severity::Refuse)));
    bundle.spec = good.clone();
    bundle.spec["linux"]["namespaces"][1]["path"] = json!("/run/netns/none");
    assert!(kinds(&check(&bundle)).contains(&(FindingKind::Namespace, Severity::Refuse)));
    bundle.spec = good;

    // Another program under the same name: CRIU refuses it as well.
    let busybox = bundle.path().join("rootfs/bin/busybox");
    let size = fs::metadata(&busybox).unwrap().len();
    fs::OpenOptions::new().write(true).open(&busybox).unwrap().set_len(size + 1).unwrap();
    assert_eq!(kinds(&check(&bundle)), [(FindingKind::Rootfs, Severity::Refuse)]);
    bundle.refused(&images);
    fs::OpenOptions::new().write(true).open(&busybox).unwrap().set_len(size).unwrap();

    let pages = images.join("pages-1.img");
    let whole = fs::read(&pages).unwrap();
    fs::write(&pages, &whole[..whole.len() / 2]).unwrap();
    assert!(kinds(&check(&bundle)).contains(&(FindingKind::Images, Severity::Refuse)));
    fs::write(&pages, whole).unwrap();
    assert_eq!(kinds(&check(&bundle)), []);
    // The inventory has a checksum of it, and CRIU would read it.
    let cgroups = fs::read(images.join("cgroup.img")).unwrap();
    let mut other = cgroups.clone();
    *other.last_mut().unwrap() ^= 1;
    fs::write(images.join("cgroup.img"), other).unwrap();
    assert_eq!(kinds(&check(&bundle)), [(FindingKind::Images, Severity::Refuse)]);
    fs::write(images.join("cgroup.img"), cgroups).unwrap();
    assert!(!bundle.path().join("state/second").exists());
    // Nothing was in the way.
    let counter = bundle.restore("second", &images);
    counter.kill();
}
