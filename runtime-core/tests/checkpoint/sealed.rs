//! Images that are compressed and encrypted on their way to the disk.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use age::secrecy::ExposeSecret;
use runtime_core::container::{
    CgroupDriver, CheckpointOptions, Container, RestoreCheck, RestoreOptions, SealOptions, Status, Stdio,
};
use runtime_core::{ContainerId, ErrorKind};
use serde_json::json;

use crate::scene::{Bundle, COUNT, Counter, chain, ok, pipes};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a sealed checkpoint is restored, and its memory is nowhere on the disk", round_trip),
    ("a byte of a sealed checkpoint that is altered is refused by its file", damage),
    ("a sealed checkpoint that is cut off, swapped or another's is refused", other_files),
    ("a sealed checkpoint opens with its key alone", keys),
    ("unread input is sealed too", input),
    ("a disk that is full fails a sealed checkpoint and not its container", full_disk),
];

/// In the shell's memory alone: no argument, no file has it in one piece.
const MARKER: &str = "plain-marker-7f3a";
const MARK: &str = "a=plain; b=marker; m=$a-$b-7f3a";

/// An identity, which is also the recipient.
fn key(bundle: &Bundle, name: &str) -> PathBuf {
    let path = bundle.path().join(name);
    fs::write(&path, age::x25519::Identity::generate().to_string().expose_secret()).unwrap();
    path
}

fn sealed(compress: Option<&str>, key: Option<&PathBuf>) -> SealOptions {
    SealOptions {
        compress: compress.map(|text| text.parse().unwrap()),
        key_files: key.cloned().into_iter().collect(),
        ..SealOptions::default()
    }
}

fn snapshot(counter: &Counter, images: PathBuf, seal: SealOptions) -> PathBuf {
    let mut options = CheckpointOptions::new(images);
    options.leave_running = true;
    options.seal = seal;
    ok(counter.container.checkpoint(&options));
    options.image_dir
}

fn try_restore(bundle: &Bundle, images: &Path, key: Option<&Path>) -> Result<Counter, runtime_core::Error> {
    let (stdio, output) = pipes();
    let mut options = RestoreOptions::new(bundle.options("second", stdio), images.to_owned());
    options.decrypt_key = key.map(Path::to_owned);
    let (container, started) = Container::restore(options)?;
    Ok(Counter { container, started, output })
}

/// Why it is not restored, before there is anything of it.
fn refused(bundle: &Bundle, images: &Path, key: Option<&Path>) -> String {
    let Err(err) = try_restore(bundle, images, key) else { panic!("restored") };
    assert!(matches!(err.kind(), ErrorKind::InvalidArgument), "{:?}: {}", err.kind(), chain(&err));
    bundle.assert_no_state("second");
    chain(&err)
}

/// The files below a directory that have these bytes.
fn with(directory: &Path, bytes: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        let has = || fs::read(entry.path()).unwrap().windows(bytes.len()).any(|window| window == bytes);
        if kind.is_dir() {
            found.extend(with(&entry.path(), bytes));
        } else if kind.is_file() && has() {
            found.push(entry.path());
        }
    }
    found
}

fn assert_nobody_serves() {
    let names = fs::read_dir("/proc/self/task").unwrap();
    let names = names.filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok());
    let left: Vec<_> = names.filter(|name| ["images\n", "seal\n"].contains(&name.as_str())).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Of the shell's memory; it may have a child or not.
fn size(images: &Path, pages: &str) -> u64 {
    images.join(pages).metadata().unwrap().len()
}

fn round_trip() {
    let bundle = Bundle::new(&format!("{MARK}; {COUNT}"));
    let key = key(&bundle, "identity");
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    let plain = snapshot(&counter, bundle.images("plain"), SealOptions::default());
    assert!(!with(&plain, MARKER.as_bytes()).is_empty());
    let plain_size = size(&plain, "pages-1.img");
    fs::remove_dir_all(plain).unwrap();

    let level = |name: &str, compress: &str| {
        let images = snapshot(&counter, bundle.images(name), sealed(Some(compress), None));
        size(&images, "pages-1.img.sealed")
    };
    let (fast, small) = (level("fast", "zstd:1"), level("small", "zstd:19"));
    assert!(small < fast && fast < plain_size, "{small} {fast} {plain_size}");
    for name in ["fast", "small"] {
        fs::remove_dir_all(bundle.images(name)).unwrap();
    }

    for (name, compress, encrypt) in
        [("zstd", Some("zstd"), None), ("key", None, Some(&key)), ("both", Some("zstd:1"), Some(&key))]
    {
        let last = counter.next();
        let work = bundle.path().join("work");
        let mut options = CheckpointOptions::new(bundle.images(name));
        options.work_dir = Some(work.clone());
        options.seal = sealed(compress, encrypt);
        ok(counter.container.checkpoint(&options));
        let last = counter.gone(137, last);
        assert_nobody_serves();
        if encrypt.is_some() {
            for directory in [bundle.path(), Path::new("/tmp"), Path::new("/var/tmp")] {
                assert_eq!(with(directory, MARKER.as_bytes()), [""; 0].map(PathBuf::from), "{name}");
            }
        }
        let id = ContainerId::parse("second").unwrap();
        let spec = serde_json::from_value(bundle.spec.clone()).unwrap();
        let (image_dir, decrypt_key) = (options.image_dir.as_path(), encrypt.map(PathBuf::as_path));
        let (config, cgroup_driver) = (None, CgroupDriver::Cgroupfs);
        let bundle_dir = bundle.path();
        let check =
            RestoreCheck { id: &id, image_dir, bundle: bundle_dir, spec: &spec, config, cgroup_driver, decrypt_key };
        let report = ok(Container::check_restore(&check));
        assert!(!report.refuses(), "{report}");
        counter = ok(try_restore(&bundle, image_dir, decrypt_key));
        assert_nobody_serves();
        counter.goes_on_after(last);
    }
    counter.kill();
}

