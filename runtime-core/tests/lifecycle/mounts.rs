//! Mounts with ids, attributes and propagation of their own.

use std::path::Path;

use runtime_core::ErrorKind;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bundle::{Bundle, chain};
use crate::namespaces::user_namespace;

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("idmap_gives_a_mount_other_ids", idmap_gives_a_mount_other_ids),
    ("ridmap_reaches_the_mounts_below", ridmap_reaches_the_mounts_below),
    ("idmap_takes_the_ids_of_the_user_namespace", idmap_takes_the_ids_of_the_user_namespace),
    ("idmap_takes_the_ids_of_a_joined_user_namespace", idmap_takes_the_ids_of_a_joined_user_namespace),
    ("an_idmap_that_cannot_be_is_refused", an_idmap_that_cannot_be_is_refused),
    ("a_source_that_the_users_root_cannot_reach_is_mounted", a_source_that_the_users_root_cannot_reach_is_mounted),
    ("recursive_attributes_reach_the_mounts_below", recursive_attributes_reach_the_mounts_below),
    ("the_root_has_the_propagation_of_the_spec", the_root_has_the_propagation_of_the_spec),
    ("a_slave_mount_sees_the_host_and_is_not_seen", a_slave_mount_sees_the_host_and_is_not_seen),
    ("mounts_are_made_in_their_order", mounts_are_made_in_their_order),
    ("an_earlier_mount_is_the_source_of_a_later", an_earlier_mount_is_the_source_of_a_later),
    ("the_hosts_path_of_the_root_is_the_root", the_hosts_path_of_the_root_is_the_root),
];

/// A directory with the file `f` of user 7, and below it a tmpfs with another. The rootfs of a container is on the same
/// filesystem, which can be id-mapped where the tests run.
struct Volume(TempDir);

impl Volume {
    fn new() -> Self {
        let volume = Self(tempfile::tempdir_in("/tmp").unwrap());
        own(volume.path(), "f");
        std::fs::create_dir(volume.path().join("sub")).unwrap();
        rustix::mount::mount("tmpfs", volume.path().join("sub"), "tmpfs", MountFlags::empty(), None).unwrap();
        own(&volume.path().join("sub"), "f");
        volume
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        rustix::mount::unmount(self.path().join("sub"), UnmountFlags::DETACH).ok();
    }
}

