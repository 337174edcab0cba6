//! Mount option strings, as runc and crun understand them.

use serde::{Deserialize, Serialize};

use rustix::mount::MountAttrFlags as Attr;

const ATIME: u64 = 0x70;
pub(super) const MS_UNBINDABLE: u64 = 1 << 17;
pub(super) const MS_PRIVATE: u64 = 1 << 18;
pub(super) const MS_SLAVE: u64 = 1 << 19;
pub(super) const MS_SHARED: u64 = 1 << 20;

/// MOUNT_ATTR_* bits that the options name, to set and to clear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attrs {
    pub(super) set: u64,
    pub(super) clear: u64,
}

impl Attrs {
    pub(super) fn is_empty(self) -> bool {
        self == Self::default()
    }

    pub(super) fn read_only(self) -> bool {
        self.set & u64::from(Attr::MOUNT_ATTR_RDONLY.bits()) != 0
    }

    /// The same without "ro", for a filesystem that is filled before it is sealed.
    pub(super) fn writable(self) -> Self {
        Self { set: self.set & !u64::from(Attr::MOUNT_ATTR_RDONLY.bits()), clear: self.clear }
    }

    /// For mount_setattr, with the times of access as a remount by mount(2) has them: one that is named replaces all of
    /// them, "nodiratime" alone means relatime, and "diratime" alone changes nothing.
    pub(super) fn remount(self) -> Self {
        let directories = u64::from(Attr::MOUNT_ATTR_NODIRATIME.bits());
        if self.set & directories == 0 && self.clear & ATIME == 0 {
            return Self { set: self.set, clear: self.clear & !directories };
        }
        Self { set: self.set, clear: self.clear | ATIME | directories & !self.set }
    }

    /// The same as runc's bind remount has it: a flag that is not named is cleared. The time of access is touched only if
    /// an option names it.
    pub(super) fn exact(self) -> Self {
        let named = self.remount();
        let flags = Attr::MOUNT_ATTR_RDONLY
            | Attr::MOUNT_ATTR_NOSUID
            | Attr::MOUNT_ATTR_NODEV
            | Attr::MOUNT_ATTR_NOEXEC
            | Attr::MOUNT_ATTR_NOSYMFOLLOW;
        Self { set: named.set, clear: named.clear | (u64::from(flags.bits()) & !named.set) }
    }

    /// For fsmount, which sets but does not clear.
    pub(super) fn for_new_mount(self) -> Attr {
        Attr::from_bits_retain(u32::try_from(self.set).unwrap_or_default())
    }

    /// The last option wins, as in mount(8).
    fn apply(&mut self, flag: Flag) {
        match flag {
            Flag::Set(bit) => {
                self.set |= bit;
                self.clear &= !bit;
            }
            Flag::Clear(bit) => {
                self.set &= !bit;
                self.clear |= bit;
            }
            // As with mount(8) it takes back a noatime of the same list, and a bind mount keeps what its source has.
            Flag::NoNoatime if self.set & ATIME == u64::from(Attr::MOUNT_ATTR_NOATIME.bits()) => {
                self.set &= !ATIME;
                self.clear &= !ATIME;
            }
            Flag::NoNoatime => {}
            // The kernel wants the whole field cleared where one of its values is set.
            Flag::AccessTime(value) => {
                self.set = self.set & !ATIME | value;
                self.clear |= ATIME;
            }
        }
    }
}

/// The options that are not the filesystem's own, for whoever asks what is known.
pub(crate) const NAMES: &[&str] = &[
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

/// How far an id map reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Depth {
    One,
    Tree,
}

enum Flag {
    Set(u64),
    Clear(u64),
    AccessTime(u64),
    NoNoatime,
}

/// A mount's options, parsed once in the caller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Options {
    pub(super) attrs: Attrs,
    /// For the whole tree below the mount: rro, rnosuid, ...
    pub(super) recursive_attrs: Attrs,
    /// MS_SHARED and its kin with "recursive", in the order given.
    pub(super) propagation: Vec<(u64, bool)>,
    pub(super) bind: bool,
    pub(super) recursive_bind: bool,
    pub(super) remount: bool,
    pub(super) copy_up: bool,
    /// "idmap", or "ridmap" for the whole tree below the mount.
    pub(super) id_map: Option<Depth>,
    /// For the filesystem itself, in order: `key=value` or a bare key.
    pub(super) data: Vec<(String, Option<String>)>,
}

impl Options {
    pub(super) fn parse<S: AsRef<str>>(options: &[S]) -> Self {
        let mut parsed = Self::default();
        for option in options {
            for option in split(option.as_ref()) {
                parsed.add(option);
            }
        }
        parsed
    }

