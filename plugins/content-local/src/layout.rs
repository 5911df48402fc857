//! Where things are on disk, and the small files that describe an ingest.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use orlop_plugin::contract::{Digest, IngestStatus};
use prost_types::Timestamp;
use sha2::{Digest as _, Sha256};

/// The paths under one root.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

// === impl Layout ===

impl Layout {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Blobs of one algorithm.
    pub(crate) fn blobs(&self, algorithm: &str) -> PathBuf {
        self.root.join("blobs").join(algorithm)
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs(digest.algorithm()).join(digest.hex())
    }

    pub(crate) fn ingests(&self) -> PathBuf {
        self.root.join("ingest")
    }

    /// The directory of the ingest called `name` ([`ingest_name`]).
    pub(crate) fn ingest(&self, name: &str) -> PathBuf {
        self.ingests().join(name)
    }

    /// Makes the directories, durably: a blob's own directory is synced with every blob, those above it only here.
    pub(crate) fn make(&self) -> io::Result<()> {
        fs::create_dir_all(self.ingests())?;
        fs::create_dir_all(self.blobs("sha256"))?;
        for directory in [&self.root.join("blobs"), &self.root] {
            fs::File::open(directory)?.sync_all()?;
        }
        Ok(())
    }
}

/// The name of an ingest's directory: references may be long and hold slashes, their hash does not.
pub(crate) fn ingest_name(reference: &str) -> String {
    hex::encode(Sha256::digest(reference))
}

/// Where the bytes of the ingest in `directory` are.
pub(crate) fn data(directory: &Path) -> PathBuf {
    directory.join("data")
}

/// Reads what the ingest in `directory` says of itself. `None` when it is no whole ingest: a crash can leave any part of one.
pub(crate) fn read_ingest(directory: &Path) -> io::Result<Option<IngestStatus>> {
    let Some(reference) = read_text(&directory.join("ref"))? else {
        return Ok(None);
    };
    let data = match fs::metadata(data(directory)) {
        Ok(data) => data,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let started = read_time(&directory.join("startedat"))?;
    let updated = read_time(&directory.join("updatedat"))?;
    let (Some(started), Some(updated)) = (started, updated) else {
        return Ok(None);
    };
    let total = read_text(&directory.join("total"))?.and_then(|total| total.parse().ok());
    Ok(Some(IngestStatus {
        reference,
        started,
        // `updatedat` is not rewritten with every write; the file knows better.
        updated: updated.max(data.modified()?),
        offset: data.len(),
        total: total.unwrap_or_default(),
        expected: None,
    }))
}

/// Makes `directory` describe `status`, in place of whatever a crash left there. `data` is the caller's, and comes last: an ingest
/// without it is none.
pub(crate) fn write_ingest(directory: &Path, status: &IngestStatus) -> io::Result<()> {
    remove_ingest(directory)?;
    fs::create_dir(directory)?;
    fs::write(directory.join("ref"), &status.reference)?;
    fs::write(directory.join("startedat"), Timestamp::from(status.started).to_string())?;
    fs::write(directory.join("updatedat"), Timestamp::from(status.updated).to_string())?;
    if status.total > 0 {
        fs::write(directory.join("total"), status.total.to_string())?;
    }
    Ok(())
}

/// Removes an ingest; one that is not there is removed already.
pub(crate) fn remove_ingest(directory: &Path) -> io::Result<()> {
    let removed = match fs::remove_dir_all(directory) {
        // Something else of that name was never an ingest.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => fs::remove_file(directory),
        removed => removed,
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn read_text(path: &Path) -> io::Result<Option<String>> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8(bytes).ok()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Go writes local time with its offset, we write UTC; both are RFC 3339.
fn read_time(path: &Path) -> io::Result<Option<SystemTime>> {
    let time = read_text(path)?.and_then(|text| text.parse::<Timestamp>().ok());
    Ok(time.and_then(|time| SystemTime::try_from(time).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn an_ingest_of_containerd_is_understood() {
        let root = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| fs::write(root.path().join(name), text).expect("written");
        write("ref", "default/1/layer-sha256:abc");
        write("startedat", "2024-03-01T10:00:00.5+02:00");
        write("updatedat", "2024-03-01T10:00:00.5+02:00");
        write("total", "77");
        assert_eq!(read_ingest(root.path()).expect("readable"), None, "no data");
        write("data", "12345");
        let status = read_ingest(root.path()).expect("readable").expect("an ingest");
        assert_eq!(status.reference, "default/1/layer-sha256:abc");
        assert_eq!(status.started, UNIX_EPOCH + Duration::from_millis(1_709_280_000_500));
        assert_eq!((status.offset, status.total), (5, 77));
        write("startedat", "");
        assert_eq!(
            read_ingest(root.path()).expect("readable"),
            None,
            "cut short by a crash"
        );
    }

    #[test]
    fn what_is_written_is_read_again() {
        let root = tempfile::tempdir().expect("a directory");
        let directory = root.path().join(ingest_name("a/b"));
        let status = IngestStatus {
            reference: "a/b".into(),
            started: UNIX_EPOCH + Duration::from_nanos(1_709_280_000_123_456_789),
            updated: UNIX_EPOCH + Duration::from_secs(4_000_000_000),
            offset: 0,
            total: 9,
            expected: None,
        };
        write_ingest(&directory, &status).expect("written");
        fs::write(data(&directory), "").expect("written");
        assert_eq!(read_ingest(&directory).expect("readable"), Some(status));
        remove_ingest(&directory).expect("removed");
        remove_ingest(&directory).expect("removed already");
    }
}
