//! Pods, as a kubelet makes them through CRI.

use std::path::Path;
use std::time::{Duration, Instant};

use cri_client::v1::runtime_service_client::RuntimeServiceClient;
use cri_client::v1::security_profile::ProfileType;
use cri_client::v1::{self as cri, ContainerState, NamespaceMode};
use test_fixtures::{Cgroups, Image, Tree};
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::host::{Check, Host, LONG, Runtime};

pub(crate) const CHECKS: &[Check] = &[
    ("two containers in one shim", two_containers),
    ("the security of a usual pod", usual_security),
    ("a privileged container in a privileged pod", privileged),
    ("a pod in the host's namespaces", host_namespaces),
    ("a program that is not there", missing_program),
    ("a pod that is removed while it runs", removed_while_running),
    ("a checkpoint of a container", checkpoint),
    ("a checkpoint of a whole pod", checkpoint_of_pod),
    ("options in containerd's configuration", options_in_configuration),
    ("options in a file that containerd names", options_in_file),
];

const SOCKET: &str = "/run/containerd/containerd.sock";
const LOGS: &str = "/tmp/pod-logs";
const MIB: i64 = 1024 * 1024;

/// Images for CRI, and a first pod: it brings the bridge and the directories of CNI, which stay.
pub(crate) fn prepare(host: &Host) {
    for image in [Image::Busybox, Image::Pause] {
        host.node.import("k8s.io", &image).unwrap();
    }
    let mut kubelet = Kubelet::connect(host);
    let pod = kubelet.run_pod(cri::LinuxSandboxSecurityContext::default());
    let container = kubelet.start(&pod, "first", &["true"], cri::LinuxContainerConfig::default());
    kubelet.wait_for_exit(&container);
    kubelet.remove_pod(&pod);
}

struct Kubelet<'a> {
    host: &'a Host,
    runtime: tokio::runtime::Runtime,
    client: RuntimeServiceClient<Channel>,
}

struct Pod {
    id: String,
    config: cri::PodSandboxConfig,
}

/// Makes a call of CRI and returns its answer, or the status that it failed with.
macro_rules! call {
    ($kubelet:expr, $method:ident, $request:expr) => {{
        let Kubelet { runtime, client, .. } = &mut *$kubelet;
        runtime
            .block_on(async { tokio::time::timeout(LONG, client.$method($request)).await.expect("an answer in time") })
            .map(Response::into_inner)
    }};
}

impl<'a> Kubelet<'a> {
    fn connect(host: &'a Host) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(cri_client::connect(&host.node.path(SOCKET))).unwrap();
        let mut kubelet = Self { host, runtime, client };
        // The socket is there before the plugin behind it is.
        let started = Instant::now();
        while let Err(status) = call!(&mut kubelet, version, cri::VersionRequest::default()) {
            assert!(started.elapsed() < LONG, "CRI does not answer: {status}");
            std::thread::sleep(Duration::from_millis(10));
        }
        kubelet
    }

    #[track_caller]
    fn run_pod(&mut self, security: cri::LinuxSandboxSecurityContext) -> Pod {
        let handler = match self.host.lane.runtime {
            Runtime::Runc => "runc",
            Runtime::Rtc => "rtc",
        };
        self.run_pod_by(handler, security)
    }