    fn add(&mut self, option: &str) {
        if option == "atime" {
            return self.attrs.apply(Flag::NoNoatime);
        }
        if let Some(flag) = attr(option) {
            return self.attrs.apply(flag);
        }
        if let Some(propagation) = propagation(option) {
            return self.propagation.push(propagation);
        }
        if matches!(option, "rnorelatime" | "rnostrictatime") {
            // As runc has it: another value is cleared, and relatime is what is left.
            return self.recursive_attrs.apply(Flag::AccessTime(u64::from(Attr::MOUNT_ATTR_RELATIME.bits())));
        }
        if let Some(flag) = option.strip_prefix('r').and_then(attr) {
            return self.recursive_attrs.apply(flag);
        }
        match option {
            // The kernel has them on or does not know them any more; they say nothing to the new mount API.
            "" | "defaults" | "silent" | "loud" | "iversion" | "noiversion" | "norelatime" | "nostrictatime" => {}
            "bind" => self.bind = true,
            "rbind" => (self.bind, self.recursive_bind) = (true, true),
            "remount" => self.remount = true,
            "tmpcopyup" => self.copy_up = true,
            "idmap" => self.id_map = Some(Depth::One),
            "ridmap" => self.id_map = Some(Depth::Tree),
            // Everything else belongs to the filesystem; sync, async, dirsync, lazytime and mand are keys that the VFS
            // takes for every filesystem (fsconfig(2)).
            data => self.data.push(match data.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (data.to_owned(), None),
            }),
        }
    }

    pub(super) fn has_data(&self, key: &str) -> bool {
        self.data.iter().any(|(name, _)| name == key)
    }
}

fn attr(option: &str) -> Option<Flag> {
    let bits = |attr: Attr| u64::from(attr.bits());
    Some(match option {
        "ro" => Flag::Set(bits(Attr::MOUNT_ATTR_RDONLY)),
        "rw" => Flag::Clear(bits(Attr::MOUNT_ATTR_RDONLY)),
        "nosuid" => Flag::Set(bits(Attr::MOUNT_ATTR_NOSUID)),
        "suid" => Flag::Clear(bits(Attr::MOUNT_ATTR_NOSUID)),
        "nodev" => Flag::Set(bits(Attr::MOUNT_ATTR_NODEV)),
        "dev" => Flag::Clear(bits(Attr::MOUNT_ATTR_NODEV)),
        "noexec" => Flag::Set(bits(Attr::MOUNT_ATTR_NOEXEC)),
        "exec" => Flag::Clear(bits(Attr::MOUNT_ATTR_NOEXEC)),
        "nodiratime" => Flag::Set(bits(Attr::MOUNT_ATTR_NODIRATIME)),
        "diratime" => Flag::Clear(bits(Attr::MOUNT_ATTR_NODIRATIME)),
        "nosymfollow" => Flag::Set(bits(Attr::MOUNT_ATTR_NOSYMFOLLOW)),
        "symfollow" => Flag::Clear(bits(Attr::MOUNT_ATTR_NOSYMFOLLOW)),
        "relatime" | "atime" => Flag::AccessTime(bits(Attr::MOUNT_ATTR_RELATIME)),
        "noatime" => Flag::AccessTime(bits(Attr::MOUNT_ATTR_NOATIME)),
        "strictatime" => Flag::AccessTime(bits(Attr::MOUNT_ATTR_STRICTATIME)),
        _ => return None,
    })
}

/// MS_SHARED and its kin, and whether the tree below is meant too.
pub(super) fn propagation(option: &str) -> Option<(u64, bool)> {
    let (name, recursive) = match option {
        "rshared" | "rslave" | "rprivate" | "runbindable" => (&option[1..], true),
        name => (name, false),
    };
    let flag = match name {
        "shared" => MS_SHARED,
        "slave" => MS_SLAVE,
        "private" => MS_PRIVATE,
        "unbindable" => MS_UNBINDABLE,
        _ => return None,
    };
    Some((flag, recursive))
}

