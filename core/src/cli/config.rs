//! `orlopd config`: print, convert and check configurations.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;
use orlop_config::Config;

use super::Flags;

/// No real configuration comes near this size.
const MAX_CONFIG: u64 = 16 << 20;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Print the default configuration
    Default {
        /// The version to print it in: 2, 3 or 4
        #[arg(long, default_value_t = 2)]
        config_version: i64,
    },
    /// Print what a daemon with this configuration and these flags would run with
    Dump,
    /// Print the configuration file in the newest version
    Migrate,
    /// Check a configuration file; every problem is one line `file:line:column: problem`
    Check {
        /// The file
        file: PathBuf,
    },
}

// === impl Command ===

impl Command {
    pub(super) fn run(self, flags: &Flags) -> anyhow::Result<ExitCode> {
        match self {
            Self::Default { config_version } => {
                let tables = defaults(&Config::default())?;
                print!("{}", orlop_config::render_default(config_version, &tables)?);
            }
            Self::Dump => {
                let config = flags.load()?.config;
                print!("{}", orlop_config::dump(&config, &defaults(&config)?)?);
            }
            Self::Migrate => {
                let text = read(&flags.config)?;
                print!("{}", orlop_config::migrate(&text, &flags.config.display().to_string())?);
            }
            Self::Check { file } => return check(&file),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn check(file: &Path) -> anyhow::Result<ExitCode> {
    let tables = defaults(&Config::default())?;
    let problems = orlop_config::check(&read(file)?, &file.display().to_string(), &tables);
    for problem in &problems {
        println!("{problem}");
    }
    Ok(if problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn read(file: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let file_size = std::fs::File::open(file)
        .and_then(|file| file.take(MAX_CONFIG + 1).read_to_string(&mut text))
        .with_context(|| format!("read {}", file.display()))?;
    anyhow::ensure!(
        file_size as u64 <= MAX_CONFIG,
        "{} is larger than {MAX_CONFIG} bytes",
        file.display()
    );
    Ok(text)
}

/// The tables of every plugin that this installation has.
fn defaults(config: &Config) -> anyhow::Result<std::collections::BTreeMap<String, toml::Table>> {
    // Loading a library says what it refuses; here only its defaults are asked for.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut tables = runtime.block_on(crate::daemon::plugin_defaults(config));
    tables.retain(|_, table| !table.is_empty());
    Ok(tables)
}
