//! One 512-byte header block, taken apart: v7, ustar, star and GNU tar. Pure.

use std::io;

use super::super::invalid;
use super::{BLOCK, Timestamp};

/// The fields of a header block that layers use.
#[derive(Debug, Default)]
pub(super) struct Header {
    pub(super) kind: u8,
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: i64,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) size: i64,
    pub(super) mtime: i64,
    pub(super) atime: Option<Timestamp>,
    pub(super) device: (i64, i64),
}

/// Takes a block apart; its checksum must be right.
pub(super) fn parse(block: &[u8; BLOCK]) -> io::Result<Header> {
    verify_checksum(block)?;
    let magic = &block[257..265];
    let (ustar, gnu) = (magic.starts_with(b"ustar\0"), magic == b"ustar  \0");
    let star = ustar && &block[508..512] == b"tar\0";
    let mut header = Header {
        kind: block[156],
        name: text(&block[..100]).to_vec(),
        link: text(&block[157..257]).to_vec(),
        mode: number(&block[100..108])?,
        uid: number(&block[108..116])?,
        gid: number(&block[116..124])?,
        size: number(&block[124..136])?,
        mtime: number(&block[136..148])?,
        ..Header::default()
    };
    if header.size < 0 {
        return Err(invalid("a tar header has a negative size"));
    }
    // Some writers leave rubbish in the device fields of other kinds.
    if (ustar || gnu) && matches!(header.kind, b'3' | b'4') {
        header.device = (number(&block[329..337])?, number(&block[337..345])?);
    }
    let prefix = match (star, ustar) {
        (true, _) => text(&block[345..476]),
        (_, true) => text(&block[345..500]),
        // GNU tar keeps other things there.
        _ => b"",
    };
    if !prefix.is_empty() {
        header.name = [prefix, b"/", &header.name].concat();
    }
    let atime = if star {
        &block[476..488]
    } else if gnu {
        &block[345..357]
    } else {
        b""
    };
    header.atime = number(atime)
        .ok()
        .filter(|&seconds| seconds != 0)
        .map(|seconds| Timestamp { seconds, nanos: 0 });
    Ok(header)
}

/// The bytes up to the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or(field)
}

/// A number: octal digits, or big-endian two's complement when the top bit of the first byte is set. 0 when empty.
pub(super) fn number(field: &[u8]) -> io::Result<i64> {
    if let Some(&first) = field.first()
        && first & 0x80 != 0
    {
        let fill = if first & 0x40 == 0 { 0 } else { !0_i64 };
        // The marker bit is no part of the value: what is left of the first byte extends its sign.
        let mut value = (fill << 7) | i64::from(first & 0x7f);
        for &byte in &field[1..] {
            if value.checked_mul(256).is_none() {
                return Err(invalid("a number in a tar header does not fit 64 bits"));
            }
            value = (value << 8) | i64::from(byte);
        }
        return Ok(value);
    }
    let digits = text(field).trim_ascii();
    if digits.is_empty() {
        return Ok(0);
    }
    std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| i64::from_str_radix(digits, 8).ok())
        .ok_or_else(|| {
            invalid(format!(
                "a tar header has {:?} where an octal number belongs",
                String::from_utf8_lossy(digits)
            ))
        })
}

/// The sum of all bytes, with the field of the sum itself read as spaces; old writers took the bytes as signed.
fn verify_checksum(block: &[u8; BLOCK]) -> io::Result<()> {
    let stored = number(&block[148..156]).unwrap_or(-1);
    let rest = block[..148].iter().chain(&block[156..]);
    let unsigned: i64 = rest.clone().map(|&b| i64::from(b)).sum::<i64>() + 8 * 32;
    let signed: i64 = rest.map(|&b| i64::from(b.cast_signed())).sum::<i64>() + 8 * 32;
    if stored == unsigned || stored == signed {
        Ok(())
    } else {
        Err(invalid("this is no tar header: its checksum is wrong"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (field, expected) in [
            (&b"0000644\0"[..], 0o644),
            (b"   644 \0", 0o644),
            (b"\0\0\0\0\0\0\0\0", 0),
            (b"        ", 0),
            (b"77777777777 ", 0o77_777_777_777),
            (b"\x80\0\0\0\0\0\x01\0", 256),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", -1),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", -2),
        ] {
            assert_eq!(number(field).expect("valid"), expected, "{field:?}");
        }
        assert!(number(b"0000648\0").is_err());
        assert!(number(b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").is_err());
    }

    #[test]
    fn a_block_of_rubbish_is_refused() {
        assert!(parse(&[b'x'; BLOCK]).is_err());
    }
}