/// The sealed files, and the key's.
fn files(images: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(images).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.file_name().unwrap() != "rtc.json").collect()
}

/// What it is called in a message.
fn name(path: &Path) -> &str {
    let name = path.file_name().unwrap().to_str().unwrap();
    name.strip_suffix(".sealed").unwrap_or(name)
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 16], at).unwrap();
}

fn damage() {
    let mut bundle = Bundle::new(COUNT);
    let key = key(&bundle, "identity");
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    // Beside it.
    bundle.spec["linux"]["cgroupsPath"] = json!("/rtc-checkpoint-other");
    for (compress, encrypt) in [(Some("zstd:1"), None), (Some("zstd:1"), Some(&key))] {
        let images = snapshot(&counter, bundle.images("one"), sealed(compress, encrypt));
        let key = encrypt.map(PathBuf::as_path);
        for path in files(&images) {
            let length = path.metadata().unwrap().len();
            for at in [0, length / 3, length / 2, length - 1] {
                flip(&path, at);
                let why = refused(&bundle, &images, key);
                assert!(why.contains(name(&path)), "byte {at} of {}: {why}", path.display());
                flip(&path, at);
            }
        }
        // The copy that nothing can be altered in is compared with the one that anybody can read.
        let manifest = images.join("rtc.json");
        let whole = fs::read_to_string(&manifest).unwrap();
        for (from, to) in [("\"leftRunning\": true", "\"leftRunning\": false"), ("\"net\"", "\"ipc\"")] {
            let altered = whole.replacen(from, to, 1);
            assert_ne!(altered, whole);
            fs::write(&manifest, altered).unwrap();
            let why = refused(&bundle, &images, key);
            assert!(why.contains("rtc.json"), "{why}");
        }
        fs::write(&manifest, whole).unwrap();
        try_restore(&bundle, &images, key).map(Counter::kill).unwrap_or_else(|err| panic!("{}", chain(&err)));
        fs::remove_dir_all(images).unwrap();
    }
    counter.kill();
}

fn other_files() {
    let bundle = Bundle::new(COUNT);
    let key = key(&bundle, "identity");
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    let one = snapshot(&counter, bundle.images("one"), sealed(None, Some(&key)));
    let other = snapshot(&counter, bundle.images("other"), sealed(None, Some(&key)));
    counter.kill();
    // Without its inventory, as of a checkpoint whose maker was killed at the end; the sealed table has it too.
    let manifest: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&fs::read(one.join("rtc.json")).unwrap()).unwrap();
    let without = manifest.into_iter().filter(|(name, _)| name != "files" && name != "timings");
    fs::write(one.join("rtc.json"), serde_json::to_vec(&without.collect::<BTreeMap<_, _>>()).unwrap()).unwrap();

    let refused = |path: &Path| {
        let why = refused(&bundle, &one, Some(&key));
        assert!(why.contains(name(path)), "{}: {why}", path.display());
    };
    let mut taken = 0;
    for path in files(&one) {
        let whole = fs::read(&path).unwrap();
        for length in [0, 31, whole.len() / 2, whole.len() - 1] {
            fs::write(&path, &whole[..length]).unwrap();
            refused(&path);
        }
        fs::remove_file(&path).unwrap();
        refused(&path);
        // What is whole, of another checkpoint for the same key; some names are those of inodes.
        let others = other.join(path.file_name().unwrap());
        if others.exists() {
            taken += 1;
            fs::copy(others, &path).unwrap();
            let why = crate::sealed::refused(&bundle, &one, Some(&key));
            assert!(why.contains("damaged"), "{}: {why}", path.display());
        }
        fs::write(&path, whole).unwrap();
    }
    assert!(taken > 20, "{taken} files");
    let (a, b) = (one.join("core-1.img.sealed"), one.join("mm-1.img.sealed"));
    let swap = || {
        fs::rename(&a, one.join("x")).unwrap();
        fs::rename(&b, &a).unwrap();
        fs::rename(one.join("x"), &b).unwrap();
    };
    swap();
    refused(&a);
    swap();
    try_restore(&bundle, &one, Some(&key)).map(Counter::kill).unwrap_or_else(|err| panic!("{}", chain(&err)));
}

