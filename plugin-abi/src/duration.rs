//! Go's durations as text (`"100ms"`, `"1m0s"`): how containerd's configuration writes time spans, also in `[timeouts]`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Error;

/// A signed span in nanoseconds, as Go's `time.Duration`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(i64);

const SECOND: u64 = 1_000_000_000;

/// Longest first where one unit begins another.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", SECOND),
    ("m", 60 * SECOND),
    ("h", 3600 * SECOND),
];

// === impl GoDuration ===

impl GoDuration {
    /// From nanoseconds.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// From milliseconds.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis * 1_000_000)
    }

    /// In nanoseconds.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// As a standard duration; a negative span becomes zero, which is what containerd makes of one.
    pub fn to_std(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }
}

impl FromStr for GoDuration {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let malformed = || {
            Error::invalid_argument(format!(
                "{text:?} is no duration: write numbers with units (ns, us, ms, s, m, h), as in \"100ms\" or \"1m30s\""
            ))
        };
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        // The one number that needs no unit.
        if unsigned == "0" {
            return Ok(Self::default());
        }
        let mut rest = unsigned;
        let mut total = 0_f64;
        let mut exact = 0_u128;
        while !rest.is_empty() {
            let end = rest
                .find(|c: char| c != '.' && !c.is_ascii_digit())
                .ok_or_else(malformed)?;
            let (number, after) = rest.split_at(end);
            let end = after
                .find(|c: char| c == '.' || c.is_ascii_digit())
                .unwrap_or(after.len());
            let (unit, after) = after.split_at(end);
            let scale = UNITS
                .iter()
                .find_map(|(name, scale)| (*name == unit).then_some(*scale))
                .ok_or_else(malformed)?;
            match number.parse::<u64>() {
                Ok(whole) => exact += u128::from(whole) * u128::from(scale),
                Err(_) => total += number.parse::<f64>().map_err(|_| malformed())? * scale as f64,
            }
            rest = after;
        }
        if unsigned.is_empty() {
            return Err(malformed());
        }
        let nanos = i64::try_from(exact.saturating_add(total as u128)).map_err(|_| {
            Error::invalid_argument(format!("duration {text:?} is out of range: at most 292 years fit"))
        })?;
        Ok(Self(if text.starts_with('-') { -nanos } else { nanos }))
    }
}

impl fmt::Display for GoDuration {
    /// As Go prints it: `1m0s`, `1.5s`, `100ms`, `0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let (value, scale, unit) = match nanos {
            0 => return f.write_str("0s"),
            1..1_000 => (nanos, 1, "ns"),
            1_000..1_000_000 => (nanos, 1_000, "µs"),
            1_000_000..SECOND => (nanos, 1_000_000, "ms"),
            _ => {
                let minutes = nanos / (60 * SECOND);
                if minutes >= 60 {
                    write!(f, "{}h", minutes / 60)?;
                }
                if minutes > 0 {
                    write!(f, "{}m", minutes % 60)?;
                }
                (nanos % (60 * SECOND), SECOND, "s")
            }
        };
        write!(f, "{}", value / scale)?;
        let fraction = value % scale;
        if fraction > 0 {
            let width = scale.ilog10() as usize;
            write!(f, ".{}", format!("{fraction:0width$}").trim_end_matches('0'))?;
        }
        f.write_str(unit)
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints_what_go_does() {
        for (text, nanos, printed) in [
            ("0", 0, "0s"),
            ("100ms", 100_000_000, "100ms"),
            ("1m", 60_000_000_000, "1m0s"),
            ("1.5h", 5_400_000_000_000, "1h30m0s"),
            (".5s", 500_000_000, "500ms"),
            ("-1m2.5s", -62_500_000_000, "-1m2.5s"),
            ("1us500ns", 1_500, "1.5µs"),
            ("4h0m0s", 14_400_000_000_000, "4h0m0s"),
        ] {
            let parsed: GoDuration = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(parsed, GoDuration::from_nanos(nanos), "{text}");
            assert_eq!(parsed.to_string(), printed, "{text}");
        }
        for bad in [
            "",
            "3",
            "s",
            ".s",
            "1d",
            "-",
            "1 s",
            "abc",
            "1s2",
            "1.2.3s",
            "2562048h",
            "99999999999999999999s",
        ] {
            assert!(bad.parse::<GoDuration>().is_err(), "{bad:?}");
        }
        assert_eq!(GoDuration::from_millis(-5).to_std(), Duration::ZERO);
    }
}
