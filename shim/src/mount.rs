//! The rootfs that containerd's snapshotter describes in the Create request, mounted on `<bundle>/rootfs`.
//!
//! `containerd_shim::mount` was looked at and not taken: for long options it changes the directory of whatever thread
//! calls it and ends the whole process when that fails, and it passes every propagation flag at once, which mount(2)
//! refuses.

use std::ffi::CString;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use containerd_shim_protos::types::mount::Mount;
use nix::sched::CloneFlags;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use crate::id_mapped::{Ids, Layers, layers_of, remove_layers};

/// mount(2) copies one page of options, of which the last byte is a terminator.
const MAX_DATA: usize = 4095;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("make directory {}", path.display())]
    Directory {
        path: PathBuf,
        #[source]
        err: std::io::Error,
    },
    #[error("find mount target {target:?} in {}", rootfs.display())]
    Target {
        target: String,
        rootfs: PathBuf,
        #[source]
        err: Errno,
    },
    #[error("mount {kind} {source_path:?} on {}: option {option:?} is not supported", target.display())]
    Option { kind: String, source_path: String, target: PathBuf, option: String },
    #[error("mount {kind} {source_path:?} on {}: {length} bytes of options are more than {MAX_DATA}", target.display())]
    TooLong { kind: String, source_path: String, target: PathBuf, length: usize },
    #[error("mount {kind} {source_path:?} on {} ({data:?})", target.display())]
    Mount {
        kind: String,
        source_path: String,
        target: PathBuf,
        data: String,
        #[source]
        err: Errno,
    },
    #[error("map the ids of {kind} {source_path:?} for {}", target.display())]
    Ids {
        kind: String,
        source_path: String,
        target: PathBuf,
        #[source]
        err: std::io::Error,
    },
    #[error("start a thread to mount from {}", directory.display())]
    Thread {
        directory: PathBuf,
        #[source]
        err: std::io::Error,
    },
    #[error("remove the layers in {}", path.display())]
    Layers {
        path: PathBuf,
        #[source]
        err: std::io::Error,
    },
    #[error("unmount {}", path.display())]
    Unmount {
        path: PathBuf,
        #[source]
        err: Errno,
    },
}

/// Mounts all of them in order. Blocks for as long as mount(2) does.
///
/// # Errors
/// Which mount failed and why; those before it are taken away again.
pub(crate) fn mount_all(mounts: &[Mount], rootfs: &Path) -> Result<(), Error> {
    if mounts.is_empty() {
        return Ok(());
    }
    match std::fs::DirBuilder::new().mode(0o711).create(rootfs) {
        Err(err) if err.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::Directory { path: rootfs.to_owned(), err });
        }
        _ => {}
    }
    let mounted = mounts.iter().try_for_each(|mount| mount_one(mount, rootfs));
    if mounted.is_err()
        && let Err(err) = unmount_all(rootfs)
    {
        tracing::warn!(err = crate::error::chain(&err), "roll back after a failed mount");
    }
    mounted
}

/// Unmounts whatever is mounted on `rootfs`, mounts below it included, and what a mount that was cut off has left beside it.
/// It is no error if nothing is.
///
/// # Errors
/// umount2(2)'s.
pub(crate) fn unmount_all(rootfs: &Path) -> Result<(), Error> {
    let layers = remove_layers(rootfs).map_err(|err| Error::Layers { path: layers_of(rootfs), err });
    loop {
        let unmounted = rustix::mount::unmount(rootfs, UnmountFlags::NOFOLLOW).or_else(|err| match err {
            // Mounts below it, or a file that somebody holds open: it goes when they do.
            Errno::BUSY => rustix::mount::unmount(rootfs, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH),
            err => Err(err),
        });
        match unmounted {
            // There may be another one under it.
            Ok(()) => {}
            // Not a mount point, or not there at all.
            Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => return layers,
            Err(err) => return Err(Error::Unmount { path: rootfs.to_owned(), err }),
        }
    }
}

