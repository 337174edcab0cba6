//! The machines' disks: ext4 images, made from directories without a mount.
//!
//! The first has a node's root tree, the kernel's modules and the machine's init, and is cached as
//! `$RTC_CACHE/vm/SUITE-HASH`; machines share it and write to a layer of their own. The second has what a test brings.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::emulator::Emulator;
use crate::tree::complete;
use crate::{Error, Result, Tree, cache};

/// Files of the image that the tree does not have, with their mode.
const FILES: &[(&str, u32, &str)] = &[
    ("usr/lib/rtc-vm/init", 0o755, include_str!("init.sh")),
    ("usr/lib/rtc-vm/common", 0o644, include_str!("common.sh")),
    // For systemd as PID 1: this target, and nothing else that it would start.
    ("etc/systemd/system/rtc-vm.target", 0o644, include_str!("systemd/rtc-vm.target")),
    ("etc/systemd/system/rtc-vm-agent.service", 0o644, include_str!("systemd/rtc-vm-agent.service")),
    ("etc/systemd/system/dbus.socket", 0o644, include_str!("systemd/dbus.socket")),
    ("etc/systemd/system/dbus.service", 0o644, include_str!("systemd/dbus.service")),
];

/// What a root disk holds at most, in MiB. Only what is used takes room.
const ROOT_MIB: u64 = 3072;

/// The root disk of a suite, made when it is missing: some seconds and 600 MB, beside what it is made from.
pub(super) fn ensure_root(tree: Tree, emulator: &Emulator, progress: &dyn Fn(&str)) -> Result<PathBuf> {
    let (tree_path, emulator_path) = (tree.path(), Emulator::path());
    let mut words = vec!["1".to_owned(), tree_path.display().to_string(), emulator_path.display().to_string()];
    words.extend(FILES.iter().map(|(path, mode, text)| format!("{path} {mode:o} {text}")));
    let name = format!("{}-{}", tree.suite(), cache::hash(words.iter().map(String::as_str)));
    let path = cache::directory().join("vm").join(name);
    cache::ensure(&path, |partial| {
        let tree = tree.ensure(progress)?;
        // Links to the tree's files: beside them, for links do not leave a file system.
        let stage = partial.with_extension("stage");
        cache::remove(&stage)?;
        let made = lay_out(&stage, &tree, emulator).and_then(|()| make(emulator, &stage, partial, ROOT_MIB));
        cache::remove(&stage)?;
        made
    })?;
    Ok(path)
}

fn lay_out(stage: &Path, tree: &Path, emulator: &Emulator) -> Result<()> {
    link_all(tree, stage)?;
    link_all(&emulator.modules(), &stage.join("usr/lib/modules"))?;
    for (path, mode, text) in FILES {
        let path = stage.join(path);
        make_parent(&path)?;
        // New, or it would be the tree's file that is written.
        let opened = OpenOptions::new().write(true).create_new(true).mode(*mode).open(&path);
        opened.and_then(|mut file| file.write_all(text.as_bytes())).map_err(Error::path("write", &path))?;
    }
    let mount_point = stage.join("opt/rtc");
    fs::create_dir_all(&mount_point).map_err(Error::path("create", mount_point))
}

/// A copy of a directory whose files are links to the same files.
fn link_all(from: &Path, to: &Path) -> Result<()> {
    complete("cp --link", Command::new("cp").args(["--archive", "--link", "--no-target-directory"]).args([from, to]))
}

/// Makes a disk of `mib` MiB from a directory. Both are paths of the host.
pub(super) fn make(emulator: &Emulator, directory: &Path, disk: &Path, mib: u64) -> Result<()> {
    let mut command = emulator.command(Path::new("/"));
    command.args(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=1", "-F", "-d"]);
    // Relative to the host's root, which is where the command runs.
    let relative = [directory, disk].map(|path| path.strip_prefix("/").unwrap_or(path).to_owned());
    complete(&format!("make a disk of {}", directory.display()), command.args(relative).arg(format!("{mib}M")))
}

/// Puts a file where the second disk is made from, as a link if that can be.
pub(super) fn lay(file: &Path, to: &Path) -> Result<()> {
    make_parent(to)?;
    // Another file system has to have a copy.
    if fs::hard_link(file, to).is_ok() {
        return Ok(());
    }
    fs::copy(file, to).map(drop).map_err(Error::path("copy", file))
}

/// A size that all files below a directory fit into, in MiB.
pub(super) fn size_mib(directory: &Path) -> u64 {
    fn bytes(directory: &Path) -> u64 {
        let Ok(entries) = fs::read_dir(directory) else { return 0 };
        let sizes = entries.flatten().map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        });
        sizes.sum()
    }
    16 + (bytes(directory) >> 20) * 5 / 4
}

fn make_parent(path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    fs::create_dir_all(parent).map_err(Error::path("create", parent))
}
