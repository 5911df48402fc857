//! From a path to a [`Config`]: reading, following imports, lifting, merging. The only place that touches files.

use std::collections::{HashSet, VecDeque};
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::error::ConfigError;
use crate::schema::Config;
use crate::version::{declared, hoist_listeners, lift};
use crate::{LATEST_VERSION, imports, merge};

/// What loading gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The effective configuration.
    pub config: Config,
    /// Every file that was read, the main one first, in the order of merging.
    pub files: Vec<PathBuf>,
    /// Settings that were read past: unknown keys, as `file:line:column: problem`. The daemon logs them.
    pub warnings: Vec<crate::Problem>,
}

/// Loads `path` and what it imports, over the defaults.
///
/// Files are merged as containerd merges them: the main file, then its imports in order, then theirs. Each is lifted
/// to the newest version on its own. A file reached twice on two ways is merged once; one that imports itself is
/// [`ConfigError::ImportCycle`].
pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
    let mut merged = Table::new();
    let mut root_version = None;
    let mut seen = HashSet::new();
    let mut loaded = Loaded {
        config: Config::default(),
        files: Vec::new(),
        warnings: Vec::new(),
    };
    // Each pending file with the files that led to it, outermost first.
    let mut pending = VecDeque::from([(path.to_path_buf(), Vec::<PathBuf>::new())]);
    while let Some((file, mut chain)) = pending.pop_front() {
        // Two spellings of one file are one file; a file that does not exist fails at the read.
        let identity = file.canonicalize().unwrap_or_else(|_| file.clone());
        if let Some(first) = chain.iter().position(|f| f.canonicalize().is_ok_and(|f| f == identity)) {
            chain.push(file);
            return Err(ConfigError::ImportCycle {
                chain: chain.split_off(first),
            });
        }
        if !seen.insert(identity) {
            continue;
        }
        let text = std::fs::read_to_string(&file).map_err(|source| ConfigError::Read {
            path: file.clone(),
            imported_by: chain.last().cloned(),
            source,
        })?;
        let mut table = parse(&text, &file.display().to_string(), &mut loaded.warnings)?;
        let version = file_version(&table, &file)?;
        match (version, root_version) {
            (Some(version), Some(root)) if version > root => {
                return Err(ConfigError::DropInVersion {
                    path: file,
                    found: version,
                    root,
                });
            }
            (Some(version), None) => root_version = Some(version),
            _ => {}
        }
        if loaded.files.is_empty() {
            loaded.config.version = version.unwrap_or(1);
        }
        table.remove("version");
        let imported = string_list(table.remove("imports"));
        lift(&mut table, version.unwrap_or(1));
        merge::file_over(&mut merged, table);
        loaded.files.push(file.clone());
        let found = imports::resolve(&file, &imported)?;
        chain.push(file);
        pending.extend(found.into_iter().map(|import| (import, chain.clone())));
    }
    loaded.config = typed(merged, loaded.config.version, &path.display().to_string())?;
    loaded.config.imports = loaded
        .files
        .iter()
        .skip(1)
        .map(|file| file.display().to_string())
        .collect();
    Ok(loaded)
}

/// [`load`], but when `path` itself does not exist the defaults: what containerd does for its default path.
pub fn load_or_default(path: &Path) -> Result<Loaded, ConfigError> {
    match load(path) {
        Err(error) if error.is_missing(path) => Ok(Loaded {
            config: Config::default(),
            files: Vec::new(),
            warnings: Vec::new(),
        }),
        result => result,
    }
}

/// Parses one file and refuses what it cannot mean; unknown keys become warnings.
pub(crate) fn parse(text: &str, file: &str, warnings: &mut Vec<crate::Problem>) -> Result<Table, ConfigError> {
    for problem in crate::check::structure(text, file) {
        match problem.kind {
            crate::ProblemKind::UnknownKey | crate::ProblemKind::UnknownPlugin => warnings.push(problem),
            _ => return Err(problem.into()),
        }
    }
    text.parse::<Table>().map_err(|error| ConfigError::Invalid {
        file: file.into(),
        message: error.message().into(),
    })
}

pub(crate) fn file_version(table: &Table, file: &Path) -> Result<Option<i64>, ConfigError> {
    declared(table).map_err(|found| ConfigError::Version {
        file: file.display().to_string(),
        found,
    })
}

fn string_list(value: Option<Value>) -> Vec<String> {
    let Some(Value::Array(items)) = value else {
        return Vec::new();
    };
    items
        .into_iter()
        .filter_map(|item| item.as_str().map(str::to_owned))
        .collect()
}

/// The typed form of a merged table of the newest version.
fn typed(mut merged: Table, version: i64, file: &str) -> Result<Config, ConfigError> {
    hoist_listeners(&mut merged);
    let mut over_defaults = Table::try_from(Config::default()).map_err(|error| ConfigError::Invalid {
        file: file.into(),
        message: error.to_string(),
    })?;
    merge::file_over(&mut over_defaults, merged);
    let mut config: Config = over_defaults
        .try_into()
        .map_err(|error: toml::de::Error| ConfigError::Invalid {
            file: file.into(),
            message: error.message().into(),
        })?;
    debug_assert!((1..=LATEST_VERSION).contains(&version));
    config.version = version;
    Ok(config)
}