fn own(dir: &Path, name: &str) {
    std::fs::write(dir.join(name), "text").unwrap();
    std::os::unix::fs::chown(dir.join(name), Some(7), Some(8)).unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn bundle(script: &str, source: &Path, options: &[&str], more: &Value) -> Bundle {
    let mut bundle = Bundle::new(script);
    let mut mount = json!({"destination": "/m", "type": "bind", "source": source, "options": options});
    mount.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    bundle.spec["mounts"].as_array_mut().unwrap().push(mount);
    bundle
}

/// Users 0 to 99 become 5000 and on, groups 6000 and on.
fn maps() -> Value {
    let map = |host| json!([{"containerID": 0, "hostID": host, "size": 50}, {"containerID": 50, "hostID": host + 50, "size": 50}]);
    json!({"uidMappings": map(5000), "gidMappings": map(6000)})
}

const LOOK: &str = "stat -c %u:%g /m/f /m/sub/f";

fn idmap_gives_a_mount_other_ids() {
    let volume = Volume::new();
    // Mappings alone say so too.
    for options in [&["rbind", "idmap"][..], &["rbind"]] {
        let made = "mkdir /m/made; stat -c %u:%g /m/made";
        let (_, output) = bundle(&format!("{LOOK}; {made}"), volume.path(), options, &maps()).run();
        // Root is none of the users that the mount has ids for, and may not make anything there.
        assert!(output.starts_with("5007:6008\n7:8\n"), "{options:?}: {output}");
        assert!(output.contains("Value too large"), "{output}");
    }
    let mut user = bundle("echo x > /m/open/made", volume.path(), &["rbind", "idmap"], &maps());
    std::fs::create_dir(volume.path().join("open")).unwrap();
    std::os::unix::fs::chown(volume.path().join("open"), Some(7), Some(8)).unwrap();
    user.spec["process"]["user"] = json!({"uid": 5007, "gid": 6008});
    assert_eq!(user.run(), (0, String::new()));
    use std::os::unix::fs::MetadataExt;
    let made = std::fs::metadata(volume.path().join("open/made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (7, 8));
}

fn ridmap_reaches_the_mounts_below() {
    let volume = Volume::new();
    let (_, output) = bundle(LOOK, volume.path(), &["rbind", "ridmap"], &maps()).run();
    assert_eq!(output, "5007:6008\n5007:6008");
}

fn idmap_takes_the_ids_of_the_user_namespace() {
    let volume = Volume::new();
    for (option, below) in [("idmap", "65534:65534"), ("ridmap", "7:8")] {
        let mut bundle = bundle(LOOK, volume.path(), &["rbind", option], &json!({}));
        user_namespace(&mut bundle);
        let (_, output) = bundle.run();
        assert_eq!(output, format!("7:8\n{below}"), "{option}");
    }
}

fn idmap_takes_the_ids_of_a_joined_user_namespace() {
    let volume = Volume::new();
    let mut pod = Bundle::new("exec sleep 60");
    user_namespace(&mut pod);
    let (sandbox, running) = pod.create_as("pod").unwrap_or_else(|err| panic!("{}", chain(&err)));
    sandbox.start().unwrap();
    let mut member = bundle(LOOK, volume.path(), &["rbind", "ridmap"], &json!({}));
    user_namespace(&mut member);
    member.spec["linux"].as_object_mut().unwrap().retain(|key, _| !key.ends_with("Mappings"));
    for namespace in member.spec["linux"]["namespaces"].as_array_mut().unwrap() {
        if namespace["type"] == "user" {
            namespace["path"] = format!("/proc/{}/ns/user", running.started.child.pid).into();
        }
    }
    let (container, process) = member.create().unwrap_or_else(|err| panic!("{}", chain(&err)));
    container.start().unwrap();
    assert_eq!(process.finish(), (0, "7:8\n7:8".to_owned()));
    container.delete(false).unwrap();
    sandbox.delete(true).unwrap();
    running.finish();
    pod.assert_nothing_left();
}

fn an_idmap_that_cannot_be_is_refused() {
    let volume = Volume::new();
    let one = json!({"uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]});
    let cases = [
        (bundle("true", volume.path(), &["bind", "idmap"], &json!({})), "needs a user namespace"),
        (bundle("true", volume.path(), &["bind", "idmap"], &one), "must be given together"),
        (bundle("true", Path::new("tmpfs"), &["idmap"], &maps()), "only bind mounts"),
    ];
    for (mut case, text) in cases {
        if text == "only bind mounts" {
            let mounts = case.spec["mounts"].as_array_mut().unwrap();
            mounts.last_mut().unwrap()["type"] = "tmpfs".into();
        }
        let (kind, refused) = case.refusal();
        assert_eq!(kind, ErrorKind::InvalidArgument, "{refused}");
        assert!(refused.contains(text), "{refused}");
    }
    // A filesystem that has no ids to map.
    let (kind, refused) = bundle("true", Path::new("/proc/self"), &["bind", "idmap"], &maps()).refusal();
    assert_eq!(kind, ErrorKind::Unimplemented, "{refused}");
    assert!(refused.contains("map the ids of /proc/self for its mount on /m"), "{refused}");
}

fn a_source_that_the_users_root_cannot_reach_is_mounted() {
    use std::os::unix::fs::PermissionsExt;
    let closed = tempfile::tempdir_in("/tmp").unwrap();
    let source = closed.path().join("deep");
    std::fs::create_dir(&source).unwrap();
    own(&source, "f");
    std::fs::set_permissions(closed.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    for source in [source.clone(), source.join("f")] {
        let mut bundle = bundle("cat /m/f /m 2> /dev/null; true", &source, &["bind", "ro"], &json!({}));
        user_namespace(&mut bundle);
        assert_eq!(bundle.run(), (0, "text".to_owned()), "{}", source.display());
    }
}

fn recursive_attributes_reach_the_mounts_below() {
    let volume = Volume::new();
    let flags = |options: &[&str]| {
        let (code, output) =
            bundle("grep ' /m' /proc/self/mounts | cut -d' ' -f2,4", volume.path(), options, &json!({})).run();
        assert_eq!(code, 0, "{output}");
        let line = |path| output.lines().find_map(|line| line.strip_prefix(path)).unwrap().to_owned();
        let has = |line: String| move |flag: &str| line.split([',', ' ']).any(|found| found == flag);
        (has(line("/m ")), has(line("/m/sub ")))
    };
    for (option, flag) in [
        ("rro", "ro"),
        ("rnosuid", "nosuid"),
        ("rnodev", "nodev"),
        ("rnoexec", "noexec"),
        ("rnoatime", "noatime"),
        ("rnosymfollow", "nosymfollow"),
        ("rnodiratime", "nodiratime"),
    ] {
        let (top, below) = flags(&["rbind", option]);
        assert!(top(flag) && below(flag), "{option}");
    }
    // Without the r, of the one mount alone; and cleared again from the top, last.
    let (top, below) = flags(&["rbind", "ro", "nosuid"]);
    assert!(top("ro") && top("nosuid") && !below("ro") && !below("nosuid"));
    let (top, below) = flags(&["rbind", "rro", "rrw", "rnosuid"]);
    assert!(!top("ro") && !below("ro") && below("nosuid"));
}

fn the_root_has_the_propagation_of_the_spec() {
    for (propagation, tag) in [
        ("private", ""),
        ("rprivate", ""),
        ("shared", "shared:"),
        ("rshared", "shared:"),
        ("unbindable", "unbindable"),
        ("slave", ""),
    ] {
        let mut bundle = Bundle::new("grep ' / / ' /proc/self/mountinfo || grep 'rootfs / ' /proc/self/mountinfo");
        bundle.spec["linux"]["rootfsPropagation"] = propagation.into();
        let (_, output) = bundle.run();
        let optional = output.split(" - ").next().unwrap().to_owned();
        assert_eq!(optional.contains("shared:"), tag == "shared:", "{propagation}: {output}");
        assert_eq!(optional.contains("unbindable"), tag == "unbindable", "{propagation}: {output}");
    }
    let mut bundle = Bundle::new("true");
    bundle.spec["linux"]["rootfsPropagation"] = "sideways".into();
    let (kind, refused) = bundle.refusal();
    assert_eq!(kind, ErrorKind::InvalidArgument, "{refused}");
    assert!(refused.contains("sideways"), "{refused}");
}

fn a_slave_mount_sees_the_host_and_is_not_seen() {
    let source = tempfile::tempdir_in("/tmp").unwrap();
    rustix::mount::mount("tmpfs", source.path(), "tmpfs", MountFlags::empty(), None).unwrap();
    rustix::mount::mount_change(source.path(), MountPropagationFlags::SHARED).unwrap();
    let later = source.path().join("later");
    std::fs::create_dir(&later).unwrap();
    for (options, user, seen) in [
        (&["rbind", "rslave"][..], false, true),
        (&["rbind", "rprivate"], false, false),
        (&["rbind", "rslave"], true, true),
        (&["rbind"], true, true),
    ] {
        let script = "while ! test -e /tmp/go; do sleep 0.02; done; test -e /m/later/here && echo seen; \
                      mkdir /m/own; mount -t tmpfs own /m/own && echo > /m/own/inside";
        let mut bundle = bundle(script, source.path(), options, &json!({}));
        let admin = json!(["CAP_SYS_ADMIN"]);
        bundle.spec["process"]["capabilities"] = json!({"bounding": admin, "permitted": admin, "effective": admin});
        if user {
            user_namespace(&mut bundle);
            std::fs::set_permissions(source.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        }
        let (container, running) = bundle.create().unwrap_or_else(|err| panic!("{}", chain(&err)));
        container.start().unwrap();
        rustix::mount::mount("tmpfs", &later, "tmpfs", MountFlags::empty(), None).unwrap();
        std::fs::write(later.join("here"), "").unwrap();
        std::fs::write(bundle.path().join("rootfs/tmp/go"), "").unwrap();
        let (_, output) = running.finish();
        assert_eq!(output.contains("seen"), seen, "{options:?} {user}: {output}");
        assert!(!source.path().join("own/inside").exists(), "{options:?} {user}: {output}");
        rustix::mount::unmount(&later, UnmountFlags::DETACH).unwrap();
        std::fs::remove_dir(source.path().join("own")).ok();
        container.delete(false).unwrap();
    }
    rustix::mount::unmount(source.path(), UnmountFlags::DETACH).unwrap();
}

fn mounts_are_made_in_their_order() {
    let mut bundle = Bundle::new("echo a > /m/x/f && cat /m/x/f; grep -c ' /m' /proc/self/mounts; ls /m");
    let mounts = bundle.spec["mounts"].as_array_mut().unwrap();
    // Relative, as older versions of the specification allow it; the second is in the first.
    mounts.push(json!({"destination": "m", "type": "tmpfs", "source": "tmpfs"}));
    mounts.push(json!({"destination": "/m/x", "type": "tmpfs", "source": "tmpfs"}));
    assert_eq!(bundle.run(), (0, "a\n2\nx".to_owned()));
}

/// What is at /m before is hidden, also where the host opens the sources: in a user namespace, and for other ids.
fn an_earlier_mount_is_the_source_of_a_later() {
    let volume = tempfile::tempdir_in("/tmp").unwrap();
    own(volume.path(), "f");
    std::fs::create_dir(volume.path().join("deep")).unwrap();
    own(&volume.path().join("deep"), "g");
    for (user, mapped) in [(false, false), (true, false), (false, true), (true, true)] {
        let more = if mapped { maps() } else { json!({}) };
        let mut bundle = bundle("cat /n/f /n/deep/g; stat -c %u:%g /o/g", volume.path(), &["bind"], &json!({}));
        std::fs::create_dir(bundle.path().join("rootfs/m")).unwrap();
        std::fs::write(bundle.path().join("rootfs/m/f"), "hidden").unwrap();
        for (below, destination) in [("rootfs/m", "/n"), ("rootfs/m/deep", "/o")] {
            let source = bundle.path().join(below);
            let mut mount = json!({"destination": destination, "type": "bind", "source": source, "options": ["bind"]});
            mount.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
            bundle.spec["mounts"].as_array_mut().unwrap().push(mount);
        }
        if user {
            user_namespace(&mut bundle);
        }
        // The maps of a mount are in the host's numbers.
        let ids = match (user, mapped) {
            (true, _) => "65534:65534",
            (false, true) => "5007:6008",
            (false, false) => "7:8",
        };
        assert_eq!(bundle.run(), (0, format!("texttext{ids}")), "user namespace {user}, id-mapped {mapped}");
    }
}

fn the_hosts_path_of_the_root_is_the_root() {
    let mut bundle = Bundle::new("cat /tmp/in/f");
    let volume = Volume::new();
    std::fs::write(volume.path().join("f"), "here").unwrap();
    let destination = bundle.path().join("rootfs/tmp/in");
    let mount = json!({"destination": destination, "type": "bind", "source": volume.path(), "options": ["bind"]});
    bundle.spec["mounts"].as_array_mut().unwrap().push(mount);
    assert_eq!(bundle.run(), (0, "here".to_owned()));
}
