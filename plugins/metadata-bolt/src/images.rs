//! Images: names for descriptors, each a root of garbage collection until it expires.

use std::sync::Arc;

use containerd_client::services::v1::{ImageCreate, ImageDelete, ImageUpdate};
use orlop_plugin::contract::{BoxStream, Ctx, Descriptor, Digest, Image, Images, async_trait};
use orlop_plugin::filter::{self, Filters};
use orlop_plugin::{Error, Result};

use crate::labels::{self, unknown_field};
use crate::publish::event_labels;
use crate::record::{self, ImageRecord, time};
use crate::shared::{Caller, Shared};
use crate::store::{Key, Kind, Prefix, Reader, decode};
use crate::{gc, leases};

/// The images of a namespace.
pub(crate) struct ImageStore(pub(crate) Arc<Shared>);

fn image_not_found(name: &str) -> Error {
    Error::not_found(format!("image {name:?}: not found"))
}

fn from_record(name: &str, record: ImageRecord) -> Result<Image> {
    Ok(Image {
        name: name.to_owned(),
        labels: record.labels,
        target: Descriptor {
            media_type: record.media_type,
            digest: Digest::new(record.digest)?,
            size: record.size,
            annotations: record.annotations,
        },
        created: time(record.created),
        updated: time(record.updated),
    })
}

fn to_record(image: &Image, created: i64, updated: i64) -> ImageRecord {
    ImageRecord {
        labels: labels::kept(image.labels.clone()),
        media_type: image.target.media_type.clone(),
        digest: image.target.digest.to_string(),
        size: image.target.size,
        annotations: labels::kept(image.target.annotations.clone()),
        created,
        updated,
    }
}

fn validate(image: &Image) -> Result<()> {
    if image.name.is_empty() {
        return Err(Error::invalid_argument("image name must not be empty"));
    }
    labels::validate("image.Labels", &image.labels)?;
    if image.target.size == 0 {
        return Err(Error::invalid_argument("target.Size must be greater than zero"));
    }
    if image.target.media_type.is_empty() {
        return Err(Error::invalid_argument("target.MediaType must be set"));
    }
    Ok(())
}

/// Applies a field mask. The target is replaced as a whole: a digest without its size and media type would be another thing.
fn apply(old: &mut Image, new: &Image, fields: &[String]) -> Result<()> {
    if fields.is_empty() {
        old.labels.clone_from(&new.labels);
        old.target.clone_from(&new.target);
    }
    for path in fields {
        if path == "target" {
            old.target.clone_from(&new.target);
        } else if !labels::apply("labels", path, &mut old.labels, &new.labels)
            && !labels::apply(
                "annotations",
                path,
                &mut old.target.annotations,
                &new.target.annotations,
            )
        {
            return Err(unknown_field(path, "image", &new.name));
        }
    }
    Ok(())
}

fn matches(filters: &Filters, name: &str, record: &ImageRecord) -> bool {
    filters.matches(|path| match path {
        ["name", ..] => filter::non_empty(name),
        ["target", "digest", ..] => filter::non_empty(&record.digest),
        ["target", "mediatype", ..] => filter::non_empty(&record.media_type),
        ["labels", key @ ..] => filter::label(&record.labels, key),
        ["annotations", key @ ..] => filter::label(&record.annotations, key),
        _ => None,
    })
}

#[async_trait]
impl Images for ImageStore {
    async fn get(&self, ctx: &Ctx, name: &str) -> Result<Image> {
        let caller = Caller::of(ctx)?;
        let record = self
            .0
            .store
            .view()
            .load::<ImageRecord>(&Key::image(caller.ns(), name))?;
        from_record(name, record.ok_or_else(|| image_not_found(name))?)
    }

    async fn list(&self, ctx: &Ctx, filters: &[String]) -> Result<BoxStream<Image>> {
        let (caller, filters) = (Caller::of(ctx)?, Filters::parse(filters)?);
        Ok(self
            .0
            .store
            .stream(Prefix::in_namespace(Kind::Image, &caller.ns), move |key, value| {
                let record: ImageRecord = decode(key, value)?;
                let [_, name] = key.parts();
                matches(&filters, name, &record)
                    .then(|| from_record(name, record))
                    .transpose()
            }))
    }

    async fn create(&self, ctx: &Ctx, image: Image) -> Result<Image> {
        let caller = Caller::of(ctx)?;
        validate(&image)?;
        let ns = caller.ns.clone();
        let created = self
            .0
            .store
            .write(move |draft| {
                let key = Key::image(caller.ns(), &image.name);
                if draft.has(&key)? {
                    return Err(Error::already_exists(format!("image {:?}: already exists", image.name)));
                }
                let now = record::now();
                let record = to_record(&image, now, now);
                // An image that never expires is a root by itself.
                if record.labels.contains_key(gc::EXPIRE) {
                    caller.hold(draft, leases::IMAGES, &image.name)?;
                }
                draft.put(key, &record);
                draft.ensure_namespace(caller.ns())?;
                from_record(&image.name, record)
            })
            .await?;
        let event = ImageCreate {
            name: created.name.clone(),
            labels: event_labels(&created.labels),
        };
        self.0.publish(&ns, event).await;
        Ok(created)
    }

    async fn update(&self, ctx: &Ctx, image: Image, fields: &[String]) -> Result<Image> {
        let (caller, fields) = (Caller::of(ctx)?, fields.to_vec());
        if image.name.is_empty() {
            return Err(Error::invalid_argument("image name is required for update"));
        }
        let ns = caller.ns.clone();
        let updated = self
            .0
            .store
            .write(move |draft| {
                let key = Key::image(caller.ns(), &image.name);
                let old: ImageRecord = draft.load(&key)?.ok_or_else(|| image_not_found(&image.name))?;
                let (created, old_digest) = (old.created, old.digest.clone());
                let mut updated = from_record(&image.name, old)?;
                apply(&mut updated, &image, &fields)?;
                validate(&updated)?;
                let record = to_record(&updated, created, record::now());
                if record.labels.contains_key(gc::EXPIRE) {
                    caller.hold(draft, leases::IMAGES, &image.name)?;
                }
                if record.digest != old_digest {
                    draft.leaves_garbage();
                }
                draft.put(key, &record);
                from_record(&image.name, record)
            })
            .await?;
        let event = ImageUpdate {
            name: updated.name.clone(),
            labels: event_labels(&updated.labels),
        };
        self.0.publish(&ns, event).await;
        Ok(updated)
    }

    async fn delete(&self, ctx: &Ctx, name: &str, sync: bool, target: Option<Descriptor>) -> Result<()> {
        let (caller, image) = (Caller::of(ctx)?, name.to_owned());
        let ns = caller.ns.clone();
        self.0
            .store
            .write(move |draft| {
                let key = Key::image(caller.ns(), &image);
                let record: ImageRecord = draft.load(&key)?.ok_or_else(|| image_not_found(&image))?;
                if let Some(target) = target.filter(|target| target.digest.as_str() != record.digest) {
                    return Err(Error::not_found(format!(
                        "image {image:?} has target {}, not {}: not found",
                        record.digest, target.digest
                    )));
                }
                caller.release(draft, leases::IMAGES, &image);
                draft.delete(key);
                draft.leaves_garbage();
                Ok(())
            })
            .await?;
        self.0.publish(&ns, ImageDelete { name: name.to_owned() }).await;
        if sync {
            gc::collect_now(&self.0, ctx).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
