//! System calls newer than the profile.
//!
//! A profile that answers EPERM to what it does not name breaks programs on newer kernels: libc tries a new system call
//! and falls back on ENOSYS alone. So, as in runc, a few instructions go before libseccomp's: a number above the highest
//! one that the profile names for the architecture returns ENOSYS.

use libseccomp::{ScmpAction, ScmpArch, ScmpSyscall};
use oci_spec::runtime::LinuxSeccomp;

const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const X32: u32 = 0x4000_0000;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const JUMP_NOT_LESS: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// Nothing where unknown system calls are allowed, get ENOSYS anyway, or are for a tracer to answer.
pub(super) fn prelude(profile: &LinuxSeccomp, default: ScmpAction, arches: &[ScmpArch]) -> Vec<u8> {
    if matches!(default, ScmpAction::Allow | ScmpAction::Log | ScmpAction::Trace(_) | ScmpAction::Errno(libc::ENOSYS)) {
        return Vec::new();
    }
    let mut blocks = Vec::new();
    for arch in arches {
        let Some(audit) = audit_number(*arch) else { continue };
        let Some(last) = newest(profile, *arch) else { continue };
        if *arch != ScmpArch::X8664 {
            blocks.push((audit, None, last));
            continue;
        }
        let x32 = arches.contains(&ScmpArch::X32).then(|| newest(profile, ScmpArch::X32)).flatten();
        blocks.push((audit, Some(x32), last));
    }
    assemble(&blocks)
}

/// For each architecture: its number, for x86-64 the highest number of x32 if x32 is in the filter, the highest number.
fn assemble(blocks: &[(u32, Option<Option<u32>>, u32)]) -> Vec<u8> {
    if blocks.is_empty() {
        return Vec::new();
    }
    let bodies: Vec<Vec<(u16, u8, u8, u32)>> = blocks
        .iter()
        .map(|(_, x32, last)| {
            let mut body = vec![(LOAD, 0, 0, NUMBER)];
            match x32 {
                None => {}
                // Not in the filter: libseccomp's part has an answer for it.
                Some(None) => body.push((JUMP_NOT_LESS, 2, 0, X32)),
                Some(Some(last)) => body.extend([(JUMP_NOT_LESS, 0, 1, X32), (JUMP_GREATER, 1, 2, X32 | *last)]),
            }
            // Above: to the return; else past it.
            body.extend([(JUMP_GREATER, 0, 1, *last), (RETURN, 0, 0, ENOSYS)]);
            body
        })
        .collect();
    // After each body one jump to libseccomp's part.
    let mut left: usize = bodies.iter().map(|body| body.len() + 2).sum();
    let mut program = instruction(LOAD, 0, 0, ARCHITECTURE).to_vec();
    for ((audit, ..), body) in blocks.iter().zip(&bodies) {
        left -= body.len() + 2;
        let skip = body.len() as u8 + 1;
        program.extend(instruction(JUMP_EQUAL, 0, skip, *audit));
        program.extend(body.iter().flat_map(|(code, yes, no, value)| instruction(*code, *yes, *no, *value)));
        program.extend(instruction(JUMP, 0, 0, left as u32));
    }
    program
}

/// `struct sock_filter` in the machine's byte order.
fn instruction(code: u16, yes: u8, no: u8, value: u32) -> [u8; 8] {
    let [a, b] = code.to_ne_bytes();
    let [c, d, e, f] = value.to_ne_bytes();
    [a, b, yes, no, c, d, e, f]
}

fn newest(profile: &LinuxSeccomp, arch: ScmpArch) -> Option<u32> {
    let names = profile.syscalls().iter().flatten().flat_map(|rule| rule.names());
    // Negative numbers are libseccomp's own, for calls that the architecture does not have.
    let numbers =
        names.filter_map(|name| u32::try_from(ScmpSyscall::from_name_by_arch(name, arch).ok()?.as_raw_syscall()).ok());
    numbers.map(|number| number & !X32).max()
}

/// AUDIT_ARCH_* (linux/audit.h). Those with several ABIs under one number, the MIPS family, are left to libseccomp.
fn audit_number(arch: ScmpArch) -> Option<u32> {
    Some(match arch {
        ScmpArch::X86 => 0x4000_0003,
        ScmpArch::X8664 => 0xc000_003e,
        ScmpArch::Arm => 0x4000_0028,
        ScmpArch::Aarch64 => 0xc000_00b7,
        ScmpArch::Ppc64Le => 0xc000_0015,
        ScmpArch::S390X => 0x8000_0016,
        ScmpArch::Riscv64 => 0xc000_00f3,
        ScmpArch::Loongarch64 => 0xc000_0102,
        _ => return None,
    })
}
