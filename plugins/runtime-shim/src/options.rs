//! `containerd.runc.v1.Options`: read from a request, and kept in the bundle (`options.json`, `runtime`) for `delete`.

use std::io::ErrorKind;
use std::path::Path;

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

const FILE: &str = "options.json";
/// Older daemons and shims know the runtime's name only.
const RUNTIME_FILE: &str = "runtime";
/// The type of these options; without the host that some clients put before it.
pub const TYPE: &str = "containerd.runc.v1.Options";

/// The names in the file are those that containerd's shim writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    pub no_pivot_root: bool,
    pub no_new_keyring: bool,
    pub shim_cgroup: String,
    pub io_uid: u32,
    pub io_gid: u32,
    /// A name on `PATH` or a path; empty means runc.
    pub binary_name: String,
    /// The runtime's state directory; empty means `/run/containerd/runc`.
    pub root: String,
    pub systemd_cgroup: bool,
    pub criu_image_path: String,
    pub criu_work_path: String,
}

// === impl Options ===

impl Options {
    /// Options of another type are those of another runtime, and none for this one.
    pub fn from_any(any: Option<&Any>) -> Result<Self> {
        let Some(any) = any.filter(|any| any.type_url.rsplit('/').next() == Some(TYPE)) else {
            return Ok(Self::default());
        };
        let options = oci::Options::parse_from_bytes(&any.value)
            .map_err(|error| Error::invalid(format!("the runtime options are no {TYPE}: {error}")))?;
        Ok(Self {
            no_pivot_root: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            shim_cgroup: options.shim_cgroup,
            io_uid: options.io_uid,
            io_gid: options.io_gid,
            binary_name: options.binary_name,
            root: options.root,
            systemd_cgroup: options.systemd_cgroup,
            criu_image_path: options.criu_image_path,
            criu_work_path: options.criu_work_path,
        })
    }

    pub fn save(&self, bundle: &Path) -> Result<()> {
        let json = serde_json::to_vec(self).map_err(|error| Error::io("write the runtime options", error))?;
        for (name, bytes) in [(FILE, &json[..]), (RUNTIME_FILE, self.binary_name.as_bytes())] {
            let path = bundle.join(name);
            std::fs::write(&path, bytes).map_err(|error| Error::io(format!("write {}", path.display()), error))?;
        }
        Ok(())
    }

    /// What was kept; the defaults for a bundle whose container was never created.
    pub fn load(bundle: &Path) -> Result<Self> {
        let path = bundle.join(FILE);
        match std::fs::read(&path) {
            Ok(json) => {
                serde_json::from_slice(&json).map_err(|error| Error::io(format!("read {}", path.display()), error))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self {
                binary_name: std::fs::read_to_string(bundle.join(RUNTIME_FILE)).unwrap_or_default(),
                ..Self::default()
            }),
            Err(error) => Err(Error::io(format!("read {}", path.display()), error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_kept_in_the_bundle() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(Options::load(dir.path()), Ok(Options::default()));
        let options = oci::Options {
            binary_name: "crun".into(),
            root: "/run/elsewhere".into(),
            systemd_cgroup: true,
            ..oci::Options::default()
        };
        let any = Any {
            type_url: format!("type.googleapis.com/{TYPE}"),
            value: options.write_to_bytes().expect("encoded"),
            ..Any::default()
        };
        let options = Options::from_any(Some(&any)).expect("read");
        assert_eq!((options.binary_name.as_str(), options.systemd_cgroup), ("crun", true));
        options.save(dir.path()).expect("kept");
        assert_eq!(Options::load(dir.path()), Ok(options));
        assert_eq!(
            std::fs::read_to_string(dir.path().join("runtime")).expect("kept"),
            "crun"
        );
    }

    #[test]
    fn of_another_runtime_are_none() {
        let any = Any {
            type_url: "runtimeoptions.v1.Options".into(),
            value: vec![255],
            ..Any::default()
        };
        assert_eq!(Options::from_any(Some(&any)), Ok(Options::default()));
        assert_eq!(Options::from_any(None), Ok(Options::default()));
    }

    #[test]
    fn written_by_containerd_are_read() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(
            dir.path().join("options.json"),
            r#"{"binary_name":"crun","task_api_version":3}"#,
        )
        .expect("written");
        assert_eq!(Options::load(dir.path()).expect("read").binary_name, "crun");
    }
}
