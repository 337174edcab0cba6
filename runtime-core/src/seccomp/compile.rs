//! From the spec's profile to a BPF program.

use std::os::fd::OwnedFd;

use libseccomp::error::SeccompError;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompFilterFlag as Flag,
    LinuxSeccompOperator as Operator, LinuxSyscall,
};
use rustix::fs::{MemfdFlags, SeekFrom, memfd_create, seek};

use super::{Error, newer};

const LONGEST: usize = 4096;
/// linux/seccomp.h
const WAIT_KILLABLE_RECV: u32 = 1 << 5;
/// libseccomp's SCMP_FLTATR_CTL_OPTIMIZE.
const BINARY_TREE: u32 = 2;
/// From how many system calls on the tree pays, as in runc. Libraries up to 2.5.4 make a wrong tree of no rules.
const TREE_ABOVE: usize = 32;

/// seccomp(2)'s flags. TSYNC says nothing to a single thread.
pub(super) fn flags(profile: &LinuxSeccomp, listener: bool) -> u32 {
    let new_listener = if listener { libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32 } else { 0 };
    // Without any, runc leaves speculation alone: the mitigation costs more than the filter.
    let Some(given) = profile.flags() else { return libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32 | new_listener };
    given.iter().fold(new_listener, |flags, flag| match flag {
        Flag::SeccompFilterFlagLog => flags | libc::SECCOMP_FILTER_FLAG_LOG as u32,
        Flag::SeccompFilterFlagSpecAllow => flags | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32,
        // The kernel knows it with a listener alone (Linux 5.19), and without one it has no meaning.
        Flag::SeccompFilterFlagWaitKillableRecv if listener => flags | WAIT_KILLABLE_RECV,
        Flag::SeccompFilterFlagTsync | Flag::SeccompFilterFlagWaitKillableRecv => flags,
    })
}

pub(super) fn program(profile: &LinuxSeccomp) -> Result<Vec<u8>, Error> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut context = ScmpFilterContext::new(default).map_err(failed("begin a filter", "with its default action"))?;
    let arches = arches(profile);
    for arch in &arches {
        context.add_arch(*arch).map_err(failed("add architecture", format!("{arch:?}")))?;
    }
    let names: usize = profile.syscalls().iter().flatten().map(|rule| rule.names().len()).sum();
    if names > TREE_ABOVE {
        // Without it each system call walks the whole list. A library before 2.5 has none: a slower filter, no other one.
        if let Err(error) = context.set_ctl_optimize(BINARY_TREE) {
            tracing::debug!(%error, "the seccomp filter is a list, not a tree");
        }
    }
    for rule in profile.syscalls().iter().flatten() {
        let action = action(rule.action(), rule.errno_ret())?;
        // libseccomp refuses a rule that says what the default says.
        if action != default {
            add_rule(&mut context, rule, action)?;
        }
    }
    let mut program = newer::prelude(profile, default, &arches);
    program.extend(export(&context)?);
    match program.len() / 8 {
        length if length > LONGEST => Err(Error::TooLong(length)),
        _ => Ok(program),
    }
}

/// The native one is always in the filter: libseccomp begins with it.
fn arches(profile: &LinuxSeccomp) -> Vec<ScmpArch> {
    let mut arches = vec![ScmpArch::native()];
    for arch in profile.architectures().iter().flatten().map(arch) {
        if arch != ScmpArch::Native && !arches.contains(&arch) {
            arches.push(arch);
        }
    }
    arches
}

fn add_rule(context: &mut ScmpFilterContext, rule: &LinuxSyscall, action: ScmpAction) -> Result<(), Error> {
    let args = rule.args().as_deref().unwrap_or_default();
    for name in rule.names() {
        // Profiles name system calls of many kernels and architectures; an unknown one cannot be made.
        let Ok(syscall) = ScmpSyscall::from_name(name) else { continue };
        let conditions = args.iter().map(|arg| condition(name, arg)).collect::<Result<Vec<_>, _>>()?;
        let repeated = (1..args.len()).any(|i| args[..i].iter().any(|earlier| earlier.index() == args[i].index()));
        // libseccomp takes one condition for an argument. Several for the same one mean "or", as in runc.
        if repeated {
            for condition in conditions {
                context.add_rule_conditional(action, syscall, &[condition]).map_err(failed("add a rule for", name))?;
            }
        } else {
            context.add_rule_conditional(action, syscall, &conditions).map_err(failed("add a rule for", name))?;
        }
    }
    Ok(())
}

