//! Session keyrings (keyctl(2)).

use std::ffi::CStr;

use rustix::io::Errno;

const KEYCTL_JOIN_SESSION_KEYRING: libc::c_ulong = 1;
const KEYCTL_SETPERM: libc::c_ulong = 5;
const KEYCTL_DESCRIBE: libc::c_ulong = 6;
/// KEY_USR_SEARCH: the uid that owns the key may find it.
const USER_SEARCH: u32 = 0x0008_0000;

/// Joins the session keyring of this name, or makes it.
pub(crate) fn join_session(name: &CStr) -> Result<i32, Errno> {
    // SAFETY: the name outlives the call.
    let key = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    if key < 0 { Err(super::process::errno()) } else { Ok(key as i32) }
}

/// Lets the owner's uid search the keyring: the user that the container's process changes to is not its possessor.
pub(crate) fn allow_user_search(key: i32) -> Result<(), Errno> {
    let mut text = [0u8; 512];
    // SAFETY: the kernel writes at most the length given.
    let length = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_DESCRIBE, key, text.as_mut_ptr(), text.len()) };
    if length < 0 {
        return Err(super::process::errno());
    }
    let text = text.get(..length as usize).unwrap_or(&text);
    let mask = permissions(text).ok_or(Errno::PROTO)?;
    // SAFETY: numbers alone.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, key, mask | USER_SEARCH) };
    if result < 0 { Err(super::process::errno()) } else { Ok(()) }
}

/// The fourth field of `type;uid;gid;perm;description`, in hexadecimal.
fn permissions(description: &[u8]) -> Option<u32> {
    let field = description.split(|byte| *byte == b';').nth(3)?;
    u32::from_str_radix(std::str::from_utf8(field).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_permissions_are_the_fourth_field() {
        assert_eq!(super::permissions(b"keyring;0;0;3f130000;_ses.web\0"), Some(0x3f13_0000));
        assert_eq!(super::permissions(b"keyring;0;0"), None);
    }
}
