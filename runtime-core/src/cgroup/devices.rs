//! The device rules of a spec, with those that every container gets, in the order in which they count: last match wins.

use std::fmt;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Create,
    Update,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    All,
    Block,
    Char,
}

/// Bits of the kernel's `BPF_DEVCG_ACC_*`.
pub(super) const MKNOD: u8 = 1;
pub(super) const READ: u8 = 2;
pub(super) const WRITE: u8 = 4;
pub(super) const ALL: u8 = MKNOD | READ | WRITE;

/// `None` is any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) allow: bool,
    pub(super) kind: Kind,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    pub(super) access: u8,
}

impl Rule {
    const fn allow(kind: Kind, major: Option<u32>, minor: Option<u32>, access: u8) -> Self {
        Self { allow: true, kind, major, minor, access }
    }

    fn parse(rule: &LinuxDeviceCgroup) -> Result<Self, Error> {
        let refuse = |reason| Error::DeviceRule { rule: rule.to_string(), reason };
        let kind = match rule.typ() {
            None | Some(LinuxDeviceType::A) => Kind::All,
            Some(LinuxDeviceType::B) => Kind::Block,
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => Kind::Char,
            Some(LinuxDeviceType::P) => return Err(refuse("a fifo is no device")),
        };
        let number = |number: Option<i64>| match number {
            None | Some(-1) => Ok(None),
            Some(number) => u32::try_from(number).map(Some).map_err(|_| refuse("the number is out of range")),
        };
        let letters = rule.access().as_deref().unwrap_or("rwm");
        let mut access = 0;
        for letter in letters.chars() {
            access |= match letter {
                'r' => READ,
                'w' => WRITE,
                'm' => MKNOD,
                // As runc ignores it.
                _ => {
                    tracing::warn!(%rule, %letter, "ignoring an access to devices that is none of r, w and m");
                    0
                }
            };
        }
        if access == 0 && !letters.is_empty() {
            // It would be taken for a rule for all accesses.
            return Err(refuse("access must be of the letters r, w and m"));
        }
        let (major, minor) = (number(rule.major())?, number(rule.minor())?);
        if kind == Kind::All && (major.is_some() || minor.is_some()) {
            // The kernel and runc ignore the numbers then; this would allow far more than it says.
            return Err(refuse("a rule for all types cannot name device numbers"));
        }
        // A rule for all types is for all accesses too: the kernel's v1 parser reads no further than "a".
        let access = if access == 0 || kind == Kind::All { ALL } else { access };
        Ok(Self { allow: rule.allow(), kind, major, minor, access })
    }

    /// Whether every device and access of `other` is one of ours.
    pub(super) fn covers(&self, other: &Self) -> bool {
        self.covers_devices(other) && self.access & other.access == other.access
    }

    pub(super) fn covers_devices(&self, other: &Self) -> bool {
        let number = |ours: Option<u32>, theirs| ours.is_none() || ours == theirs;
        (self.kind == Kind::All || self.kind == other.kind)
            && number(self.major, other.major)
            && number(self.minor, other.minor)
    }
}

