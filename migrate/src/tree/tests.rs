use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use proto::stream::message::Kind as Message;
use proto::stream::{Entry, EntryEnd, FileType, Removed, Tree, TreeBegin, TreeEnd};
use rustix::fs::{CWD, Mode, XattrFlags};

use super::*;
use crate::error::{Error, Result};
use crate::link::Link;

fn pair() -> (Link, Link) {
    let (one, two) = tokio::io::duplex(1 << 20);
    (Link::new(Box::new(one), None), Link::new(Box::new(two), None))
}

/// From one directory into another, as two sides do it.
fn copy(from: &Path, to: &Path, before: Option<&Sent>, always: &HashSet<Vec<u8>>) -> Sent {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    let (mut one, mut two) = runtime.block_on(async { pair() });
    let receiving = std::thread::spawn({
        let to = to.to_owned();
        move || {
            begin(&mut two).unwrap();
            receive(&mut two, &to).unwrap()
        }
    });
    let sent = send(&mut one, TreeBegin { tree: Tree::Layer.into(), round: 0 }, from, before, always).unwrap();
    let received = receiving.join().unwrap();
    assert_eq!((received.entries, received.bytes), (sent.entries, sent.bytes));
    sent
}

/// All that can be seen of a tree.
fn describe(root: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut inodes: BTreeMap<u64, String> = BTreeMap::new();
    let mut queue = vec![root.to_owned()];
    while let Some(path) = queue.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        let contents = if metadata.is_file() {
            let bytes = fs::read(&path).unwrap();
            format!("{} {:?} sparse {}", bytes.len(), bytes.get(..8), metadata.blocks() * 512 < metadata.size())
        } else if metadata.is_symlink() {
            fs::read_link(&path).unwrap().display().to_string()
        } else {
            format!("{:x}", metadata.rdev())
        };
        let link = if metadata.nlink() > 1 && !metadata.is_dir() {
            inodes.entry(metadata.ino()).or_insert_with(|| name.clone()).clone()
        } else {
            String::new()
        };
        let mut attribute = [0; 64];
        let attribute = rustix::fs::lgetxattr(&path, "user.test", &mut attribute).map_or(0, |length| length);
        all.insert(
            name,
            format!(
                "{:o} {}:{} {}.{} {contents} {link} {attribute}",
                metadata.mode(),
                metadata.uid(),
                metadata.gid(),
                metadata.mtime(),
                metadata.mtime_nsec()
            ),
        );
        if metadata.is_dir() {
            queue.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            queue.sort_by(|one, other| other.cmp(one));
        }
    }
    all
}

fn make(root: &Path) {
    fs::create_dir_all(root.join("etc/deep")).unwrap();
    fs::write(root.join("etc/file"), b"contents").unwrap();
    fs::set_permissions(root.join("etc/file"), fs::Permissions::from_mode(0o4750)).unwrap();
    rustix::fs::lsetxattr(root.join("etc/file"), "user.test", b"value", XattrFlags::empty()).unwrap();
    fs::hard_link(root.join("etc/file"), root.join("another")).unwrap();
    symlink("../nowhere", root.join("etc/link")).unwrap();
    let fifo = root.join("etc/fifo");
    rustix::fs::mknodat(CWD, fifo, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(8 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"far in", 5 << 20).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"not \xff text")), b"").unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_000_000, 123_456_789);
    fs::File::open(root.join("etc")).unwrap().set_modified(old).unwrap();
}

#[test]
fn all_kinds_of_files_arrive_as_they_were() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make(from.path());
    copy(from.path(), to.path(), None, &HashSet::new());
    assert_eq!(describe(to.path()), describe(from.path()));
    let inode = |name: &str| fs::metadata(to.path().join(name)).unwrap().ino();
    assert_eq!(inode("another"), inode("etc/file"));
}

