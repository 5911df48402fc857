//! Applying a layer of the content store to mounts.

use std::collections::BTreeMap;

use orlop_plugin::contract::{Applier, ApplyOptions, Ctx, Descriptor, Mount, async_trait};
use orlop_plugin::layer::{self, Feeder};
use orlop_plugin::{Error, Result};

use crate::Walking;
use crate::processors::Pipeline;
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
        let (steps, compression) = self.processors.way(&layer.media_type)?;
        let doing = |error: Error| error.context(format_args!("apply layer {}", layer.digest));
        let content = self
            .host
            .content()?
            .read(ctx, &layer.digest, 0, 0)
            .await
            .map_err(doing)?;
        let (pipeline, content) = if steps.is_empty() {
            (None, content)
        } else {
            let started = Pipeline::start(steps, &options.payloads, content).await;
            let (pipeline, content) = started.map_err(doing)?;
            (Some(pipeline), content)
        };
        let applied = Feeder::run(content, move |feed| {
            let target = Target::of(&mounts)?;
            let options = layer::ApplyOptions {
                sync: options.sync_fs,
                ..target.options()
            };
            let applied = layer::apply(feed, compression, target.directory(), &options)?;
            target.close()?;
            Ok(applied)
        });
        let applied = applied.await.map_err(|error| match &pipeline {
            Some(pipeline) => doing(pipeline.explain(error)),
            None => doing(error),
        })?;
        Ok(Descriptor {
            media_type: layer::MEDIA_TYPE_LAYER.to_owned(),
            digest: applied.diff_id,
            size: applied.size,
            annotations: BTreeMap::new(),
        })
    }
}
