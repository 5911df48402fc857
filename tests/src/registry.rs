//! Debian's `docker-registry`, on a port of its own.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{command, program};

/// A registry over plain HTTP. Dropping it ends it.
pub struct Registry {
    child: Child,
    address: String,
    _directory: TempDir,
}

// === impl Registry ===

impl Registry {
    /// Starts one that asks for nothing, and waits until it listens.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start() -> Self {
        Self::configured(tempfile::tempdir().expect("a directory"), "", "")
    }

    /// The same with its storage under `directory`: a tmpfs, say.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_in(directory: &Path) -> Self {
        Self::configured(tempfile::tempdir_in(directory).expect("a directory"), "", "")
    }

    /// The same for one that asks for a name and a password.
    ///
    /// # Panics
    /// When it does not start.
    pub fn with_password(name: &str, password: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("htpasswd");
        command::run(
            Command::new(program("htpasswd"))
                .arg("-Bbc")
                .arg(&file)
                .args([name, password]),
        )
        .ok();
        let auth = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", file.display());
        Self::configured(directory, "", &auth)
    }

    /// The same for one with TLS; answers its certificate, which is its own authority, too.
    ///
    /// # Panics
    /// When it does not start.
    pub fn with_tls() -> (Self, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let (certificate, key) = (directory.path().join("tls.crt"), directory.path().join("tls.key"));
        command::run(
            Command::new(program("openssl"))
                .args([
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:prime256v1",
                    "-nodes",
                ])
                .args([
                    "-days",
                    "2",
                    "-subj",
                    "/CN=test",
                    "-addext",
                    "subjectAltName=IP:127.0.0.1",
                ])
                .arg("-out")
                .arg(&certificate)
                .arg("-keyout")
                .arg(&key),
        )
        .ok();
        let tls = format!(
            ", tls: {{certificate: {}, key: {}}}",
            certificate.display(),
            key.display()
        );
        (Self::configured(directory, &tls, ""), certificate)
    }

    fn configured(directory: TempDir, http: &str, further: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = port.expect("a port").to_string();
        let config = directory.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nhttp: {{addr: {address}, secret: test{http}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\n{further}",
            directory.path().join("storage").display()
        );
        std::fs::write(&config, text).expect("the configuration is written");
        let mut child = Command::new(program("docker-registry"))
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the registry starts");
        let begin = Instant::now();
        while TcpStream::connect(&address).is_err() {
            let ended = child.try_wait().expect("a child can be waited for");
            assert!(
                ended.is_none() && begin.elapsed() < Duration::from_secs(30),
                "no registry: {ended:?}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Self {
            child,
            address,
            _directory: directory,
        }
    }

    /// The name of an image in it: `repository` is `busybox:1`, for example.
    pub fn name(&self, repository: &str) -> String {
        format!("{}/{repository}", self.address)
    }

    /// Puts the image of an OCI archive into it, by skopeo.
    pub fn fill(&self, archive: &Path, repository: &str) {
        command::run(
            Command::new(program("skopeo"))
                .args(["copy", "--quiet", "--dest-tls-verify=false"])
                .arg(format!("oci-archive:{}", archive.display()))
                .arg(format!("docker://{}", self.name(repository))),
        )
        .ok();
    }

    /// The digest of an image in it, by skopeo.
    pub fn digest(&self, repository: &str) -> String {
        let inspected = command::run(
            Command::new(program("skopeo"))
                .args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}"])
                .arg(format!("docker://{}", self.name(repository))),
        );
        inspected.ok().trim().to_owned()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
