//! The names in a layer: how a path is cleaned, and which names are markers (image-spec, layer.md, "Whiteouts"). Pure.

use std::io;

use super::{invalid, shown};

/// What a whiteout's name begins with.
pub(super) const PREFIX: &[u8] = b".wh.";

/// The marker that hides all that lower layers have in a directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What the last component of a path in a layer means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Marker<'a> {
    /// A file of that name.
    None,
    /// This directory hides what lower layers have in it.
    Opaque,
    /// This name of lower layers is gone.
    Gone(&'a [u8]),
}

/// Reads the last component of a path.
pub(super) fn marker(base: &[u8]) -> io::Result<Marker<'_>> {
    if base == OPAQUE {
        return Ok(Marker::Opaque);
    }
    match base.strip_prefix(PREFIX) {
        None => Ok(Marker::None),
        // These would remove the directory that holds the marker, or the one above.
        Some(b"" | b"." | b"..") => Err(invalid(format!("invalid whiteout name {:?}", shown(base)))),
        Some(name) => Ok(Marker::Gone(name)),
    }
}

/// The path relative to the root, without `.`, `..` (which stop at the root) and doubled slashes. Empty for the root itself.
pub(super) fn clean(path: &[u8]) -> Vec<u8> {
    let mut clean: Vec<u8> = Vec::with_capacity(path.len());
    for part in path.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => clean.truncate(split(&clean).0.len()),
            _ => {
                if !clean.is_empty() {
                    clean.push(b'/');
                }
                clean.extend_from_slice(part);
            }
        }
    }
    clean
}

/// The directory (empty for the root) and the last component of a clean path.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// A clean path with one more component.
pub(super) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() {
        name.to_vec()
    } else {
        [directory, b"/", name].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers() {
        assert_eq!(marker(b"file").expect("valid"), Marker::None);
        assert_eq!(marker(b".wh.file").expect("valid"), Marker::Gone(b"file"));
        assert_eq!(marker(b".wh..wh..opq").expect("valid"), Marker::Opaque);
        assert_eq!(marker(b".wh").expect("valid"), Marker::None);
        for bad in [&b".wh."[..], b".wh..", b".wh..."] {
            assert!(marker(bad).is_err(), "{}", shown(bad));
        }
    }

    #[test]
    fn paths_stay_inside() {
        for (path, expected) in [
            ("a/b", "a/b"),
            ("./a//b/", "a/b"),
            ("/etc/passwd", "etc/passwd"),
            ("../../etc", "etc"),
            ("a/../../b", "b"),
            ("a/b/../c", "a/c"),
            ("..", ""),
            ("./", ""),
            ("", ""),
        ] {
            assert_eq!(clean(path.as_bytes()), expected.as_bytes(), "{path}");
        }
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"c"), (&b""[..], &b"c"[..]));
        assert_eq!(join(b"", b"c"), b"c");
    }
}
