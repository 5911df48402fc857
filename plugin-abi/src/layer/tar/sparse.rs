//! Sparse files: the maps of old GNU tar (in the header) and of PAX (0.0 and 0.1 in records, 1.0 in front of the data). Pure.

use std::io;

use super::super::invalid;
use super::{BLOCK, Extent, header, pax};

/// The map of an old GNU sparse header, and whether blocks with more follow.
pub(super) fn gnu_header(block: &[u8; BLOCK]) -> io::Result<(Vec<Extent>, bool)> {
    Ok((gnu_extents(&block[386..482])?, block[482] != 0))
}

/// The length of a file in an old GNU sparse header.
pub(super) fn gnu_size(block: &[u8; BLOCK]) -> io::Result<u64> {
    u64::try_from(header::number(&block[483..495])?).map_err(|_| invalid("a sparse file has a negative size"))
}

/// More of such a map, and whether yet more follows.
pub(super) fn gnu_extension(block: &[u8; BLOCK]) -> io::Result<(Vec<Extent>, bool)> {
    Ok((gnu_extents(&block[..504])?, block[504] != 0))
}

fn gnu_extents(fields: &[u8]) -> io::Result<Vec<Extent>> {
    fields
        .chunks_exact(24)
        .take_while(|pair| pair[0] != 0)
        .map(|pair| extent(header::number(&pair[..12])?, header::number(&pair[12..])?))
        .collect()
}

/// The map of PAX 0.0 and 0.1: offsets and lengths in turn.
pub(super) fn pairs<'a>(numbers: impl IntoIterator<Item = &'a [u8]>) -> io::Result<Vec<Extent>> {
    let mut extents = Vec::new();
    let mut numbers = numbers.into_iter();
    while let Some(offset) = numbers.next() {
        let length = numbers
            .next()
            .ok_or_else(|| invalid("a sparse map ends in the middle of a pair"))?;
        extents.push(extent(pax::integer(offset)?, pax::integer(length)?)?);
    }
    Ok(extents)
}

/// The map of PAX 1.0 (`COUNT\n` and then `OFFSET\nLENGTH\n` each): `None` while `text` does not hold all of it.
pub(super) fn pax_1_0(text: &[u8]) -> io::Result<Option<Vec<Extent>>> {
    let mut lines: Vec<&[u8]> = text.split(|&b| b == b'\n').collect();
    // What follows the last newline is padding, or half a number.
    lines.pop();
    let Some((count, numbers)) = lines.split_first() else {
        return Ok(None);
    };
    let wanted = usize::try_from(pax::integer(count)?)
        .ok()
        .and_then(|count| count.checked_mul(2))
        .ok_or_else(|| invalid("a sparse map has an impossible count"))?;
    match numbers.get(..wanted) {
        Some(numbers) => pairs(numbers.iter().copied()).map(Some),
        None => Ok(None),
    }
}

fn extent(offset: i64, length: i64) -> io::Result<Extent> {
    match (u64::try_from(offset), u64::try_from(length)) {
        (Ok(offset), Ok(length)) => Ok(Extent { offset, length }),
        _ => Err(invalid("a sparse map has a negative number")),
    }
}

/// Checks that the runs are in order, inside the file, and no more than is stored.
pub(super) fn check(extents: &[Extent], size: u64, stored: u64) -> io::Result<()> {
    let mut end = 0;
    let mut sum = 0_u64;
    for extent in extents {
        let next = extent.offset.checked_add(extent.length);
        match next {
            Some(next) if extent.offset >= end && next <= size => end = next,
            _ => return Err(invalid("a sparse map overlaps itself or leaves its file")),
        }
        sum += extent.length;
    }
    if sum > stored {
        return Err(invalid("a sparse map names more data than is stored"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_in_front_of_the_data() {
        assert_eq!(pax_1_0(b"2\n0\n5\n10").expect("valid so far"), None);
        assert_eq!(pax_1_0(b"").expect("valid so far"), None);
        let map = pax_1_0(b"2\n0\n5\n10\n7\n\0\0\0").expect("valid").expect("whole");
        assert_eq!(map, [Extent { offset: 0, length: 5 }, Extent { offset: 10, length: 7 }]);
        assert!(pax_1_0(b"-1\n").is_err());
        assert!(pax_1_0(b"x\n").is_err());
    }

    #[test]
    fn maps_stay_inside_their_file() {
        let map = [Extent { offset: 0, length: 5 }, Extent { offset: 10, length: 7 }];
        assert!(check(&map, 17, 12).is_ok());
        assert!(check(&map, 16, 12).is_err());
        assert!(check(&map, 17, 11).is_err());
        let overlapping = [Extent { offset: 4, length: 5 }, Extent { offset: 8, length: 7 }];
        assert!(check(&overlapping, 100, 100).is_err());
        let overflowing = [Extent {
            offset: u64::MAX,
            length: 5,
        }];
        assert!(check(&overflowing, u64::MAX, u64::MAX).is_err());
    }
}
