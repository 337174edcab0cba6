//! Well-known failures of CRIU, and what a person can do about them.

/// A piece of CRIU's message, and the advice.
const TABLE: &[(&str, &str)] = &[
    ("Can't get 1:34 opt", "since Linux 6.16 only CRIU 4.2 or newer can dump these sockets (SO_PASSSEC)"),
    ("Dirty tracking is OFF", "pre-dump needs a kernel with CONFIG_MEM_SOFT_DIRTY; dump without pre-dump"),
    ("Unexpected rt vDSO area bounds", "this CRIU does not know this kernel's vDSO; CRIU 4.1 or newer is needed"),
    ("Connected TCP socket, consider using", "checkpoint with tcp-established or tcp-close"),
    ("Connected TCP socket in image", "restore with tcp-established or tcp-close"),
    ("Need to set the --tcp-close options", "restore with tcp-close, as the checkpoint was made"),
    ("disable MPTCP", "CRIU cannot checkpoint multipath TCP; run Go programs with GODEBUG=multipathtcp=0"),
    ("External socket is used", "checkpoint with ext-unix-sk"),
    ("External socket found in image", "restore with ext-unix-sk"),
    ("Some file locks are hold by dumping tasks", "checkpoint with file-locks"),
    ("Can't dump ghost file", "raise ghost-limit above the size of the deleted file"),
    ("--link-remap", "checkpoint with link-remap"),
    ("Found dangling tty", "checkpoint with shell-job"),
    ("Unseizable non-zombie", "the process is in an uninterruptible wait, and cannot be stopped; try again later"),
    ("io_uring", "CRIU cannot checkpoint a process that uses io_uring"),
    ("page-pipe: splice", "raise fs.pipe-max-size to 16777216"),
    ("Locking network failed: iptables-restore", "install iptables, or use the nftables network lock"),
    ("capabilities do not match run time", "this CPU lacks features of the one that the checkpoint was made on"),
    ("No space left on device", "free space in the image directory"),
    ("do not match expected", "the pid is taken; restore into a pid namespace of its own"),
];

/// The last of these lines that is well known, with its advice.
pub(crate) fn find<'a>(lines: impl DoubleEndedIterator<Item = &'a str>) -> Option<(&'a str, &'static str)> {
    lines.rev().find_map(|line| TABLE.iter().find(|(piece, _)| line.contains(piece)).map(|(_, advice)| (line, *advice)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_entry_hides_behind_an_earlier_one() {
        for (i, (piece, advice)) in TABLE.iter().enumerate() {
            let first = TABLE.iter().position(|(earlier, _)| piece.contains(earlier)).unwrap();
            assert_eq!(first, i, "{piece} is shadowed");
            assert!(!advice.is_empty());
        }
    }
}
