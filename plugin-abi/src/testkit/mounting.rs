//! Mounting for the time of a check, as containerd's clients mount.

use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::temporary::Temporary;
use crate::contract::Mount;
use crate::mount::loop_device;
use crate::{Error, Result};

/// Options that are flags of mount(2); the others go to the file system.
const FLAGS: [(&str, MsFlags); 9] = [
    ("ro", MsFlags::MS_RDONLY),
    ("rw", MsFlags::empty()),
    ("bind", MsFlags::MS_BIND),
    ("rbind", MsFlags::MS_BIND.union(MsFlags::MS_REC)),
    ("nosuid", MsFlags::MS_NOSUID),
    ("nodev", MsFlags::MS_NODEV),
    ("noexec", MsFlags::MS_NOEXEC),
    ("noatime", MsFlags::MS_NOATIME),
    ("sync", MsFlags::MS_SYNCHRONOUS),
];

/// Mounts `mounts` on a directory of its own, runs `work` there and unmounts. Needs `CAP_SYS_ADMIN`. Blocks.
pub fn mounted<T>(mounts: &[Mount], work: impl FnOnce(&Path) -> T) -> Result<T> {
    let point = Temporary::new().map_err(|error| Error::io("make a mount point", &error))?;
    let path = point.path().to_owned();
    let mut place = Place {
        point: Some(point),
        mounted: 0,
    };
    for mount in mounts {
        perform(mount, &path)?;
        place.mounted += 1;
    }
    Ok(work(&path))
}

/// Unmounts and removes, also when a check panics.
struct Place {
    point: Option<Temporary>,
    mounted: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(point) = self.point.take() else { return };
        let detached = (0..self.mounted).all(|_| umount2(point.path(), MntFlags::MNT_DETACH).is_ok());
        if !detached {
            // Removing it would remove what is in the snapshot: it stays for whoever looks into the failure.
            std::mem::forget(point);
        }
    }
}

fn perform(what: &Mount, point: &Path) -> Result<()> {
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    let on_loop_device = what.options.iter().any(|option| option == "loop");
    for option in what.options.iter().filter(|option| *option != "loop") {
        match FLAGS.iter().find(|(name, _)| name == option) {
            Some((_, flag)) => flags |= *flag,
            None => data.push(option.clone()),
        }
    }
    let described = format!("{what:?} on {}", point.display());
    let (mut what, point) = (what.clone(), point.to_owned());
    // Held open until it is mounted: it frees itself with its last user.
    let mut device = None;
    if on_loop_device {
        let attached = loop_device::attach(Path::new(&what.source), flags.contains(MsFlags::MS_RDONLY))
            .map_err(|error| Error::io(format!("put {} on a loop device", what.source), &error))?;
        what.source = attached.path.display().to_string();
        device = Some(attached);
    }
    // In a thread that has a working directory of its own: relative paths keep a long stack within the page that mount(2) takes.
    let thread = std::thread::spawn(move || -> nix::Result<()> {
        if let Some(parent) = shorten(&mut data) {
            unshare(CloneFlags::CLONE_FS)?;
            nix::unistd::chdir(parent.as_str())?;
        }
        let kind = Some(what.kind.as_str());
        let data = data.join(",");
        mount(Some(what.source.as_str()), &point, kind, flags, Some(data.as_str()))?;
        // A bind mount takes its flags in a second step.
        if flags.contains(MsFlags::MS_BIND) && flags != MsFlags::MS_BIND | MsFlags::MS_REC {
            let remount = flags | MsFlags::MS_REMOUNT;
            mount(None::<&str>, &point, None::<&str>, remount, None::<&str>)?;
        }
        Ok(())
    });
    let joined = thread.join();
    drop(device);
    match joined {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Error::failed_precondition(format!("cannot mount {described}: {error}"))),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Cuts the directory that all lower directories share off their paths, and returns it, when there are many.
fn shorten(options: &mut [String]) -> Option<String> {
    let lower = options.iter_mut().find(|option| option.starts_with("lowerdir="))?;
    let paths: Vec<&str> = lower.strip_prefix("lowerdir=")?.split(':').collect();
    let first = paths.first()?;
    let mut shared = 0;
    for (i, _) in first.match_indices('/') {
        if paths.iter().all(|path| path.starts_with(&first[..=i])) {
            shared = i;
        }
    }
    if shared == 0 || paths.len() < 2 {
        return None;
    }
    let parent = first[..shared].to_owned();
    *lower = format!(
        "lowerdir={}",
        paths
            .iter()
            .map(|path| &path[shared + 1..])
            .collect::<Vec<_>>()
            .join(":")
    );
    Some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_stacks_become_relative() {
        let mut options = vec!["index=off".to_owned(), "lowerdir=/a/s/12/fs:/a/s/1/fs".to_owned()];
        assert_eq!(shorten(&mut options).as_deref(), Some("/a/s"));
        assert_eq!(options[1], "lowerdir=12/fs:1/fs");
        for alone in ["lowerdir=/a/s/1/fs", "lowerdir=/a:/b", "upperdir=/a/b"] {
            let mut options = vec![alone.to_owned()];
            assert_eq!(shorten(&mut options), None);
            assert_eq!(options, [alone]);
        }
    }
}
