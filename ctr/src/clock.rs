//! Times as Go prints them. Time zones are libc's matter.

use prost_types::Timestamp;
use std::time::{Duration, SystemTime};

/// Date and time of day, and the offset from UTC in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Civil {
    year: i64,
    month: u32,
    day: u32,
    second_of_day: i64,
    offset: i64,
}

/// `2006-01-02T15:04:05.999999999Z`: in UTC, the fraction without trailing zeros.
pub fn rfc3339(time: &Timestamp) -> String {
    let text = format(civil(time.seconds, 0), 'T');
    format!("{text}{}Z", fraction(time.nanos))
}

/// The same to the second, as labels have it.
pub fn rfc3339_seconds(time: &Timestamp) -> String {
    format!("{}Z", format(civil(time.seconds, 0), 'T'))
}

/// In this machine's time zone, to the second: `2006-01-02T15:04:05+01:00`.
pub fn rfc3339_local(time: &Timestamp) -> String {
    let civil = civil(time.seconds, local_offset(time.seconds));
    let zone = match civil.offset {
        0 => "Z".to_owned(),
        offset => {
            let sign = if offset < 0 { '-' } else { '+' };
            format!("{sign}{:02}:{:02}", offset.abs() / 3600, offset.abs() / 60 % 60)
        }
    };
    format!("{}{zone}", format(civil, 'T'))
}

/// As Go prints a time by default: `2006-01-02 15:04:05.999999999 +0000 UTC`.
pub fn go_default(time: &Timestamp) -> String {
    format!(
        "{}{} +0000 UTC",
        format(civil(time.seconds, 0), ' '),
        fraction(time.nanos)
    )
}

/// Now, as labels have it.
pub fn now() -> Timestamp {
    SystemTime::now().into()
}

/// Today's date in this machine's time zone.
pub fn today() -> String {
    let now = now();
    format(civil(now.seconds, local_offset(now.seconds)), 'T')[..10].to_owned()
}

/// Time passed since `time`; nothing for the future.
pub fn since(time: Option<&Timestamp>) -> Duration {
    let Some(time) = time else { return Duration::ZERO };
    let now = now();
    let seconds = now.seconds - time.seconds;
    let nanos = i64::from(now.nanos) - i64::from(time.nanos);
    Duration::from_nanos(u64::try_from(seconds.saturating_mul(1_000_000_000).saturating_add(nanos)).unwrap_or(0))
}

fn format(civil: Civil, separator: char) -> String {
    let Civil {
        year,
        month,
        day,
        second_of_day,
        ..
    } = civil;
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    format!("{year:04}-{month:02}-{day:02}{separator}{hour:02}:{minute:02}:{second:02}")
}

fn fraction(nanos: i32) -> String {
    if nanos == 0 {
        return String::new();
    }
    let digits = format!("{nanos:09}");
    format!(".{}", digits.trim_end_matches('0'))
}

/// Days to a date by the proleptic Gregorian calendar (Howard Hinnant's `civil_from_days`).
fn civil(seconds: i64, offset: i64) -> Civil {
    let local = seconds + offset;
    let days = local.div_euclid(86_400) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    Civil {
        year: year_of_era + era * 400 + i64::from(month <= 2),
        month: month as u32,
        day: (day_of_year - (153 * shifted + 2) / 5 + 1) as u32,
        second_of_day: local.rem_euclid(86_400),
        offset,
    }
}

#[expect(
    unsafe_code,
    reason = "libc alone knows this machine's time zone, and nix does not wrap it"
)]
fn local_offset(seconds: i64) -> i64 {
    let mut broken_down = std::mem::MaybeUninit::<nix::libc::tm>::zeroed();
    // SAFETY: both pointers are to values that live for the call; all-zero is a valid `tm`, and the call only writes it.
    let filled = unsafe { nix::libc::localtime_r(&raw const seconds, broken_down.as_mut_ptr()) };
    if filled.is_null() {
        return 0;
    }
    // SAFETY: initialised to zero above, and filled by the successful call.
    unsafe { broken_down.assume_init() }.tm_gmtoff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_print_as_go_prints_them() {
        let time = Timestamp {
            seconds: 1_709_210_096,
            nanos: 120_000_000,
        };
        assert_eq!(rfc3339(&time), "2024-02-29T12:34:56.12Z");
        assert_eq!(rfc3339_seconds(&time), "2024-02-29T12:34:56Z");
        assert_eq!(go_default(&time), "2024-02-29 12:34:56.12 +0000 UTC");
        assert_eq!(
            rfc3339(&Timestamp {
                seconds: -62_135_596_800,
                nanos: 0
            }),
            "0001-01-01T00:00:00Z"
        );
    }
}
