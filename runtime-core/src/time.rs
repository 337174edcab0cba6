//! Moments as the field prints them.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// UTC as RFC 3339 has it. `{:.0}` prints whole seconds, `{:.9}` nanoseconds, and `{}` as many digits as there are, like
/// Go's `RFC3339Nano`. Before 1970 it is 1970.
#[derive(Clone, Copy, Debug)]
pub struct Rfc3339(pub SystemTime);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = since.as_secs();
        let (days, second) = (seconds / 86400, seconds % 86400);
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let digits = format!("{:09}", since.subsec_nanos());
        let digits = match f.precision() {
            Some(precision) => &digits[..precision.min(digits.len())],
            None => digits.trim_end_matches('0'),
        };
        let point = if digits.is_empty() { "" } else { "." };
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{point}{digits}Z")
    }
}

/// Year, month and day of a day number since 1970, by eras of 400 years that begin in March.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> String {
        Rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
    }

    #[test]
    fn times_are_what_date_prints() {
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_793_000_000), "2026-10-26T07:33:20Z");
        assert_eq!(at(4_107_542_399), "2100-02-28T23:59:59Z");
    }

    #[test]
    fn the_precision_says_how_many_digits() {
        let time = Rfc3339(UNIX_EPOCH + Duration::from_nanos(1_020_300_000));
        assert_eq!(time.to_string(), "1970-01-01T00:00:01.0203Z");
        assert_eq!(format!("{time:.9}"), "1970-01-01T00:00:01.020300000Z");
        assert_eq!(format!("{time:.0}"), "1970-01-01T00:00:01Z");
    }
}
