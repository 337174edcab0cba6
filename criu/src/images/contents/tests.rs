//! On image files that are made here, whole and damaged.

use std::fs;

use prost::Message;
use proto::criu::images::{
    CoreEntry, CredsEntry, FdinfoEntry, FileEntry, InetSkEntry, InventoryEntry, MmEntry, MntEntry, PagemapEntry,
    PagemapHead, PipeDataEntry, PipeEntry, PstreeEntry, RegFileEntry, RemapFilePathEntry, TaskCoreEntry,
    TaskKobjIdsEntry, TcpStreamEntry, ThreadCoreEntry, VmaEntry,
};

use super::super::image::COMMON;
use super::super::tests::image;
use super::*;

fn write(dir: &Path, name: &str, magic: u32, entries: &[Vec<u8>]) {
    fs::write(dir.join(name), image(&[COMMON, magic], entries)).unwrap();
}

fn core(name: &[u8], state: u32, files: u32) -> Vec<u8> {
    CoreEntry {
        tc: Some(TaskCoreEntry { task_state: state, exit_code: 0, comm: name.to_vec() }),
        ids: Some(TaskKobjIdsEntry { files_id: files, pid_ns_id: Some(3), net_ns_id: Some(9), ..Default::default() }),
        thread_core: Some(ThreadCoreEntry {
            creds: Some(CredsEntry { uid: 33, gid: 34 }),
            seccomp_mode: Some(2),
            comm: Some(name.to_vec()),
        }),
    }
    .encode_to_vec()
}

