//! Go's durations as text: `"1m0s"`, `"100ms"`, `"4h0m0s"`, which is how containerd writes every time span.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A signed span in nanoseconds, as Go's `time.Duration`: it parses what Go parses and prints what Go prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GoDuration(i64);

/// Why a text is not a Go duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not a number, or nothing at all.
    #[error("invalid duration {0:?}: write a number and a unit, as in \"10s\" or \"1m30s\"")]
    Malformed(String),
    /// A number without its unit.
    #[error("missing unit in duration {0:?}: use ns, us, ms, s, m or h")]
    MissingUnit(String),
    /// A unit Go does not have.
    #[error("unknown unit {unit:?} in duration {text:?}: use ns, us, ms, s, m or h")]
    UnknownUnit {
        /// The whole text.
        text: String,
        /// The unit.
        unit: String,
    },
    /// More than 292 years.
    #[error("duration {0:?} is out of range (±292 years)")]
    OutOfRange(String),
}

const SECOND: u64 = 1_000_000_000;

impl GoDuration {
    /// No time.
    pub const ZERO: Self = Self(0);

    /// From nanoseconds.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// In nanoseconds.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// As a standard duration; a negative span is none (`None`).
    pub fn to_std(self) -> Option<Duration> {
        u64::try_from(self.0).ok().map(Duration::from_nanos)
    }
}

impl FromStr for GoDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || DurationError::Malformed(text.into());
        let overflow = || DurationError::OutOfRange(text.into());
        let (negative, mut rest) = match text.strip_prefix(['-', '+']) {
            Some(rest) => (text.starts_with('-'), rest),
            None => (false, text),
        };
        // The one number that needs no unit.
        if rest == "0" {
            return Ok(Self::ZERO);
        }
        if rest.is_empty() {
            return Err(malformed());
        }
        // Up to 2^63 inclusive: i64::MIN has no positive counterpart.
        let mut total: u128 = 0;
        while !rest.is_empty() {
            let (whole, after) = digits(rest);
            let (fraction, after) = match after.strip_prefix('.') {
                Some(after) => digits(after),
                None => ("", after),
            };
            if whole.is_empty() && fraction.is_empty() {
                return Err(malformed());
            }
            let unit_end = after
                .find(|c: char| c == '.' || c.is_ascii_digit())
                .unwrap_or(after.len());
            let (unit, after) = after.split_at(unit_end);
            let scale = match unit {
                "" => return Err(DurationError::MissingUnit(text.into())),
                "ns" => 1,
                "us" | "µs" | "μs" => 1_000,
                "ms" => 1_000_000,
                "s" => SECOND,
                "m" => 60 * SECOND,
                "h" => 3600 * SECOND,
                _ => {
                    return Err(DurationError::UnknownUnit {
                        text: text.into(),
                        unit: unit.into(),
                    });
                }
            };
            let whole: u64 = if whole.is_empty() {
                0
            } else {
                whole.parse().map_err(|_| overflow())?
            };
            total += u128::from(whole) * u128::from(scale) + fraction_nanos(fraction, scale);
            if total > 1 << 63 {
                return Err(overflow());
            }
            rest = after;
        }
        let nanos = if negative { -(total as i128) } else { total as i128 };
        i64::try_from(nanos).map(Self).map_err(|_| overflow())
    }
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// `0.fraction` of a unit in nanoseconds, cut off. 18 digits decide it: the largest unit has 13.
fn fraction_nanos(fraction: &str, scale: u64) -> u128 {
    let (mut value, mut power) = (0_u128, 1_u128);
    for digit in fraction.bytes().take(18) {
        value = value * 10 + u128::from(digit - b'0');
        power *= 10;
    }
    value * u128::from(scale) / power
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        match nanos {
            0 => f.write_str("0s"),
            1..1_000 => write!(f, "{nanos}ns"),
            1_000..1_000_000 => decimal(f, nanos, 1_000).and_then(|()| f.write_str("µs")),
            1_000_000..SECOND => decimal(f, nanos, 1_000_000).and_then(|()| f.write_str("ms")),
            _ => {
                let minutes = nanos / (60 * SECOND);
                if minutes >= 60 {
                    write!(f, "{}h", minutes / 60)?;
                }
                if minutes > 0 {
                    write!(f, "{}m", minutes % 60)?;
                }
                decimal(f, nanos % (60 * SECOND), SECOND)?;
                f.write_str("s")
            }
        }
    }
}

/// `value / scale` with the zeros at the end cut off, as Go prints it.
fn decimal(f: &mut fmt::Formatter<'_>, value: u64, scale: u64) -> fmt::Result {
    write!(f, "{}", value / scale)?;
    let fraction = value % scale;
    if fraction == 0 {
        return Ok(());
    }
    let width = scale.ilog10() as usize;
    write!(f, ".{}", format!("{fraction:0width$}").trim_end_matches('0'))
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

impl From<Duration> for GoDuration {
    /// A span beyond Go's range becomes the longest one Go has.
    fn from(duration: Duration) -> Self {
        Self(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prints_and_parses_as_go_does() {
        for (text, nanos, printed) in [
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
            ("100ms", 100_000_000, "100ms"),
            ("1m", 60_000_000_000, "1m0s"),
            ("4h", 14_400_000_000_000, "4h0m0s"),
            ("1.5h", 5_400_000_000_000, "1h30m0s"),
            (".5s", 500_000_000, "500ms"),
            ("1.s", 1_000_000_000, "1s"),
            ("-1m2.5s", -62_500_000_000, "-1m2.5s"),
            ("1us", 1_000, "1µs"),
            ("1μs500ns", 1_500, "1.5µs"),
            ("+7ns", 7, "7ns"),
            ("-9223372036854775808ns", i64::MIN, "-2562047h47m16.854775808s"),
        ] {
            let parsed: GoDuration = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(parsed.as_nanos(), nanos, "{text}");
            assert_eq!(parsed.to_string(), printed, "{text}");
        }
    }

    #[test]
    fn refuses_what_go_refuses() {
        for text in [
            "",
            "3",
            "s",
            ".s",
            "1d",
            "-",
            "1 s",
            "abc",
            "1s2",
            "9223372036854775808ns",
            "2562048h",
            "99999999999999999999s",
        ] {
            assert!(text.parse::<GoDuration>().is_err(), "{text:?}");
        }
        assert_eq!(
            "1d".parse::<GoDuration>(),
            Err(DurationError::UnknownUnit {
                text: "1d".into(),
                unit: "d".into()
            })
        );
    }

    #[test]
    fn negative_spans_have_no_std_form() {
        assert_eq!(GoDuration::from_nanos(-1).to_std(), None);
        assert_eq!(
            GoDuration::from(Duration::from_secs(3)).to_std(),
            Some(Duration::from_secs(3))
        );
        assert_eq!(GoDuration::from(Duration::MAX).as_nanos(), i64::MAX);
    }

    proptest! {
        #[test]
        fn any_span_survives_its_text(nanos: i64) {
            let span = GoDuration::from_nanos(nanos);
            prop_assert_eq!(span.to_string().parse::<GoDuration>(), Ok(span));
        }

        #[test]
        fn no_text_panics(text in "[-+]?[0-9.]{0,30}[a-zµ.0-9]{0,8}") {
            let _ = text.parse::<GoDuration>();
        }
    }
}
