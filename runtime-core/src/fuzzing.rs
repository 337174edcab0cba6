//! One function for each kind of bytes that come from outside, for the package `fuzz`. Only with the feature `fuzzing`.
//!
//! None of them does anything: they fail by a panic, by taking too long, or by an assertion of what the rest of this crate
//! relies on.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use oci_spec::runtime::{LinuxResources, LinuxSeccomp, Process, Spec};

use crate::init::capabilities::Sets;
use crate::{ContainerId, cgroup, container, init, netlink, resctrl, rootfs, seccomp, spec};

/// `config.json`, and all that is made of it before anything is done.
pub fn spec(bytes: &[u8]) {
    let Ok(spec) = spec::parse(bytes) else { return };
    let checked = spec::check(&spec).is_ok();
    if checked {
        assert!(spec.process().is_some() && spec.root().is_some() && spec.linux().is_some(), "a check let it through");
    }
    process_of(spec.process().as_ref());
    rootfs::fuzzing::plan(&spec, &cgroup::View::V2("/sys/fs/cgroup/fuzz".into()));
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    cgroup::fuzzing::devices(resources.and_then(|resources| resources.devices().as_deref()).unwrap_or_default());
    again::<Spec>(&spec);
}

/// The process of an exec (`process.json`).
pub fn process(bytes: &[u8]) {
    let Ok(process) = spec::parse_process(bytes) else { return };
    if spec::check_process(&process).is_ok() {
        assert!(process.args().as_ref().is_some_and(|args| !args.is_empty()), "a process without a program");
    }
    process_of(Some(&process));
    again::<Process>(&process);
}

fn process_of(process: Option<&Process>) {
    let Some(process) = process else { return };
    Sets::new(process.capabilities().as_ref());
    container::fuzzing::schedule(process);
    init::fuzzing::environment(process.env().as_deref().unwrap_or_default());
}

/// What is read can be written and read.
fn again<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) {
    let json = serde_json::to_vec(value).unwrap_or_default();
    if let Err(err) = serde_json::from_slice::<T>(&json) {
        panic!("{err}: {}", String::from_utf8_lossy(&json));
    }
}

/// The limits of an update.
pub fn resources(bytes: &[u8]) {
    let Ok(resources) = serde_json::from_slice::<LinuxResources>(bytes) else { return };
    cgroup::fuzzing::devices(resources.devices().as_deref().unwrap_or_default());
    again(&resources);
}

/// Frames between a container's creator and its init.
pub fn init_messages(bytes: &[u8]) {
    init::fuzzing::frames(bytes);
}

/// `/proc/PID/mountinfo`, whose paths anybody chooses who may mount.
pub fn mountinfo(bytes: &[u8]) {
    container::fuzzing::mountinfo(bytes);
    text(bytes, resctrl::fuzz);
}

/// A mount table, an empty line, and `/proc/PID/cgroup`.
pub fn cgroup_paths(bytes: &[u8]) {
    text(bytes, |text| {
        cgroup::fuzzing::hierarchies(text);
        container::fuzzing::cgroup_roots(text);
    });
}

/// The control files of cgroups.
pub fn cgroup_files(bytes: &[u8]) {
    let Some((_file, path)) = in_memory(bytes) else { return };
    text(bytes, |text| cgroup::fuzzing::files(&path, text));
}

/// The value of an annotation that is a property of a systemd unit's, in GVariant's text format.
pub fn systemd_property(bytes: &[u8]) {
    text(bytes, cgroup::fuzzing::property);
}

/// A D-Bus message.
pub fn systemd_message(bytes: &[u8]) {
    cgroup::fuzzing::message(bytes);
}

/// Files of /proc, and `/etc/passwd`.
pub fn proc_files(bytes: &[u8]) {
    text(bytes, |text| {
        container::fuzzing::stat(text);
        container::fuzzing::tables(text);
        init::fuzzing::passwd(text);
    });
}

/// `state.json`.
pub fn state(bytes: &[u8]) {
    container::fuzzing::state(bytes);
}

/// `rtc.json` of a checkpoint.
pub fn manifest(bytes: &[u8]) {
    container::fuzzing::manifest(bytes);
}

/// A compressed image.
pub fn sealed_image(bytes: &[u8]) {
    if let Some((file, _)) = in_memory(bytes) {
        crate::sealed::fuzzing::image(file);
    }
}

/// A seccomp profile.
pub fn seccomp_profile(bytes: &[u8]) {
    if let Ok(profile) = serde_json::from_slice::<LinuxSeccomp>(bytes) {
        seccomp::fuzzing::profile(&profile);
    }
}

/// A compiled seccomp filter: the cache's file, and the form in which it travels.
pub fn seccomp_filter(bytes: &[u8]) {
    if let Some((file, _)) = in_memory(bytes) {
        seccomp::fuzzing::compiled(file, bytes);
    }
}

/// The options of a mount, one a line.
pub fn mount_options(bytes: &[u8]) {
    text(bytes, rootfs::fuzzing::options);
}

/// Lists of CPUs and memory nodes: both of our readers find the same in them.
pub fn cpu_list(bytes: &[u8]) {
    text(bytes, |text| {
        init::fuzzing::node_list(text);
        let (Some(set), Some(list)) = (init::fuzzing::cpu_list(text), cgroup::fuzzing::list(text)) else { return };
        let list: std::collections::BTreeSet<usize> = list.into_iter().map(usize::from).collect();
        assert_eq!(set, list.into_iter().collect::<Vec<_>>(), "{text:?}");
    });
}

/// Schemata of the resctrl file system.
pub fn resctrl_schemata(bytes: &[u8]) {
    text(bytes, resctrl::fuzz);
}

/// What the kernel sends through rtnetlink.
pub fn netlink_messages(bytes: &[u8]) {
    netlink::fuzz(bytes);
}

/// A container's id, which becomes the name of a directory.
pub fn container_id(bytes: &[u8]) {
    text(bytes, |text| {
        let Ok(id) = ContainerId::parse(text) else { return };
        let below = std::path::Path::new("/run").join(id.as_str());
        assert_eq!((below.parent(), below.file_name()), (Some("/run".as_ref()), Some(OsStr::from_bytes(bytes))));
    });
}

fn text(bytes: &[u8], parse: impl FnOnce(&str)) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        parse(text);
    }
}

/// A file with these bytes, at its beginning, and its path as long as it is open.
fn in_memory(bytes: &[u8]) -> Option<(File, PathBuf)> {
    let file = rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC).ok()?;
    let mut file = File::from(file);
    file.write_all(bytes).and_then(|()| file.rewind()).ok()?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
    Some((file, path))
}
