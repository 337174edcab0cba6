//! Device rules on v1: `devices.deny` and `devices.allow`.
//!
//! The kernel keeps a default and a list of exceptions, and a write of "a" empties the list. So everything is denied
//! first and the rest is the list of what is allowed; an update only adds and takes away, so that a running process never
//! meets a moment at which its devices are denied.

use std::fs::OpenOptions;
use std::io::Write;

use nix::errno::Errno;

use super::devices::{Change, Kind, Rule};
use super::{Dir, Error, file};

/// What a rule list comes to.
#[derive(Debug, PartialEq)]
pub(super) struct Policy {
    pub(super) allow_all: bool,
    /// Allowed when `allow_all` is false, denied when it is true.
    pub(super) exceptions: Vec<Rule>,
}

pub(super) fn set(dir: &Dir, rules: &[Rule], change: Change) -> Result<(), Error> {
    match apply(dir, &policy(rules)?, change) {
        // The kernel refuses devices.* below a user namespace and to users, and mknod to both as well.
        Err(Error::Write { err: Errno::EPERM | Errno::EACCES, .. }) if crate::caller::is_unprivileged() => {
            tracing::debug!(path = %dir.path.display(), "no device rules without root's rights");
            Ok(())
        }
        other => other,
    }
}

/// Plays the list through, as the kernel would. An exception of a broader exception has no place in the kernel's list.
pub(super) fn policy(rules: &[Rule]) -> Result<Policy, Error> {
    let mut policy = Policy { allow_all: false, exceptions: Vec::new() };
    for rule in rules {
        if rule.kind == Kind::All {
            policy = Policy { allow_all: rule.allow, exceptions: Vec::new() };
        } else if rule.allow != policy.allow_all {
            let same = |e: &&mut Rule| (e.kind, e.major, e.minor) == (rule.kind, rule.major, rule.minor);
            match policy.exceptions.iter_mut().find(same) {
                Some(exception) => exception.access |= rule.access,
                None => policy.exceptions.push(*rule),
            }
        } else {
            take_away(&mut policy.exceptions, rule)?;
        }
    }
    Ok(policy)
}

fn take_away(exceptions: &mut Vec<Rule>, rule: &Rule) -> Result<(), Error> {
    for exception in exceptions.iter_mut() {
        if rule.covers_devices(exception) {
            exception.access &= !rule.access;
        } else if exception.access & rule.access != 0 && overlap(exception, rule) {
            let reason = "cgroup v1 cannot keep an exception of a broader rule";
            return Err(Error::DeviceRule { rule: rule.to_string(), reason });
        }
    }
    exceptions.retain(|exception| exception.access != 0);
    Ok(())
}

fn overlap(one: &Rule, other: &Rule) -> bool {
    let number = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
    one.kind == other.kind && number(one.major, other.major) && number(one.minor, other.minor)
}

fn apply(dir: &Dir, policy: &Policy, change: Change) -> Result<(), Error> {
    let (default, exceptions) = if policy.allow_all { ("allow", "deny") } else { ("deny", "allow") };
    let wanted: Vec<String> = policy.exceptions.iter().map(ToString::to_string).collect();
    if change == Change::Update && !policy.allow_all {
        let list = file::read(&dir.path.join("devices.list"))?.unwrap_or_default();
        let current: Vec<&str> = list.lines().filter(|line| !line.is_empty()).collect();
        if current != ["a *:* rwm"] {
            write_all(dir, "allow", wanted.iter().map(String::as_str).filter(|rule| !current.contains(rule)))?;
            let gone: Vec<&str> = current.into_iter().filter(|rule| !wanted.iter().any(|w| w == rule)).collect();
            write_all(dir, "deny", gone.into_iter())?;
            // Taking a broad rule away takes bits from no narrower one, but from an equal one with other accesses.
            return write_all(dir, "allow", wanted.iter().map(String::as_str));
        }
    }
    write_all(dir, default, std::iter::once("a"))?;
    write_all(dir, exceptions, wanted.iter().map(String::as_str))
}

/// One open, one write for each rule.
fn write_all<'a>(dir: &Dir, verb: &str, rules: impl Iterator<Item = &'a str>) -> Result<(), Error> {
    let mut rules = rules.peekable();
    if rules.peek().is_none() {
        return Ok(());
    }
    let path = dir.path.join(format!("devices.{verb}"));
    let fail = |value: &str, err: &std::io::Error| Error::Write {
        path: path.clone(),
        value: value.to_owned(),
        err: file::errno(err),
    };
    let mut file = OpenOptions::new().write(true).open(&path).map_err(|err| fail("", &err))?;
    for rule in rules {
        file.write_all(rule.as_bytes()).map_err(|err| fail(rule, &err))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::devices::{ALL, READ, WRITE};
    use super::*;

    fn char_rule(allow: bool, major: Option<u32>, minor: Option<u32>, access: u8) -> Rule {
        Rule { allow, kind: Kind::Char, major, minor, access }
    }

    fn all(allow: bool) -> Rule {
        Rule { allow, kind: Kind::All, major: None, minor: None, access: ALL }
    }

    #[test]
    fn a_later_rule_for_all_forgets_what_was_before() {
        let null = char_rule(true, Some(1), Some(3), ALL);
        let found = policy(&[null, all(false), null]).unwrap();
        assert_eq!(found, Policy { allow_all: false, exceptions: vec![null] });
        assert_eq!(policy(&[null, all(true)]).unwrap(), Policy { allow_all: true, exceptions: vec![] });
    }

    #[test]
    fn a_deny_takes_its_accesses_from_the_allowed() {
        let found = policy(&[char_rule(true, Some(1), Some(3), ALL), char_rule(false, Some(1), None, WRITE)]).unwrap();
        assert_eq!(found.exceptions[0].to_string(), "c 1:3 rm");
    }

    #[test]
    fn a_hole_in_a_broad_rule_is_refused() {
        let broad = char_rule(true, Some(1), None, ALL);
        assert!(policy(&[broad, char_rule(false, Some(1), Some(3), READ)]).is_err());
        assert!(policy(&[broad, char_rule(false, Some(5), Some(3), READ)]).is_ok());
    }
}
