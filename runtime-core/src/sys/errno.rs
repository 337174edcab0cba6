//! Error numbers that somebody else has written.

use rustix::io::Errno;

/// The kernel has none above (`MAX_ERRNO`).
const MOST: i32 = 4095;

/// EIO stands for a number that is none: rustix makes what it likes of one, or panics.
pub(crate) fn told(number: i32) -> Errno {
    if (1..=MOST).contains(&number) { Errno::from_raw_os_error(number) } else { Errno::IO }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_none_is_an_error_all_the_same() {
        assert_eq!(told(libc::ENOENT), Errno::NOENT);
        assert_eq!(told(MOST).raw_os_error(), MOST);
        for number in [0, -1, MOST + 1, i32::MAX, i32::MIN] {
            assert_eq!(told(number), Errno::IO, "{number}");
        }
    }
}
