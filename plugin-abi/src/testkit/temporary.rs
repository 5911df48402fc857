//! Directories that last as long as a check.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// An empty directory of mode 0755, removed with all that is in it when this is dropped.
pub(super) struct Temporary(PathBuf);

// === impl Temporary ===

impl Temporary {
    pub(super) fn new() -> std::io::Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("orlop-testkit-{}-{number}", std::process::id()));
        std::fs::create_dir(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Only a temporary directory would stay.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
