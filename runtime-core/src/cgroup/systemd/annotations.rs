//! Properties that the spec's annotations set: `org.systemd.property.NAME`, with a value in GVariant's text format.
//!
//! They reach a root process unfiltered: whoever writes annotations decides about the unit (CVE-2024-3154). The engine is
//! told so by `features`; what would break the driver itself is refused here.

use std::collections::HashMap;

use zvariant::Value;

use super::manager::Property;
use super::{Error, gvariant};

pub(crate) const PREFIX: &str = "org.systemd.property.";

/// Would put processes of the host's into the container's cgroup, or the container elsewhere than `cgroupsPath` says; would let
/// systemd interfere below the container's cgroup; would allow devices beside those of `linux.resources.devices`.
const REFUSED: [&str; 9] = [
    "PIDs",
    "PIDFDs",
    "Slice",
    "ControlGroup",
    "Delegate",
    "DelegateControllers",
    "DelegateSubgroup",
    "DeviceAllow",
    "DevicePolicy",
];

const MILLION: u64 = 1_000_000;

/// In the order of their names.
pub(super) fn properties(annotations: &HashMap<String, String>) -> Result<Vec<Property>, Error> {
    let mut found: Vec<_> =
        annotations.iter().filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?, key, value))).collect();
    found.sort_unstable();
    let property = |(name, key, value): (&str, &String, &String)| {
        let refuse = |reason: String| Error::Annotation { key: key.clone(), value: value.clone(), reason };
        check_name(name).map_err(|reason| refuse(reason.to_owned()))?;
        let parsed = gvariant::parse(value).map_err(refuse)?;
        match usec_name(name) {
            Some(name) => Ok((name, Value::U64(microseconds(&parsed).map_err(|reason| refuse(reason.to_owned()))?))),
            None => Ok((name.to_owned(), parsed)),
        }
    };
    found.into_iter().map(property).collect()
}

fn check_name(name: &str) -> Result<(), &'static str> {
    // The first two as runc has them.
    if name.len() < 3 {
        return Err("name incorrect: too short");
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Err("name incorrect: contains non-alphabetic character");
    }
    match REFUSED.contains(&name) {
        true => Err("this property is the runtime's to set"),
        false => Ok(()),
    }
}

/// `TimeoutStopUSec` for `TimeoutStopSec`, the name in unit files, which systemd does not take over D-Bus.
fn usec_name(name: &str) -> Option<String> {
    let stem = name.strip_suffix("Sec").filter(|stem| stem.ends_with(|last: char| last.is_ascii_lowercase()))?;
    Some(format!("{stem}USec"))
}

fn microseconds(seconds: &Value<'_>) -> Result<u64, &'static str> {
    let whole: i128 = match seconds {
        Value::U8(value) => (*value).into(),
        Value::I16(value) => (*value).into(),
        Value::U16(value) => (*value).into(),
        Value::I32(value) => (*value).into(),
        Value::U32(value) => (*value).into(),
        Value::I64(value) => (*value).into(),
        Value::U64(value) => (*value).into(),
        Value::F64(value) if (0.0..1e13).contains(value) => {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 10^19")]
            return Ok((value * 1e6) as u64);
        }
        Value::F64(_) => return Err("it is out of range"),
        _ => return Err("not a number"),
    };
    let value = u64::try_from(whole).ok().and_then(|seconds| seconds.checked_mul(MILLION));
    value.ok_or("it is out of range")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(key: &str, value: &str) -> Result<Vec<String>, Error> {
        let annotations = HashMap::from([
            (format!("{PREFIX}{key}"), value.to_owned()),
            ("org.systemd.propertyX".to_owned(), "no value".to_owned()),
        ]);
        Ok(properties(&annotations)?.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
    }

    #[test]
    fn seconds_become_microseconds() {
        for (name, value, property) in [
            ("TimeoutStopSec", "uint64 2", "TimeoutStopUSec=uint64 2000000"),
            ("TimeoutStopSec", "1.5", "TimeoutStopUSec=uint64 1500000"),
            ("TimeoutStopUSec", "uint64 7", "TimeoutStopUSec=uint64 7"),
            ("CollectMode", "'inactive-or-failed'", "CollectMode=\"inactive-or-failed\""),
            ("After", "['a.service']", "After=[\"a.service\"]"),
        ] {
            assert_eq!(parsed(name, value).unwrap(), [property]);
        }
        for (name, value) in [
            ("TimeoutStopSec", "'2'"),
            ("TimeoutStopSec", "-1"),
            ("TimeoutStopSec", "uint64 0xffffffffffffffff"),
            ("TimeoutStopSec", "1e300"),
            ("CollectMode", "inactive"),
        ] {
            assert!(matches!(parsed(name, value), Err(Error::Annotation { .. })), "{name}={value}");
        }
    }

    #[test]
    fn names_are_letters_and_not_the_drivers_own() {
        for name in ["", "ab", "Memory.Max", "Memory Max", "MemoryMäx"] {
            let err = parsed(name, "true").unwrap_err().to_string();
            assert!(err.contains("name incorrect: "), "{err}");
        }
        for name in REFUSED {
            assert!(parsed(name, "[uint32 1]").unwrap_err().to_string().contains("the runtime's to set"), "{name}");
        }
    }
}
