//! Images that want out.

use crate::bundle::{Bundle, chain};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("cve_2019_5736_the_init_cannot_be_overwritten", cve_2019_5736_the_init_cannot_be_overwritten),
    (
        "cve_2024_21626_no_working_directory_behind_a_descriptor",
        cve_2024_21626_no_working_directory_behind_a_descriptor,
    ),
];

/// The program is our own binary, as /proc/self/exe of an image made for it; the file behind it must stay as it is.
fn cve_2019_5736_the_init_cannot_be_overwritten() {
    let bundle = Bundle::new("exec sleep 60");
    let (container, running) = bundle.create().unwrap();
    let exe = format!("/proc/{}/exe", running.started.child.pid);
    let ours = std::fs::metadata("/proc/self/exe").unwrap();
    assert_eq!(std::fs::metadata(&exe).unwrap().len(), ours.len());
    let written = std::fs::OpenOptions::new().write(true).open(&exe);
    let Err(err) = written.and_then(|mut file| std::io::Write::write_all(&mut file, b"x")) else { panic!("written") };
    // EROFS on the overlay; ETXTBSY or EPERM on the memfd.
    assert!([30, 26, 1].contains(&err.raw_os_error().unwrap()), "{err}");
    container.delete(true).unwrap();
    running.finish();
}

fn cve_2024_21626_no_working_directory_behind_a_descriptor() {
    let leak = std::fs::File::open("/").unwrap();
    let flags = rustix::io::fcntl_getfd(&leak).unwrap();
    rustix::io::fcntl_setfd(&leak, flags - rustix::io::FdFlags::CLOEXEC).unwrap();
    for fd in 3..16 {
        // The host's root has /usr, the container's has not. A descriptor of the container's own root may be used.
        let mut bundle = Bundle::new("test -e bin/busybox && test ! -e usr && test ! -e ../usr");
        bundle.spec["process"]["cwd"] = format!("/proc/self/fd/{fd}").into();
        match bundle.create() {
            Err(err) => {
                assert!(chain(&err).contains("cwd") || chain(&err).contains("working directory"), "{fd}: {err}")
            }
            Ok((container, running)) => {
                container.start().unwrap();
                assert_eq!(running.finish().0, 0, "{fd}");
                container.delete(false).unwrap();
            }
        }
        bundle.assert_nothing_left();
    }
}
