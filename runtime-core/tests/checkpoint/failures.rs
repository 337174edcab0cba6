//! A checkpoint that fails changes nothing; a restore that fails leaves nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use runtime_core::container::{CheckpointOptions, Container, RestoreOptions, STAGE, Status, Stdio};
use runtime_core::{ErrorKind, Signal};
use serde_json::json;

use crate::scene::{Bundle, COUNT, chain, ok};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a dump that is cut off leaves the container running", cut_off),
    ("a dump that fails keeps its images where it is told so", kept),
    ("an older checkpoint stays until a new one is complete", replaced),
    ("a dump that criu refuses says what to do", refused_by_criu),
    ("a stopped container cannot be checkpointed", stopped),
    ("without criu nothing is touched", no_criu),
    ("damaged images are refused", damaged),
    ("a restore that cannot be is undone", undone),
    ("a restore into a cgroup in use leaves its processes alone", cgroup_in_use),
];

fn cut_off() {
    let bundle = Bundle::new(COUNT);
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    let mut last = 0;
    // Wherever it is cut off: before the freeze, in the middle, at the end.
    for milliseconds in [1, 10, 20, 30, 40] {
        let images = bundle.images("one");
        let mut options = CheckpointOptions::new(images.clone());
        options.limit = Some(Duration::from_millis(milliseconds));
        options.leave_running = true;
        let Err(err) = counter.container.checkpoint(&options) else { break };
        assert!(chain(&err).contains("took longer than"), "{}", chain(&err));
        assert!(!images.exists(), "images left after {milliseconds} ms");
        assert_eq!(counter.container.status().unwrap(), Status::Running);
        last = counter.goes_on_after(last);
    }
    counter.kill();
}

/// What there is, with what is in it.
fn content(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

fn replaced() {
    let script = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.02
         if [ -e /data/go ]; then rm /data/go; exec 9>/big; head -c 2000000 /dev/zero >&9; rm /big; echo >/data/gone; fi
         done";
    let bundle = Bundle::new(script);
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    let images = bundle.images("one");
    counter.snapshot(images.clone());
    // Of a process that the next one has not.
    fs::write(images.join("core-77.img"), "old").unwrap();
    let older = content(&images);

    // CRIU fails in the middle of its images.
    fs::write(bundle.path().join("data/go"), "").unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while !bundle.path().join("data/gone").exists() {
        assert!(Instant::now() < until);
        sleep(Duration::from_millis(5));
    }
    let mut options = CheckpointOptions::new(images.clone());
    options.leave_running = true;
    options.skip_preflight = true;
    for keep_images in [false, true] {
        options.keep_images = keep_images;
        assert!(chain(&counter.container.checkpoint(&options).unwrap_err()).contains("raise ghost-limit"));
        let kept = images.join(STAGE);
        assert_eq!(kept.join("descriptors.json").exists(), keep_images);
        if keep_images {
            assert!(bundle.refused(&kept).contains("those of a dump that failed"));
            fs::rename(&kept, bundle.images("kept")).unwrap();
        }
        assert_eq!(content(&images), older);
    }
    // What needs its images in their place does not write over others.
    options.lazy_pages = true;
    options.page_server = Some("127.0.0.1:27".parse().unwrap());
    assert!(chain(&counter.container.checkpoint(&options).unwrap_err()).contains("holds a checkpoint"));
    assert_eq!(content(&images), older);

    let mut options = CheckpointOptions::new(images.clone());
    options.criu.ghost_limit = Some(4 << 20);
    ok(counter.container.checkpoint(&options));
    let last = counter.gone(137, 0);
    let newer = content(&images);
    assert!(newer["rtc.json"] != older["rtc.json"] && !newer.contains_key("core-77.img"));
    let mut counter = bundle.restore("second", &images);
    counter.goes_on_after(last);
    counter.kill();
}

fn refused_by_criu() {
    // A deleted file that is larger than the dump is told to carry.
    let bundle = Bundle::new(&format!("exec 9>/big; head -c 2000000 /dev/zero >&9; rm /big; {COUNT}"));
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    let images = bundle.images("one");
    let mut options = CheckpointOptions::new(images.clone());
    options.skip_preflight = true;
    let err = counter.container.checkpoint(&options).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::FailedPrecondition);
    assert!(chain(&err).contains("raise ghost-limit"), "{}", chain(&err));
    assert!(!images.exists());
    assert!(bundle.path().join("criu-dump.log").exists());
    let last = counter.goes_on_after(0);

    let mut options = CheckpointOptions::new(images.clone());
    options.criu.ghost_limit = Some(4 << 20);
    counter.container.checkpoint(&options).unwrap();
    let last = counter.gone(137, last);
    // Restore is not told again.
    let mut counter = bundle.restore("second", &images);
    counter.goes_on_after(last);
    counter.kill();
}

fn stopped() {
    let bundle = Bundle::new("exit 3");
    let counter = bundle.start();
    counter.started.child.wait().unwrap();
    let images = bundle.images("one");
    let err = counter.container.checkpoint(&CheckpointOptions::new(images.clone())).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::FailedPrecondition);
    assert!(!images.exists());
    counter.gone(3, 0);
}

