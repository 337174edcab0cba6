//! bpf(2) for programs of type BPF_PROG_TYPE_CGROUP_DEVICE.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// One instruction, as the kernel's `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Insn {
    pub(crate) code: u8,
    /// Destination in the low, source in the high four bits.
    pub(crate) regs: u8,
    pub(crate) off: i16,
    pub(crate) imm: i32,
}

const BPF_PROG_LOAD: u32 = 5;
const BPF_PROG_ATTACH: u32 = 8;
const BPF_PROG_GET_FD_BY_ID: u32 = 13;
const BPF_OBJ_GET_INFO_BY_FD: u32 = 15;
const BPF_PROG_QUERY: u32 = 16;

const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;
const BPF_F_REPLACE: u32 = 4;

/// Of the programs that are loaded here, and of no others.
const NAME: [u8; 16] = *b"rtc_devices\0\0\0\0\0";

/// The head of `union bpf_attr` for BPF_PROG_LOAD. The kernel takes shorter ones than its own; what is missing is zero.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    // Keeps the size a multiple of eight, without padding that would not be zero.
    reserved: u32,
}

#[repr(C)]
#[derive(Default)]
struct IdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The head of `struct bpf_prog_info`, as far as the name.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    lengths: [u32; 2],
    addresses: [u64; 2],
    load_time: u64,
    created_by_uid: u32,
    map_count: u32,
    map_ids: u64,
    name: [u8; 16],
}

/// # Safety
/// `T` must be the plain integers that the kernel reads as `union bpf_attr` for `command`, and every address in it must
/// be valid for the length that stands beside it until the call returns.
unsafe fn bpf<T>(command: u32, attr: &mut T) -> Result<i32, Errno> {
    // SAFETY: the pointer and the size are of one live value; its contents are the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    Errno::result(result).map(|result| i32::try_from(result).unwrap_or(i32::MAX))
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// Loads a device program. The descriptor keeps it alive until it is attached.
pub(crate) fn load_device_program(program: &[Insn]) -> Result<OwnedFd, Errno> {
    let mut attr = LoadAttr {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(|_| Errno::E2BIG)?,
        insns: program.as_ptr() as u64,
        license: c"Apache".as_ptr() as u64,
        prog_name: NAME,
        ..LoadAttr::default()
    };
    // SAFETY: `insns` has `insn_cnt` instructions of the kernel's layout, `license` ends with a zero; both outlive the call.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &mut attr) }?;
    // SAFETY: the kernel has just made this descriptor for us, close-on-exec, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches to the cgroup of a directory descriptor, beside programs of the cgroups above (all must allow). With
/// `replace` it takes that program's place in one step (Linux 5.6).
pub(crate) fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replace: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let mut attr = AttachAttr {
        target_fd: raw(cgroup),
        attach_bpf_fd: raw(program),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI | if replace.is_some() { BPF_F_REPLACE } else { 0 },
        replace_bpf_fd: replace.map_or(0, raw),
    };
    // SAFETY: the attribute has descriptors only, which are borrowed for the call.
    unsafe { bpf(BPF_PROG_ATTACH, &mut attr) }.map(drop)
}

/// The device programs of [`load_device_program`] that are attached to this cgroup itself.
pub(crate) fn own_device_programs(cgroup: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, Errno> {
    // The kernel's limit for one cgroup.
    let mut ids = [0_u32; 64];
    let mut attr = QueryAttr {
        target_fd: raw(cgroup),
        attach_type: BPF_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: 64,
        ..QueryAttr::default()
    };
    // SAFETY: `prog_ids` has room for `prog_cnt` numbers and outlives the call.
    unsafe { bpf(BPF_PROG_QUERY, &mut attr) }?;
    let mut own = Vec::new();
    for id in ids.iter().take(attr.prog_cnt as usize) {
        match program_by_id(*id) {
            Ok(program) if name_of(program.as_fd())? == NAME => own.push(program),
            // Somebody else's has been replaced meanwhile.
            Ok(_) | Err(Errno::ENOENT) => {}
            Err(err) => return Err(err),
        }
    }
    Ok(own)
}

fn name_of(program: BorrowedFd<'_>) -> Result<[u8; 16], Errno> {
    let mut info = ProgramInfo::default();
    let info_len = u32::try_from(size_of::<ProgramInfo>()).map_err(|_| Errno::E2BIG)?;
    let mut attr = InfoAttr { bpf_fd: raw(program), info_len, info: (&raw mut info) as u64 };
    // SAFETY: `info` has `info_len` bytes of the kernel's layout, which it fills in, and outlives the call; the addresses in
    // it are zero, so that the kernel writes nowhere else.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info.name)
}

fn program_by_id(id: u32) -> Result<OwnedFd, Errno> {
    let mut attr = IdAttr { id, ..IdAttr::default() };
    // SAFETY: the attribute has numbers only.
    let fd = unsafe { bpf(BPF_PROG_GET_FD_BY_ID, &mut attr) }?;
    // SAFETY: as in `load_device_program`.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
