//! Figures with images: importing a large one, running a small one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::ensure;
use orlop_tests::image::{BUSYBOX, busybox};
use orlop_tests::{built, program, repository};

use crate::peer::{Daemon, Peer, Place};
use crate::{median, millis, row, timed};

/// `run --rm true`, with Debian's client and with ours.
pub fn run_latency(place: &Place, runs: usize) -> anyhow::Result<()> {
    let archive = busybox(place.path(), BUSYBOX, "bench");
    let mut figures = Vec::new();
    for peer in [Peer::Orlop, Peer::Containerd] {
        let daemon = place.start(peer)?;
        daemon.run(&format!("images import {}", archive.display()))?;
        for client in [program("ctr"), built("ctr")] {
            let mut number = 0;
            let mut once = || {
                number += 1;
                let name = client.display().to_string().replace(['/', '.'], "");
                timed(|| {
                    run(
                        &daemon,
                        &client,
                        &format!("run --rm {BUSYBOX} {name}{number} /bin/true"),
                    )
                })
            };
            once()?;
            figures.push(median(runs.max(15), once)?);
        }
    }
    row(
        "run --rm true with Debian's ctr, ms",
        millis(figures[0]),
        millis(figures[2]),
    );
    row("run --rm true with our ctr, ms", millis(figures[1]), millis(figures[3]));
    Ok(())
}

fn run(daemon: &Daemon, client: &Path, arguments: &str) -> anyhow::Result<()> {
    let output = daemon
        .ctr(&client.display().to_string())
        .args(arguments.split(' '))
        .stdin(Stdio::null())
        .output()?;
    ensure!(
        output.status.success(),
        "{} {arguments}: {}",
        client.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Import and unpack of a large image, by each client.
pub fn import(place: &Place, mib: u64) -> anyhow::Result<()> {
    for compression in ["gzip", "zstd"] {
        let archive = large(place.path(), mib, compression)?;
        let mut figures: Vec<Duration> = Vec::new();
        let mut peaks = Vec::new();
        for peer in [Peer::Orlop, Peer::Containerd] {
            for client in [program("ctr"), built("ctr")] {
                let mut peak = 0;
                figures.push(median(3, || {
                    let daemon = place.start(peer)?;
                    let took = timed(|| run(&daemon, &client, &format!("images import {}", archive.display())));
                    peak = peak.max(high_water(daemon.pid())?);
                    took
                })?);
                peaks.push(peak);
            }
        }
        let size = std::fs::metadata(&archive)?.len() >> 20;
        row(
            &format!("import + unpack, {compression}, {size} MiB, Debian's ctr, ms"),
            millis(figures[0]),
            millis(figures[2]),
        );
        row(
            &format!("import + unpack, {compression}, {size} MiB, our ctr, ms"),
            millis(figures[1]),
            millis(figures[3]),
        );
        row(
            &format!("peak RSS of the daemon meanwhile, {compression}, MiB"),
            peaks[0].max(peaks[1]) as f64 / 1024.0,
            peaks[2].max(peaks[3]) as f64 / 1024.0,
        );
        std::fs::remove_file(archive)?;
    }
    Ok(())
}

/// KiB of resident memory at its highest.
fn high_water(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap_or_default();
    Ok(line.split_whitespace().next().unwrap_or_default().parse()?)
}

/// An image of six layers with many small files, taken from this machine.
pub fn large(directory: &Path, mib: u64, compression: &str) -> anyhow::Result<PathBuf> {
    let file = directory.join(format!("large-{compression}.tar"));
    let made = Command::new(program("python3"))
        .arg(repository().join("tests/src/bench/large-image.py"))
        .arg(&file)
        .args([
            "docker.io/library/large:latest",
            "--mib",
            &mib.to_string(),
            "--compression",
            compression,
        ])
        .status()?;
    ensure!(made.success(), "the large image was not made");
    Ok(file)
}
