//! Layers and images written byte by byte, as bad as a test wants them.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// An OCI gzip layer.
pub const GZIP_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// An OCI zstd layer.
pub const ZSTD_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// An OCI manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An OCI index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// An OCI configuration.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

const BLOCK: usize = 512;

/// `sha256:…` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes)
        .iter()
        .fold("sha256:".to_owned(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// gzip.
///
/// # Panics
/// Never: it is written to memory.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("in memory");
    encoder.finish().expect("in memory")
}

/// One zstd frame.
///
/// # Panics
/// Never: it is written to memory.
pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("in memory")
}

/// A tar archive, entry by entry. Nothing is checked.
#[derive(Default)]
pub struct Tar(Vec<u8>);

// === impl Tar ===

impl Tar {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file.
    pub fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(name, EntryType::Regular, "", content)
    }

    /// Adds an entry. A name that does not fit its field is put in front as a GNU long name.
    pub fn entry(mut self, name: &str, kind: EntryType, link: &str, content: &[u8]) -> Self {
        if name.len() > 100 {
            let long = [name.as_bytes(), b"\0"].concat();
            self = self.header("././@LongLink", EntryType::GNULongName, "", &long);
        }
        self.header(&name.chars().take(100).collect::<String>(), kind, link, content)
    }

    /// Adds a PAX header of these records.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            body.extend_from_slice(format!("{length} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.header("PaxHeaders.0/x", EntryType::XHeader, "", &body)
    }

    /// Adds one header as it is said, with its data.
    pub fn header(mut self, name: &str, kind: EntryType, link: &str, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            // A GNU header has the fields.
            let _ = header.set_device_major(1);
            let _ = header.set_device_minor(3);
        }
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    /// Changes the last header that was added, and puts its checksum right. `back` is the length of its data.
    ///
    /// # Panics
    /// When there is none.
    pub fn patched(mut self, back: usize, change: impl FnOnce(&mut [u8])) -> Self {
        let at = self.0.len() - back.next_multiple_of(BLOCK) - BLOCK;
        let header = &mut self.0[at..at + BLOCK];
        change(header);
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self
    }

    /// Adds bytes as they are.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// The archive with its end.
    pub fn finish(self) -> Vec<u8> {
        self.raw(&[0; 2 * BLOCK]).0
    }

    /// The archive as far as it got.
    pub fn unfinished(self) -> Vec<u8> {
        self.0
    }
}

/// An image of one platform, about to be written.
#[derive(Clone)]
pub struct Image {
    /// The layers: media type, blob, diff_id.
    pub layers: Vec<(String, Vec<u8>, String)>,
    /// The configuration, as JSON.
    pub config: Value,
    /// The manifest; without configuration and layers, which are added.
    pub manifest: Value,
    /// The media type that the index gives the manifest.
    pub media_type: String,
}

// === impl Image ===

impl Image {
    /// An image without layers.
    pub fn new() -> Self {
        Self {
            layers: Vec::new(),
            config: json!({"architecture": architecture(), "os": "linux"}),
            manifest: json!({"schemaVersion": 2, "mediaType": MANIFEST}),
            media_type: MANIFEST.to_owned(),
        }
    }

    /// The same with a gzipped layer.
    pub fn layer(self, tar: &[u8]) -> Self {
        self.packed(GZIP_LAYER, &gzip(tar), tar)
    }

    /// The same with a layer whose blob is `packed`, said to be `tar` when unpacked.
    pub fn packed(mut self, media_type: &str, packed: &[u8], tar: &[u8]) -> Self {
        self.layers.push((media_type.to_owned(), packed.to_vec(), digest(tar)));
        self
    }

    /// Its blobs, the manifest first.
    pub fn blobs(&self) -> Vec<Vec<u8>> {
        let mut config = self.config.clone();
        if config.get("rootfs").is_none() {
            let ids: Vec<&str> = self.layers.iter().map(|(_, _, diff_id)| diff_id.as_str()).collect();
            config["rootfs"] = json!({"type": "layers", "diff_ids": ids});
        }
        let config = config.to_string().into_bytes();
        let mut manifest = self.manifest.clone();
        if manifest.get("config").is_none() {
            manifest["config"] = descriptor(CONFIG, &config);
        }
        if manifest.get("layers").is_none() {
            let layers: Vec<Value> = self
                .layers
                .iter()
                .map(|(kind, blob, _)| descriptor(kind, blob))
                .collect();
            manifest["layers"] = json!(layers);
        }
        let mut blobs = vec![manifest.to_string().into_bytes(), config];
        blobs.extend(self.layers.iter().map(|(_, blob, _)| blob.clone()));
        blobs
    }

    /// Its entry in an index.
    pub fn entry(&self) -> Value {
        let mut entry = descriptor(&self.media_type, &self.blobs()[0]);
        entry["platform"] = json!({"architecture": architecture(), "os": "linux"});
        entry
    }

    /// Writes it as an OCI archive that calls it `name`.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, directory: &Path, name: &str) -> PathBuf {
        let mut entry = self.entry();
        entry["annotations"] = json!({"io.containerd.image.name": name});
        write_archive(directory, name, &[entry], &self.blobs())
    }
}

impl Default for Image {
    fn default() -> Self {
        Self::new()
    }
}

/// Writes an OCI archive of an index with these entries, and these blobs.
///
/// # Panics
/// When it cannot be written.
pub fn write_archive(directory: &Path, name: &str, entries: &[Value], blobs: &[Vec<u8>]) -> PathBuf {
    let path = directory.join(format!("{}.tar", name.replace(['/', ':'], "_")));
    let mut builder = Builder::new(std::fs::File::create(&path).expect("created"));
    let mut put = |name: String, bytes: &[u8]| {
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes).expect("written");
    };
    put("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#);
    let index = json!({"schemaVersion": 2, "manifests": entries});
    put("index.json".to_owned(), index.to_string().as_bytes());
    let mut written = std::collections::BTreeSet::new();
    for blob in blobs {
        let digest = digest(blob);
        if written.insert(digest.clone()) {
            put(format!("blobs/{}", digest.replace(':', "/")), blob);
        }
    }
    builder.finish().expect("written");
    path
}

/// What an index or a manifest says of some bytes.
pub fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

/// The architecture of this machine, as images call it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
