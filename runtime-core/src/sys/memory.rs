//! Giving memory back while there is nothing to do.

use std::ffi::{c_int, c_void};

/// Unmaps the pages of the program's own read-only segments and the free pages of the heap. The next use of a page maps it
/// again from the page cache, without a copy; nothing is written to a disk.
pub(crate) fn release_idle() {
    // SAFETY: `release_segments` has the signature that dl_iterate_phdr(3) calls, and keeps nothing of what it is given;
    // malloc_trim(3) may be called at any time.
    unsafe {
        libc::dl_iterate_phdr(Some(release_segments), std::ptr::null_mut());
        libc::malloc_trim(0);
    }
}

/// Is called for the main program first, and stops there.
unsafe extern "C" fn release_segments(info: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
    // SAFETY: dl_iterate_phdr(3) gives a valid pointer to an array of `dlpi_phnum` headers, for the length of this call.
    let (base, headers) = unsafe {
        let info = &*info;
        if info.dlpi_phdr.is_null() {
            return 1;
        }
        (info.dlpi_addr as usize, std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)))
    };
    let page = rustix::param::page_size();
    // A segment that could ever be written has pages of its own (relocations, RELRO included) that the file has not.
    for header in headers.iter().filter(|one| one.p_type == libc::PT_LOAD && one.p_flags & libc::PF_W == 0) {
        let begin = (base + header.p_vaddr as usize).next_multiple_of(page);
        let end = (base + header.p_vaddr as usize + header.p_memsz as usize) / page * page;
        if begin < end {
            // SAFETY: the range is a private, read-only mapping of the program's file that was never written: what is
            // dropped is what the next access reads from the file again.
            unsafe {
                libc::madvise(begin as *mut c_void, end - begin, libc::MADV_DONTNEED);
            }
        }
    }
    1
}

#[cfg(test)]
mod tests {
    /// KiB of file pages that this process has mapped.
    fn resident_file_pages() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("RssFile:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn the_program_goes_on_with_fewer_pages() {
        let before = resident_file_pages();
        super::release_idle();
        let after = resident_file_pages();
        assert!(after < before, "{after} KiB after, {before} KiB before");
        // Text, constants and relocated data are as they were.
        assert_eq!(format!("{:?} {}", Some("text"), u64::MAX), "Some(\"text\") 18446744073709551615");
    }
}