fn mount_one(mount: &Mount, rootfs: &Path) -> Result<(), Error> {
    let options = Options::parse(&mount.options);
    if let Some(option) = options.unsupported {
        return Err(Error::Option {
            kind: mount.type_.clone(),
            source_path: mount.source.clone(),
            target: rootfs.to_owned(),
            option: option.to_owned(),
        });
    }
    let ids = Ids::new(options.uidmap, options.gidmap);
    let ids_failed = |err| Error::Ids {
        kind: mount.type_.clone(),
        source_path: mount.source.clone(),
        target: rootfs.to_owned(),
        err,
    };
    if let Some(ids) = ids {
        return match mount.type_.as_str() {
            "overlay" => {
                let layers = Layers::mount(&ids, layers_of(rootfs), &options.data).map_err(ids_failed)?;
                let Some((layers, data)) = layers else {
                    return Err(ids_failed(std::io::Error::other("an overlay without lower layers")));
                };
                Call { mount, rootfs, options: &options, data }.run_from(layers.directory())
            }
            _ => {
                let call = Call { mount, rootfs, options: &options, data: options.data.join(",") };
                let target = call.target()?;
                call.run()?;
                ids.cover(&target).map_err(ids_failed)
            }
        };
    }
    let data = options.data.join(",");
    if data.len() <= MAX_DATA {
        return Call { mount, rootfs, options: &options, data }.run();
    }
    // Overlay with many layers: from the directory that they are all in, with relative names.
    let too_long = || Error::TooLong {
        kind: mount.type_.clone(),
        source_path: mount.source.clone(),
        target: rootfs.to_owned(),
        length: data.len(),
    };
    let (directory, data) = relative_lowerdirs(&options.data).ok_or_else(too_long)?;
    if data.len() > MAX_DATA {
        return Err(too_long());
    }
    Call { mount, rootfs, options: &options, data }.run_from(&directory)
}

/// One mount(2) and what belongs to it.
struct Call<'a> {
    mount: &'a Mount,
    rootfs: &'a Path,
    options: &'a Options<'a>,
    data: String,
}

impl Call<'_> {
    /// From a thread with a working directory of its own, so that no other thread sees it change.
    fn run_from(self, directory: &Path) -> Result<(), Error> {
        let failed = |err| Error::Thread { directory: directory.to_owned(), err };
        std::thread::scope(|scope| {
            let mounting = || {
                nix::sched::unshare(CloneFlags::CLONE_FS).map_err(|err| failed(err.into()))?;
                std::env::set_current_dir(directory).map_err(failed)?;
                self.run()
            };
            let thread = std::thread::Builder::new().name("mount".into()).spawn_scoped(scope, mounting);
            match thread.map_err(failed)?.join() {
                Ok(mounted) => mounted,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    fn run(self) -> Result<(), Error> {
        let target = self.target()?;
        let failed = |err| Error::Mount {
            kind: self.mount.type_.clone(),
            source_path: self.mount.source.clone(),
            target: target.clone(),
            data: self.data.clone(),
            err,
        };
        let data = CString::new(self.data.as_str()).map_err(|_| failed(Errno::INVAL))?;
        let flags = self.options.flags;
        rustix::mount::mount(&*self.mount.source, &target, &*self.mount.type_, flags, data.as_c_str())
            .map_err(failed)?;
        // A bind ignores every other flag; they need a second call (mount(2), "Remounting").
        let extra = flags.difference(MountFlags::BIND | MountFlags::REC);
        if flags.contains(MountFlags::BIND) && !extra.is_empty() {
            rustix::mount::mount_remount(&target, MountFlags::BIND | extra, c"").map_err(failed)?;
        }
        if let Some(propagation) = self.options.propagation {
            rustix::mount::mount_change(&target, propagation).map_err(failed)?;
        }
        Ok(())
    }

    /// The rootfs, or a directory in it; a link in an image must not lead out of it.
    fn target(&self) -> Result<PathBuf, Error> {
        if self.mount.target.is_empty() {
            return Ok(self.rootfs.to_owned());
        }
        let failed = |err| Error::Target { target: self.mount.target.clone(), rootfs: self.rootfs.to_owned(), err };
        let path = OFlags::PATH | OFlags::CLOEXEC;
        let root = rustix::fs::open(self.rootfs, path | OFlags::DIRECTORY, Mode::empty()).map_err(failed)?;
        let found = rustix::fs::openat2(&root, &*self.mount.target, path, Mode::empty(), ResolveFlags::IN_ROOT)
            .map_err(failed)?;
        let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&found));
        std::fs::read_link(link).map_err(|_| failed(Errno::NOENT))
    }
}

/// fstab's options taken apart: flags for the kernel, and what the file system itself reads.
#[derive(Debug)]
struct Options<'a> {
    flags: MountFlags,
    propagation: Option<MountPropagationFlags>,
    data: Vec<&'a str>,
    /// Of the user namespace that the rootfs is for.
    uidmap: Option<&'a str>,
    gidmap: Option<&'a str>,
    unsupported: Option<&'a str>,
}