fn no_criu() {
    let bundle = Bundle::new(COUNT);
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    let criu = ["/usr/sbin/criu", "/usr/bin/criu"].into_iter().find(|path| Path::new(path).exists()).unwrap();
    let hidden = format!("{criu}.hidden");
    fs::rename(criu, &hidden).unwrap();
    let err = counter.container.checkpoint(&CheckpointOptions::new(bundle.images("one"))).unwrap_err();
    fs::rename(hidden, criu).unwrap();
    assert_eq!(err.kind(), ErrorKind::FailedPrecondition);
    assert!(chain(&err).contains("no executable criu in PATH"), "{}", chain(&err));
    assert!(!bundle.images("one").exists());
    counter.goes_on_after(0);
    counter.kill();
}

fn damaged() {
    let bundle = Bundle::new(COUNT);
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    let good = bundle.images("good");
    let last = counter.freeze_dry(good.clone(), 0);
    let empty = bundle.images("empty");
    fs::create_dir(&empty).unwrap();
    assert!(bundle.refused(&empty).contains("it is not a checkpoint"));

    let bad = bundle.images("bad");
    assert!(Command::new("cp").arg("-a").args([&good, &bad]).status().unwrap().success());
    let halve: fn(&[u8]) -> Vec<u8> = |bytes| bytes[..bytes.len() / 2].to_vec();
    let garble: fn(&[u8]) -> Vec<u8> = |_| b"something else altogether".to_vec();
    for (file, damage, expected) in [
        ("inventory.img", halve, "inventory.img is damaged"),
        ("pstree.img", garble, "pstree.img is damaged"),
        ("core-1.img", garble, "core-1.img is damaged"),
        ("pages-1.img", halve, "pages-1.img is damaged"),
        ("mm-1.img", halve, "mm-1.img of the checkpoint is damaged: it has "),
        ("rtc.json", garble, "rtc.json"),
    ] {
        let path = bad.join(file);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, damage(&bytes)).unwrap();
        let refused = bundle.refused(&bad);
        assert!(refused.contains(expected), "{file}: {refused}");
        fs::write(&path, bytes).unwrap();
    }
    // And whole again it restores.
    let mut counter = bundle.restore("second", &bad);
    counter.goes_on_after(last);
    counter.kill();
}

fn undone() {
    let mut bundle = Bundle::new(COUNT);
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    let images = bundle.images("one");
    let last = counter.freeze_dry(images.clone(), 0);
    let good = bundle.spec.clone();

    bundle.spec["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]});
    let refused = bundle.refused(&images);
    assert!(refused.contains("setup-namespaces") && refused.contains("hook /bin/false ended with 1"), "{refused}");

    bundle.spec = good.clone();
    bundle.spec["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/data");
    let refused = bundle.refused(&images);
    assert!(refused.contains("the checkpoint needs a bind mount on /data"), "{refused}");

    bundle.spec = good;
    let terminal = RestoreOptions::new(bundle.options("refused", Stdio::Terminal), images.clone());
    let Err(err) = Container::restore(terminal) else { panic!("restored") };
    assert_eq!(err.kind(), ErrorKind::InvalidArgument);
    bundle.assert_no_state("refused");

    let mut counter = bundle.restore("second", &images);
    counter.goes_on_after(last);
    // The id is taken, and the taken one is not touched.
    let Err(err) = bundle.try_restore("second", &images) else { panic!("restored twice") };
    assert_eq!(err.kind(), ErrorKind::AlreadyExists);
    counter.container.kill(Signal::TERM, false).unwrap();
    counter.kill();
}

fn kept() {
    let bundle = Bundle::new(COUNT);
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    let images = bundle.images("kept");
    let mut options = CheckpointOptions::new(images.clone());
    options.leave_running = true;
    options.keep_images = true;
    options.limit = Some(Duration::ZERO);
    counter.container.checkpoint(&options).unwrap_err();
    assert!(images.join("descriptors.json").exists());
    let last = counter.goes_on_after(0);
    let refused = bundle.refused(&images);
    assert!(refused.contains("those of a dump that failed"), "{refused}");
    // One that goes through makes it a checkpoint.
    let last = counter.freeze_dry(images.clone(), last);
    let mut counter = bundle.restore("second", &images);
    counter.goes_on_after(last);
    counter.kill();
}

fn cgroup_in_use() {
    let mut bundle = Bundle::new(COUNT);
    bundle.spec["linux"]["cgroupsPath"] = json!("/in-use");
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    let images = bundle.images("one");
    counter.snapshot(images.clone());
    let refused = bundle.refused(&images);
    assert!(refused.contains("/in-use") && refused.contains("is not empty"), "{refused}");
    // It fails before the cgroup is looked at.
    bundle.spec["mounts"].as_array_mut().unwrap().push(json!({
        "destination": "/etc/nowhere", "type": "bind", "source": "/does/not/exist", "options": ["bind"]
    }));
    bundle.refused(&images);
    assert_eq!(counter.container.status().unwrap(), Status::Running);
    counter.goes_on_after(0);
    counter.kill();
}
