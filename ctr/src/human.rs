//! Sizes and durations as people read and write them, in the spelling of containerd's client.

use std::time::Duration;

/// `2.2 MiB`: one decimal, powers of 1024.
pub fn binary_size(bytes: i64) -> String {
    let (value, unit) = scale(bytes as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]);
    format!("{value:.1} {unit}")
}

/// `2.202MB`: four significant digits, powers of 1000.
pub fn decimal_size(bytes: i64) -> String {
    let (value, unit) = scale(bytes as f64, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB"]);
    format!("{}{unit}", significant(value))
}

fn scale(mut value: f64, base: f64, units: &[&'static str]) -> (f64, &'static str) {
    let mut position = 0;
    while value >= base && position + 1 < units.len() {
        value /= base;
        position += 1;
    }
    (value, units[position])
}

/// Four significant digits without trailing zeros, for values from 0 to 1000.
fn significant(value: f64) -> String {
    let decimals = match value {
        v if v >= 999.95 => 0,
        v if v >= 99.995 => 1,
        v if v >= 9.9995 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// How long ago, roughly.
pub fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", hours / 24 / 365),
    }
}

/// Reads Go's durations: `1h30m`, `10s`, `1.5s`, `100ms`, `0`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("invalid duration {text:?}: expected a number and a unit, like 30s, 5m or 1h30m");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(invalid)?;
        let value: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let seconds = match &rest[..end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(invalid()),
        };
        total += Duration::try_from_secs_f64(value * seconds).map_err(|_| invalid())?;
        rest = &rest[end..];
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let cases = [
            (0, "0.0 B", "0B"),
            (1023, "1023.0 B", "1.023kB"),
            (1_048_576, "1.0 MiB", "1.049MB"),
        ];
        for (bytes, binary, decimal) in cases {
            assert_eq!(
                (binary_size(bytes).as_str(), decimal_size(bytes).as_str()),
                (binary, decimal)
            );
        }
        assert_eq!(decimal_size(426), "426B");
        assert_eq!(decimal_size(1_500), "1.5kB");
        assert_eq!(decimal_size(12_340), "12.34kB");
    }

    #[test]
    fn ages() {
        let cases = [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (3000, "50 minutes"),
            (3600, "About an hour"),
            (86_400, "24 hours"),
            (86_400 * 3, "3 days"),
            (86_400 * 20, "2 weeks"),
        ];
        for (seconds, text) in cases {
            assert_eq!(age(Duration::from_secs(seconds)), text, "{seconds}");
        }
    }

    #[test]
    fn durations() {
        let cases = [
            ("0", 0),
            ("0s", 0),
            ("1h30m", 5_400_000),
            ("1.5s", 1500),
            ("100ms", 100),
        ];
        for (text, millis) in cases {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
        for bad in ["", "5", "s", "5x", "-5s", "1..s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
