//! What the tests speak with: archives written entry by entry, trees described so that they can be compared.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use orlop_plugin::Result;
use orlop_plugin::layer::{Applied, ApplyOptions, Compression, apply};
use tar::{Builder, EntryType, Header};

pub(crate) const FILE: EntryType = EntryType::Regular;
pub(crate) const DIRECTORY: EntryType = EntryType::Directory;
pub(crate) const SYMLINK: EntryType = EntryType::Symlink;
pub(crate) const HARD_LINK: EntryType = EntryType::Link;

/// An empty directory that is removed in the end.
pub(crate) fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

/// An archive of `(name, type, link or content)`; names are written as they are, however bad.
pub(crate) fn archive(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (name, kind, content) in entries {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_mtime(1_000_000_000);
        header.set_uid(0);
        header.set_gid(0);
        let data = if kind.is_file() { content.as_bytes() } else { b"" };
        if matches!(kind, EntryType::Link | EntryType::Symlink) {
            header.set_link_name_literal(content).expect("it fits");
        }
        header.set_size(data.len() as u64);
        header.set_cksum();
        tar.append(&header, data).expect("appended");
    }
    tar.into_inner().expect("finished")
}

/// Applies a bare tar by removing what it takes away.
pub(crate) fn unpack(layer: &[u8], root: &Path) -> Result<Applied> {
    apply(layer, Compression::None, root, &ApplyOptions::default())
}

/// Runs a program to its good end.
#[track_caller]
pub(crate) fn run(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).output().expect("it starts");
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Everything that matters of every file below `root`, by path. Times of directories only when asked for: files come and go in them.
pub(crate) fn describe(root: &Path, directory_times: bool) -> BTreeMap<String, String> {
    let mut tree = BTreeMap::new();
    let mut names = BTreeMap::new();
    describe_below(root, root, directory_times, &mut tree, &mut names);
    tree
}

fn describe_below(
    root: &Path,
    path: &Path,
    directory_times: bool,
    tree: &mut BTreeMap<String, String>,
    names: &mut BTreeMap<u64, String>,
) {
    let mut entries: Vec<_> = fs::read_dir(path)
        .expect("read")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    entries.sort();
    for entry in entries {
        let name = entry.strip_prefix(root).expect("below").to_string_lossy().into_owned();
        let stat = fs::symlink_metadata(&entry).expect("there");
        let kind = stat.file_type();
        let what = if kind.is_symlink() {
            format!("link to {}", fs::read_link(&entry).expect("read").display())
        } else if kind.is_dir() {
            "directory".to_owned()
        } else if kind.is_file() {
            let content = fs::read(&entry).expect("read");
            format!(
                "file {} {:x?}",
                content.len(),
                <sha2::Sha256 as sha2::Digest>::digest(&content)
            )
        } else {
            assert!(!kind.is_socket());
            format!("special {:o} {}", stat.mode(), stat.rdev())
        };
        let time = if kind.is_dir() && !directory_times {
            String::new()
        } else {
            format!("{}.{:09}", stat.mtime(), stat.mtime_nsec())
        };
        let first = if stat.nlink() > 1 && !kind.is_dir() {
            names.entry(stat.ino()).or_insert_with(|| name.clone()).clone()
        } else {
            String::new()
        };
        let mut xattrs: Vec<_> = xattr::list(&entry)
            .expect("listed")
            .filter(|key| key.as_bytes().starts_with(b"user.") || key == "security.capability")
            .map(|key| (key.clone(), xattr::get(&entry, &key).expect("read")))
            .collect();
        xattrs.sort();
        tree.insert(
            name,
            format!(
                "{what} mode {:o} owner {}:{} time {time} shares {first:?} {xattrs:?}",
                stat.mode() & 0o7777,
                stat.uid(),
                stat.gid()
            ),
        );
        if kind.is_dir() {
            describe_below(root, &entry, directory_times, tree, names);
        }
    }
}
