//! OCI images, made on the spot as layout archives that `ctr image import` reads: no registry is needed.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{Error, Result, Tree, artifact, programs};

/// Applets that tests use, as links to `/bin/busybox`.
const APPLETS: &[&str] = &[
    "ash",
    "awk",
    "cat",
    "chgrp",
    "chmod",
    "chown",
    "cp",
    "cut",
    "date",
    "dd",
    "df",
    "dmesg",
    "du",
    "echo",
    "env",
    "expr",
    "false",
    "find",
    "free",
    "fuser",
    "grep",
    "head",
    "hostname",
    "id",
    "ip",
    "kill",
    "killall",
    "ln",
    "ls",
    "md5sum",
    "mkdir",
    "mkfifo",
    "mknod",
    "more",
    "mount",
    "mv",
    "nc",
    "nice",
    "nproc",
    "od",
    "ping",
    "printenv",
    "printf",
    "ps",
    "pwd",
    "readlink",
    "realpath",
    "rm",
    "rmdir",
    "sed",
    "seq",
    "setsid",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "stty",
    "sync",
    "sysctl",
    "tail",
    "tee",
    "test",
    "time",
    "timeout",
    "top",
    "touch",
    "tr",
    "true",
    "tty",
    "umount",
    "uname",
    "uniq",
    "usleep",
    "vi",
    "wc",
    "which",
    "whoami",
    "xargs",
    "yes",
];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
                      user:x:1000:1000:a user:/home/user:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\ntty:x:5:\nextra:x:2000:user\nuser:x:1000:\nnogroup:x:65534:\n";

/// An image that tests run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Image {
    /// Debian's static busybox with its applets, users root, user (1000, also in extra, 2000) and nobody.
    Busybox,
    /// Busybox, and `/bin/workload`, which is the entry point.
    Workload,
    /// The workload alone, as `pause`: CRI's sandbox.
    Pause,
    /// Busybox below [`Image::LAYERS`] layers, each with one file in `/layers`.
    Layered,
    /// Redis, PostgreSQL, nginx and Python from Debian's packages, and the workload.
    Programs,
}

impl Image {
    /// So many that an overlay mount's options are longer than a page.
    pub const LAYERS: u8 = 80;

    pub fn name(&self) -> &'static str {
        match self {
            Self::Busybox => "rtc.test/busybox:latest",
            Self::Workload => "rtc.test/workload:latest",
            Self::Pause => "rtc.test/pause:latest",
            Self::Layered => "rtc.test/layered:latest",
            Self::Programs => "rtc.test/programs:latest",
        }
    }

    /// The image as an archive of an OCI layout, under a name. Busybox is taken from `tree`.
    ///
    /// # Errors
    /// When a binary that belongs into it is not there.
    pub fn archive(&self, tree: Tree, name: &str) -> Result<Vec<u8>> {
        let command = match self {
            Self::Busybox | Self::Layered => json!({ "Cmd": ["/bin/sh"] }),
            Self::Workload => json!({ "Entrypoint": ["/bin/workload"], "Cmd": ["pause"] }),
            Self::Pause => json!({ "Entrypoint": ["/bin/workload", "pause"] }),
            Self::Programs => json!({ "Cmd": ["/bin/sh"] }),
        };
        let mut layers = Vec::new();
        if let Self::Programs = self {
            let path = programs::ensure(crate::say)?;
            layers.push(fs::read(&path).map_err(Error::path("read", path))?);
        }
        layers.push(self.layer(tree)?.finish()?);
        if let Self::Layered = self {
            for number in 0..Self::LAYERS {
                layers.push(Layer::default().file(&format!("layers/{number}"), b"", 0o644)?.finish()?);
            }
        }
        layout(name, command, &layers)
    }

    /// The image's files as an archive.
    ///
    /// # Errors
    /// As [`Self::archive`].
    pub fn rootfs(&self, tree: Tree) -> Result<Vec<u8>> {
        self.layer(tree)?.finish()
    }

    fn layer(self, tree: Tree) -> Result<Layer> {
        match self {
            Self::Busybox | Self::Layered => base(tree),
            Self::Workload => base(tree)?.workload(),
            Self::Pause => Layer::default().workload(),
            Self::Programs => programs::FILES
                .iter()
                .try_fold(Layer::default(), |layer, (path, contents)| layer.file(path, contents.as_bytes(), 0o644))?
                // Its `bin` is a link.
                .binary("usr/bin/workload", &artifact::find_static(artifact::WORKLOAD)?),
        }
    }
}

