//! `orlop-bench`: figures beside Debian's containerd, in one run, one daemon after the other on the same machine.
//!
//! State lives on a tmpfs, so that the disk is not what is measured. Medians of several runs; only the ratios mean something on
//! another day or machine.

// A path in quotes is a string of TOML.
#![allow(clippy::unnecessary_debug_formatting)]
// The modules of a program; each says what it is for at its top.
#![allow(missing_docs)]

mod api;
mod blobs;
mod calls;
mod images;
mod memory;
mod peer;
mod pull;

use std::time::{Duration, Instant};

use clap::Parser;

use peer::Peer;

/// Measures Orlop beside Debian's containerd.
#[derive(Parser)]
struct Arguments {
    /// Which figures: start, memory, calls, metadata, blobs, run, import, pull (default: all)
    figures: Vec<String>,
    /// How often each is measured
    #[arg(long, default_value_t = 7)]
    runs: usize,
    /// How many blobs are ingested and collected
    #[arg(long, default_value_t = 20_000)]
    blobs: usize,
    /// The size of the image, in MiB of files before compression
    #[arg(long, default_value_t = 300)]
    image_mib: u64,
}

// === impl Arguments ===

impl Arguments {
    fn wants(&self, figure: &str) -> bool {
        self.figures.is_empty() || self.figures.iter().any(|wanted| wanted == figure)
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let place = peer::Place::new()?;
    println!("{:<58} {:>14} {:>14} {:>7}", "figure", "orlop", "containerd", "ratio");
    if arguments.wants("start") {
        let start = |peer: Peer| median(arguments.runs, || runtime.block_on(api::cold_start(&place, peer)));
        row(
            "cold start to first answered Version, ms",
            millis(start(Peer::Orlop)?),
            millis(start(Peer::Containerd)?),
        );
    }
    if arguments.wants("memory") {
        memory::report(&place)?;
    }
    if arguments.wants("calls") {
        runtime.block_on(calls::report(&place))?;
    }
    if arguments.wants("metadata") {
        for (what, clients) in [
            ("Version", 1),
            ("Version", 16),
            ("Containers.Create", 1),
            ("Containers.Create", 16),
            ("Leases.Create", 1),
            ("Leases.Create", 16),
            ("Containers.Get", 1),
            ("Containers.Get", 16),
        ] {
            let rate = |peer: Peer| runtime.block_on(api::rate(&place, peer, what, clients));
            row(
                &format!("{what} a second, {clients} clients"),
                rate(Peer::Orlop)?,
                rate(Peer::Containerd)?,
            );
        }
    }
    if arguments.wants("blobs") {
        let measure = |peer: Peer| runtime.block_on(blobs::measure(&place, peer, arguments.blobs));
        let (ours, theirs) = (measure(Peer::Orlop)?, measure(Peer::Containerd)?);
        row("blobs of 1 KiB a second, 16 clients", ours.rate, theirs.rate);
        row(
            &format!("collection of {} blobs, ms", arguments.blobs),
            millis(ours.collection),
            millis(theirs.collection),
        );
        row("longest write meanwhile, ms", millis(ours.stall), millis(theirs.stall));
    }
    if arguments.wants("run") {
        images::run_latency(&place, arguments.runs)?;
    }
    if arguments.wants("import") {
        images::import(&place, arguments.image_mib)?;
    }
    if arguments.wants("pull") {
        pull::report(&place, arguments.image_mib, arguments.runs)?;
    }
    Ok(())
}

fn row(figure: &str, ours: f64, theirs: f64) {
    println!("{figure:<58} {ours:>14.2} {theirs:>14.2} {:>7.2}", ours / theirs);
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// The median of `runs` measurements.
fn median<T: Ord + Copy>(runs: usize, mut measure: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let mut all = Vec::new();
    for _ in 0..runs.max(1) {
        all.push(measure()?);
    }
    all.sort();
    Ok(all[all.len() / 2])
}

/// How long `work` takes.
fn timed<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    work()?;
    Ok(begin.elapsed())
}
