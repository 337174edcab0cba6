//! Device rules on v2: an eBPF program of type cgroup_device, attached to the container's cgroup.
//!
//! The program gets `{ u32 access_type, major, minor }`, with the type in the low 16 bits of the first and the wished
//! accesses above. It walks the rules from the last to the first and keeps in r3 the accesses that no rule has decided:
//! an allow rule takes its bits out, a deny rule that meets one of them refuses. So the last match wins for each access
//! by itself, as with v1's lists.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;

use super::devices::{ALL, Change, Kind, Rule};
use super::{Dir, Error, file};
use crate::sys::bpf::{self, Insn};

pub(super) fn set(dir: &Dir, rules: &[Rule], change: Change) -> Result<(), Error> {
    match attach(dir, rules, change) {
        // Without CAP_BPF in the initial user namespace nothing can be loaded. The kernel confines devices there
        // itself: who may not make the rules may not make a device node either, and opens those of the host by their
        // modes.
        Err(Error::DeviceProgram { err: Errno::EPERM | Errno::EACCES, .. }) if crate::caller::is_unprivileged() => {
            tracing::debug!(path = %dir.path.display(), "no device rules without root's rights");
            Ok(())
        }
        other => other,
    }
}

fn attach(dir: &Dir, rules: &[Rule], change: Change) -> Result<(), Error> {
    let fail = |operation| move |err| Error::DeviceProgram { operation, path: dir.path.clone(), err };
    let cgroup: OwnedFd = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY)
        .open(&dir.path)
        .map_err(|err| Error::Open { path: dir.path.clone(), err: file::errno(&err) })?
        .into();
    let program = bpf::load_device_program(&assemble(rules)).map_err(fail("load"))?;
    let old = match change {
        Change::Create => Vec::new(),
        Change::Update => bpf::own_device_programs(cgroup.as_fd()).map_err(fail("query"))?,
    };
    // Those of others (systemd's, an orchestrator's) stay, and must allow too.
    let replace = old.first().map(AsFd::as_fd);
    bpf::attach_device_program(cgroup.as_fd(), program.as_fd(), replace).map_err(fail("attach"))
}

/// Registers: r1 the context and then a scratch, r2 type, r3 undecided accesses, r4 major, r5 minor.
pub(super) fn assemble(rules: &[Rule]) -> Vec<Insn> {
    let mut program = vec![
        load_word(2, 0),
        alu_imm(AND, 2, 0xffff),
        load_word(3, 0),
        alu_imm(RSH, 3, 16),
        load_word(4, 4),
        load_word(5, 8),
    ];
    for rule in rules.iter().rev() {
        assemble_rule(rule, &mut program);
        if rule.kind == Kind::All && rule.access == ALL {
            // Decides whatever is left: what stands before it does not count. The exit below is still needed: a jump
            // over the verdict must have somewhere to go, or the verifier refuses the program.
            break;
        }
    }
    program.extend(exit(false));
    program
}

fn assemble_rule(rule: &Rule, program: &mut Vec<Insn>) {
    let verdict = if rule.allow {
        let rest = !i32::from(rule.access);
        let [result, exit] = exit(true);
        vec![alu_imm(AND, 3, rest), jump_imm(JNE, 3, 0, 2), result, exit]
    } else {
        let [result, exit] = exit(false);
        vec![alu_reg(MOV, 1, 3), alu_imm(AND, 1, rule.access.into()), jump_imm(JEQ, 1, 0, 2), result, exit]
    };
    let kind = match rule.kind {
        Kind::All => None,
        Kind::Block => Some(1),
        Kind::Char => Some(2),
    };
    let tests: Vec<(u8, i32)> = [(2, kind), (4, rule.major), (5, rule.minor)]
        .into_iter()
        .filter_map(|(register, wanted)| Some((register, wanted?.cast_signed())))
        .collect();
    for (index, (register, wanted)) in tests.iter().enumerate() {
        let skip = tests.len() - 1 - index + verdict.len();
        program.push(jump_imm(JNE, *register, *wanted, i16::try_from(skip).unwrap_or(i16::MAX)));
    }
    program.extend(verdict);
}

// Classes and operations of linux/bpf_common.h; 32-bit arithmetic and jumps, for all numbers here are u32.
const LDX_MEM_W: u8 = 0x61;
const ALU: u8 = 0x04;
const JMP32: u8 = 0x06;
const EXIT: u8 = 0x95;
const FROM_REGISTER: u8 = 0x08;
const AND: u8 = 0x50;
const RSH: u8 = 0x70;
const MOV: u8 = 0xb0;
const JEQ: u8 = 0x10;
const JNE: u8 = 0x50;

fn load_word(to: u8, offset: i16) -> Insn {
    Insn { code: LDX_MEM_W, regs: to | 1 << 4, off: offset, imm: 0 }
}

fn alu_imm(operation: u8, register: u8, imm: i32) -> Insn {
    Insn { code: ALU | operation, regs: register, off: 0, imm }
}

fn alu_reg(operation: u8, to: u8, from: u8) -> Insn {
    Insn { code: ALU | operation | FROM_REGISTER, regs: to | from << 4, off: 0, imm: 0 }
}

