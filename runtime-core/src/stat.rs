//! `/proc/PID/stat` (proc_pid_stat(5)).

/// Such as `R`, `T` or `Z`.
pub(crate) fn state(stat: &str) -> Option<u8> {
    field(stat, 3)?.bytes().next()
}

pub(crate) fn parent(stat: &str) -> Option<i32> {
    field(stat, 4)?.parse().ok()
}

/// Clock ticks since boot.
pub(crate) fn start_time(stat: &str) -> Option<u64> {
    field(stat, 22)?.parse().ok()
}

/// Numbered as on the manual's page, from the third on: the second is the command's name, in parentheses, and may hold any byte,
/// parentheses too.
fn field(stat: &str, number: usize) -> Option<&str> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(number.checked_sub(3)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_behind_a_hostile_name() {
        let stat = format!("7 (a) R (b) Z {}", (4..=52).map(|n| n.to_string()).collect::<Vec<_>>().join(" "));
        assert_eq!((state(&stat), parent(&stat), start_time(&stat)), (Some(b'Z'), Some(4), Some(22)));
        assert_eq!(state("7 (a) b) D 1"), Some(b'D'));
        for cut_off in ["", "7 (a", "7 (a) "] {
            assert_eq!((state(cut_off), parent(cut_off), start_time(cut_off)), (None, None, None), "{cut_off}");
        }
    }
}
