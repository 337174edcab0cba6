//! The stored corpus, taken by every target.

use std::fs;
use std::path::{Path, PathBuf};

use crate::mutate::Mutator;

/// How many changes of the corpus a target is given. With a debug build on one core all targets take some ten seconds.
const CHANGES: usize = 3000;
/// A corpus is read, by people too, and travels with the source.
const LONGEST: usize = 16 << 10;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// The files of a target's corpus, by their names.
fn files(target: &str) -> Vec<Vec<u8>> {
    let directory = directory().join("corpus").join(target);
    let entries = fs::read_dir(&directory).unwrap_or_else(|err| panic!("{}: {err}", directory.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", directory.display());
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// What the target failed with is printed by the panic itself; this says with what bytes.
fn give(target: &str, function: fn(&[u8]), bytes: &[u8]) {
    if let Err(panic) = std::panic::catch_unwind(|| function(bytes)) {
        let path = std::env::temp_dir().join(format!("rtc-fuzz-{target}"));
        fs::write(&path, bytes).unwrap();
        panic!("{target} fails with the bytes in {}: {panic:?}", path.display());
    }
}

fn run(target: &str, function: fn(&[u8])) {
    let corpus = files(target);
    for bytes in &corpus {
        assert!(bytes.len() <= LONGEST, "{target}: a file of {} bytes", bytes.len());
        give(target, function, bytes);
    }
    let mut mutator = Mutator::new(&corpus);
    for _ in 0..CHANGES {
        give(target, function, &mutator.next());
    }
}

macro_rules! targets {
    ($($target:ident: $krate:ident,)*) => {
        const TARGETS: &[&str] = &[$(stringify!($target),)*];

        $(
            #[test]
            fn $target() {
                run(stringify!($target), $krate::fuzzing::$target);
            }
        )*
    };
}

targets! {
    criu_images: criu,
    criu_log: criu,
    criu_messages: criu,
    page_requests: criu,
    page_server: criu,
    cgroup_files: runtime_core,
    cgroup_paths: runtime_core,
    container_id: runtime_core,
    cpu_list: runtime_core,
    init_messages: runtime_core,
    manifest: runtime_core,
    mount_options: runtime_core,
    mountinfo: runtime_core,
    netlink_messages: runtime_core,
    proc_files: runtime_core,
    process: runtime_core,
    resctrl_schemata: runtime_core,
    resources: runtime_core,
    sealed_image: runtime_core,
    seccomp_filter: runtime_core,
    seccomp_profile: runtime_core,
    spec: runtime_core,
    state: runtime_core,
    systemd_message: runtime_core,
    systemd_property: runtime_core,
    migration_frame: migrate,
    notify_message: rtc,
    option_values: rtc,
    bootstrap_params: containerd_shim_rtc_v2,
    create_request: containerd_shim_rtc_v2,
    exit_journal: containerd_shim_rtc_v2,
    options: containerd_shim_rtc_v2,
    rootfs_mount: containerd_shim_rtc_v2,
    stdio_uri: containerd_shim_rtc_v2,
}

#[test]
fn every_target_has_a_program_and_a_corpus_and_no_other_is_there() {
    let names = |directory: PathBuf| {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    let mut targets = TARGETS.to_vec();
    targets.sort_unstable();
    assert_eq!(names(directory().join("fuzz_targets")), targets);
    assert_eq!(names(directory().join("corpus")), targets);
    let manifest = fs::read_to_string(directory().join("Cargo.toml")).unwrap();
    for target in targets {
        assert!(manifest.contains(&format!("name = \"{target}\"\n")), "Cargo.toml has no program {target}");
    }
}
