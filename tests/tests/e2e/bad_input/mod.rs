//! Bad input: what is refused, in which words, beside what Debian's containerd does with the same bytes, and that nothing stays.

mod images;
mod layers;

use std::path::Path;

use orlop_tests::crafted::Image;
use orlop_tests::{Daemon, Output, process};

/// What becomes of an input.
#[derive(Clone, Copy, Debug)]
enum Verdict {
    /// It is taken.
    Taken,
    /// It is refused, and these words say why. In none, the words are somebody else's.
    Refused(&'static str),
}
use Verdict::{Refused, Taken};

/// An input, and what becomes of it here and in containerd 1.6.
struct Case {
    name: &'static str,
    image: Image,
    ours: Verdict,
    containerds: Verdict,
}

/// Who decides whether Debian's client gets an image through here: what the daemon's services refuse is refused to it, what it does
/// not look at itself is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decides {
    Daemon,
    Client,
}

/// Imports each case with both clients here and with Debian's in Debian's containerd, and compares. All deviations are told at once.
#[track_caller]
fn check(decides: Decides, cases: &[Case]) {
    let (daemon, peer) = (Daemon::orlop().start(), Daemon::containerd().start());
    let mut wrong = Vec::new();
    for (nth, case) in cases.iter().enumerate() {
        let name = format!("docker.io/library/case-{nth}:v1");
        let archive = case.image.write(&daemon.path(""), &name);
        let import = format!("images import {}", archive.display());
        let compare = |wrong: &mut Vec<String>, who: &str, output: &Output, verdict: Verdict| {
            if let Some(deviation) = deviation(output, verdict) {
                wrong.push(format!("{}, {who}: {deviation}", case.name));
            }
        };
        let output = daemon.ctr(&import);
        compare(&mut wrong, "ours", &output, case.ours);
        if output.stderr.len() > 5000 {
            compare(&mut wrong, "ours", &output, Refused("fewer words"));
        }
        if let Refused(_) = case.ours {
            let image = daemon.ctr("images ls -q").ok().contains(&name);
            let left = half_done(&daemon).or_else(|| image.then(|| "an image".to_owned()));
            if let Some(left) = left {
                wrong.push(format!("{} leaves {left}", case.name));
            }
        }
        for (who, output, verdict) in [
            (
                "Debian's client",
                daemon.debian_ctr(&import),
                match (decides, case.ours) {
                    (Decides::Client, _) => case.containerds,
                    // The same reasons, in other words.
                    (Decides::Daemon, Refused(_)) => Refused(""),
                    (Decides::Daemon, Taken) => Taken,
                },
            ),
            ("containerd", peer.debian_ctr(&import), case.containerds),
        ] {
            compare(&mut wrong, who, &output, verdict);
        }
        std::fs::remove_file(archive).unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_empty(&daemon);
}

/// What transfers leave behind that did not clean up after themselves.
fn half_done(daemon: &Daemon) -> Option<String> {
    let leases = daemon.ctr("leases ls -q").ok();
    let ingests = daemon.ctr("content active").ok();
    let snapshots = daemon.ctr("snapshots ls").ok();
    let tidy = leases.trim().is_empty() && ingests.lines().count() <= 1 && !snapshots.contains("Active");
    (!tidy).then(|| format!("{leases}{ingests}{snapshots}"))
}

fn deviation(output: &Output, verdict: Verdict) -> Option<String> {
    let taken = output.code == Some(0);
    match verdict {
        Taken if taken => None,
        Refused(why) if !taken && output.stderr.contains(why) => None,
        Taken => Some(format!("refused: {}", output.stderr.trim())),
        Refused(_) if taken => Some("taken".to_owned()),
        Refused(why) => Some(format!("not {why:?} but: {}", output.stderr.trim())),
    }
}

/// Removes every image and collects: then there is nothing, neither in the records nor on the disk.
#[track_caller]
fn assert_empty(daemon: &Daemon) {
    // A collection happens even when there is no image left to remove.
    daemon.import_busybox();
    let images = daemon.ctr("images ls -q").ok();
    for image in images.split_whitespace() {
        daemon.ctr(&format!("images rm --sync {image}")).ok();
    }
    for list in ["content ls -q", "images ls -q"] {
        assert_eq!(daemon.ctr(list).ok().trim(), "", "{list}");
    }
    assert_eq!(half_done(daemon), None);
    assert_eq!(daemon.ctr("snapshots ls").ok().lines().count(), 1);
    let root = daemon.path("root");
    for directory in [
        "io.containerd.content.v1.content/blobs/sha256",
        "io.containerd.content.v1.content/ingest",
        "io.containerd.snapshotter.v1.overlayfs/snapshots",
    ] {
        orlop_tests::command::eventually(&format!("{directory} is empty"), || {
            entries(&root.join(directory)).is_empty()
        });
    }
    let below = process::mounts_below(&daemon.path("root"));
    let own: Vec<_> = below.iter().filter(|mount| Path::new(mount) != root).collect();
    assert!(own.is_empty(), "{own:?}");
}

fn entries(directory: &Path) -> Vec<std::ffi::OsString> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name()).collect()
}