impl<'a> Options<'a> {
    fn parse(options: &'a [String]) -> Self {
        let (flags, propagation) = (MountFlags::empty(), None);
        let mut parsed = Self { flags, propagation, data: Vec::new(), uidmap: None, gidmap: None, unsupported: None };
        for option in options {
            parsed.add(option);
        }
        parsed
    }

    fn add(&mut self, option: &'a str) {
        let set = match option {
            "defaults" => MountFlags::empty(),
            "bind" => MountFlags::BIND,
            "rbind" => MountFlags::BIND | MountFlags::REC,
            "dirsync" => MountFlags::DIRSYNC,
            "noatime" => MountFlags::NOATIME,
            "nodev" => MountFlags::NODEV,
            "nodiratime" => MountFlags::NODIRATIME,
            "noexec" => MountFlags::NOEXEC,
            "nosuid" => MountFlags::NOSUID,
            "relatime" => MountFlags::RELATIME,
            "ro" => MountFlags::RDONLY,
            "strictatime" => MountFlags::STRICTATIME,
            "sync" => MountFlags::SYNCHRONOUS,
            "mand" => MountFlags::PERMIT_MANDATORY_FILE_LOCKING,
            _ => return self.clear_or_pass(option),
        };
        self.flags |= set;
    }

    fn clear_or_pass(&mut self, option: &'a str) {
        use MountPropagationFlags as Propagation;
        let clear = match option {
            "async" => MountFlags::SYNCHRONOUS,
            "atime" => MountFlags::NOATIME,
            "dev" => MountFlags::NODEV,
            "diratime" => MountFlags::NODIRATIME,
            "exec" => MountFlags::NOEXEC,
            "nomand" => MountFlags::PERMIT_MANDATORY_FILE_LOCKING,
            "norelatime" => MountFlags::RELATIME,
            "nostrictatime" => MountFlags::STRICTATIME,
            "rw" => MountFlags::RDONLY,
            "suid" => MountFlags::NOSUID,
            "private" => return self.propagation = Some(Propagation::PRIVATE),
            "rprivate" => return self.propagation = Some(Propagation::PRIVATE | Propagation::REC),
            "shared" => return self.propagation = Some(Propagation::SHARED),
            "rshared" => return self.propagation = Some(Propagation::SHARED | Propagation::REC),
            "slave" => return self.propagation = Some(Propagation::DOWNSTREAM),
            "rslave" => return self.propagation = Some(Propagation::DOWNSTREAM | Propagation::REC),
            "unbindable" => return self.propagation = Some(Propagation::UNBINDABLE),
            "runbindable" => return self.propagation = Some(Propagation::UNBINDABLE | Propagation::REC),
            // A loop device would have to be made, and outlive the shim.
            "loop" => return self.unsupported = Some(option),
            other => {
                match other.split_once('=') {
                    Some(("uidmap", map)) => self.uidmap = Some(map),
                    Some(("gidmap", map)) => self.gidmap = Some(map),
                    _ => self.data.push(other),
                }
                return;
            }
        };
        self.flags = self.flags.difference(clear);
    }
}