/// Splits at commas, but not inside the double quotes of an SELinux context.
fn split(options: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    options.split(move |c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(attr: Attr) -> u64 {
        u64::from(attr.bits())
    }

    #[test]
    fn the_last_of_two_contrary_options_wins() {
        let options = Options::parse(&["ro", "nosuid", "rw"]);
        assert_eq!(options.attrs.set, bits(Attr::MOUNT_ATTR_NOSUID));
        assert_eq!(options.attrs.clear, bits(Attr::MOUNT_ATTR_RDONLY));
        assert!(!options.attrs.read_only());
        assert!(Options::parse(&["rw", "ro"]).attrs.read_only());
    }

    #[test]
    fn a_value_of_the_access_time_field_clears_the_whole_field() {
        let options = Options::parse(&["noatime", "strictatime"]);
        assert_eq!(options.attrs, Attrs { set: bits(Attr::MOUNT_ATTR_STRICTATIME), clear: ATIME });
        assert_eq!(Options::parse(&["noatime", "atime"]).attrs, Attrs::default());
        assert_eq!(Options::parse(&["bind", "atime"]).attrs.exact().clear & ATIME, 0);
        assert_eq!(Options::parse(&["strictatime", "atime"]).attrs.set, bits(Attr::MOUNT_ATTR_STRICTATIME));
        assert_eq!(Options::parse(&["strictatime", "relatime"]).attrs, Attrs { set: 0, clear: ATIME });
    }

    #[test]
    fn one_time_of_access_replaces_all_that_the_source_has() {
        let directories = bits(Attr::MOUNT_ATTR_NODIRATIME);
        let times = |options: &[&str]| {
            let attrs = Options::parse(options).attrs.remount();
            (attrs.set & (ATIME | directories), attrs.clear & (ATIME | directories))
        };
        assert_eq!(times(&["nodiratime"]), (directories, ATIME));
        assert_eq!(times(&["nodiratime", "norelatime"]), (directories, ATIME));
        let strict = bits(Attr::MOUNT_ATTR_STRICTATIME);
        assert_eq!(times(&["nodiratime", "strictatime"]), (directories | strict, ATIME));
        assert_eq!(times(&["strictatime"]), (strict, ATIME | directories));
        assert_eq!(times(&["relatime"]), (0, ATIME | directories));
        for nothing in ["diratime", "atime", "norelatime", "ro"] {
            assert_eq!(times(&[nothing]), (0, 0), "{nothing}");
        }
    }

    #[test]
    fn recursive_attributes_are_kept_apart() {
        let options = Options::parse(&["rbind", "rro", "rnosuid", "relatime", "rnoatime"]);
        assert!(options.bind && options.recursive_bind);
        assert_eq!(options.attrs, Attrs { set: 0, clear: ATIME });
        assert_eq!(
            options.recursive_attrs.set,
            bits(Attr::MOUNT_ATTR_RDONLY | Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NOATIME)
        );
        assert!(options.data.is_empty());
        let relatime = Options::parse(&["rnostrictatime"]);
        assert_eq!(relatime.recursive_attrs, Attrs { set: 0, clear: ATIME });
        assert!(relatime.data.is_empty());
    }

    #[test]
    fn what_no_table_knows_is_the_filesystems() {
        let options = Options::parse(&["mode=755", "size=65536k,newinstance", "sync"]);
        let text = |s: &str| s.to_owned();
        assert_eq!(
            options.data,
            [
                (text("mode"), Some(text("755"))),
                (text("size"), Some(text("65536k"))),
                (text("newinstance"), None),
                (text("sync"), None)
            ]
        );
    }

    #[test]
    fn every_option_that_is_told_of_is_known() {
        // The VFS takes these as keys.
        let keys = ["async", "dirsync", "lazytime", "mand", "nolazytime", "nomand", "sync"];
        for name in NAMES {
            let known = keys.contains(name) || Options::parse(&[name]).data.is_empty();
            assert!(known, "{name}");
        }
    }

    #[test]
    fn a_comma_in_an_selinux_context_does_not_split_it() {
        let options = Options::parse(&[r#"context="u:o:t:s0:c1,c2",noexec"#]);
        assert_eq!(options.data, [("context".to_owned(), Some(r#""u:o:t:s0:c1,c2""#.to_owned()))]);
        assert_eq!(options.attrs.set, bits(Attr::MOUNT_ATTR_NOEXEC));
    }

    #[test]
    fn propagation_comes_with_and_without_r() {
        assert_eq!(Options::parse(&["rslave", "shared"]).propagation, [(MS_SLAVE, true), (MS_SHARED, false)]);
        assert_eq!(propagation("rro"), None);
    }

    #[test]
    fn exact_clears_what_is_not_named_and_leaves_the_access_time() {
        let exact = Options::parse(&["ro"]).attrs.exact();
        assert_eq!(exact.set, bits(Attr::MOUNT_ATTR_RDONLY));
        assert_eq!(exact.clear & exact.set, 0);
        assert_ne!(exact.clear & bits(Attr::MOUNT_ATTR_NOSUID), 0);
        assert_eq!(exact.clear & ATIME, 0);
    }
}
