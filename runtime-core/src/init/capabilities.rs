//! Capability sets (capabilities(7)): bounding set first, then the user change, then the rest.

use oci_spec::runtime::{Capability, LinuxCapabilities};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

/// CAP_CHECKPOINT_RESTORE, the last that the runtime specification names.
const LAST: u32 = 40;

/// By number.
pub(crate) const NAMES: [&str; LAST as usize + 1] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Five sets of bits, numbered as in linux/capability.h.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sets {
    bounding: u64,
    effective: u64,
    permitted: u64,
    inheritable: u64,
    ambient: u64,
}

impl Sets {
    /// No `capabilities` in the spec means none (as with runc).
    pub(crate) fn new(spec: Option<&LinuxCapabilities>) -> Self {
        let Some(spec) = spec else { return Self::default() };
        let bits = |set: &Option<oci_spec::runtime::Capabilities>| {
            set.iter().flatten().fold(0, |bits, capability| bits | 1 << number(*capability))
        };
        Self {
            bounding: bits(spec.bounding()),
            effective: bits(spec.effective()),
            permitted: bits(spec.permitted()),
            inheritable: bits(spec.inheritable()),
            ambient: bits(spec.ambient()),
        }
    }

    /// What this process may pass on: the rest is dropped, and named in a warning, as with runc.
    pub(crate) fn limit_to_ours(&mut self, warnings: &mut Vec<String>) -> Result<(), Errno> {
        let mut ours = 0;
        for bit in 0..64 {
            match rustix::thread::capability_is_in_bounding_set(one(bit)) {
                Ok(true) => ours |= 1 << bit,
                Ok(false) => {}
                // Past the last that this kernel knows.
                Err(Errno::INVAL) => break,
                Err(err) => return Err(err),
            }
        }
        let wanted = self.bounding | self.effective | self.permitted | self.inheritable | self.ambient;
        let missing = wanted & !ours;
        if missing != 0 {
            let names: Vec<_> = (0..64).filter(|bit| missing & 1 << bit != 0).map(name).collect();
            warnings.push(format!("capabilities {} are not ours to give and are left out", names.join(", ")));
        }
        for set in
            [&mut self.bounding, &mut self.effective, &mut self.permitted, &mut self.inheritable, &mut self.ambient]
        {
            *set &= ours;
        }
        Ok(())
    }

    /// Drops the rest of the bounding set, and keeps the permitted set across the change of user. Before that change:
    /// CAP_SETPCAP is needed.
    pub(crate) fn limit_bounding(&self) -> Result<(), Errno> {
        for bit in 0..64 {
            if self.bounding & 1 << bit == 0 {
                match rustix::thread::remove_capability_from_bounding_set(one(bit)) {
                    Ok(()) => {}
                    Err(Errno::INVAL)
                        if bit > LAST || rustix::thread::capability_is_in_bounding_set(one(bit)).is_err() =>
                    {
                        break;
                    }
                    Err(err) => return Err(err),
                }
            }
        }
        rustix::thread::set_keep_capabilities(true)
    }

    /// After the change of user. An ambient capability that is not inheritable and permitted as well cannot be raised
    /// (capabilities(7)): that is a warning, as with runc.
    pub(crate) fn apply(&self, warnings: &mut Vec<String>) -> Result<(), Errno> {
        rustix::thread::set_keep_capabilities(false)?;
        rustix::thread::set_capabilities(
            None,
            CapabilitySets {
                effective: CapabilitySet::from_bits_retain(self.effective),
                permitted: CapabilitySet::from_bits_retain(self.permitted),
                inheritable: CapabilitySet::from_bits_retain(self.inheritable),
            },
        )?;
        rustix::thread::clear_ambient_capability_set()?;
        for bit in (0..64).filter(|bit| self.ambient & 1 << bit != 0) {
            match rustix::thread::configure_capability_in_ambient_set(one(bit), true) {
                Ok(()) => {}
                Err(err @ Errno::PERM) => warnings.push(format!("can't raise ambient capability {}: {err}", name(bit))),
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }
}

fn name(bit: u32) -> String {
    NAMES.get(bit as usize).map_or_else(|| bit.to_string(), |name| (*name).to_owned())
}

fn one(bit: u32) -> CapabilitySet {
    CapabilitySet::from_bits_retain(1 << bit)
}

/// linux/capability.h's number.
fn number(capability: Capability) -> u32 {
    match capability {
        Capability::Chown => 0,
        Capability::DacOverride => 1,
        Capability::DacReadSearch => 2,
        Capability::Fowner => 3,
        Capability::Fsetid => 4,
        Capability::Kill => 5,
        Capability::Setgid => 6,
        Capability::Setuid => 7,
        Capability::Setpcap => 8,
        Capability::LinuxImmutable => 9,
        Capability::NetBindService => 10,
        Capability::NetBroadcast => 11,
        Capability::NetAdmin => 12,
        Capability::NetRaw => 13,
        Capability::IpcLock => 14,
        Capability::IpcOwner => 15,
        Capability::SysModule => 16,
        Capability::SysRawio => 17,
        Capability::SysChroot => 18,
        Capability::SysPtrace => 19,
        Capability::SysPacct => 20,
        Capability::SysAdmin => 21,
        Capability::SysBoot => 22,
        Capability::SysNice => 23,
        Capability::SysResource => 24,
        Capability::SysTime => 25,
        Capability::SysTtyConfig => 26,
        Capability::Mknod => 27,
        Capability::Lease => 28,
        Capability::AuditWrite => 29,
        Capability::AuditControl => 30,
        Capability::Setfcap => 31,
        Capability::MacOverride => 32,
        Capability::MacAdmin => 33,
        Capability::Syslog => 34,
        Capability::WakeAlarm => 35,
        Capability::BlockSuspend => 36,
        Capability::AuditRead => 37,
        Capability::Perfmon => 38,
        Capability::Bpf => 39,
        Capability::CheckpointRestore => LAST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_stand_at_their_numbers() {
        for (at, name) in NAMES.into_iter().enumerate() {
            let capability: Capability = serde_json::from_value(name.into()).unwrap();
            assert_eq!(number(capability) as usize, at, "{name}");
        }
    }
}