/// Skips `off` instructions when it holds.
fn jump_imm(operation: u8, register: u8, imm: i32, off: i16) -> Insn {
    Insn { code: JMP32 | operation, regs: register, off, imm }
}

fn exit(allow: bool) -> [Insn; 2] {
    [alu_imm(MOV, 0, allow.into()), Insn { code: EXIT, regs: 0, off: 0, imm: 0 }]
}

#[cfg(test)]
mod tests {
    use super::super::devices::{MKNOD, READ, WRITE};
    use super::*;

    /// Runs a program on one request; panics on what the kernel's verifier would refuse.
    fn run(program: &[Insn], kind: u32, access: u8, major: u32, minor: u32) -> bool {
        let context = [kind | u32::from(access) << 16, major, minor];
        let mut registers: [Option<u32>; 11] = [None; 11];
        let mut at = 0;
        loop {
            let insn = program[at];
            let (to, from) = ((insn.regs & 15) as usize, (insn.regs >> 4) as usize);
            at += 1;
            let imm = insn.imm.cast_unsigned();
            match insn.code {
                LDX_MEM_W => {
                    assert!(from == 1 && registers[1].is_none(), "the context is gone");
                    registers[to] = Some(context[usize::try_from(insn.off / 4).unwrap()]);
                }
                0x54 => registers[to] = Some(registers[to].unwrap() & imm),
                0x74 => registers[to] = Some(registers[to].unwrap() >> imm),
                0xb4 => registers[to] = Some(imm),
                0xbc => registers[to] = Some(registers[from].unwrap()),
                0x16 | 0x56 => {
                    if (registers[to].unwrap() == imm) == (insn.code == 0x16) {
                        at += usize::try_from(insn.off).unwrap();
                    }
                }
                EXIT => return registers[0].unwrap() == 1,
                code => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    fn rule(allow: bool, kind: Kind, major: Option<u32>, minor: Option<u32>, access: u8) -> Rule {
        Rule { allow, kind, major, minor, access }
    }

    /// The meaning of a list, bit by bit, in the plainest words.
    fn expected(rules: &[Rule], kind: u32, access: u8, major: u32, minor: u32) -> bool {
        [MKNOD, READ, WRITE].into_iter().filter(|bit| access & bit != 0).all(|bit| {
            let last = rules.iter().rev().find(|rule| {
                let same_kind = matches!((rule.kind, kind), (Kind::All, _) | (Kind::Block, 1) | (Kind::Char, 2));
                let number = |rule: Option<u32>, n| rule.is_none_or(|rule| rule == n);
                same_kind && number(rule.major, major) && number(rule.minor, minor) && rule.access & bit != 0
            });
            last.is_some_and(|rule| rule.allow)
        })
    }

    fn check(rules: &[Rule]) {
        let program = assemble(rules);
        for kind in [1, 2] {
            for access in 1..=ALL {
                for major in [0, 1, 5, 8, 136] {
                    for minor in [0, 3, 5, 300] {
                        assert_eq!(
                            run(&program, kind, access, major, minor),
                            expected(rules, kind, access, major, minor),
                            "{rules:?}: kind {kind} access {access} {major}:{minor}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn every_jump_stays_in_the_program() {
        let default = [rule(false, Kind::All, None, None, ALL), rule(true, Kind::Char, Some(1), Some(3), READ)];
        for rules in [&default[..], &default[..1], &[rule(true, Kind::All, None, None, ALL)], &[]] {
            let program = assemble(rules);
            assert_eq!(program.last().unwrap().code, EXIT);
            for (at, insn) in program.iter().enumerate().filter(|(_, insn)| matches!(insn.code, 0x16 | 0x56)) {
                let target = at + 1 + usize::try_from(insn.off).unwrap();
                assert!(target < program.len(), "{rules:?}: instruction {at} jumps to {target} of {}", program.len());
            }
        }
    }

    #[test]
    fn no_rules_allow_nothing() {
        assert!(!run(&assemble(&[]), 2, READ, 1, 3));
        check(&[]);
    }

    #[test]
    fn the_default_rules_allow_null_and_no_disk() {
        let rules = super::super::devices::rules(&[]).unwrap();
        let program = assemble(&rules);
        assert!(run(&program, 2, READ | WRITE, 1, 3));
        assert!(run(&program, 2, READ, 136, 7));
        assert!(run(&program, 1, MKNOD, 8, 0));
        assert!(!run(&program, 1, READ, 8, 0));
        assert!(!run(&program, 1, READ | MKNOD, 8, 0));
        check(&rules);
    }

    #[test]
    fn the_last_match_wins_for_each_access() {
        let all = rule(true, Kind::All, None, None, ALL);
        check(&[all, rule(false, Kind::Char, Some(1), Some(3), WRITE)]);
        check(&[rule(true, Kind::Char, Some(1), Some(3), READ), rule(true, Kind::Char, Some(1), Some(3), WRITE)]);
        check(&[rule(true, Kind::Char, Some(1), None, ALL), rule(false, Kind::Char, None, Some(3), READ)]);
        check(&[rule(true, Kind::Block, Some(8), None, ALL), rule(false, Kind::All, None, None, ALL)]);
        check(&[rule(false, Kind::All, None, None, ALL), rule(true, Kind::Block, None, None, READ), all]);
    }
}
