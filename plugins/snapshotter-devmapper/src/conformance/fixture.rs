//! A thin pool over loop devices, and a snapshotter on it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use orlop_plugin::contract::{Ctx, Labels, Mount, Snapshotter};
use orlop_plugin::{InitError, Instance, Result, testkit};

use crate::dmsetup::command;

const META_BYTES: u64 = 16 << 20;
/// In sectors: the least that a pool can have, so that what is taken is counted finely.
const BLOCK: u64 = 128;

/// Runs a program that is to succeed, and returns what it says.
#[track_caller]
pub(super) fn run(program: &str, args: &[&str]) -> String {
    let output = command(Path::new(program))
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("start {program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A pool with a root beside it. All of it goes when it is dropped.
pub(super) struct ThinPool {
    name: String,
    place: tempfile::TempDir,
    loops: Vec<String>,
}

// === impl ThinPool ===

impl ThinPool {
    /// One with room for `bytes`, that is told `feature` beside not to write zeros.
    pub(super) fn new(bytes: u64, feature: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut pool = Self {
            name: format!("orlop-test-{}-{number}", std::process::id()),
            place: tempfile::tempdir().expect("a directory"),
            loops: Vec::new(),
        };
        for (file, bytes) in [("meta", META_BYTES), ("data", bytes)] {
            let path = pool.place.path().join(file);
            let made = std::fs::File::create(&path).and_then(|made| made.set_len(bytes));
            made.expect("a sparse file");
            let path = path.display().to_string();
            pool.loops.push(run("losetup", &["--find", "--show", &path]));
        }
        let features = if feature.is_empty() {
            "1 skip_block_zeroing".to_owned()
        } else {
            format!("2 skip_block_zeroing {feature}")
        };
        let table = format!(
            "0 {} thin-pool {} {} {BLOCK} 0 {features}",
            bytes / 512,
            pool.loops[0],
            pool.loops[1]
        );
        run("dmsetup", &["create", &pool.name, "--table", &table]);
        pool
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The file with its data.
    pub(super) fn data(&self) -> PathBuf {
        self.place.path().join("data")
    }

    /// The snapshotter's root.
    pub(super) fn root(&self) -> PathBuf {
        self.place.path().join("root")
    }

    /// What is in a directory of the root.
    pub(super) fn entries(&self, directory: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.root().join(directory)).expect("there");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
            .collect();
        names.sort();
        names
    }

    /// The names of its active devices.
    pub(super) fn devices(&self) -> Vec<String> {
        let prefix = format!("{}-snap-", self.name);
        let all = run("dmsetup", &["info", "--columns", "--noheadings", "-o", "name"]);
        let mut names: Vec<String> = all
            .lines()
            .map(str::trim)
            .filter(|name| name.starts_with(&prefix))
            .map(str::to_owned)
            .collect();
        names.sort();
        names
    }

    /// How many blocks of data are in use.
    pub(super) fn used_blocks(&self) -> u64 {
        let status = run("dmsetup", &["status", &self.name]);
        let used = status.split(' ').nth(5).and_then(|word| word.split('/').next());
        used.and_then(|used| used.parse().ok()).expect("a status")
    }

    /// Tells it something, as the snapshotter would; the error is dmsetup's.
    pub(super) fn message(&self, message: &str) -> Result<(), String> {
        let output = command(Path::new("dmsetup"))
            .args(["message", &self.name, "0", message])
            .output()
            .expect("dmsetup");
        if output.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Takes its devices away, as a reboot does.
    pub(super) fn deactivate(&self) {
        for device in self.devices() {
            run("dmsetup", &["remove", "--retry", &device]);
        }
    }
}

impl Drop for ThinPool {
    fn drop(&mut self) {
        // Best effort: what fails here failed before, and is told there.
        let try_to = |program: &str, args: &[&str]| drop(command(Path::new(program)).args(args).output());
        for device in self.devices() {
            try_to("dmsetup", &["resume", &device]);
            try_to("dmsetup", &["remove", "--retry", &device]);
        }
        try_to("dmsetup", &["remove", "--retry", &self.name]);
        for device in &self.loops {
            try_to("losetup", &["--detach", device]);
        }
    }
}

/// Starts the plugin on `pool`, with these lines of configuration beside the pool's.
pub(super) async fn start(pool: &str, root: &Path, config: &str) -> Result<Instance, InitError> {
    let config = format!(
        "pool_name = {pool:?}\nroot_path = {:?}\n{config}",
        root.display().to_string()
    );
    testkit::start(&crate::registrations()[0], root, config.parse().expect("TOML")).await
}

/// A snapshotter that has started.
pub(super) struct Running(Instance);

// === impl Running ===

impl Running {
    pub(super) async fn start(pool: &ThinPool, config: &str) -> Self {
        Self(start(pool.name(), &pool.root(), config).await.expect("it starts"))
    }

    pub(super) fn contract(&self) -> Arc<dyn Snapshotter> {
        Arc::clone(self.0.contracts.snapshotter.as_ref().expect("a snapshotter"))
    }

    pub(super) async fn prepare(&self, key: &str, parent: &str) -> Result<Vec<Mount>> {
        self.contract()
            .prepare(&Ctx::daemon(), key, parent, Labels::new())
            .await
    }

    pub(super) async fn view(&self, key: &str, parent: &str) -> Result<Vec<Mount>> {
        self.contract().view(&Ctx::daemon(), key, parent, Labels::new()).await
    }

    pub(super) async fn commit(&self, name: &str, key: &str) -> Result<()> {
        self.contract().commit(&Ctx::daemon(), name, key, Labels::new()).await
    }

    pub(super) async fn remove(&self, key: &str) -> Result<()> {
        self.contract().remove(&Ctx::daemon(), key).await
    }

    /// Shuts it down, so that another one can start on the same root.
    pub(super) async fn stop(self) {
        self.0.shutdown.expect("it ends")().await;
    }
}