fn files() -> Vec<Vec<u8>> {
    let page = FileEntry { r#type: 1, id: 1, reg: Some(regular("/bin/app")), ..Default::default() };
    let gone = FileEntry { r#type: 1, id: 2, reg: Some(regular("/tmp/gone\x1b[2J")), ..Default::default() };
    let pipe = PipeEntry { pipe_id: 77, flags: 1 };
    let pipe = FileEntry { r#type: 2, id: 3, pipe: Some(pipe), ..Default::default() };
    let socket = InetSkEntry {
        ino: 0x1a,
        family: 2,
        r#type: 1,
        proto: 6,
        state: 1,
        src_port: 80,
        dst_port: 9,
        src_addr: vec![u32::from_ne_bytes([10, 0, 0, 1])],
        dst_addr: vec![u32::from_ne_bytes([10, 0, 0, 2])],
    };
    let socket = FileEntry { r#type: 4, id: 4, isk: Some(socket), ..Default::default() };
    let newer = FileEntry { r#type: 99, id: 5, ..Default::default() };
    [page, gone, pipe, socket, newer].map(|entry| entry.encode_to_vec()).to_vec()
}

fn regular(name: &str) -> RegFileEntry {
    RegFileEntry { flags: 2, pos: 5, name: name.as_bytes().to_vec(), size: Some(6), ext: None }
}

/// A process with a thread and memory of two kinds, and a zombie.
fn checkpoint() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    let inventory = InventoryEntry { img_version: 2, ..Default::default() }.encode_to_vec();
    fs::write(dir.join("inventory.img"), image(&[super::super::INVENTORY], &[inventory])).unwrap();
    let tree = [
        PstreeEntry { pid: 1, ppid: 0, pgid: 1, sid: 1, threads: vec![1, 4] },
        PstreeEntry { pid: 7, ppid: 1, pgid: 7, sid: 1, threads: vec![4_000_000_000] },
    ];
    write(dir, "pstree.img", super::super::PSTREE, &tree.map(|entry| entry.encode_to_vec()));
    write(dir, "core-1.img", super::super::CORE, &[core(b"app", 1, 5)]);
    write(dir, "core-4.img", super::super::CORE, &[core(b"worker\xff", 1, 5)]);
    write(dir, "core-7.img", super::super::CORE, &[core(b"dead", 2, 6)]);
    let page = super::super::pagemap::page_size();
    let area = |start, pages, status| VmaEntry { start, end: start + pages * page, shmid: 0, status };
    let mm = MmEntry {
        mm_arg_start: 2 * page + 3,
        mm_arg_end: 2 * page + 12,
        exe_file_id: 1,
        vmas: vec![area(page, 4, 1 | 1 << 9), area(8 * page, 1, 1 | 1 << 6)],
    };
    write(dir, "mm-1.img", 0x5749_2820, &[mm.encode_to_vec()]);
    let run = |vaddr, nr_pages| PagemapEntry { vaddr, nr_pages: Some(nr_pages), flags: Some(4), ..Default::default() };
    let map = [run(2 * page, 2).encode_to_vec(), run(8 * page, 1).encode_to_vec()];
    write(
        dir,
        "pagemap-1.img",
        0x5608_4025,
        &[vec![PagemapHead { pages_id: 1 }.encode_to_vec()], map.to_vec()].concat(),
    );
    let mut pages = vec![0; 3 * usize::try_from(page).unwrap()];
    pages[3..12].copy_from_slice(b"app\0--now");
    fs::write(dir.join("pages-1.img"), pages).unwrap();
    let fds = [(0, 1), (1, 3), (2, 2), (3, 4), (4, 5), (5, 42)];
    let fds = fds.map(|(fd, id)| FdinfoEntry { id, flags: 0, r#type: 1, fd }.encode_to_vec());
    write(dir, "fdinfo-5.img", 0x5621_3732, &fds);
    write(dir, "files.img", 0x5630_3138, &files());
    let remap = RemapFilePathEntry { orig_id: 2, remap_type: Some(1) };
    write(dir, "remap-fpath.img", 0x5913_3954, &[remap.encode_to_vec()]);
    let mut data = image(&[COMMON, 0x5645_3709], &[PipeDataEntry { pipe_id: 77, bytes: 5 }.encode_to_vec()]);
    data.extend(b"hello");
    fs::write(dir.join("pipes-data.img"), data).unwrap();
    write(dir, "tcp-stream-1a.img", 0x5146_5506, &[TcpStreamEntry { inq_len: 3, outq_len: 4 }.encode_to_vec()]);
    let mount = |point: &str, key: Option<&str>| MntEntry {
        fstype: 5,
        mountpoint: point.as_bytes().to_vec(),
        root: b"/".to_vec(),
        ext_key: key.map(|key| key.as_bytes().to_vec()),
        ..Default::default()
    };
    let mounts = [mount("./", None).encode_to_vec(), mount("./data", Some("/data")).encode_to_vec()];
    write(dir, "mountpoints-12.img", 0x5556_3928, &mounts);
    fs::write(dir.join("netns-9.img"), "").unwrap();
    directory
}

#[test]
fn processes_memory_and_files_are_told() {
    let dir = checkpoint();
    let contents = Contents::read(dir.path()).unwrap();
    assert_eq!(contents.problems, []);
    assert_eq!(
        (contents.kind, contents.image_format, contents.namespaces.as_slice()),
        (Kind::Checkpoint, Some(2), &["net", "pid"][..])
    );
    let [root, zombie] = contents.processes.as_slice() else { panic!("{contents:?}") };
    assert_eq!((root.name.as_deref(), root.uid, root.gid, root.seccomp), (Some("app"), Some(33), Some(34), true));
    assert_eq!(root.executable.as_deref(), Some("/bin/app"));
    assert_eq!(root.arguments.as_deref(), Some(&["app".to_owned(), "--now".to_owned()][..]));
    assert_eq!(root.threads[1], Thread { tid: 4, name: Some("worker\u{fffd}".to_owned()) });
    assert_eq!((zombie.state, zombie.threads[0].tid, zombie.files.len()), (ProcessState::Zombie, 7, 0));
    let page = super::super::pagemap::page_size();
    let anonymous = Amount { mapped: 4 * page, stored: 2 * page, ..Amount::default() };
    let file = Amount { mapped: page, stored: page, ..Amount::default() };
    assert_eq!(root.memory, Memory { anonymous, file, ..Memory::default() });

    let kinds: Vec<_> = root.files.iter().map(|open| &open.file).collect();
    assert!(
        matches!(kinds[0], File::Regular { path, access: Access::ReadWrite, position: 5, deleted: false, .. } if path == "/bin/app")
    );
    assert_eq!(*kinds[1], File::Pipe { id: 77, access: Access::Write, unread: 5 });
    assert!(matches!(kinds[2], File::Regular { deleted: true, .. }));
    let File::Socket { state, local, remote: Some(remote), unread: 3, unsent: 4, .. } = kinds[3] else {
        panic!("{kinds:?}")
    };
    assert_eq!(
        (*state, local.to_string(), remote.to_string()),
        (SocketState::Established, "10.0.0.1:80".into(), "10.0.0.2:9".into())
    );
    assert_eq!((kinds[4], kinds[5]), (&File::Unknown { number: 99 }, &File::Unknown { number: 1 }));

    let mounts: Vec<_> = contents.mounts.iter().map(|mount| (mount.path.as_str(), mount.external.as_deref())).collect();
    assert_eq!(mounts, [("/", None), ("/data", Some("/data"))]);
    assert_eq!((contents.sizes[0].kind.as_str(), contents.sizes[0].bytes), ("pages", 3 * page));
}

#[test]
fn what_is_damaged_is_told_with_its_place_and_the_rest_is_shown() {
    let dir = checkpoint();
    let path = dir.path().join("core-4.img");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    fs::remove_file(dir.path().join("files.img")).unwrap();
    let contents = Contents::read(dir.path()).unwrap();
    let problem = |file: &str, offset, reason: &str| Problem { file: Some(file.into()), offset, reason: reason.into() };
    assert_eq!(
        contents.problems,
        [
            problem("files.img", None, "it is missing"),
            problem("core-4.img", Some(8), "it ends in the middle of an entry"),
        ]
    );
    assert_eq!(contents.processes[0].name.as_deref(), Some("app"));
    assert_eq!(contents.mounts.len(), 2);
}

/// Neither a panic nor an absurd amount of memory, whatever is flipped or cut off.
#[test]
fn no_damage_panics() {
    let dir = checkpoint();
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    for path in names.iter().filter(|path| !path.ends_with("pages-1.img")) {
        let whole = fs::read(path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x81;
            // Cut off as well, at every place in turn.
            bytes.truncate(if at % 2 == 0 { whole.len() } else { at });
            fs::write(path, &bytes).unwrap();
            Contents::read(dir.path()).unwrap();
        }
        fs::write(path, whole).unwrap();
    }
}

#[test]
fn a_fifo_is_not_waited_at_and_a_circle_of_parents_ends() {
    let dir = checkpoint();
    fs::remove_file(dir.path().join("pstree.img")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("pstree.img"), 0o600.into()).unwrap();
    std::os::unix::fs::symlink(".", dir.path().join("parent")).unwrap();
    let contents = Contents::read(dir.path()).unwrap();
    assert_eq!(contents.problems[0].reason, "it is no regular file");
    assert_eq!(contents.parents.len(), 1);
}

#[test]
fn a_pre_dump_has_memory_alone() {
    let dir = checkpoint();
    for entry in fs::read_dir(dir.path()).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if !["inventory.img", "pagemap-1.img", "pages-1.img"].contains(&name.as_str()) {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    let inventory = InventoryEntry { img_version: 0, ..Default::default() }.encode_to_vec();
    fs::write(dir.path().join("inventory.img"), image(&[super::super::INVENTORY], &[inventory])).unwrap();
    let contents = Contents::read(dir.path()).unwrap();
    assert_eq!(contents.image_format, None);
    assert_eq!((contents.kind, contents.processes.len(), contents.problems.len()), (Kind::PreDump, 1, 0));
    assert_eq!(contents.memory().other.stored, 3 * super::super::pagemap::page_size());
}

#[test]
fn a_thousand_problems_are_a_hundred() {
    let dir = checkpoint();
    let tree = PstreeEntry { pid: 1, ppid: 0, pgid: 1, sid: 1, threads: (100..100_000).collect() };
    write(dir.path(), "pstree.img", super::super::PSTREE, &[tree.encode_to_vec()]);
    assert_eq!(Contents::read(dir.path()).unwrap().problems.len(), 101);
}

#[test]
fn another_directory_is_no_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("notes.txt"), "").unwrap();
    assert!(matches!(Contents::read(dir.path()), Err(crate_error::Error::Images { err: Error::Missing { .. }, .. })));
}
