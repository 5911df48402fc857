//! `acme`: a snapshotter in one file. Every snapshot is a copy of its parent, made by `cp`.
//!
//! Records, locking, crash safety and the gRPC service are the SDK's; what is left is what a snapshot *is*.

use std::process::Command;

use orlop_plugin::contract::{Mount, SnapshotKind};
use orlop_plugin::snapshots::{Directories, LayeredSnapshotter, Layers, Removal, Snapshot};
use orlop_plugin::{Error, InitContext, InitError, Instance, Registration, Result, kind};

struct Acme;

impl Layers for Acme {
    fn make(&self, directories: &Directories, snapshot: &Snapshot) -> Result<()> {
        let tree = directories.of(snapshot.id).join("tree");
        let Some(parent) = snapshot.parents.first() else { return Directories::make(&tree, 0o755) };
        let doing = format!("copy snapshot {parent} to {}", snapshot.id);
        let copied = Command::new("cp")
            .args(["-a", "--reflink=auto"])
            .arg(directories.of(*parent).join("tree"))
            .arg(&tree)
            .output()
            .map_err(|error| Error::io(&doing, &error))?;
        if copied.status.success() {
            Ok(())
        } else {
            Err(Error::internal(format!("{doing}: {}", String::from_utf8_lossy(&copied.stderr).trim())))
        }
    }

    fn mounts(&self, directories: &Directories, snapshot: &Snapshot) -> Result<Vec<Mount>> {
        let access = if snapshot.info.kind == SnapshotKind::View { "ro" } else { "rw" };
        Ok(vec![Mount {
            kind: "bind".into(),
            source: directories.of(snapshot.id).join("tree").display().to_string(),
            target: String::new(),
            options: vec!["rbind".into(), access.into()],
        }])
    }
}

async fn init(context: InitContext) -> Result<Instance, InitError> {
    let snapshotter = LayeredSnapshotter::open(context.root()?, Acme, Removal::AtOnce).await?;
    Ok(snapshotter.into_instance(&context.root_path))
}

/// What the library registers: one plugin, `io.containerd.snapshotter.v1.acme`.
pub fn registrations() -> Vec<Registration> {
    vec![Registration::new(kind::SNAPSHOTTER, "acme", init).host_platform()]
}

orlop_plugin::export_plugin!(registrations, "io.containerd.snapshotter.v1.acme");

#[cfg(test)]
mod tests {
    /// Real mounts: run it as root.
    #[test]
    fn it_keeps_the_contract() {
        orlop_plugin::testkit::plugin(&super::registrations()[0]);
    }
}
