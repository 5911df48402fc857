//! PAX records (`LENGTH KEY=VALUE\n`) and their numbers, read and written. Pure.

use std::io;

use super::super::invalid;
use super::Timestamp;

/// Takes the body of an extended header apart into keys and values.
pub(super) fn records(mut body: &[u8]) -> io::Result<Vec<(&[u8], &[u8])>> {
    let mut records = Vec::new();
    // Some writers pad the body with NULs.
    while body.first().is_some_and(|&b| b != 0) {
        let record = (|| {
            let space = body.iter().position(|&b| b == b' ')?;
            let length: usize = std::str::from_utf8(&body[..space]).ok()?.parse().ok()?;
            let record = body.get(space + 1..length)?.strip_suffix(b"\n")?;
            // A key without a letter, or with a NUL, is none in Go's reader either.
            let equals = record.iter().position(|&b| b == b'=').filter(|&at| at > 0)?;
            if record[..equals].contains(&0) {
                return None;
            }
            body = &body[length..];
            Some((&record[..equals], &record[equals + 1..]))
        })();
        records.push(record.ok_or_else(|| invalid("a PAX extended header is damaged"))?);
    }
    Ok(records)
}

/// Appends a record. Its length counts its own digits.
pub(super) fn push_record(body: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + decimal_digits(rest);
    // One more digit can make the length one digit longer.
    if decimal_digits(length) > decimal_digits(rest) {
        length = rest + decimal_digits(length);
    }
    body.extend_from_slice(length.to_string().as_bytes());
    body.push(b' ');
    body.extend_from_slice(key);
    body.push(b'=');
    body.extend_from_slice(value);
    body.push(b'\n');
}

fn decimal_digits(n: usize) -> usize {
    n.checked_ilog10().unwrap_or(0) as usize + 1
}

/// A decimal number.
pub(super) fn integer(value: &[u8]) -> io::Result<i64> {
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| {
            invalid(format!(
                "a PAX record has {:?} where a number belongs",
                String::from_utf8_lossy(value)
            ))
        })
}

/// Seconds with a fraction, before or after 1970; digits below the nanosecond are cut.
pub(super) fn timestamp(value: &[u8]) -> io::Result<Timestamp> {
    let (whole, fraction) = match value.iter().position(|&b| b == b'.') {
        Some(at) => (&value[..at], &value[at + 1..]),
        None => (value, &b""[..]),
    };
    let negative = whole.first() == Some(&b'-');
    let seconds = integer(whole)?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(invalid(format!(
            "a PAX record has {:?} where a time belongs",
            String::from_utf8_lossy(value)
        )));
    }
    let nanos = (0..9).fold(0, |nanos, digit| {
        nanos * 10 + u32::from(fraction.get(digit).map_or(0, |b| b - b'0'))
    });
    Ok(if negative && nanos > 0 {
        Timestamp {
            seconds: seconds.saturating_sub(1),
            nanos: 1_000_000_000 - nanos,
        }
    } else {
        Timestamp { seconds, nanos }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip_at_every_length() {
        for length in 0..1200 {
            let value = vec![b'v'; length];
            let mut body = Vec::new();
            push_record(&mut body, b"path", &value);
            push_record(&mut body, b"SCHILY.xattr.user.x", b"a\nb=\0c");
            let read = records(&body).expect("valid");
            assert_eq!(read[0], (&b"path"[..], &value[..]));
            assert_eq!(read[1], (&b"SCHILY.xattr.user.x"[..], &b"a\nb=\0c"[..]));
        }
    }

    #[test]
    fn damaged_records_are_refused() {
        for bad in [
            &b"5 a=b"[..],
            b"99 path=x\n",
            b"x path=x\n",
            b"2 \n",
            b"0 a=b\n",
            b"9 pathxxx\n",
            b"5 =b\n",
            b"8 a\0b=c\n",
        ] {
            assert!(records(bad).is_err(), "{bad:?}");
        }
        assert!(records(b"\0\0\0").expect("padding").is_empty());
    }

    #[test]
    fn times() {
        for (text, seconds, nanos) in [
            ("1700000000", 1_700_000_000, 0),
            ("1700000000.5", 1_700_000_000, 500_000_000),
            ("1.123456789999", 1, 123_456_789),
            ("-1.5", -2, 500_000_000),
            ("-0.25", -1, 750_000_000),
            ("3.", 3, 0),
        ] {
            assert_eq!(
                timestamp(text.as_bytes()).expect("valid"),
                Timestamp { seconds, nanos },
                "{text}"
            );
        }
        assert!(timestamp(b"1.x").is_err());
        assert!(timestamp(b"").is_err());
    }
}
