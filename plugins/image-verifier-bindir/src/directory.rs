//! The programs of a directory, and what their answers come to.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::Path;

use orlop_plugin::contract::{Ctx, Descriptor, ImageVerifier, Judgement, async_trait};
use orlop_plugin::{Error, Result, blocking};

use crate::Config;
use crate::program::{Answer, Program};

/// Asks every program of a directory.
pub struct Directory {
    config: Config,
}

// === impl Directory ===

impl Directory {
    /// Asks those of `config.bin_dir`.
    pub fn new(config: Config) -> Self {
        Self { config }
    }
}

#[async_trait]
impl ImageVerifier for Directory {
    async fn verify(&self, _: &Ctx, name: &str, target: Descriptor) -> Result<Judgement> {
        let Config {
            bin_dir,
            max_verifiers,
            per_verifier_timeout,
        } = &self.config;
        let accepted = |reason| Judgement { accepted: true, reason };
        let directory = bin_dir.clone();
        let programs = match blocking(move || entries(&directory)).await? {
            None => {
                let reason = format!("image verifier directory {} does not exist", bin_dir.display());
                return Ok(accepted(reason));
            }
            Some(programs) if programs.is_empty() => {
                let reason = format!("no image verifier binaries found in {}", bin_dir.display());
                return Ok(accepted(reason));
            }
            Some(programs) => programs,
        };
        let limit = usize::try_from(*max_verifiers).unwrap_or(usize::MAX);
        if programs.len() > limit {
            tracing::warn!(
                directory = %bin_dir.display(),
                programs = programs.len(),
                max_verifiers,
                "there are more image verifiers than max_verifiers: the last ones are not asked"
            );
        }
        let mut reasons = Vec::new();
        for file in programs.iter().take(limit) {
            let program = Program {
                path: bin_dir.join(file),
                limit: per_verifier_timeout.to_std(),
            };
            let file = file.display();
            let answer = program.ask(name, &target).await;
            let Answer { code, said } = answer.map_err(|error| error.context(format!("call verifier {file}")))?;
            if code != 0 {
                return Ok(Judgement {
                    accepted: false,
                    reason: format!("verifier {file} rejected image (exit code {code}): {said}"),
                });
            }
            reasons.push(format!("{file} => {said}"));
        }
        Ok(accepted(reasons.join(", ")))
    }
}

/// What is in the directory, by name; `None` where there is no directory. Blocks.
fn entries(directory: &Path) -> Result<Option<Vec<OsString>>> {
    let failed = |error: &std::io::Error| {
        // Whatever its kind: it means that there is no judgement.
        Error::failed_precondition(format!("list the image verifiers in {}: {error}", directory.display()))
    };
    let listed = match std::fs::read_dir(directory) {
        Ok(listed) => listed,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&error)),
    };
    let names: Result<Vec<_>, _> = listed.map(|entry| entry.map(|entry| entry.file_name())).collect();
    let mut names = names.map_err(|error| failed(&error))?;
    names.sort();
    Ok(Some(names))
}
