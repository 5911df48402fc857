//! `io.containerd.image-verifier.v1.bindir`: an image may be pulled if every program of a directory says so.
//!
//! [`directory`] knows which programs there are and what their answers come to, [`program`] runs one. Specified by containerd's
//! `docs/image-verification.md` and `pkg/imageverifier/bindir`.

mod directory;
mod program;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use orlop_plugin::contract::{Ctx, Descriptor, ImageVerifier, Judgement, async_trait};
use orlop_plugin::duration::GoDuration;
use orlop_plugin::{Contracts, Error, InitContext, InitError, Instance, Registration, Result, kind};
use serde::{Deserialize, Serialize};

pub use directory::Directory;

/// The table of this plugin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The directory of the programs. Without it every image is accepted.
    pub bin_dir: PathBuf,
    /// How many of them are asked, in the order of their names; negative: all.
    pub max_verifiers: i64,
    /// How long one may take.
    pub per_verifier_timeout: GoDuration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bin_dir: "/opt/containerd/image-verifier/bin".into(),
            max_verifiers: 10,
            per_verifier_timeout: GoDuration::from_millis(10_000),
        }
    }
}

/// What this crate registers.
pub fn registrations() -> Vec<Registration> {
    vec![Registration::new(kind::IMAGE_VERIFIER, "bindir", start).config(&Config::default())]
}

async fn start(context: InitContext) -> Result<Instance, InitError> {
    // An `error` row would leave a daemon that pulls without asking anybody.
    let verifier: Arc<dyn ImageVerifier> = match context.config::<Config>() {
        Ok(config) => Arc::new(Directory::new(config)),
        Err(error) => {
            tracing::error!(%error, "images are verified by nobody, so that none is pulled until this is mended");
            Arc::new(Misconfigured(error))
        }
    };
    Ok(Instance::new().with_contracts(Contracts::default().with_image_verifier(verifier)))
}

/// Judges no image, because of this.
struct Misconfigured(Error);

#[async_trait]
impl ImageVerifier for Misconfigured {
    async fn verify(&self, _: &Ctx, _: &str, _: Descriptor) -> Result<Judgement> {
        Err(Error::failed_precondition(self.0.message.clone()))
    }
}
