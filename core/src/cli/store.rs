//! `orlopd check` and `orlopd repair`: the databases under a root, while no daemon has them open.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use orlop_config::Config;
use orlop_plugin::database::Finding;
use orlop_plugin::{Result, kind, snapshots};

use super::Flags;
use crate::builtins;

/// A database, by the directory of its plugin.
struct Place {
    directory: PathBuf,
    check: fn(&Path) -> Result<Vec<Finding>>,
    repair: fn(&Path) -> Result<Vec<String>>,
}

/// Names what is wrong, one finding a line; fails when something is.
pub(super) fn check(flags: &Flags) -> anyhow::Result<ExitCode> {
    let mut sound = true;
    for place in places(&flags.load()?.config) {
        let findings =
            (place.check)(&place.directory).with_context(|| format!("check {}", place.directory.display()))?;
        for Finding { path, problem } in findings {
            println!("{}: {problem}", path.display());
            sound = false;
        }
    }
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Mends what can be mended and says what was done, one sentence a line.
pub(super) fn repair(flags: &Flags) -> anyhow::Result<ExitCode> {
    let config = flags.load()?.config;
    crate::log::init(&config.debug.level, &config.debug.format).map_err(|error| anyhow::anyhow!(error))?;
    for place in places(&config) {
        let done = (place.repair)(&place.directory).with_context(|| format!("repair {}", place.directory.display()))?;
        for sentence in done {
            println!("{sentence}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The directories that have, or may have, a database: the built-in plugins', and those of snapshotters under the root or where they are
/// configured to be.
fn places(config: &Config) -> Vec<Place> {
    let mut places: Vec<Place> = builtins::DATABASES
        .iter()
        .map(|database| Place {
            directory: config.root.join(database.uri),
            check: database.check,
            repair: database.repair,
        })
        .collect();
    let under_root = std::fs::read_dir(&config.root).into_iter().flatten().flatten();
    let snapshotter = |uri: &str| {
        uri.strip_prefix(kind::SNAPSHOTTER)
            .is_some_and(|id| id.starts_with('.'))
    };
    let mut directories: BTreeSet<PathBuf> = under_root
        .filter(|entry| entry.file_name().to_str().is_some_and(snapshotter))
        .map(|entry| entry.path())
        .collect();
    for (uri, table) in &config.plugins {
        let configured = table
            .get("root_path")
            .and_then(|path| path.as_str())
            .filter(|path| !path.is_empty());
        directories.extend(configured.filter(|_| snapshotter(uri)).map(PathBuf::from));
    }
    places.extend(directories.into_iter().map(|directory| Place {
        directory,
        check: snapshots::check,
        repair: snapshots::repair,
    }));
    places
}