/// As the v1 files have it: "c 1:3 rwm".
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::All => return f.write_str("a"),
            Kind::Block => "b ",
            Kind::Char => "c ",
        })?;
        for (number, after) in [(self.major, ":"), (self.minor, " ")] {
            match number {
                Some(number) => write!(f, "{number}{after}")?,
                None => write!(f, "*{after}")?,
            }
        }
        for (bit, letter) in [(READ, "r"), (WRITE, "w"), (MKNOD, "m")] {
            if self.access & bit != 0 {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

/// What runc lets every container do, whatever its spec says: mknod of anything, and the devices of its /dev. The console
/// (5:1) is none of them: a container's /dev/console is a pty.
const DEFAULT: [Rule; 10] = [
    Rule::allow(Kind::Char, None, None, MKNOD),
    Rule::allow(Kind::Block, None, None, MKNOD),
    Rule::allow(Kind::Char, Some(1), Some(3), ALL), // null
    Rule::allow(Kind::Char, Some(1), Some(5), ALL), // zero
    Rule::allow(Kind::Char, Some(1), Some(7), ALL), // full
    Rule::allow(Kind::Char, Some(1), Some(8), ALL), // random
    Rule::allow(Kind::Char, Some(1), Some(9), ALL), // urandom
    Rule::allow(Kind::Char, Some(5), Some(0), ALL), // tty
    Rule::allow(Kind::Char, Some(5), Some(2), ALL), // ptmx
    Rule::allow(Kind::Char, Some(136), None, ALL),  // pts
];

/// Each rule is compared with those before it, and becomes instructions that every open of a device runs through.
const MOST: usize = 4096;

/// The spec's rules, then the default ones; nothing is allowed before the first. Rules that a later one makes void are
/// left out: containerd's spec names most of the default ones again.
pub(super) fn rules(spec: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>, Error> {
    if spec.len() > MOST {
        return Err(Error::DeviceRule {
            rule: spec[MOST].to_string(),
            reason: "there are 4096 rules before it, and more are not taken",
        });
    }
    let mut rules: Vec<Rule> = Vec::with_capacity(spec.len() + DEFAULT.len());
    for rule in spec {
        let rule = Rule::parse(rule)?;
        rules.retain(|earlier| !rule.covers(earlier));
        rules.push(rule);
    }
    for rule in DEFAULT {
        rules.retain(|earlier| !rule.covers(earlier));
        rules.push(rule);
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxDeviceCgroupBuilder;

    use super::*;

    fn spec(allow: bool, typ: LinuxDeviceType, numbers: (i64, i64), access: &str) -> LinuxDeviceCgroup {
        LinuxDeviceCgroupBuilder::default()
            .allow(allow)
            .typ(typ)
            .major(numbers.0)
            .minor(numbers.1)
            .access(access)
            .build()
            .unwrap()
    }

    #[test]
    fn the_default_devices_come_last_and_once() {
        let deny = LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build().unwrap();
        let null = spec(true, LinuxDeviceType::C, (1, 3), "rwm");
        // An access that is none is left out, as runc leaves it out.
        let fuse = spec(true, LinuxDeviceType::C, (10, 229), "rwx");
        let rules = rules(&[deny, null, fuse]).unwrap();
        let text: Vec<String> = rules.iter().map(ToString::to_string).collect();
        assert_eq!(text[..4], ["a", "c 10:229 rw", "c *:* m", "b *:* m"]);
        assert_eq!(text.len(), 2 + DEFAULT.len());
        assert!(!rules[0].allow);
    }

    #[test]
    fn a_rule_that_says_less_than_it_would_do_is_refused() {
        for bad in [
            spec(true, LinuxDeviceType::A, (1, 3), "rwm"),
            spec(true, LinuxDeviceType::C, (1, 3), "x"),
            spec(true, LinuxDeviceType::C, (-2, 3), "r"),
            spec(true, LinuxDeviceType::P, (1, 3), "r"),
        ] {
            assert!(rules(&[bad]).is_err());
        }
    }

    #[test]
    fn there_is_an_end_to_rules() {
        let rule = |number: usize| spec(true, LinuxDeviceType::C, (7, i64::try_from(number).unwrap()), "r");
        let mut many: Vec<_> = (0..=MOST).map(rule).collect();
        let refused = rules(&many).unwrap_err().to_string();
        assert!(refused.contains("4096 rules before it"), "{refused}");
        many.pop();
        assert!(rules(&many).unwrap().len() > MOST);
    }

    #[test]
    fn later_rules_drop_only_what_they_cover_whole() {
        let wide = Rule::allow(Kind::Char, Some(1), None, READ);
        assert!(wide.covers(&Rule::allow(Kind::Char, Some(1), Some(3), READ)));
        assert!(!wide.covers(&Rule::allow(Kind::Char, Some(1), Some(3), ALL)));
        assert!(!wide.covers(&Rule::allow(Kind::Block, Some(1), Some(3), READ)));
    }
}
