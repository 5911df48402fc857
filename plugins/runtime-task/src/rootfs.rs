//! Mounts of a root file system that cannot be left to the shim.
//!
//! A shim performs what it is given. One of containerd before 2.0 does not know mounts with the ids of a container (`uidmap=`, `gidmap=`) and
//! would pass the words on to the kernel, which refuses them. They are performed here for every shim, and it finds the root file system
//! where it would have put it. It unmounts it there as ever, and [`Bundle::delete`](crate::bundle::Bundle::delete) what is left.

use std::path::PathBuf;

use orlop_plugin::contract::Mount;
use orlop_plugin::mount::{MountOptions, mount_all};
use orlop_plugin::{Result, blocking};

/// What of `mounts` is for the shim to perform at `rootfs`; the others are performed when this returns.
pub async fn for_the_shim(mounts: Vec<Mount>, rootfs: PathBuf) -> Result<Vec<Mount>> {
    let mapped = |mount: &Mount| {
        let options = MountOptions::parse(&mount.options);
        options.uid_map.is_some() || options.gid_map.is_some()
    };
    if !mounts.iter().any(mapped) {
        return Ok(mounts);
    }
    blocking(move || mount_all(&mounts, &rootfs)).await?;
    Ok(Vec::new())
}