/// Busybox and what a small system has.
fn base(tree: Tree) -> Result<Layer> {
    let busybox = tree.ensure(|_| ())?.join("usr/bin/busybox");
    let mut layer = Layer::default()
        .directory("dev", 0o755)?
        .directory("etc", 0o755)?
        .directory("home/user", 0o755)?
        .directory("proc", 0o555)?
        .directory("root", 0o700)?
        .directory("run", 0o755)?
        .directory("sys", 0o555)?
        .directory("tmp", 0o1777)?
        .directory("var/tmp", 0o1777)?
        .file("etc/passwd", PASSWD.as_bytes(), 0o644)?
        .file("etc/group", GROUP.as_bytes(), 0o644)?
        .binary("bin/busybox", &busybox)?;
    for applet in APPLETS {
        layer = layer.link(&format!("bin/{applet}"), "busybox")?;
    }
    Ok(layer)
}

/// One uncompressed layer in the making. All in it is root's and has the time 0: the same contents, the same digest.
struct Layer(tar::Builder<Vec<u8>>);

impl Default for Layer {
    fn default() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }
}

impl Layer {
    fn directory(self, path: &str, mode: u32) -> Result<Self> {
        self.entry(path, tar::EntryType::Directory, mode, &[])
    }

    fn file(self, path: &str, contents: &[u8], mode: u32) -> Result<Self> {
        self.entry(path, tar::EntryType::Regular, mode, contents)
    }

    fn binary(self, path: &str, from: &Path) -> Result<Self> {
        let contents = fs::read(from).map_err(Error::path("read", from))?;
        self.file(path, &contents, 0o755)
    }

    fn workload(self) -> Result<Self> {
        self.binary("bin/workload", &artifact::find_static(artifact::WORKLOAD)?)
    }

    fn entry(mut self, path: &str, kind: tar::EntryType, mode: u32, contents: &[u8]) -> Result<Self> {
        let mut header = header(kind, mode, contents.len());
        self.0.append_data(&mut header, path, contents).map_err(Error::path("archive", path))?;
        Ok(self)
    }

    fn link(mut self, path: &str, target: &str) -> Result<Self> {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        self.0.append_link(&mut header, path, target).map_err(Error::path("archive", path))?;
        Ok(self)
    }

    fn finish(self) -> Result<Vec<u8>> {
        self.0.into_inner().map_err(Error::path("archive", PathBuf::from("the end")))
    }
}

/// The archive of an image, lowest layer first.
fn layout(name: &str, mut config: Value, layers: &[Vec<u8>]) -> Result<Vec<u8>> {
    let architecture = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
    config["Env"] = json!(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]);
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|layer| digest(layer)).collect::<Vec<_>>() },
    });
    let config = config.to_string().into_bytes();
    let descriptors = layers.iter().map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar", layer));
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": descriptors.collect::<Vec<_>>(),
    });
    let manifest = manifest.to_string().into_bytes();
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["platform"] = json!({ "architecture": architecture, "os": "linux" });
    entry["annotations"] = json!({ "io.containerd.image.name": name });
    let index = json!({ "schemaVersion": 2, "manifests": [entry] });

    let mut layout = Layer::default().file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?.file(
        "index.json",
        index.to_string().as_bytes(),
        0o644,
    )?;
    for blob in layers.iter().chain([&config, &manifest]) {
        let path = format!("blobs/{}", digest(blob).replace(':', "/"));
        layout = layout.file(&path, blob, 0o644)?;
    }
    layout.finish()
}

fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(blob), "size": blob.len() })
}

fn digest(blob: &[u8]) -> String {
    let hex: String = Sha256::digest(blob).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_the_same_each_time() {
        let make = || {
            let layer = Layer::default().file("etc/passwd", PASSWD.as_bytes(), 0o644).unwrap();
            let layer = layer.link("bin/sh", "busybox").unwrap().finish().unwrap();
            layout("rtc.test/x:latest", json!({}), &[layer]).unwrap()
        };
        assert_eq!(make(), make());
    }

    #[test]
    fn blobs_are_named_by_their_digests() {
        let layers = ["one", "two"].map(|name| Layer::default().file(name, b"", 0o644).unwrap().finish().unwrap());
        let archive = layout("rtc.test/x:latest", json!({}), &layers).unwrap();
        let mut archive = tar::Archive::new(archive.as_slice());
        let mut blobs = 0;
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut contents = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut contents).unwrap();
            if let Some(name) = path.strip_prefix("blobs/sha256/") {
                assert_eq!(digest(&contents), format!("sha256:{name}"));
                blobs += 1;
            }
        }
        assert_eq!(blobs, 4);
    }
}
