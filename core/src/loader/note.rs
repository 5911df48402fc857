//! Reading a library's ELF note without opening the library.

use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, ReadCache};
use orlop_plugin::channel::note::{NAME, Note, TARGET, TYPE};
use orlop_plugin::channel::v1;

/// The note of the library in `file`, or why it must not be opened.
pub(super) fn read(file: &std::fs::File) -> Result<Note, String> {
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    let data = ReadCache::new(file);
    let broken = |error: object::Error| format!("it is no ELF library, or a damaged one: {error}");
    let header = FileHeader64::<Endianness>::parse(&data).map_err(broken)?;
    let endian = header.endian().map_err(broken)?;
    let segments = header.program_headers(endian, &data).map_err(broken)?;
    for segment in segments.iter().filter(|segment| segment.p_type(endian) == PT_LOAD) {
        let end = segment.p_offset(endian).saturating_add(segment.p_filesz(endian));
        // Mapping it would end the daemon with SIGBUS.
        if end > length {
            return Err(format!(
                "it is truncated: it has {length} bytes, its segments reach to {end}"
            ));
        }
    }
    // The section headers come last in a file: where they are gone, so is something of the end.
    header
        .section_headers(endian, &data)
        .map_err(|error| format!("it is truncated or damaged: {error}"))?;
    for segment in segments {
        let Some(mut notes) = segment.notes(endian, &data).map_err(broken)? else {
            continue;
        };
        while let Some(note) = notes.next().map_err(broken)? {
            if note.name() == NAME.as_bytes() && note.n_type(endian).0 == TYPE {
                return check(Note::parse(note.desc()));
            }
        }
    }
    Err("it is no Orlop plugin: it has no `Orlop` note (does it end in `export_plugin!`?)".to_owned())
}

fn check(note: Note) -> Result<Note, String> {
    if note.target != TARGET {
        return Err(format!(
            "it was built for {}, this daemon runs on {TARGET}",
            note.target
        ));
    }
    if !note.abi.contains(&v1::VERSION) {
        return Err(format!(
            "it speaks version {:?} of the plugin ABI (SDK {}), this daemon version {}: rebuild it with an SDK of this release",
            note.abi,
            note.sdk,
            v1::VERSION
        ));
    }
    Ok(note)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[track_caller]
    fn refused(bytes: &[u8], why: &str) {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("written");
        let reason = read(&file).expect_err("refused");
        assert!(reason.contains(why), "{reason}");
    }

    #[test]
    fn what_is_no_library_is_refused_with_the_reason() {
        refused(b"", "no ELF library");
        refused(
            b"#!/bin/sh\necho no library at all, but long enough to be read as a header of one\n",
            "no ELF library",
        );
        let own = std::fs::read(std::env::current_exe().expect("this test")).expect("its bytes");
        refused(&own, "no `Orlop` note");
        refused(&own[..own.len() / 2], "truncated");
        refused(&own[..own.len() - 100], "truncated");
    }

    #[test]
    fn another_abi_or_target_is_refused_with_both_versions() {
        let note = Note {
            abi: vec![7],
            sdk: "9.9.9".into(),
            target: TARGET.into(),
            plugins: Vec::new(),
        };
        let reason = check(note.clone()).expect_err("another ABI");
        assert!(
            reason.contains("[7]") && reason.contains("9.9.9") && reason.contains("version 1"),
            "{reason}"
        );
        let reason = check(Note {
            target: "linux/vax".into(),
            ..note
        })
        .expect_err("another target");
        assert!(reason.contains("linux/vax"), "{reason}");
    }
}
