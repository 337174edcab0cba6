//! Each option, on a container that cannot be dumped without it, or that comes back otherwise.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use runtime_core::container::{CgroupMode, CheckpointOptions, Container, CriuOptions, RestoreOptions};
use serde_json::json;

use crate::scene::{Bundle, COUNT, Counter, chain, ok, pipes};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("files: locks, ghosts, links", files),
    ("a unix socket to the outside", unix_socket),
    ("mounts, plugins, security profile, cgroups", others),
    ("a restore frees the pages that it has read where it is told so", pages_freed),
    ("a network namespace is left empty where it is told so", empty_network),
];

/// What CRIU says to a dump that runs on; nothing if it succeeds.
fn refusal(container: &Container, images: &Path, criu: CriuOptions) -> Option<String> {
    let mut options = CheckpointOptions::new(images.to_owned());
    options.leave_running = true;
    options.criu = criu;
    container.checkpoint(&options).err().map(|err| chain(&err))
}

#[track_caller]
fn needs(counter: &Counter, images: &Path, word: &str, criu: CriuOptions) {
    let refused = refusal(&counter.container, images, CriuOptions::default());
    assert!(refused.as_ref().is_some_and(|refused| refused.contains(word)), "{refused:?}");
    assert_eq!(refusal(&counter.container, images, criu), None);
}

fn files() {
    // A deleted file larger than CRIU carries unasked.
    let mut bundle = Bundle::new(&format!("exec 3>/run/big; head -c 2000000 /dev/zero >&3; rm /run/big; {COUNT}"));
    bundle.spec["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/var/run/hosts");
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    let limit = CriuOptions { ghost_limit: Some(4 << 20), ..CriuOptions::default() };
    needs(&counter, &bundle.images("ghost"), "ghost", limit);
    counter.kill();
    // By an annotation, and by a configuration of CRIU's that an annotation names.
    let conf = bundle.path().join("criu.conf");
    fs::write(&conf, "ghost-limit 4M\n").unwrap();
    for annotation in [json!({"org.rtc.criu.ghost-limit": "4M"}), json!({"org.criu.config": conf})] {
        bundle.spec["annotations"] = annotation;
        let mut counter = bundle.start();
        assert_eq!(counter.next(), 0);
        assert_eq!(refusal(&counter.container, &bundle.images("ghost"), CriuOptions::default()), None);
        counter.kill();
    }
    bundle.spec["annotations"] = json!({"org.rtc.criu.ghost-limits": "4M"});
    let counter = bundle.start();
    let refused = refusal(&counter.container, &bundle.images("typo"), CriuOptions::default()).unwrap();
    assert!(refused.contains("annotation org.rtc.criu.ghost-limits"), "{refused}");
    counter.kill();

    // A file that has lost the name by which it was opened.
    let bundle = Bundle::new(&format!("echo x >/data/f; exec 3</data/f; ln /data/f /data/g; rm /data/f; {COUNT}"));
    symlink("busybox", bundle.path().join("rootfs/bin/ln")).unwrap();
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    let remap = CriuOptions { link_remap: true, ..CriuOptions::default() };
    needs(&counter, &bundle.images("link"), "link-remap", remap);
    counter.kill();

    // Locks are held again without a word at the restore.
    let script = "workload lock --file /data/l --ready /data/ready";
    let bundle = Bundle::new(script);
    let counter = bundle.start();
    while !bundle.path().join("data/ready").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let locks = CriuOptions { file_locks: true, ..CriuOptions::default() };
    needs(&counter, &bundle.images("locks"), "lock", locks);
    counter.kill();
    let counter = bundle.restore("second", &bundle.images("locks"));
    assert_eq!(counter.exec(&bundle, "workload try-lock --file /data/l").0, 1);
    counter.kill();
}

fn unix_socket() {
    // Under the name that it has inside.
    let bundle = Bundle::new("while :; do echo hello >&3; usleep 20000; done");
    let outside = Path::new("/run/outside");
    symlink(bundle.path().join("data"), outside).unwrap();
    let mut bundle = bundle;
    bundle.mount(json!({
        "destination": "/run/outside", "type": "bind", "source": bundle.path().join("data"), "options": ["rbind"],
    }));
    // CRIU looks for the other end in the namespace of the network.
    let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().unwrap();
    let network = namespaces.iter_mut().find(|namespace| namespace["type"] == "network").unwrap();
    network["path"] = json!(format!("/proc/{}/ns/net", std::process::id()));
    let log = UnixDatagram::bind("/run/outside/log").unwrap();
    let socket = UnixDatagram::unbound().unwrap();
    socket.connect("/run/outside/log").unwrap();
    let (stdio, output) = pipes();
    let mut options = bundle.options("first", stdio);
    options.preserve_fds = vec![socket.into()];
    let (container, started) = ok(Container::create(options));
    ok(container.start());
    let counter = Counter { container, started, output };
    let hears = || log.recv(&mut [0; 16]).unwrap();
    hears();
    let external = CriuOptions { ext_unix_sk: true, ..CriuOptions::default() };
    needs(&counter, &bundle.images("one"), "ext-unix-sk", external);
    counter.kill();
    log.set_nonblocking(true).unwrap();
    while log.recv(&mut [0; 16]).is_ok() {}
    log.set_nonblocking(false).unwrap();
    let counter = bundle.restore("second", &bundle.images("one"));
    log.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    hears();
    counter.kill();
    fs::remove_file(outside).unwrap();
}