fn keys() {
    let bundle = Bundle::new(COUNT);
    let (mine, foreign) = (key(&bundle, "mine"), key(&bundle, "foreign"));
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    let encrypted = snapshot(&counter, bundle.images("encrypted"), sealed(None, Some(&mine)));
    let compressed = snapshot(&counter, bundle.images("compressed"), sealed(Some("zstd"), None));
    let plain = snapshot(&counter, bundle.images("plain"), SealOptions::default());
    let secret = fs::read_to_string(&mine).unwrap();
    assert_eq!(with(&encrypted, &secret.as_bytes()[20..50]), [""; 0].map(PathBuf::from));
    for (images, key, words) in [
        (&encrypted, None, "no key was given"),
        (&encrypted, Some(&foreign), "no key in"),
        (&encrypted, Some(&bundle.path().join("missing")), "missing"),
        (&encrypted, Some(&bundle.path().join("hosts")), "identities"),
        (&compressed, Some(&mine), "it is not encrypted"),
        (&plain, Some(&mine), "it is not encrypted"),
    ] {
        let why = refused(&bundle, images, key.map(PathBuf::as_path));
        assert!(why.contains(words) && !why.contains(&secret[20..50]), "{why}");
    }
    let mut options = CheckpointOptions::new(bundle.images("none"));
    options.seal = sealed(None, Some(&bundle.path().join("hosts")));
    let err = counter.container.checkpoint(&options).unwrap_err();
    assert!(chain(&err).contains("line 1 of"), "{}", chain(&err));
    options.seal = sealed(Some("zstd"), None);
    options.pre_dump = true;
    let err = counter.container.checkpoint(&options).unwrap_err();
    assert!(chain(&err).contains("a pre-dump"), "{}", chain(&err));
    assert!(!bundle.images("none").exists());
    counter.goes_on_after(0);
    counter.kill();
}

fn input() {
    const INPUT: &str = "typed-and-not-read";
    let bundle = Bundle::new("echo up; while [ ! -e /data/go ]; do sleep 0.05; done; read line; echo got $line");
    let key = key(&bundle, "identity");
    let (reader, mut writer) = std::io::pipe().unwrap();
    let (output, theirs) = std::io::pipe().unwrap();
    let stdio = Stdio::Fds {
        stdin: reader.into(),
        stdout: theirs.try_clone().unwrap().into(),
        stderr: theirs.try_clone().unwrap().into(),
    };
    drop(theirs);
    let (container, started) = ok(Container::create(bundle.options("first", stdio)));
    ok(container.start());
    let mut output = std::io::BufReader::new(output);
    output.read_line(&mut String::new()).unwrap();
    writer.write_all(format!("{INPUT}\n").as_bytes()).unwrap();
    let mut options = CheckpointOptions::new(bundle.images("one"));
    options.seal = sealed(Some("zstd"), Some(&key));
    ok(container.checkpoint(&options));
    assert_eq!(started.child.wait().unwrap().code, 137);
    ok(container.delete(false));
    assert_eq!(with(bundle.path(), INPUT.as_bytes()), [""; 0].map(PathBuf::from));
    fs::write(bundle.path().join("data/go"), "").unwrap();
    let counter = ok(try_restore(&bundle, &options.image_dir, Some(&key)));
    let mut text = String::new();
    let Counter { container, started, mut output } = counter;
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text, format!("got {INPUT}\n"));
    started.child.wait().unwrap();
    ok(container.delete(false));
}

fn full_disk() {
    let bundle = Bundle::new(COUNT);
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    let small = bundle.images("small");
    fs::create_dir(&small).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "none"]).arg(&small).status().unwrap();
    assert!(mounted.success());
    for seal in [sealed(None, Some(&key(&bundle, "identity"))), sealed(Some("zstd:1"), None)] {
        let mut options = CheckpointOptions::new(small.join("images"));
        options.skip_preflight = true;
        options.seal = seal;
        let err = counter.container.checkpoint(&options).unwrap_err();
        assert!(chain(&err).to_lowercase().contains("no space left on device"), "{}", chain(&err));
        assert!(chain(&err).contains(".sealed"), "{}", chain(&err));
        assert!(!options.image_dir.exists());
        assert_eq!(counter.container.status().unwrap(), Status::Running);
        assert_nobody_serves();
    }
    assert!(Command::new("umount").arg(&small).status().unwrap().success());
    counter.goes_on_after(0);
    counter.kill();
}
