//! The suites of the testkit over sockets, the other half of the table in `docs/conformance.md`: what the daemons serve (a library behind
//! the metadata store), and libraries that are served by themselves as proxy plugins. In this process each plugin's crate runs them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use orlop_plugin::channel::socket;
use orlop_plugin::contract::Mount;
use orlop_plugin::mount::{Lazy, mount_one, unmount};
use orlop_plugin::{rpc, testkit};
use orlop_tests::command::eventually;
use orlop_tests::{Daemon, build_directory, built};

/// A snapshotter with what it stands on.
#[derive(Clone, Copy)]
enum Backend {
    Overlayfs,
    Native,
    Btrfs,
    Erofs,
    BlockfileExt4,
    BlockfileXfs,
}

// === impl Backend ===

impl Backend {
    fn id(self) -> &'static str {
        match self {
            Self::Overlayfs => "overlayfs",
            Self::Native => "native",
            Self::Btrfs => "btrfs",
            Self::Erofs => "erofs",
            Self::BlockfileExt4 | Self::BlockfileXfs => "blockfile",
        }
    }

    /// Makes in `directory` what it needs; returns its configuration, and what is mounted there.
    fn prepare(self, directory: &Path) -> (String, Option<Mounted>) {
        let table = format!("[plugins.\"io.containerd.snapshotter.v1.{}\"]\n", self.id());
        let scratch = |kind: &str, bytes| {
            let file = directory.join(format!("scratch.{kind}"));
            testkit::image(kind, &file, bytes);
            format!("scratch_file = {file:?}\nfs_type = {kind:?}\n")
        };
        match self {
            Self::Overlayfs | Self::Native | Self::Erofs => (String::new(), None),
            Self::Btrfs => {
                let disk = Mounted::new("btrfs", directory, 2 << 30);
                (format!("{table}root_path = {:?}\n", disk.0.join("root")), Some(disk))
            }
            Self::BlockfileExt4 => (table + &scratch("ext4", 64 << 20), None),
            Self::BlockfileXfs => {
                // Images share blocks there, as 128 of them should.
                let disk = Mounted::new("xfs", directory, 4 << 30);
                let config = format!(
                    "{table}root_path = {:?}\n{}",
                    disk.0.join("root"),
                    scratch("xfs", 320 << 20)
                );
                (config, Some(disk))
            }
        }
    }
}

/// A file system on an image in a directory.
struct Mounted(PathBuf);

impl Mounted {
    fn new(kind: &str, directory: &Path, bytes: u64) -> Self {
        let (image, point) = (directory.join("disk.image"), directory.join("disk"));
        testkit::image(kind, &image, bytes);
        std::fs::create_dir(&point).unwrap();
        let mount = Mount {
            kind: kind.into(),
            source: image.display().to_string(),
            target: String::new(),
            options: vec!["loop".into()],
        };
        mount_one(&mount, &point).unwrap();
        Self(point)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A daemon's own directory takes away what is left.
        let _ = unmount(&self.0, Lazy::Always);
    }
}

async fn snapshotter_at(address: &Path, name: &str) {
    testkit::snapshotter(rpc::snapshotter::connect(socket::connect(address), name)).await;
}

/// As clients reach it: a library in the daemon, behind the metadata store, on the daemon's socket.
async fn in_the_daemon(backend: Backend) {
    let builder = Daemon::orlop();
    let (config, _disk) = backend.prepare(builder.directory());
    let daemon = builder.config(&config).start();
    snapshotter_at(&daemon.address(), backend.id()).await;
}

/// By itself: `orlopd plugin serve`, without a daemon.
async fn served(backend: Backend) {
    let directory = tempfile::tempdir().unwrap();
    let (config, _disk) = backend.prepare(directory.path());
    let server = Served::start(backend, directory.path(), &config);
    snapshotter_at(&server.address, backend.id()).await;
}

/// A library that is served on a socket.
struct Served {
    process: Child,
    address: PathBuf,
}

impl Served {
    fn start(backend: Backend, directory: &Path, config: &str) -> Self {
        let address = directory.join("plugin.sock");
        let file = directory.join("plugin.toml");
        std::fs::write(&file, format!("version = 2\n{config}")).unwrap();
        let process = Command::new(built("orlopd"))
            .arg("--config")
            .arg(&file)
            .args(["plugin", "serve", "--socket"])
            .arg(&address)
            .arg("--data")
            .arg(directory.join("data"))
            .arg(build_directory().join(format!("liborlop_snapshotter_{}.so", backend.id())))
            .spawn()
            .unwrap();
        let served = Self { process, address };
        eventually("the library is served", || {
            std::os::unix::net::UnixStream::connect(&served.address).is_ok()
        });
        served
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

macro_rules! each_way {
    ($($backend:ident: $in_the_daemon:ident, $served:ident;)*) => {$(
        #[tokio::test]
        async fn $in_the_daemon() {
            in_the_daemon(Backend::$backend).await;
        }

        #[tokio::test]
        async fn $served() {
            served(Backend::$backend).await;
        }
    )*};
}

each_way! {
    Overlayfs: overlayfs_in_the_daemon, overlayfs_served;
    Native: native_in_the_daemon, native_served;
    Btrfs: btrfs_in_the_daemon, btrfs_served;
    Erofs: erofs_in_the_daemon, erofs_served;
    BlockfileExt4: blockfile_ext4_in_the_daemon, blockfile_ext4_served;
    BlockfileXfs: blockfile_xfs_in_the_daemon, blockfile_xfs_served;
}

/// Our library as a proxy plugin of a daemon, behind its metadata store.
async fn as_a_proxy_of(builder: orlop_tests::Builder) {
    let directory = builder.directory().join("proxy");
    std::fs::create_dir(&directory).unwrap();
    let server = Served::start(Backend::Overlayfs, &directory, "");
    let proxy = format!(
        "[proxy_plugins.other]\ntype = \"snapshot\"\naddress = {:?}\n",
        server.address
    );
    let daemon = builder.config(&proxy).start();
    // The library knows itself by its own name only, and the daemon asks for that of the proxy: an empty registration has both.
    snapshotter_at(&daemon.address(), "other").await;
}

#[tokio::test]
async fn overlayfs_as_a_proxy_of_orlop() {
    as_a_proxy_of(Daemon::orlop()).await;
}

#[tokio::test]
async fn overlayfs_as_a_proxy_of_debians_containerd() {
    as_a_proxy_of(Daemon::containerd()).await;
}

#[tokio::test]
async fn overlayfs_of_debians_containerd() {
    let daemon = Daemon::containerd().start();
    // Not "native": that of 1.6 looks for the files of a view it is to commit, and has no code for not finding them.
    snapshotter_at(&daemon.address(), "overlayfs").await;
}

#[tokio::test]
async fn the_content_store_of_orlop() {
    let daemon = Daemon::orlop().start();
    testkit::content_store(rpc::content::connect(socket::connect(daemon.address()))).await;
}

#[tokio::test]
async fn the_content_store_of_debians_containerd() {
    let daemon = Daemon::containerd().start();
    testkit::content_store(rpc::content::connect(socket::connect(daemon.address()))).await;
}
