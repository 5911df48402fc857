//! Pulling a large image from a registry on this machine, beside Debian's containerd and beside what the tools of a shell need for the unpacking alone.
//!
//! The two daemons take turns, so that a machine that grows slower grows slower for both. Containerd 1.6 has no transfer service: there the client
//! downloads, so its memory counts as well.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use orlop_tests::registry::Registry;
use orlop_tests::{built, program};
use serde_json::Value;

use crate::images::large;
use crate::peer::{Daemon, Peer, Place};
use crate::{millis, row, timed};

/// How often memory is looked at during a pull.
const SAMPLE: Duration = Duration::from_millis(10);

/// A daemon, and the client that tells it to pull.
struct Way {
    name: &'static str,
    peer: Peer,
    client: PathBuf,
    took: Vec<Duration>,
    daemon: Peak,
    both: Peak,
}

/// KiB of PSS at its highest.
#[derive(Clone, Copy, Default)]
struct Peak(u64);

/// Pulls an image of `mib` MiB of files, gzip and zstd, `runs` times each way.
pub fn report(place: &Place, mib: u64, runs: usize) -> anyhow::Result<()> {
    for compression in ["gzip", "zstd"] {
        let archive = large(place.path(), mib, compression)?;
        let registry = Registry::start_in(place.path());
        let repository = format!("large:{compression}");
        registry.fill(&archive, &repository);
        let size = std::fs::metadata(&archive)?.len() >> 20;
        let floor = floor(place.path(), &archive, compression)?;
        std::fs::remove_file(&archive)?;

        let mut ways = [
            Way::new("orlop, its ctr", Peer::Orlop, built("ctr")),
            Way::new("orlop, Debian's ctr", Peer::Orlop, program("ctr")),
            Way::new("containerd", Peer::Containerd, program("ctr")),
        ];
        for _ in 0..runs.max(1) {
            for way in &mut ways {
                way.pull(place, &registry.name(&repository))?;
            }
        }
        let [ours, client_path, theirs] = &ways;
        let what = format!("{compression}, {size} MiB");
        row(
            &format!("pull + unpack, {what}, each its ctr, ms"),
            ours.median(),
            theirs.median(),
        );
        row(
            &format!("pull + unpack, {what}, Debian's ctr, ms"),
            client_path.median(),
            theirs.median(),
        );
        println!(
            "{:<58} {:>14.2}",
            format!("`{compression} -dc | tar x`, two layers at a time, ms"),
            millis(floor)
        );
        for way in &ways {
            println!(
                "{:<58} {:>14.2} MiB, with the client {:.2} MiB",
                format!("peak PSS of the daemon, {compression}, {}", way.name),
                way.daemon.mib(),
                way.both.mib()
            );
        }
    }
    Ok(())
}

// === impl Way ===

impl Way {
    fn new(name: &'static str, peer: Peer, client: PathBuf) -> Self {
        Self {
            name,
            peer,
            client,
            took: Vec::new(),
            daemon: Peak::default(),
            both: Peak::default(),
        }
    }

    /// One pull into a fresh daemon.
    fn pull(&mut self, place: &Place, image: &str) -> anyhow::Result<()> {
        let daemon = place.start(self.peer)?;
        let begin = Instant::now();
        let client = self.client(&daemon, place, image)?;
        let took = self.watch(&daemon, client, begin)?;
        self.took.push(took);
        Ok(())
    }

    fn client(&self, daemon: &Daemon, place: &Place, image: &str) -> anyhow::Result<Child> {
        let errors = File::create(place.path().join("pull.log"))?;
        let mut command = daemon.ctr(&self.client.display().to_string());
        command
            .args(["images", "pull", "--plain-http", image])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors);
        Ok(command.spawn()?)
    }

    /// Waits for the client, and looks at the memory of both meanwhile.
    fn watch(&mut self, daemon: &Daemon, mut client: Child, begin: Instant) -> anyhow::Result<Duration> {
        let ended = loop {
            if let Some(ended) = client.try_wait()? {
                break ended;
            }
            // One that is just ending has no memory any more.
            let (server, own) = (pss(daemon.pid())?, pss(client.id()).unwrap_or_default());
            self.daemon.at_least(server);
            self.both.at_least(server + own);
            std::thread::sleep(SAMPLE);
        };
        let took = begin.elapsed();
        ensure!(ended.success(), "{} did not pull: {ended}", self.name);
        Ok(took)
    }

    /// The median, in milliseconds.
    fn median(&self) -> f64 {
        let mut all = self.took.clone();
        all.sort();
        all.get(all.len() / 2).copied().map_or(f64::NAN, millis)
    }
}

// === impl Peak ===

impl Peak {
    fn at_least(&mut self, kib: u64) {
        self.0 = self.0.max(kib);
    }

    fn mib(self) -> f64 {
        self.0 as f64 / 1024.0
    }
}

/// KiB of PSS of a process as it is now.
fn pss(pid: u32) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("no PSS in smaps_rollup")?.parse()?)
}

/// How long a shell takes to unpack the layers of `archive`, two at a time, with nothing fetched, hashed or recorded.
fn floor(place: &Path, archive: &Path, compression: &str) -> anyhow::Result<Duration> {
    let directory = tempfile::Builder::new().prefix("floor.").tempdir_in(place)?;
    shell(directory.path(), "tar -xf \"$0\"", &[archive.display().to_string()])?;
    let layers = layers(directory.path())?;
    let unpack = format!(
        "printf '%s\\n' \"$@\" | xargs -P 2 -I BLOB sh -c 'mkdir BLOB.d && {compression} -dc < BLOB | tar -x -C BLOB.d'"
    );
    timed(|| {
        shell(
            directory.path(),
            &unpack,
            &[vec!["floor".to_owned()], layers.clone()].concat(),
        )
    })
}

fn shell(directory: &Path, script: &str, arguments: &[String]) -> anyhow::Result<()> {
    let status = Command::new(program("bash"))
        .args(["-o", "pipefail", "-c", script])
        .args(arguments)
        .current_dir(directory)
        .status()?;
    ensure!(status.success(), "{script}: {status}");
    Ok(())
}

/// The files of the layers of the one image of an unpacked OCI archive.
fn layers(directory: &Path) -> anyhow::Result<Vec<String>> {
    let read =
        |path: &str| -> anyhow::Result<Value> { Ok(serde_json::from_slice(&std::fs::read(directory.join(path))?)?) };
    let file = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap_or_default();
        format!("blobs/{}", digest.replace(':', "/"))
    };
    let index = read("index.json")?;
    let manifest = read(&file(&index["manifests"][0]))?;
    let layers = manifest["layers"].as_array().context("a manifest without layers")?;
    Ok(layers.iter().map(file).collect())
}
