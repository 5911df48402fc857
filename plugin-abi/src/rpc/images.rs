//! [`Images`] as `containerd.services.images.v1`.

use std::sync::Arc;

use containerd_client::services::v1 as pb;

use super::client::{Remote, malformed};
use super::convert::{all, fields, mask, named, ordered, required, stamp, time, try_all, unordered};
use super::server::{Answer, Call, service};
use crate::channel::Channel;
use crate::contract::{BoxStream, Ctx, Descriptor, Image, Images, async_trait, collect, stream_of};
use crate::{Error, Result, Services};

const NAME: &str = "containerd.services.images.v1.Images";

/// Serves `images`.
pub fn serve(images: Arc<dyn Images>) -> Services {
    service(NAME, images, answer)
}

/// The images at the far end of `channel`.
pub fn connect(channel: Channel) -> Arc<dyn Images> {
    Arc::new(Far(Remote::new(channel, NAME)))
}

async fn answer(images: Arc<dyn Images>, mut call: Call) -> Result<Answer> {
    match call.method.as_str() {
        "Get" => {
            let pb::GetImageRequest { name } = call.message().await?;
            let image = images.get(&call.ctx, &name).await?;
            Answer::one(pb::GetImageResponse {
                image: Some(image.into()),
            })
        }
        "List" => {
            let pb::ListImagesRequest { filters } = call.message().await?;
            let images = collect(images.list(&call.ctx, &filters).await?).await?;
            Answer::one(pb::ListImagesResponse { images: all(images) })
        }
        "Create" => {
            let pb::CreateImageRequest { image, .. } = call.message().await?;
            let image = required(image, "Image")?;
            named(&image.name, "Image.Name")?;
            let image = images.create(&call.ctx, image.try_into()?).await?;
            Answer::one(pb::CreateImageResponse {
                image: Some(image.into()),
            })
        }
        "Update" => {
            let pb::UpdateImageRequest { image, update_mask, .. } = call.message().await?;
            let fields = fields(update_mask);
            let mut image = required(image, "Image")?;
            named(&image.name, "Image.Name")?;
            let untargeted = image.target.as_ref().is_none_or(|target| target.digest.is_empty());
            if untargeted && !fields.is_empty() && !fields.iter().any(|field| field.starts_with("target")) {
                // Clients that change labels send nothing else.
                image.target = Some(images.get(&call.ctx, &image.name).await?.target.into());
            }
            let image = images.update(&call.ctx, image.try_into()?, &fields).await?;
            Answer::one(pb::UpdateImageResponse {
                image: Some(image.into()),
            })
        }
        "Delete" => {
            let pb::DeleteImageRequest { name, sync, target } = call.message().await?;
            let target = target.map(TryInto::try_into).transpose()?;
            images
                .delete(&call.ctx, &name, sync, target)
                .await
                .and_then(Answer::empty)
        }
        _ => call.unknown(),
    }
}

struct Far(Remote);

fn image(image: Option<pb::Image>) -> Result<Image> {
    required(image, "the image")
        .and_then(TryInto::try_into)
        .map_err(malformed)
}

#[async_trait]
impl Images for Far {
    async fn get(&self, ctx: &Ctx, name: &str) -> Result<Image> {
        let name = name.to_owned();
        let answer: pb::GetImageResponse = self.0.unary(ctx, "Get", pb::GetImageRequest { name }).await?;
        image(answer.image)
    }

    async fn list(&self, ctx: &Ctx, filters: &[String]) -> Result<BoxStream<Image>> {
        let filters = filters.to_vec();
        let answer: pb::ListImagesResponse = self.0.unary(ctx, "List", pb::ListImagesRequest { filters }).await?;
        Ok(stream_of(try_all(answer.images).map_err(malformed)?))
    }

    async fn create(&self, ctx: &Ctx, new: Image) -> Result<Image> {
        let request = pb::CreateImageRequest {
            image: Some(new.into()),
            source_date_epoch: None,
        };
        let answer: pb::CreateImageResponse = self.0.unary(ctx, "Create", request).await?;
        image(answer.image)
    }

    async fn update(&self, ctx: &Ctx, changed: Image, fields: &[String]) -> Result<Image> {
        let request = pb::UpdateImageRequest {
            image: Some(changed.into()),
            update_mask: mask(fields),
            source_date_epoch: None,
        };
        let answer: pb::UpdateImageResponse = self.0.unary(ctx, "Update", request).await?;
        image(answer.image)
    }

    async fn delete(&self, ctx: &Ctx, name: &str, sync: bool, target: Option<Descriptor>) -> Result<()> {
        let request = pb::DeleteImageRequest {
            name: name.to_owned(),
            sync,
            target: target.map(Into::into),
        };
        self.0.unary(ctx, "Delete", request).await
    }
}

impl From<Image> for pb::Image {
    fn from(image: Image) -> Self {
        Self {
            name: image.name,
            labels: unordered(image.labels),
            target: Some(image.target.into()),
            created_at: stamp(image.created),
            updated_at: stamp(image.updated),
        }
    }
}

impl TryFrom<pb::Image> for Image {
    type Error = Error;

    fn try_from(image: pb::Image) -> Result<Self> {
        Ok(Self {
            target: required(image.target, "Image.Target")?.try_into()?,
            name: image.name,
            labels: ordered(image.labels),
            created: time(image.created_at),
            updated: time(image.updated_at),
        })
    }
}
