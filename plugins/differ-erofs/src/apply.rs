//! Making the image of a layer of the content store.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;

use orlop_plugin::contract::{Applier, ApplyOptions, Ctx, Descriptor, Digest, Mount, async_trait};
use orlop_plugin::erofs::{self, IMAGE, Mkfs};
use orlop_plugin::layer::{self, Applied, Compression, Feed, Feeder, Whiteouts};
use orlop_plugin::{Error, Result};

use crate::Erofs;
use crate::place::{self, Place};

/// Layers that are images already: `application/vnd.erofs.layer.v1`, and with `+zstd` such a one compressed.
const IMAGE_MEDIA_TYPE: &str = "application/vnd.erofs.layer";
/// Where a layer's files are until its image is made of them.
const UNPACKED: &str = "layer.unpacked";

/// What a layer is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    /// A tar.
    Tar(Compression),
    /// An image of this media type.
    Image(String, Compression),
}

fn form_of(media_type: &str) -> Result<Form> {
    let unknown = || Error::unimplemented(format!("the EROFS differ knows no layers of media type {media_type:?}"));
    if !media_type.starts_with(IMAGE_MEDIA_TYPE) {
        return Compression::of_layer(media_type).map(Form::Tar).ok_or_else(unknown);
    }
    match media_type.split_once('+') {
        None => Ok(Form::Image(media_type.to_owned(), Compression::None)),
        Some((plain, "zstd")) => Ok(Form::Image(plain.to_owned(), Compression::Zstd)),
        Some(_) => Err(unknown()),
    }
}

#[async_trait]
impl Applier for Erofs {
    async fn apply(
        &self,
        ctx: &Ctx,
        layer: Descriptor,
        mounts: Vec<Mount>,
        options: ApplyOptions,
    ) -> Result<Descriptor> {
        let form = form_of(&layer.media_type)?;
        let place = place::of(&mounts)?;
        let doing = |error: Error| error.context(format_args!("apply layer {}", layer.digest));
        let content = self
            .host
            .content()?
            .read(ctx, &layer.digest, 0, 0)
            .await
            .map_err(doing)?;
        let (mkfs, tar_index, digest, wanted) = (self.mkfs.clone(), self.tar_index, layer.digest.clone(), form.clone());
        // The image is durable when it is in place: there is nothing left for `sync_fs`.
        let applied = Feeder::run(content, move |feed| match wanted {
            Form::Tar(compression) if tar_index => index(&mkfs, &place, &digest, feed, compression),
            Form::Tar(compression) => of_files(&mkfs, &place, feed, compression, options.sync_fs),
            Form::Image(_, compression) => as_it_is(&place, feed, compression),
        });
        let applied = applied.await.map_err(doing)?;
        Ok(Descriptor {
            media_type: match form {
                Form::Tar(_) => layer::MEDIA_TYPE_LAYER.to_owned(),
                Form::Image(plain, _) => plain,
            },
            digest: applied.diff_id,
            size: applied.size,
            annotations: BTreeMap::new(),
        })
    }
}

/// The image is an index of the tar.
fn index(mkfs: &Mkfs, place: &Place, digest: &Digest, feed: Feed, compression: Compression) -> Result<Applied> {
    let image = place.directory.join(IMAGE);
    let made = layer::read_tar(feed, compression, |tar| mkfs.index_of_tar(&image, tar, digest));
    made.map(|((), applied)| applied)
}

/// The layer is unpacked beside the image, which is made of the files.
fn of_files(mkfs: &Mkfs, place: &Place, feed: Feed, compression: Compression, sync: bool) -> Result<Applied> {
    let unpacked = place.directory.join(UNPACKED);
    remove(&unpacked)?;
    let made = like(&place.upper, &unpacked).and_then(|()| {
        let options = layer::ApplyOptions {
            whiteouts: Whiteouts::Overlay { userxattr: false },
            lowers: place.lowers.clone(),
            sync,
            ..layer::ApplyOptions::default()
        };
        let applied = layer::apply(feed, compression, &unpacked, &options)?;
        mkfs.of_directory(&place.directory.join(IMAGE), &unpacked)?;
        Ok(applied)
    });
    let removed = remove(&unpacked);
    let applied = made?;
    removed?;
    Ok(applied)
}

/// The layer is the image.
fn as_it_is(place: &Place, feed: Feed, compression: Compression) -> Result<Applied> {
    let mut applied = None;
    erofs::place(&place.directory.join(IMAGE), |new| {
        let copied = layer::read_tar(feed, compression, |image| copy(image, new))?;
        applied = Some(copied.1);
        Ok(())
    })?;
    applied.ok_or_else(|| Error::internal("an image was put in place that was not made"))
}

fn copy(image: &mut dyn Read, new: &Path) -> Result<()> {
    let doing = || format!("write {}", new.display());
    let copied = File::create(new).and_then(|mut file| io::copy(image, &mut file));
    match copied {
        Ok(_) => Ok(()),
        // What the store says of the blob keeps its code.
        Err(error) => Err(match error.downcast::<Error>() {
            Ok(ours) => ours.context(doing()),
            Err(systems) => Error::io(doing(), &systems),
        }),
    }
}

/// Makes `new` a directory with the owner and the mode of `model`.
fn like(model: &Path, new: &Path) -> Result<()> {
    let make = || -> io::Result<()> {
        let model = model.metadata()?;
        std::fs::DirBuilder::new().mode(0o700).create(new)?;
        chown(new, Some(model.uid()), Some(model.gid()))?;
        std::fs::set_permissions(new, Permissions::from_mode(model.mode()))
    };
    make().map_err(|error| Error::io(format!("make {} after {}", new.display(), model.display()), &error))
}

fn remove(directory: &Path) -> Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", directory.display()), &error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_plugin::contract::Code;

    #[test]
    fn layers_are_tars_or_images() {
        let tar = form_of("application/vnd.oci.image.layer.v1.tar+gzip").expect("known");
        assert_eq!(tar, Form::Tar(Compression::Detect));
        let image = form_of("application/vnd.erofs.layer.v1").expect("known");
        assert_eq!(
            image,
            Form::Image("application/vnd.erofs.layer.v1".into(), Compression::None)
        );
        let zstd = form_of("application/vnd.erofs.layer.v1+zstd").expect("known");
        assert_eq!(
            zstd,
            Form::Image("application/vnd.erofs.layer.v1".into(), Compression::Zstd)
        );
        for unknown in ["application/vnd.erofs.layer.v1+gzip", "text/plain"] {
            assert_eq!(form_of(unknown).expect_err("unknown").code, Code::Unimplemented);
        }
    }
}
