//! Device rules as properties of a unit: `DevicePolicy` and `DeviceAllow`.
//!
//! On v1 systemd writes `devices.allow` and `devices.deny` itself, and again when it is reloaded: without these properties
//! it would then allow everything. On v2 its program and ours stand side by side and both must allow; a list that it cannot
//! express is ours alone there, for a program of its own would refuse what is allowed.

use zvariant::Value;

use super::manager::Property;
use crate::cgroup::Error;
use crate::cgroup::devices::{Kind, MKNOD, READ, Rule, WRITE};
use crate::cgroup::devices_v1::{Policy, policy};

/// Before that it looks a device up by its path, and a major number by its name.
const NUMBERS: u32 = 240;

pub(super) fn properties(rules: &[Rule], v2: bool, version: u32) -> Result<Vec<Property>, Error> {
    let policy = match policy(rules) {
        Ok(policy) => policy,
        // A hole in a broad rule, for which v1 has no form.
        Err(_) if v2 => return Ok(open()),
        Err(err) => return Err(err),
    };
    if policy.allow_all && (policy.exceptions.is_empty() || v2) {
        return Ok(open());
    }
    let Policy { allow_all, exceptions } = policy;
    // It has no list of what is denied. Until ours is written, and after a reload, everything is, as with runc.
    let allowed = if allow_all { Vec::new() } else { exceptions };
    let entries: Vec<_> = allowed.iter().map(|rule| entry(rule, version)).collect();
    let whole = entries.iter().all(Option::is_some);
    if !whole {
        if v2 {
            return Ok(open());
        }
        tracing::warn!("a reload of systemd takes devices from the container that its unit has no words for");
    }
    Ok(strict(entries.into_iter().flatten().collect()))
}

fn open() -> Vec<Property> {
    vec![property("DevicePolicy", Value::from("auto")), property("DeviceAllow", allow(Vec::new()))]
}

/// What is not allowed is denied, the usual pseudo devices too.
fn strict(entries: Vec<(String, String)>) -> Vec<Property> {
    // The first empties what an update finds.
    vec![
        property("DevicePolicy", Value::from("strict")),
        property("DeviceAllow", allow(Vec::new())),
        property("DeviceAllow", allow(entries)),
    ]
}

fn property(name: &str, value: Value<'static>) -> Property {
    (name.to_owned(), value)
}

fn allow(entries: Vec<(String, String)>) -> Value<'static> {
    Value::from(entries)
}

/// A path or a pattern, and accesses: ("/dev/char/1:3", "rwm"), ("char-136", "rw"), ("block-*", "m").
fn entry(rule: &Rule, version: u32) -> Option<(String, String)> {
    let kind = match rule.kind {
        Kind::Char => "char",
        Kind::Block => "block",
        Kind::All => return None,
    };
    let node = match (rule.major, rule.minor) {
        (None, None) => format!("{kind}-*"),
        (Some(major), None) if version >= NUMBERS => format!("{kind}-{major}"),
        (Some(major), Some(minor)) if version >= NUMBERS => format!("/dev/{kind}/{major}:{minor}"),
        _ => return None,
    };
    let access = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')].into_iter().filter(|(bit, _)| rule.access & bit != 0);
    Some((node, access.map(|(_, letter)| letter).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::devices::ALL;

    const fn rule(allow: bool, kind: Kind, major: Option<u32>, minor: Option<u32>, access: u8) -> Rule {
        Rule { allow, kind, major, minor, access }
    }

    const DENY_ALL: Rule = rule(false, Kind::All, None, None, ALL);
    const NULL: Rule = rule(true, Kind::Char, Some(1), Some(3), ALL);
    const PTS: Rule = rule(true, Kind::Char, Some(136), None, READ | WRITE);
    const MAKE: Rule = rule(true, Kind::Block, None, None, MKNOD);
    /// "c *:3 r": a minor of any major.
    const ODD: Rule = rule(true, Kind::Char, None, Some(3), READ);

    fn words(rules: &[Rule], v2: bool, version: u32) -> String {
        let words = properties(rules, v2, version).unwrap().into_iter().map(|(name, value)| format!("{name}={value}"));
        words.collect::<Vec<_>>().join(" ")
    }

    const OPEN: &str = "DevicePolicy=\"auto\" DeviceAllow=@a(ss) []";

    #[test]
    fn an_allow_list_is_strict() {
        let list = "DeviceAllow=[(\"/dev/char/1:3\", \"rwm\"), (\"char-136\", \"rw\"), (\"block-*\", \"m\")]";
        let strict = format!("DevicePolicy=\"strict\" DeviceAllow=@a(ss) [] {list}");
        for v2 in [true, false] {
            assert_eq!(words(&[DENY_ALL, NULL, PTS, MAKE], v2, 257), strict);
        }
    }

    #[test]
    fn everything_allowed_is_no_policy() {
        let all = Rule { allow: true, ..DENY_ALL };
        assert_eq!(words(&[all, NULL], true, 257), OPEN);
        assert_eq!(words(&[all, NULL], false, 257), OPEN);
    }

    #[test]
    fn what_systemd_has_no_words_for_is_ours_alone_on_v2_and_denied_by_it_on_v1() {
        let strict = "DevicePolicy=\"strict\" DeviceAllow=@a(ss) [] DeviceAllow=";
        let all_but = [Rule { allow: true, ..DENY_ALL }, Rule { allow: false, ..NULL }];
        assert_eq!(words(&all_but, true, 257), OPEN);
        assert_eq!(words(&all_but, false, 257), format!("{strict}@a(ss) []"));
        assert_eq!(words(&[NULL, ODD], true, 257), OPEN);
        assert_eq!(words(&[NULL, ODD], false, 257), format!("{strict}[(\"/dev/char/1:3\", \"rwm\")]"));
        let hole = [Rule { minor: None, ..NULL }, Rule { allow: false, ..NULL }];
        assert_eq!(words(&hole, true, 257), OPEN);
        assert!(properties(&hole, false, 257).is_err());
        assert_eq!(words(&[NULL, PTS], true, 239), OPEN);
    }
}
