//! The EROFS differ (`io.containerd.differ.v1.erofs`): makes an EROFS image of a layer, in the directory of a snapshot of the EROFS snapshotter.
//!
//! ```text
//!   apply  content store ─▶ decompress ─▶ sha256 ─▶ ID/layer.unpacked ─▶ mkfs.erofs ─▶ ID/layer.erofs
//!                                                 ─▶ mkfs.erofs --tar=i ─▶ ID/layer.erofs        with enable_tar_index
//!          content store ─▶ ID/layer.erofs                                                   a layer that is an image already
//!   diff   two mounted trees ─▶ differ::compare ─▶ an ingest of the content store
//! ```
//!
//! What is not for the EROFS snapshotter (`ID/.erofslayer` tells) is `Unimplemented`, so that the next differ of
//! `[plugins."io.containerd.service.v1.diff-service"] default = ["erofs", "walking"]` does it. The layers themselves are
//! `orlop_plugin::layer`'s business, images `orlop_plugin::erofs`'.

mod apply;
mod place;

use std::sync::Arc;

use orlop_plugin::contract::{Comparer, Contracts, Ctx, Descriptor, DiffOptions, Mount, async_trait};
use orlop_plugin::erofs::Mkfs;
use orlop_plugin::{Error, Host, InitContext, InitError, Instance, Registration, Result, blocking, differ, kind};
use serde::{Deserialize, Serialize};

/// `[plugins."io.containerd.differ.v1.erofs"]`. containerd 1.7 has no such table: all of it is understood and not printed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Config {
    /// Options of `mkfs.erofs`, behind those it is always given.
    #[serde(skip_serializing)]
    mkfs_options: Vec<String>,
    /// Whether an image is an index of the layer's tar and the tar itself: quicker to make, and larger.
    #[serde(skip_serializing)]
    enable_tar_index: bool,
    /// Whether images are formatted for dm-verity.
    #[serde(skip_serializing)]
    enable_dmverity: bool,
}

/// The differ. The content store is looked up at each call: it may have been replaced.
struct Erofs {
    host: Host,
    mkfs: Mkfs,
    tar_index: bool,
}

/// What this library has to offer.
pub fn registrations() -> Vec<Registration> {
    vec![
        Registration::new(kind::DIFFER, "erofs", start)
            .requires([kind::METADATA])
            .host_platform()
            .config(&Config::default()),
    ]
}

async fn start(context: InitContext) -> Result<Instance, InitError> {
    let config: Config = context.config()?;
    if config.enable_dmverity {
        return Err(Error::failed_precondition(
            "enable_dmverity is not available in this release: leave it out, or use enable_fsverity of the EROFS snapshotter",
        )
        .into());
    }
    let Some(mkfs) = blocking(|| Ok(Mkfs::find())).await? else {
        return Err(InitError::Skip(
            "mkfs.erofs, which makes the images of layers, is not there: install erofs-utils".to_owned(),
        ));
    };
    if config.enable_tar_index && !mkfs.reads_tar() {
        return Err(Error::failed_precondition(
            "enable_tar_index needs a mkfs.erofs with --tar: install erofs-utils 1.7 or newer, or leave it out",
        )
        .into());
    }
    let differ = Erofs {
        host: context.host,
        mkfs: mkfs.with_options(config.mkfs_options),
        tar_index: config.enable_tar_index,
    };
    Ok(Instance::new().with_contracts(Contracts::default().with_differ(Arc::new(differ))))
}

#[async_trait]
impl Comparer for Erofs {
    async fn diff(&self, ctx: &Ctx, lower: Vec<Mount>, upper: Vec<Mount>, options: DiffOptions) -> Result<Descriptor> {
        // What is another snapshotter's is another differ's too, as in containerd.
        place::of(&upper)?;
        differ::compare(self.host.content()?, ctx, lower, upper, options).await
    }
}

orlop_plugin::export_plugin!(registrations, "io.containerd.differ.v1.erofs");

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_plugin::testkit;

    async fn start_with(config: &str) -> Result<Instance, InitError> {
        let root = tempfile::tempdir().expect("a directory");
        testkit::start(&registrations()[0], root.path(), config.parse().expect("TOML")).await
    }

    #[tokio::test]
    async fn what_it_cannot_do_is_said_when_it_starts() {
        let mkfs = Mkfs::find().expect("erofs-utils");
        assert!(start_with("mkfs_options = [\"-zlz4\"]").await.is_ok());
        match start_with("enable_tar_index = true").await {
            Ok(_) => assert!(mkfs.reads_tar()),
            Err(error) => assert!(
                !mkfs.reads_tar() && error.to_string().contains("erofs-utils 1.7"),
                "{error}"
            ),
        }
        let refused = start_with("enable_dmverity = true").await.err().expect("refused");
        assert!(
            refused.to_string().contains("not available in this release"),
            "{refused}"
        );
        assert_eq!(registrations()[0].config.to_string(), "");
    }
}
