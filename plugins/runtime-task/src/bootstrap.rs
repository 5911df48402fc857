//! What a shim answers to `start`: where it serves, how, and which version of the task service it speaks.
//!
//! The answer is a bare address (every shim up to containerd 1.6) or JSON. It is kept in the bundle, so that a later daemon, ours or
//! containerd's, finds the shim again: `bootstrap.json` (containerd 2) and `address` (containerd 1).

use std::path::Path;

use orlop_plugin::{Error, Result};
use serde::{Deserialize, Serialize};

const BOOTSTRAP_FILE: &str = "bootstrap.json";
const ADDRESS_FILE: &str = "address";

/// How to reach a shim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// 2 or 3: the version of the task service.
    pub version: u32,
    /// `unix:///run/…`; without a scheme, the name of an abstract socket.
    pub address: String,
    /// `ttrpc`; `grpc` exists but no shim in use speaks it.
    pub protocol: String,
}

// === impl Bootstrap ===

impl Bootstrap {
    /// Reads what a shim wrote to its standard output, or what was kept of it.
    pub fn parse(answer: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(answer)
            .map_err(|_| Error::unknown("the shim's answer to `start` is not text"))?
            .trim();
        let bootstrap = match serde_json::from_str::<Self>(text) {
            Ok(bootstrap) if bootstrap.version >= 2 => bootstrap,
            _ if text.is_empty() || text.starts_with('{') || text.contains(char::is_whitespace) => {
                return Err(Error::unknown(format!(
                    "the shim's answer to `start` is neither an address nor {{version, address, protocol}}: {text:?}"
                )));
            }
            _ => Self {
                version: 2,
                address: text.to_owned(),
                protocol: "ttrpc".to_owned(),
            },
        };
        if bootstrap.version > 3 {
            return Err(Error::unimplemented(format!(
                "the shim speaks version {} of the task service, this daemon 2 and 3",
                bootstrap.version
            )));
        }
        if !bootstrap.protocol.eq_ignore_ascii_case("ttrpc") {
            return Err(Error::unimplemented(format!(
                "the shim serves its tasks over {:?}, this daemon speaks ttrpc",
                bootstrap.protocol
            )));
        }
        Ok(bootstrap)
    }

    /// The full name of the task service.
    pub fn service(&self) -> &'static str {
        // The messages of both are the same.
        if self.version >= 3 {
            "containerd.task.v3.Task"
        } else {
            "containerd.task.v2.Task"
        }
    }

    /// Keeps it in a bundle.
    pub fn save(&self, bundle: &Path) -> Result<()> {
        let json = serde_json::to_vec(self).map_err(|error| Error::internal(error.to_string()))?;
        write_whole(&bundle.join(BOOTSTRAP_FILE), &json)?;
        // runc's shim has written this one itself.
        let address = bundle.join(ADDRESS_FILE);
        if !address.exists() {
            write_whole(&address, self.address.as_bytes())?;
        }
        Ok(())
    }

    /// Reads it from a bundle. `NotFound` when its shim was never started.
    pub fn load(bundle: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = bundle.join(name);
            std::fs::read(&path).map_err(|error| Error::io(format!("read {}", path.display()), &error))
        };
        let kept = match read(BOOTSTRAP_FILE) {
            Err(error) if error.is_not_found() => read(ADDRESS_FILE)?,
            other => other?,
        };
        Self::parse(&kept)
    }
}

/// Writes a file that is there whole or not at all, also when the daemon is killed meanwhile.
pub fn write_whole(path: &Path, contents: &[u8]) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = path.with_file_name(format!(".{name}"));
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)
        .and_then(|mut file| file.write_all(contents))
        .and_then(|()| std::fs::rename(&unfinished, path))
        .map_err(|error| Error::io(format!("write {}", path.display()), &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_plugin::contract::Code;

    #[test]
    fn reads_addresses_and_json() {
        let old = Bootstrap::parse(b"unix:///run/containerd/s/ab12\n").expect("an address");
        assert_eq!((old.version, old.protocol.as_str()), (2, "ttrpc"));
        assert_eq!(old.address, "unix:///run/containerd/s/ab12");
        assert_eq!(old.service(), "containerd.task.v2.Task");

        let new = Bootstrap::parse(br#"{"version":3,"address":"unix:///run/s/x","protocol":"ttrpc"}"#).expect("json");
        assert_eq!(
            (new.address.as_str(), new.service()),
            ("unix:///run/s/x", "containerd.task.v3.Task")
        );
    }

    #[test]
    fn refuses_what_it_cannot_use() {
        for (answer, code) in [
            (&b""[..], Code::Unknown),
            (b"level=warning msg=hello\nunix:///run/x", Code::Unknown),
            (br#"{"address":"unix:///run/x"}"#, Code::Unknown),
            (b"\xff\xfe", Code::Unknown),
            (
                br#"{"version":4,"address":"unix:///x","protocol":"ttrpc"}"#,
                Code::Unimplemented,
            ),
            (
                br#"{"version":2,"address":"unix:///x","protocol":"grpc"}"#,
                Code::Unimplemented,
            ),
        ] {
            let error = Bootstrap::parse(answer).expect_err("unusable");
            assert_eq!(error.code, code, "{answer:?}: {error}");
        }
    }

    #[test]
    fn survives_in_a_bundle_and_reads_containerds() {
        let bundle = tempfile::tempdir().expect("a directory");
        assert!(Bootstrap::load(bundle.path()).expect_err("nothing yet").is_not_found());
        std::fs::write(bundle.path().join("address"), "unix:///run/old").expect("written");
        assert_eq!(
            Bootstrap::load(bundle.path()).expect("loaded").address,
            "unix:///run/old"
        );
        let bootstrap = Bootstrap {
            version: 3,
            address: "unix:///run/new".into(),
            protocol: "ttrpc".into(),
        };
        bootstrap.save(bundle.path()).expect("saved");
        assert_eq!(Bootstrap::load(bundle.path()), Ok(bootstrap));
    }
}
