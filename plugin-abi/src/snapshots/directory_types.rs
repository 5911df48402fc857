//! Whether a file system tells the types of directory entries.

use std::io;
use std::path::Path;

use rustix::fs::{Dir, FileType, Mode, OFlags, open};

use crate::{Error, Result};

/// Whether entries of `directory` come with their types (d_type): an overlay needs that of its layers, to tell whiteouts without asking for each
/// file. Blocks.
pub fn tells_types(directory: &Path) -> Result<bool> {
    let told = || -> io::Result<bool> {
        let opened = open(
            directory,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        for entry in Dir::new(opened)? {
            if entry?.file_type() == FileType::Unknown {
                return Ok(false);
            }
        }
        Ok(true)
    };
    told().map_err(|error| Error::io(format!("list {}", directory.display()), &error))
}