fn others() {
    let bundle = Bundle::new(COUNT);
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    // CRIU tries to load what it finds there.
    fs::create_dir(bundle.path().join("plugins")).unwrap();
    fs::write(bundle.path().join("plugins/broken.so"), "").unwrap();
    let plugins = CriuOptions { libdir: Some(bundle.path().join("plugins")), ..CriuOptions::default() };
    let refused = refusal(&counter.container, &bundle.images("plugins"), plugins);
    assert!(refused.is_some(), "a broken plugin was not tried");
    // Memory is tracked where the kernel can, as for a pre-dump, and else that is refused.
    let mut options = CheckpointOptions::new(bundle.images("pre"));
    options.pre_dump = true;
    let cannot = counter.container.checkpoint(&options).is_err();
    let track = CriuOptions { track_mem: true, ..CriuOptions::default() };
    assert_eq!(refusal(&counter.container, &bundle.images("tracked"), track).is_some(), cannot);
    // Nothing of the cgroups is looked at.
    let ignore = CriuOptions { manage_cgroups: Some(CgroupMode::Ignore), ..CriuOptions::default() };
    let nothing = || CriuOptions::default();
    for (name, criu) in [("cgroups", nothing()), ("none", ignore)] {
        assert_eq!(refusal(&counter.container, &bundle.images(name), criu), None);
    }
    let carried = |name: &str| fs::metadata(bundle.images(name).join("cgroup.img")).unwrap().len();
    assert!(carried("none") < carried("cgroups"));
    counter.goes_on_after(0);
    counter.kill();

    // A bind mount comes back with another source, by a call and by an annotation.
    let images = bundle.images("none");
    let mut bundle = bundle;
    for (name, by_annotation) in [("called", false), ("annotated", true)] {
        let source = bundle.path().join(name);
        fs::create_dir(&source).unwrap();
        fs::write(source.join("name"), name).unwrap();
        let external = format!("mnt[/data]:{}", source.display());
        if by_annotation {
            bundle.spec["annotations"] = json!({"org.rtc.criu.external-restore": external});
        }
        let (stdio, output) = pipes();
        let mut options = RestoreOptions::new(bundle.options("second", stdio), images.clone());
        if !by_annotation {
            options.external = vec![external.parse().unwrap()];
        }
        let (container, started) = ok(Container::restore(options));
        let counter = Counter { container, started, output };
        assert_eq!(counter.exec(&bundle, "cat /data/name").1, name);
        counter.kill();
    }

    // This kernel has no such profile, and CRIU says so.
    bundle.spec["annotations"] = json!({"org.rtc.criu.lsm-profile": "selinux:none"});
    let refused = bundle.refused(&images);
    assert!(refused.to_lowercase().contains("lsm") || refused.to_lowercase().contains("selinux"), "{refused}");
}

fn empty_network() {
    let mut bundle = Bundle::new(COUNT);
    for set in ["bounding", "permitted", "effective"] {
        // It may have configured its devices, and so is carried else.
        bundle.spec["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_NET_ADMIN"));
    }
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    let empty = CriuOptions { empty_net_ns: true, ..CriuOptions::default() };
    for (name, criu, carried) in [("whole", CriuOptions::default(), true), ("empty", empty, false)] {
        assert_eq!(refusal(&counter.container, &bundle.images(name), criu), None);
        let files = fs::read_dir(bundle.images(name)).unwrap().flatten();
        let devices = files.filter(|file| file.file_name().to_string_lossy().starts_with("netdev-"));
        assert_eq!(devices.count() > 0, carried, "{name}");
    }
    counter.kill();
}

/// Bytes that the pages take on the disk.
fn pages(images: &Path) -> u64 {
    let pages = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with("pages-");
    fs::read_dir(images).unwrap().flatten().filter(pages).map(|entry| entry.metadata().unwrap().blocks() * 512).sum()
}

fn pages_freed() {
    let bundle = Bundle::new(COUNT);
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    let images = bundle.images("one");
    let last = counter.freeze_dry(images.clone(), 0);
    let whole = pages(&images);
    let mut counter = bundle.restore("second", &images);
    counter.goes_on_after(last);
    counter.kill();
    assert_eq!(pages(&images), whole);

    let (stdio, output) = pipes();
    let mut options = RestoreOptions::new(bundle.options("third", stdio), images.clone());
    options.criu.auto_dedup = true;
    let (container, started) = ok(Container::restore(options));
    let mut counter = Counter { container, started, output };
    counter.goes_on_after(last);
    counter.kill();
    let left = pages(&images);
    assert!(left < whole / 4, "{left} of {whole} bytes are left");
}
