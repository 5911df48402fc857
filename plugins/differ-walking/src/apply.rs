//! Applying a layer of the content store to mounts.

use std::collections::BTreeMap;

use orlop_plugin::contract::{Applier, ApplyOptions, Ctx, Descriptor, Mount, async_trait};
use orlop_plugin::layer::{self, Compression, Feeder};
use orlop_plugin::{Error, Result};

use crate::Walking;
use crate::target::Target;

#[async_trait]
impl Applier for Walking {
    async fn apply(
        &self,
        ctx: &Ctx,
        layer: Descriptor,
        mounts: Vec<Mount>,
        options: ApplyOptions,
    ) -> Result<Descriptor> {
        let compression = Compression::of_layer(&layer.media_type).ok_or_else(|| {
            Error::unimplemented(format!(
                "the walking differ knows no layers of media type {:?}",
                layer.media_type
            ))
        })?;
        let doing = |error: Error| error.context(format_args!("apply layer {}", layer.digest));
        let content = self
            .host
            .content()?
            .read(ctx, &layer.digest, 0, 0)
            .await
            .map_err(doing)?;
        let applied = Feeder::run(content, move |feed| {
            let target = Target::of(&mounts)?;
            let (lowers, whiteouts) = target.below();
            let options = layer::ApplyOptions {
                whiteouts,
                lowers,
                sync: options.sync_fs,
                ..layer::ApplyOptions::default()
            };
            let applied = layer::apply(feed, compression, target.directory(), &options)?;
            target.close()?;
            Ok(applied)
        });
        let applied = applied.await.map_err(doing)?;
        Ok(Descriptor {
            media_type: layer::MEDIA_TYPE_LAYER.to_owned(),
            digest: applied.diff_id,
            size: applied.size,
            annotations: BTreeMap::new(),
        })
    }
}
