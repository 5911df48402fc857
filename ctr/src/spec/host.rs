//! The facts of this machine that some flags ask for.

use super::caps;
use anyhow::{Context, Result};

/// This process's effective capabilities: what a privileged container gets, which may be less than all when this
/// client itself runs in a container.
pub fn effective_capabilities() -> Result<Vec<String>> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .context("no CapEff in /proc/self/status")?;
    Ok(caps::from_mask(
        u64::from_str_radix(mask.trim(), 16).context("CapEff in /proc/self/status is no hex number")?,
    ))
}

/// The host's name.
pub fn hostname() -> Result<String> {
    let system = nix::sys::utsname::uname().context("cannot read the host's name")?;
    Ok(system.nodename().to_string_lossy().into_owned())
}