    #[track_caller]
    fn run_pod_by(&mut self, handler: &str, mut security: cri::LinuxSandboxSecurityContext) -> Pod {
        let namespaces = security.namespace_options.get_or_insert_with(own_pids);
        // As the kubelet does: the host's network goes with the host's name.
        let hostname = if namespaces.network() == NamespaceMode::Node { "" } else { "pod-host" };
        // Of an earlier check that failed.
        let left = call!(self, list_pod_sandbox, cri::ListPodSandboxRequest::default()).unwrap();
        for pod in left.items {
            self.remove_pod(&Pod { id: pod.id, config: cri::PodSandboxConfig::default() });
        }
        let config = cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: "pod".into(),
                uid: "uid".into(),
                namespace: "default".into(),
                attempt: 0,
            }),
            hostname: hostname.into(),
            log_directory: LOGS.into(),
            linux: Some(cri::LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() }),
            ..Default::default()
        };
        let request = cri::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: handler.into() };
        Pod { id: call!(self, run_pod_sandbox, request).unwrap().pod_sandbox_id, config }
    }

    /// Makes a container of busybox that is yet to be started.
    #[track_caller]
    fn create(&mut self, pod: &Pod, name: &str, command: &[&str], mut linux: cri::LinuxContainerConfig) -> String {
        let security = linux.security_context.get_or_insert_default();
        security.namespace_options.get_or_insert_with(own_pids);
        let config = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
            image: Some(cri::ImageSpec { image: Image::Busybox.name().into(), ..Default::default() }),
            command: strings(command),
            log_path: format!("{name}.log"),
            linux: Some(linux),
            ..Default::default()
        };
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        call!(self, create_container, request).unwrap().container_id
    }

    fn start_created(&mut self, id: &str) -> Result<cri::StartContainerResponse, Status> {
        call!(self, start_container, cri::StartContainerRequest { container_id: id.into() })
    }

    #[track_caller]
    fn start(&mut self, pod: &Pod, name: &str, command: &[&str], linux: cri::LinuxContainerConfig) -> String {
        let id = self.create(pod, name, command, linux);
        self.start_created(&id).unwrap();
        id
    }

    fn exec(&mut self, id: &str, command: &[&str], timeout: i64) -> Result<cri::ExecSyncResponse, Status> {
        call!(self, exec_sync, cri::ExecSyncRequest { container_id: id.into(), cmd: strings(command), timeout })
    }

    /// What a shell script writes in a container; it has to succeed.
    #[track_caller]
    fn sh(&mut self, id: &str, script: &str) -> String {
        let response = self.exec(id, &["sh", "-c", script], 10).unwrap();
        assert_eq!(response.exit_code, 0, "{script}: {}", String::from_utf8_lossy(&response.stderr));
        String::from_utf8(response.stdout).unwrap().trim().to_owned()
    }

    #[track_caller]
    fn status(&mut self, id: &str) -> cri::ContainerStatus {
        let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: false };
        call!(self, container_status, request).unwrap().status.unwrap()
    }

    #[track_caller]
    fn wait_for_exit(&mut self, id: &str) -> cri::ContainerStatus {
        let started = Instant::now();
        loop {
            let status = self.status(id);
            if status.state() == ContainerState::ContainerExited {
                return status;
            }
            assert!(started.elapsed() < LONG, "{id} has not exited: {status:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[track_caller]
    fn stop(&mut self, id: &str, timeout: i64) {
        call!(self, stop_container, cri::StopContainerRequest { container_id: id.into(), timeout }).unwrap();
    }

    #[track_caller]
    fn remove(&mut self, id: &str) {
        call!(self, remove_container, cri::RemoveContainerRequest { container_id: id.into() }).unwrap();
    }

    /// Stops and removes a pod, with the containers that are still in it.
    #[track_caller]
    fn remove_pod(&mut self, pod: &Pod) {
        let id = &pod.id;
        call!(self, stop_pod_sandbox, cri::StopPodSandboxRequest { pod_sandbox_id: id.clone() }).unwrap();
        call!(self, remove_pod_sandbox, cri::RemovePodSandboxRequest { pod_sandbox_id: id.clone() }).unwrap();
        // The logs are the kubelet's to remove.
        self.host.node.run(["rm", "-rf", LOGS]).unwrap();
    }

    fn shims(&self) -> usize {
        let listed = self.host.node.exec(["pgrep", "-xc", "containerd-shim"]).unwrap();
        listed.text().parse().unwrap()
    }
}

/// A pod's usual namespaces: one of the network, the host name and IPC, and one of processes for each container.
fn own_pids() -> cri::NamespaceOption {
    cri::NamespaceOption { pid: NamespaceMode::Container.into(), ..Default::default() }
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn profile(profile: ProfileType) -> Option<cri::SecurityProfile> {
    Some(cri::SecurityProfile { profile_type: profile.into(), ..Default::default() })
}

fn two_containers(host: &Host) {
    let mut kubelet = Kubelet::connect(host);
    let pod = kubelet.run_pod(cri::LinuxSandboxSecurityContext::default());
    let script = "trap 'echo going; exit 7' TERM; echo out; echo err >&2; while :; do sleep 0.05; done";
    let web = kubelet.start(&pod, "web", &["sh", "-c", script], cri::LinuxContainerConfig::default());
    let side = kubelet.start(&pod, "side", &["sleep", "1000"], cri::LinuxContainerConfig::default());
    assert_eq!(kubelet.shims(), 1, "a pod has one shim");
    assert_eq!(kubelet.status(&web).state(), ContainerState::ContainerRunning);

    // One network and one UTS namespace for the pod, an address of its own.
    assert_eq!(kubelet.sh(&web, "hostname"), "pod-host");
    let network = "for name in net ipc uts; do readlink /proc/self/ns/$name; done";
    assert_eq!(kubelet.sh(&web, network), kubelet.sh(&side, network));
    let address = kubelet.sh(&web, "ip -4 addr show eth0");
    assert!(address.contains("10.88."), "{address}");

    let ran = kubelet.exec(&web, &["sh", "-c", "echo to out; echo to err >&2; exit 3"], 10).unwrap();
    assert_eq!((ran.stdout.as_slice(), ran.stderr.as_slice(), ran.exit_code), (&b"to out\n"[..], &b"to err\n"[..], 3));
    let started = Instant::now();
    let late = kubelet.exec(&web, &["sleep", "1000"], 1).unwrap_err();
    assert_eq!(late.code(), tonic::Code::DeadlineExceeded, "{late}");
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(kubelet.sh(&web, "echo still here"), "still here");

    kubelet.stop(&web, 10);
    let status = kubelet.status(&web);
    assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 7));
    let log = host.node.read_text(&format!("{LOGS}/web.log")).unwrap();
    for line in ["stdout F out", "stderr F err", "stdout F going"] {
        assert!(log.contains(line), "{line} is not in the log:\n{log}");
    }
    // A PID 1 without a handler does not notice SIGTERM.
    kubelet.stop(&side, 1);
    assert_eq!(kubelet.status(&side).exit_code, 137);
    kubelet.remove(&web);
    kubelet.remove(&side);
    assert_eq!(kubelet.shims(), 1, "the sandbox runs still");
    kubelet.remove_pod(&pod);
}

fn usual_security(host: &Host) {
    let mut kubelet = Kubelet::connect(host);
    let pod = kubelet.run_pod(cri::LinuxSandboxSecurityContext {
        seccomp: profile(ProfileType::RuntimeDefault),
        ..Default::default()
    });
    let limited = host.has_controller("memory") && host.has_controller("cpu");
    let resources = cri::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 64 * MIB,
        ..Default::default()
    };
    let security = cri::LinuxContainerSecurityContext {
        capabilities: Some(cri::Capability {
            drop_capabilities: strings(&["ALL"]),
            add_capabilities: strings(&["NET_BIND_SERVICE"]),
            ..Default::default()
        }),
        run_as_user: Some(cri::Int64Value { value: 1000 }),
        run_as_group: Some(cri::Int64Value { value: 1000 }),
        supplemental_groups: vec![2000],
        readonly_rootfs: true,
        no_new_privs: true,
        masked_paths: strings(&["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"]),
        readonly_paths: strings(&["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]),
        seccomp: profile(ProfileType::RuntimeDefault),
        ..Default::default()
    };
    let linux = cri::LinuxContainerConfig { resources: limited.then_some(resources), security_context: Some(security) };
    let id = kubelet.start(&pod, "tight", &["sleep", "1000"], linux);
    let status = kubelet.sh(&id, "cat /proc/1/status /proc/self/status");
    // The init's, and then the same of the exec'd process.
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000400", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert_eq!(status.matches(line).count(), 2, "{line}:\n{status}");
    }
    assert_eq!(kubelet.sh(&id, "id"), "uid=1000(user) gid=1000(user) groups=1000(user),2000(extra)");
    kubelet.sh(&id, "! touch /tmp/x && ! echo 1 >/proc/sys/kernel/domainname && ! head -c 1 /proc/keys | grep .");
    assert_eq!(kubelet.sh(&id, "ls /sys/firmware | wc -l"), "0");
    if limited && host.lane.cgroups == Cgroups::Hybrid {
        assert_eq!(kubelet.sh(&id, "cat /sys/fs/cgroup/memory/memory.limit_in_bytes"), (64 * MIB).to_string());
        assert_eq!(kubelet.sh(&id, "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us"), "50000");
    }
    kubelet.remove_pod(&pod);
}

fn privileged(host: &Host) {
    let mut kubelet = Kubelet::connect(host);
    let pod = kubelet.run_pod(cri::LinuxSandboxSecurityContext { privileged: true, ..Default::default() });
    let security = cri::LinuxContainerSecurityContext { privileged: true, ..Default::default() };
    let linux = cri::LinuxContainerConfig { security_context: Some(security), ..Default::default() };
    let id = kubelet.start(&pod, "mighty", &["sleep", "1000"], linux);
    kubelet.sh(&id, "mount -t tmpfs none /tmp && umount /tmp && test -c /dev/tty && test -w /sys/fs/cgroup");
    // All capabilities that there are to be had.
    let bounding = |text: &str| text.lines().find(|line| line.starts_with("CapBnd")).map(str::to_owned);
    let own = bounding(&host.node.sh("cat /proc/1/status").unwrap());
    assert_eq!(bounding(&kubelet.sh(&id, "cat /proc/1/status")), own);
    kubelet.remove_pod(&pod);
}

fn host_namespaces(host: &Host) {
    let mut kubelet = Kubelet::connect(host);
    let options = || {
        let mode = NamespaceMode::Node.into();
        Some(cri::NamespaceOption { network: mode, pid: mode, ipc: mode, ..Default::default() })
    };
    let pod = kubelet.run_pod(cri::LinuxSandboxSecurityContext { namespace_options: options(), ..Default::default() });
    let security = cri::LinuxContainerSecurityContext { namespace_options: options(), ..Default::default() };
    let linux = cri::LinuxContainerConfig { security_context: Some(security), ..Default::default() };
    let id = kubelet.start(&pod, "host", &["sh", "-c", "sleep 1000 & sleep 1000"], linux);
    let namespaces = "for name in net pid ipc; do readlink /proc/self/ns/$name; done";
    assert_eq!(kubelet.sh(&id, namespaces), host.node.sh(namespaces).unwrap());
    kubelet.stop(&id, 1);
    kubelet.remove_pod(&pod);
}

fn missing_program(host: &Host) {
    let mut kubelet = Kubelet::connect(host);
    let pod = kubelet.run_pod(cri::LinuxSandboxSecurityContext::default());
    let id = kubelet.create(&pod, "wrong", &["/no/such/program"], cri::LinuxContainerConfig::default());
    let refused = kubelet.start_created(&id).unwrap_err();
    assert!(refused.message().contains("/no/such/program"), "{refused}");
    let status = kubelet.status(&id);
    assert_eq!((status.state(), status.reason.as_str()), (ContainerState::ContainerExited, "StartError"));
    let right = kubelet.start(&pod, "right", &["sh", "-c", "exit 5"], cri::LinuxContainerConfig::default());
    assert_eq!(kubelet.wait_for_exit(&right).exit_code, 5);
    kubelet.remove_pod(&pod);
}

fn removed_while_running(host: &Host) {
    let mut kubelet = Kubelet::connect(host);
    let pod = kubelet.run_pod(cri::LinuxSandboxSecurityContext::default());
    for name in ["one", "two", "three"] {
        kubelet.start(&pod, name, &["sh", "-c", "sleep 1000 & sleep 1000"], cri::LinuxContainerConfig::default());
    }
    kubelet.remove_pod(&pod);
    assert_eq!(kubelet.shims(), 0);
    assert!(!Path::new(&host.node.path(LOGS)).exists());
}

/// Where the options want the state, below which is a directory for each namespace.
const OPTIONS_ROOT: &str = "/tmp/rtc-root";

fn options_in_configuration(host: &Host) {
    options_apply(host, "rtc-options");
}

fn options_in_file(host: &Host) {
    host.node.write("/tmp/rtc.toml", format!("Root = '{OPTIONS_ROOT}'\nSomebodyElses = 1\n")).unwrap();
    options_apply(host, "rtc-file");
    host.node.remove("/tmp/rtc.toml").unwrap();
}

fn options_apply(host: &Host, handler: &str) {
    if host.lane.runtime == Runtime::Runc {
        eprintln!("skipped: CRI knows the type of runc's options and sends another message");
        return;
    }
    let mut kubelet = Kubelet::connect(host);
    let pod = kubelet.run_pod_by(handler, cri::LinuxSandboxSecurityContext::default());
    let id = kubelet.start(&pod, "web", &["sleep", "1000"], cri::LinuxContainerConfig::default());
    for id in [&pod.id, &id] {
        assert!(host.node.exists(&format!("{OPTIONS_ROOT}/k8s.io/{id}/state.json")), "state of {id}");
        assert!(!host.node.exists(&format!("/run/containerd/rtc/k8s.io/{id}")), "state of {id}");
    }
    assert_eq!(kubelet.sh(&id, "echo inside"), "inside");
    // After a shim that was killed, `delete` has no options and has to know the place all the same.
    host.node.run(["pkill", "-KILL", "-f", host.lane.runtime.shim()]).unwrap();
    kubelet.wait_for_exit(&id);
    kubelet.remove_pod(&pod);
    let left = host.node.sh(&format!("ls {OPTIONS_ROOT}/k8s.io; rm -r {OPTIONS_ROOT}")).unwrap();
    assert!(left.is_empty() || left == "@seccomp", "{left}");
}

/// containerd has it from 2.1 on.
fn checkpoint(host: &Host) {
    const ARCHIVE: &str = "/tmp/checkpoint.tar";
    if host.lane.tree != Tree::Forky || host.lane.runtime == Runtime::Runc {
        eprintln!("skipped: this containerd makes none, or it is runc's affair");
        return;
    }
    let mut kubelet = Kubelet::connect(host);
    let pod = kubelet.run_pod(cri::LinuxSandboxSecurityContext::default());
    let count = "i=0; while :; do i=$((i+1)); echo $i >/new; mv /new /count; usleep 5000; done";
    let container = kubelet.start(&pod, "counter", &["sh", "-c", count], cri::LinuxContainerConfig::default());
    let request =
        cri::CheckpointContainerRequest { container_id: container.clone(), location: ARCHIVE.into(), timeout: 30 };
    call!(&mut kubelet, checkpoint_container, request).unwrap();
    let files = host.node.run(["tar", "-tf", ARCHIVE]).unwrap();
    for file in ["checkpoint/inventory.img", "checkpoint/rtc.json", "checkpoint/descriptors.json"] {
        assert!(files.lines().any(|line| line.trim_start_matches("./") == file), "{file} in {files}");
    }
    // It runs on.
    let before: u64 = kubelet.sh(&container, "cat /count").parse().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let after: u64 = kubelet.sh(&container, "cat /count").parse().unwrap();
    assert!(after > before && kubelet.status(&container).state() == ContainerState::ContainerRunning);
    kubelet.remove_pod(&pod);
    host.node.run(["rm", ARCHIVE]).unwrap();
}

/// Which CRI has no call for: of the shim's, through containerd.
fn checkpoint_of_pod(host: &Host) {
    const IMAGES: &str = "/tmp/pod-checkpoint";
    if host.lane.tree != Tree::Forky || host.lane.runtime == Runtime::Runc {
        eprintln!("skipped: it is an affair of rtc's, with a CRIU that dumps what this kernel has");
        return;
    }
    let mut kubelet = Kubelet::connect(host);
    let pod = kubelet.run_pod(cri::LinuxSandboxSecurityContext::default());
    let count = "i=0; while :; do i=$((i+1)); echo $i >/dev/shm/new; mv /dev/shm/new /dev/shm/count; usleep 5000; done";
    let one = kubelet.start(&pod, "one", &["sh", "-c", count], cri::LinuxContainerConfig::default());
    let sleep = "while :; do usleep 50000; done";
    let two = kubelet.start(&pod, "two", &["sh", "-c", sleep], cri::LinuxContainerConfig::default());
    // One that has ended is no part of it.
    let ended = kubelet.start(&pod, "ended", &["true"], cri::LinuxContainerConfig::default());
    kubelet.wait_for_exit(&ended);

    let checkpoint = ["rtc", "pod", "checkpoint", "-n", "k8s.io", "--image-path", IMAGES, "--leave-running", &two];
    host.node
        .exec_within(LONG, checkpoint)
        .map(|output| assert_eq!(output.code(), 0, "{}", output.error_text()))
        .unwrap();
    let manifest: serde_json::Value =
        serde_json::from_slice(&host.node.read(&format!("{IMAGES}/pod.json")).unwrap()).unwrap();
    let members: Vec<_> = manifest["members"].as_array().unwrap().iter().map(|member| &member["id"]).collect();
    assert_eq!(members, [&pod.id, &one, &two]);
    assert_eq!(manifest["sandbox"], pod.id.as_str());
    let carried: u64 = host.node.read_text(&format!("{IMAGES}/shm/count")).unwrap().parse().unwrap();
    let told = host.node.run(["rtc", "inspect", IMAGES]).unwrap();
    assert!(told.contains(&format!("ipc of {}", pod.id)), "{told}");
    // They run on.
    std::thread::sleep(Duration::from_millis(50));
    let after: u64 = kubelet.sh(&two, "cat /dev/shm/count").parse().unwrap();
    assert!(after > carried, "{after} after {carried}");
    for id in [&one, &two] {
        assert_eq!(kubelet.status(id).state(), ContainerState::ContainerRunning);
    }
    kubelet.remove_pod(&pod);
    host.node.run(["rm", "-r", IMAGES]).unwrap();
}
