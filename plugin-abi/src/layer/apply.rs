//! Applying a layer to a directory.

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use super::compression::Compression;
use super::root::Root;
use super::stages::Expansion;
use super::tar::Archive;
use super::unpack::Unpacker;
use super::{explain, shown, stages};
use crate::contract::Digest;
use crate::{Error, Result};

/// What becomes of the names that a layer takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whiteouts {
    /// They are removed: the directory shows the lower layers' files.
    Remove,
    /// They become overlayfs whiteouts: the directory is an overlay's upper one.
    Overlay {
        /// The overlay has `userxattr`: its attributes are `user.overlay.*`, not `trusted.overlay.*`.
        userxattr: bool,
    },
}

/// How a layer is applied.
#[derive(Clone, Debug)]
pub struct ApplyOptions {
    /// What becomes of the names that the layer takes away.
    pub whiteouts: Whiteouts,
    /// The layers below an overlay's upper directory, the topmost first: a directory that the layer names only on the way gets
    /// their owner, mode and attributes.
    pub lowers: Vec<PathBuf>,
    /// The layers below are not known: the overlay's upper directory is filled by itself, and what can be told only with them (a
    /// directory that the layer names on the way only, the target of a hard link) is `FailedPrecondition`.
    pub alone: bool,
    /// Whether files get the owner that the layer says.
    pub same_owner: bool,
    /// Whether to `syncfs` before returning.
    pub sync: bool,
    /// How much the layer may grow when it is decompressed.
    pub expansion: Expansion,
}

impl Default for ApplyOptions {
    fn default() -> Self {
        Self {
            whiteouts: Whiteouts::Remove,
            lowers: Vec::new(),
            alone: false,
            same_owner: true,
            sync: false,
            expansion: Expansion::default(),
        }
    }
}

/// What was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The digest of the uncompressed stream, what follows the tar's end included.
    pub diff_id: Digest,
    /// The length of the uncompressed stream, in bytes.
    pub size: u64,
}

/// Applies the layer in `source` to the directory `root`. No entry leaves `root`, whatever its path or the links in its way.
///
/// `InvalidArgument` for a damaged archive, `ResourceExhausted` for one that grows beyond measure; an [`Error`] inside one of `source`'s I/O errors comes back with its own code.
pub fn apply(
    source: impl BufRead + Send,
    compression: Compression,
    root: &Path,
    options: &ApplyOptions,
) -> Result<Applied> {
    let doing = || format!("apply a layer to {}", root.display());
    let tree = Root::open(root, options).map_err(|error| explain(doing(), error))?;
    std::thread::scope(|scope| {
        let (tar, digest) = stages::start(scope, source, compression, options.expansion);
        let mut archive = Archive::new(tar);
        let mut unpacker = Unpacker::new(tree, options, in_user_namespace());
        while let Some(entry) = archive.next().map_err(|error| explain(doing(), error))? {
            unpacker
                .entry(&mut archive, &entry)
                .map_err(|error| explain(format!("{}: entry {:?}", doing(), shown(&entry.path)), error))?;
        }
        archive.drain().map_err(|error| explain(doing(), error))?;
        let tree = unpacker.finish().map_err(|error| explain(doing(), error))?;
        if options.sync {
            rustix::fs::syncfs(tree.top()).map_err(|error| explain(doing(), error.into()))?;
        }
        let (diff_id, size) = digest
            .join()
            .map_err(|panic| Error::internal(format!("hashing a layer panicked: {}", crate::panic_message(&*panic))))?;
        Ok(Applied { diff_id, size })
    })
}

/// Hands the tar in `source` to `work`, and reads what that leaves of it. What `work` gives back comes with what was read, as from [`apply`].
///
/// `InvalidArgument` for a damaged stream, `ResourceExhausted` for one that grows beyond measure.
pub fn read_tar<T>(
    source: impl BufRead + Send,
    compression: Compression,
    work: impl FnOnce(&mut dyn Read) -> Result<T>,
) -> Result<(T, Applied)> {
    std::thread::scope(|scope| {
        let (mut tar, digest) = stages::start(scope, source, compression, Expansion::default());
        let worked = work(&mut tar)?;
        std::io::copy(&mut tar, &mut std::io::sink()).map_err(|error| explain("read a layer", error))?;
        // It ends with its last chunk.
        drop(tar);
        let (diff_id, size) = digest
            .join()
            .map_err(|panic| Error::internal(format!("hashing a layer panicked: {}", crate::panic_message(&*panic))))?;
        Ok((worked, Applied { diff_id, size }))
    })
}

/// Whether this process is in a user namespace: the first one maps every id to itself.
pub fn in_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_ascii_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"])
}