fn condition(syscall: &str, arg: &LinuxSeccompArg) -> Result<ScmpArgCompare, Error> {
    let index = match u32::try_from(arg.index()) {
        Ok(index @ 0..=5) => index,
        _ => return Err(Error::Argument { syscall: syscall.to_owned(), index: arg.index() }),
    };
    let (operator, value) = match arg.op() {
        Operator::ScmpCmpNe => (ScmpCompareOp::NotEqual, arg.value()),
        Operator::ScmpCmpLt => (ScmpCompareOp::Less, arg.value()),
        Operator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, arg.value()),
        Operator::ScmpCmpEq => (ScmpCompareOp::Equal, arg.value()),
        Operator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, arg.value()),
        Operator::ScmpCmpGt => (ScmpCompareOp::Greater, arg.value()),
        // The spec's `value` is the mask, `valueTwo` what must be left of the argument.
        Operator::ScmpCmpMaskedEq => (ScmpCompareOp::MaskedEqual(arg.value()), arg.value_two().unwrap_or(0)),
    };
    Ok(ScmpArgCompare::new(index, operator, value))
}

fn action(action: Action, errno: Option<u32>) -> Result<ScmpAction, Error> {
    if errno.is_some() && !matches!(action, Action::ScmpActErrno | Action::ScmpActTrace) {
        return Err(Error::NoErrno(action));
    }
    let errno = errno.unwrap_or(libc::EPERM as u32);
    let value = u16::try_from(errno).map_err(|_| Error::Errno(errno));
    Ok(match action {
        Action::ScmpActKill | Action::ScmpActKillThread => ScmpAction::KillThread,
        Action::ScmpActKillProcess => ScmpAction::KillProcess,
        Action::ScmpActTrap => ScmpAction::Trap,
        Action::ScmpActErrno => ScmpAction::Errno(value?.into()),
        Action::ScmpActTrace => ScmpAction::Trace(value?),
        Action::ScmpActLog => ScmpAction::Log,
        Action::ScmpActAllow => ScmpAction::Allow,
        Action::ScmpActNotify => ScmpAction::Notify,
    })
}

fn arch(arch: &Arch) -> ScmpArch {
    match arch {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchParisc => ScmpArch::Parisc,
        Arch::ScmpArchParisc64 => ScmpArch::Parisc64,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        Arch::ScmpArchLoongarch64 => ScmpArch::Loongarch64,
        Arch::ScmpArchM68k => ScmpArch::M68k,
        Arch::ScmpArchSh => ScmpArch::Sh,
        Arch::ScmpArchSheb => ScmpArch::Sheb,
    }
}

/// Through a memfd: libseccomp before 2.6 writes to descriptors alone.
fn export(context: &ScmpFilterContext) -> Result<Vec<u8>, Error> {
    let step = |operation| move |err| Error::Export { operation, err };
    let memfd: OwnedFd =
        memfd_create("seccomp", MemfdFlags::CLOEXEC).map_err(step("make a memory file for the filter"))?;
    context.export_bpf(&memfd).map_err(failed("export", "the filter"))?;
    let length = seek(&memfd, SeekFrom::End(0)).map_err(step("find the filter's length"))?;
    let mut program = vec![0; usize::try_from(length).unwrap_or(0)];
    let read = rustix::io::pread(&memfd, &mut program[..], 0).map_err(step("read the filter"))?;
    program.truncate(read);
    Ok(program)
}

fn failed(operation: &'static str, what: impl Into<String>) -> impl FnOnce(SeccompError) -> Error {
    let what = what.into();
    move |err| Error::Library { operation, what, err }
}
