//! What an idle daemon takes, and which part of it each plugin library is. PSS, from `/proc/PID/smaps`.

use std::collections::BTreeMap;

use crate::peer::{Peer, Place};
use crate::row;

/// KiB of PSS, and of it anonymous.
#[derive(Clone, Copy, Default)]
struct Pss {
    all: u64,
    anonymous: u64,
}

pub fn report(place: &Place) -> anyhow::Result<()> {
    let mut totals = Vec::new();
    for peer in [Peer::Orlop, Peer::Containerd] {
        let daemon = place.start(peer)?;
        // Settled: what starting needed is given back.
        std::thread::sleep(std::time::Duration::from_secs(6));
        let mappings = mappings(daemon.pid())?;
        let total = mappings.values().fold(Pss::default(), |sum, pss| Pss {
            all: sum.all + pss.all,
            anonymous: sum.anonymous + pss.anonymous,
        });
        totals.push(total);
        if peer == Peer::Orlop {
            let threads = std::fs::read_dir(format!("/proc/{}/task", daemon.pid()))?.count();
            println!("{:<58} {threads:>14}", "threads of the idle daemon");
            for (name, pss) in mappings
                .iter()
                .filter(|(name, _)| is_library(name) && name.contains("orlop"))
            {
                println!(
                    "{:<58} {:>14.2} MiB PSS, {:.2} anonymous",
                    format!("  {name}"),
                    mib(pss.all),
                    mib(pss.anonymous)
                );
            }
        }
    }
    row("idle PSS, MiB", mib(totals[0].all), mib(totals[1].all));
    row(
        "of it anonymous, MiB",
        mib(totals[0].anonymous),
        mib(totals[1].anonymous),
    );
    Ok(())
}

fn is_library(name: &str) -> bool {
    std::path::Path::new(name)
        .extension()
        .is_some_and(|extension| extension == "so")
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// By file; a mapping without a name that follows a library's is its zeroed data.
fn mappings(pid: u32) -> anyhow::Result<BTreeMap<String, Pss>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let mut by_file: BTreeMap<String, Pss> = BTreeMap::new();
    let (mut file, mut end) = ("(none)".to_owned(), String::new());
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["Pss:", kib, _] => by_file.entry(file.clone()).or_default().all += kib.parse::<u64>()?,
            ["Anonymous:", kib, _] => by_file.entry(file.clone()).or_default().anonymous += kib.parse::<u64>()?,
            [range, permissions, ..] if permissions.len() == 4 && range.contains('-') && !range.ends_with(':') => {
                let (start, last) = range.split_once('-').unwrap_or_default();
                let zeroed = words.len() < 6 && start == end && is_library(&file);
                if !zeroed {
                    let path = words.get(5).copied().unwrap_or("(anonymous)");
                    path.rsplit('/').next().unwrap_or(path).clone_into(&mut file);
                }
                // Only the first is the library's: what follows is somebody's stack.
                end = if zeroed { String::new() } else { last.to_owned() };
            }
            _ => {}
        }
    }
    Ok(by_file)
}
