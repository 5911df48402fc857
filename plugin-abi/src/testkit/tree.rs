//! Changes to a tree, and what a tree looks like afterwards.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::Path;

use super::{Failure, Outcome};

/// One change, as a container might make it. Paths are relative to the root.
#[derive(Clone, Copy, Debug)]
pub(super) enum Edit {
    /// A directory with this mode.
    Directory(&'static str, u32),
    /// A file with this content, new or written over.
    File(&'static str, &'static str),
    /// A symbolic link and what it says.
    Symlink(&'static str, &'static str),
    /// A second name for a file.
    Link(&'static str, &'static str),
    /// Another name for a file.
    Rename(&'static str, &'static str),
    /// Gone, with all that is in it.
    Remove(&'static str),
    /// Another owner.
    Owner(&'static str, u32, u32),
    /// Another mode.
    Mode(&'static str, u32),
}

/// Makes changes in order.
pub(super) fn apply(root: &Path, edits: &[Edit]) -> Outcome {
    for edit in edits {
        one(root, *edit).map_err(|error| Failure(format!("{edit:?}: {error}")))?;
    }
    Ok(())
}

fn one(root: &Path, edit: Edit) -> io::Result<()> {
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
    match edit {
        Edit::Directory(path, bits) => {
            fs::create_dir(root.join(path))?;
            mode(&root.join(path), bits)
        }
        Edit::File(path, content) => fs::write(root.join(path), content),
        Edit::Symlink(path, to) => symlink(to, root.join(path)),
        Edit::Link(old, new) => fs::hard_link(root.join(old), root.join(new)),
        Edit::Rename(old, new) => fs::rename(root.join(old), root.join(new)),
        Edit::Remove(path) => {
            let path = root.join(path);
            if path.symlink_metadata()?.is_dir() {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            }
        }
        Edit::Owner(path, uid, gid) => lchown(root.join(path), Some(uid), Some(gid)),
        Edit::Mode(path, bits) => mode(&root.join(path), bits),
    }
}

/// Each path of a tree with what can be seen of it: kind and mode, owner, content.
pub(super) fn picture(root: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let mut seen = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let metadata = path.symlink_metadata()?;
        let content = if metadata.is_dir() {
            for entry in fs::read_dir(&path)? {
                waiting.push(entry?.path());
            }
            String::new()
        } else if metadata.is_symlink() {
            fs::read_link(&path)?.display().to_string()
        } else if metadata.is_file() {
            String::from_utf8_lossy(&fs::read(&path)?).into_owned()
        } else {
            metadata.rdev().to_string()
        };
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        // What a file system makes for itself is nothing a container has put there.
        if name == "lost+found" {
            continue;
        }
        let line = format!(
            "{:o} {}:{} {content:?}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid()
        );
        seen.insert(format!("/{name}"), line);
    }
    Ok(seen)
}

/// The first difference between two pictures.
pub(super) fn compare(actual: &BTreeMap<String, String>, expected: &BTreeMap<String, String>) -> Outcome {
    for path in expected.keys().chain(actual.keys()) {
        let (is, should) = (actual.get(path), expected.get(path));
        if is != should {
            let say = |what: Option<&String>| what.map_or("absent".to_owned(), Clone::clone);
            return Err(Failure(format!("{path} is {} and should be {}", say(is), say(should))));
        }
    }
    Ok(())
}