/// The directory that all lower layers are in, and the options with their names relative to it. Of a list that is given
/// twice the kernel takes the last.
fn relative_lowerdirs(data: &[&str]) -> Option<(PathBuf, String)> {
    const LOWERDIR: &str = "lowerdir=";
    let lowerdirs: Vec<&str> = data.iter().rev().find_map(|option| option.strip_prefix(LOWERDIR))?.split(':').collect();
    let first = lowerdirs.first()?;
    let common = lowerdirs.iter().fold(first.len(), |length, other| {
        let same = first.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
        length.min(same)
    });
    let directory = &first[..=first.get(..common)?.rfind('/')?];
    let relative: Vec<&str> = lowerdirs.iter().map(|path| &path[directory.len()..]).collect();
    if relative.iter().any(|name| name.is_empty()) {
        return None;
    }
    let options: Vec<String> = data
        .iter()
        .map(|option| match option.starts_with(LOWERDIR) {
            true => format!("{LOWERDIR}{}", relative.join(":")),
            false => (*option).to_owned(),
        })
        .collect();
    Some((PathBuf::from(directory), options.join(",")))
}

/// The options of a mount, one a line.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(text: &str) {
    let given: Vec<String> = text.lines().map(str::to_owned).collect();
    let options = Options::parse(&given);
    Ids::new(options.uidmap, options.gidmap);
    if let Some((directory, data)) = relative_lowerdirs(&options.data) {
        assert!(text.contains(&*directory.to_string_lossy()), "{directory:?}");
        let lists = given.iter().filter(|option| option.starts_with("lowerdir=")).count();
        assert!(lists > 1 || data.len() <= text.len(), "{data:?} is longer than what was given");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(options: &[&str]) -> Vec<String> {
        options.iter().map(|option| (*option).to_owned()).collect()
    }

    #[test]
    fn flags_and_data_are_told_apart() {
        let options = strings(&["rbind", "ro", "nosuid", "suid", "rprivate", "size=1m", "index=off"]);
        let parsed = Options::parse(&options);
        assert_eq!(parsed.flags, MountFlags::BIND | MountFlags::REC | MountFlags::RDONLY);
        assert_eq!(parsed.propagation, Some(MountPropagationFlags::PRIVATE | MountPropagationFlags::REC));
        assert_eq!(parsed.data, ["size=1m", "index=off"]);
        assert!(parsed.unsupported.is_none());
    }

    #[test]
    fn a_later_option_undoes_an_earlier() {
        let options = strings(&["ro", "noexec", "rw", "exec", "defaults"]);
        assert_eq!(Options::parse(&options).flags, MountFlags::empty());
    }

    #[test]
    fn many_layers_become_relative() {
        let data = ["index=off", "workdir=/v/snapshots/9/work", "lowerdir=/v/snapshots/21/fs:/v/snapshots/2/fs"];
        let (directory, data) = relative_lowerdirs(&data).unwrap();
        assert_eq!(directory, Path::new("/v/snapshots/"));
        assert_eq!(data, "index=off,workdir=/v/snapshots/9/work,lowerdir=21/fs:2/fs");
    }

    #[test]
    fn of_two_lists_of_layers_the_last_counts() {
        let (directory, options) = relative_lowerdirs(&["lowerdir=/x/1", "lowerdir=/s/2/fs:/s/1/fs"]).unwrap();
        assert_eq!(directory, Path::new("/s/"));
        assert!(options.ends_with(",lowerdir=2/fs:1/fs"), "{options}");
    }

    #[test]
    fn a_directory_that_is_the_prefix_of_another_stays_whole() {
        let (directory, data) = relative_lowerdirs(&["lowerdir=/a/b/fs:/a/b/fs2:/a/b/fs"]).unwrap();
        assert_eq!((directory.as_path(), data.as_str()), (Path::new("/a/b/"), "lowerdir=fs:fs2:fs"));
    }

    #[test]
    fn options_without_layers_stay_as_long_as_they_are() {
        assert!(relative_lowerdirs(&["upperdir=/u"]).is_none());
    }

    /// In a mount namespace of its own, in a process of its own.
    #[test]
    fn the_layers_have_the_ids_of_the_user_namespace() {
        const INSIDE: &str = "RTC_TEST_ID_MAPPED";
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: mounting needs root");
            return;
        }
        if std::env::var_os(INSIDE).is_none() {
            let output = std::process::Command::new("unshare")
                .args(["--mount", "--propagation", "private"])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", "mount::tests::the_layers_have_the_ids_of_the_user_namespace", "--nocapture"])
                .env(INSIDE, "1")
                .output()
                .unwrap();
            let text =
                format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success() && text.contains("1 passed"), "{text}");
            return;
        }
        use std::os::unix::fs::MetadataExt;
        let bundle = tempfile::tempdir().unwrap();
        let (base, rootfs) = (bundle.path().join("base"), bundle.path().join("rootfs"));
        // Not on an overlay, which could not have another as its upper layer.
        std::fs::create_dir(&base).unwrap();
        rustix::mount::mount("tmpfs", &base, "tmpfs", MountFlags::empty(), None).unwrap();
        let path = |name: &str| base.join(name).display().to_string();
        for name in ["a", "b", "upper", "work"] {
            std::fs::create_dir(base.join(name)).unwrap();
            std::fs::write(base.join(name).join(name), "").unwrap();
        }
        std::fs::remove_file(base.join("work/work")).unwrap();
        std::os::unix::fs::chown(base.join("b/b"), Some(7), Some(8)).unwrap();
        let ids = |path: PathBuf| std::fs::metadata(path).map(|file| (file.uid(), file.gid())).unwrap();
        let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
        let before = mounts();
        let maps = ["uidmap=0:100000:65536", "gidmap=0:200000:65536"].map(str::to_owned);
        let mut overlay = Mount { type_: "overlay".into(), source: "overlay".into(), ..Mount::default() };
        overlay.options = [
            format!("lowerdir={}:{}", path("a"), path("b")),
            format!("upperdir={}", path("upper")),
            format!("workdir={}", path("work")),
        ]
        .into_iter()
        .chain(maps.clone())
        .collect();
        mount_all(&[overlay], &rootfs).unwrap();
        assert_eq!(ids(rootfs.join("a")), (100_000, 200_000));
        assert_eq!(ids(rootfs.join("b")), (100_007, 200_008));
        // The upper layer is the container's own already.
        assert_eq!(ids(rootfs.join("upper")), (0, 0));
        assert_eq!(mounts(), before + 1);
        assert!(!bundle.path().join("rootfs.layers").exists());
        unmount_all(&rootfs).unwrap();

        let mut bind = Mount { type_: "bind".into(), source: path("b"), ..Mount::default() };
        bind.options = ["rbind".to_owned(), "ro".to_owned()].into_iter().chain(maps).collect();
        mount_all(&[bind], &rootfs).unwrap();
        assert_eq!(ids(rootfs.join("b")), (100_007, 200_008));
        assert!(std::fs::write(rootfs.join("new"), "").is_err());
        unmount_all(&rootfs).unwrap();
        assert_eq!(mounts(), before);

        // A shim that is killed leaves its layers: they cannot be written, and go with the rest.
        let ids = Ids::new(Some("0:1:1"), Some("0:1:1")).unwrap();
        let lowerdir = format!("lowerdir={}:{}", path("a"), path("b"));
        let (layers, _) = Layers::mount(&ids, layers_of(&rootfs), &[&lowerdir]).unwrap().unwrap();
        std::mem::forget(layers);
        assert_eq!(mounts(), before + 2);
        let left = std::fs::remove_file(layers_of(&rootfs).join("0/a")).unwrap_err();
        assert_eq!(left.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        std::fs::create_dir(layers_of(&rootfs).join("2")).unwrap();
        unmount_all(&rootfs).unwrap();
        assert_eq!(mounts(), before);
        assert!(base.join("a/a").exists() && !layers_of(&rootfs).exists());
    }

    #[test]
    fn nothing_mounted_is_nothing_to_unmount() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: umount2(2) needs root to say that nothing is mounted");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        unmount_all(directory.path()).unwrap();
        unmount_all(&directory.path().join("gone")).unwrap();
    }
}