#[test]
fn the_second_time_goes_what_has_changed() {
    let (from, to) = (tempfile::tempdir_in("/var/tmp").unwrap(), tempfile::tempdir().unwrap());
    make(from.path());
    // Older than what the clock of files cannot tell apart.
    std::thread::sleep(Duration::from_millis(60));
    let first = copy(from.path(), to.path(), None, &HashSet::new());
    let nothing = copy(from.path(), to.path(), Some(&first), &HashSet::new());
    assert_eq!((nothing.entries, nothing.bytes), (0, 0));

    fs::write(from.path().join("etc/file"), b"other").unwrap();
    fs::remove_dir_all(from.path().join("etc/deep")).unwrap();
    fs::remove_file(from.path().join("sparse")).unwrap();
    fs::create_dir(from.path().join("sparse")).unwrap();
    fs::write(from.path().join("sparse/file"), b"in the place of a file").unwrap();
    fs::remove_file(from.path().join("etc/link")).unwrap();
    fs::rename(from.path().join("etc/fifo"), from.path().join("fifo")).unwrap();
    let second = copy(from.path(), to.path(), Some(&first), &HashSet::new());
    assert_eq!(describe(to.path()), describe(from.path()));
    assert!(second.bytes < 100, "{}", second.bytes);

    let always = HashSet::from([b"sparse/file".to_vec()]);
    std::thread::sleep(Duration::from_millis(60));
    let third = copy(from.path(), to.path(), Some(&second), &HashSet::new());
    let mapped = copy(from.path(), to.path(), Some(&third), &always);
    assert_eq!(mapped.bytes, 22, "what is mapped goes whatever its times are");
}

#[test]
fn a_directory_loses_the_attributes_that_it_has_lost() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let directory = from.path().join("d");
    fs::create_dir(&directory).unwrap();
    rustix::fs::lsetxattr(&directory, "user.test", b"value", XattrFlags::empty()).unwrap();
    let first = copy(from.path(), to.path(), None, &HashSet::new());
    assert_eq!(describe(to.path()), describe(from.path()));
    rustix::fs::lremovexattr(&directory, "user.test").unwrap();
    copy(from.path(), to.path(), Some(&first), &HashSet::new());
    assert_eq!(describe(to.path()), describe(from.path()));
}

/// What a side receives that is sent these.
fn receive_all(messages: Vec<Message>, to: &Path) -> Result<Received> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    let (mut one, mut two) = runtime.block_on(async { pair() });
    let to = to.to_owned();
    let receiving = std::thread::spawn(move || begin(&mut two).and_then(|_| receive(&mut two, &to)));
    one.blocking_send(Message::TreeBegin(TreeBegin { tree: Tree::Layer.into(), round: 0 })).unwrap();
    for message in messages {
        if one.blocking_send(message).is_err() {
            break;
        }
    }
    receiving.join().unwrap()
}

fn entry(path: &[u8], kind: FileType, target: &[u8]) -> Message {
    let (path, target) = (path.to_vec(), target.to_vec());
    Message::Entry(Entry { path, target, r#type: kind.into(), mode: 0o755, ..Entry::default() })
}

#[test]
fn a_path_that_leads_out_is_refused() {
    let outside = tempfile::tempdir().unwrap();
    let to = outside.path().join("root");
    fs::create_dir(&to).unwrap();
    for path in [&b"../file"[..], b"/file", b"a/../../file", b"a//b", b"./a", b"a\0b"] {
        let refused = receive_all(vec![entry(path, FileType::Regular, b"")], &to);
        assert!(matches!(refused, Err(Error::Path(_))), "{}", String::from_utf8_lossy(path));
        let refused = receive_all(vec![Message::Removed(Removed { path: path.to_vec() })], &to);
        assert!(matches!(refused, Err(Error::Path(_))), "{}", String::from_utf8_lossy(path));
    }
    let through = vec![
        entry(b"link", FileType::Symlink, outside.path().as_os_str().as_bytes()),
        entry(b"link/file", FileType::Regular, b""),
        Message::EntryEnd(EntryEnd {}),
    ];
    assert!(receive_all(through, &to).is_err());
    let linked = vec![entry(b"link", FileType::Symlink, b".."), entry(b"hard", FileType::HardLink, b"link/victim")];
    fs::write(outside.path().join("victim"), b"").unwrap();
    assert!(receive_all(linked, &to).is_err());
    assert!(!outside.path().join("file").exists() && !to.join("hard").exists());
}

#[test]
fn a_tree_that_is_not_whole_is_refused() {
    let to = tempfile::tempdir().unwrap();
    let end = Message::TreeEnd(TreeEnd { entries: 2, bytes: 0 });
    let short = receive_all(vec![entry(b"a", FileType::Directory, b""), end], to.path());
    assert!(matches!(short, Err(Error::Unexpected { .. })));
}

#[test]
fn what_names_the_sources_disk_stays_there() {
    assert!(is_of_the_disk(OsStr::new("trusted.overlay.origin")));
    assert!(is_of_the_disk(OsStr::new("user.overlay.uuid")));
    assert!(!is_of_the_disk(OsStr::new("trusted.overlay.opaque")));
    assert!(!is_of_the_disk(OsStr::new("user.mine")));
}
