//! The image store as the end of a transfer: under which names a descriptor is filed, and which images a source names.

use std::time::SystemTime;

use containerd_client::types::transfer::ImageStore;
use orlop_plugin::contract::{Ctx, Image, Images, Labels};
use orlop_plugin::{Error, Result};

use crate::archive::reference::under_prefix;
use crate::oci::{ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME, Descriptor};

/// The names for what was asked for by name: an index that was imported whole, a tag.
pub fn names(store: &ImageStore, target: &Descriptor) -> Vec<String> {
    let own = Some(store.name.clone()).filter(|name| !name.is_empty());
    let extra = store
        .extra_references
        .iter()
        .filter(|extra| !extra.is_prefix)
        .map(|extra| {
            if extra.add_digest {
                format!("{}@{}", extra.name, target.digest)
            } else {
                extra.name.clone()
            }
        });
    own.into_iter().chain(extra).collect()
}

/// The names for one image of an archive: from its annotations, as the prefixes allow, and from its digest.
pub fn names_from_annotations(store: &ImageStore, target: &Descriptor) -> Vec<String> {
    let mut names = Vec::new();
    for prefix in store.extra_references.iter().filter(|extra| extra.is_prefix) {
        let annotated = annotated_name(target, &prefix.name, !prefix.allow_overwrite);
        if prefix.add_digest && (annotated.is_none() || !prefix.skip_named_digest) {
            names.push(format!("{}@{}", prefix.name, target.digest));
        }
        names.extend(annotated);
    }
    names
}

fn annotated_name(target: &Descriptor, prefix: &str, only_prefixed: bool) -> Option<String> {
    let annotation = |key: &str| target.annotations.get(key).filter(|value| !value.is_empty());
    match annotation(ANNOTATION_IMAGE_NAME) {
        // A full name is taken as it is or not at all.
        Some(full) => under_prefix(prefix, full, only_prefixed).filter(|name| name == full),
        None => under_prefix(prefix, annotation(ANNOTATION_REF_NAME)?, only_prefixed),
    }
}

/// Files `target` under `name`, over what had the name before.
pub async fn save(images: &dyn Images, ctx: &Ctx, store: &ImageStore, name: &str, target: &Descriptor) -> Result<()> {
    let image = Image {
        name: name.to_owned(),
        labels: store.labels.clone().into_iter().collect::<Labels>(),
        target: target.to_contract(),
        created: SystemTime::UNIX_EPOCH,
        updated: SystemTime::UNIX_EPOCH,
    };
    let doing = |error: Error| error.context(format!("store the image {name:?}"));
    loop {
        match images.create(ctx, image.clone()).await {
            Err(error) if error.is_already_exists() => {}
            created => return created.map(|_| ()).map_err(doing),
        }
        match images.update(ctx, image.clone(), &[]).await {
            // Somebody removed it in between.
            Err(error) if error.is_not_found() => {}
            updated => return updated.map(|_| ()).map_err(doing),
        }
    }
}

/// The images that a source names. `InvalidArgument` when it names none.
pub async fn lookup(images: &dyn Images, ctx: &Ctx, store: &ImageStore) -> Result<Vec<Image>> {
    if store.extra_references.iter().any(|extra| extra.is_prefix) {
        return Err(Error::unimplemented(
            "images cannot be exported by a prefix of their names: name each",
        ));
    }
    let own = Some(&store.name).filter(|name| !name.is_empty());
    let mut found = Vec::new();
    for name in own
        .into_iter()
        .chain(store.extra_references.iter().map(|extra| &extra.name))
    {
        let image = images.get(ctx, name).await;
        found.push(image.map_err(|error| error.context(format!("look up the image {name:?}")))?);
    }
    if found.is_empty() {
        return Err(Error::invalid_argument("the transfer names no image"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{digest_of, media_type};
    use containerd_client::types::transfer::ImageReference;

    fn target(annotations: &[(&str, &str)]) -> Descriptor {
        let mut target = Descriptor::new(media_type::MANIFEST, digest_of(b"m"), 1);
        target.annotations = annotations
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        target
    }

    fn prefix(name: &str) -> ImageReference {
        ImageReference {
            name: name.to_owned(),
            is_prefix: true,
            ..ImageReference::default()
        }
    }

    #[track_caller]
    fn check(reference: ImageReference, annotations: &[(&str, &str)], expected: &[&str]) {
        let digest = digest_of(b"m").to_string();
        let store = ImageStore {
            extra_references: vec![reference],
            ..ImageStore::default()
        };
        let expected: Vec<String> = expected.iter().map(|name| name.replace("DIGEST", &digest)).collect();
        assert_eq!(names_from_annotations(&store, &target(annotations)), expected);
    }

    #[test]
    fn annotations_name_images_as_the_prefix_allows() {
        let full = [(ANNOTATION_IMAGE_NAME, "quay.io/a:1"), (ANNOTATION_REF_NAME, "1")];
        check(prefix("import-1"), &full, &[]);
        check(prefix("quay.io/a"), &full, &["quay.io/a:1"]);
        check(
            ImageReference {
                allow_overwrite: true,
                ..prefix("import-1")
            },
            &full,
            &["quay.io/a:1"],
        );
        check(prefix("import-1"), &[(ANNOTATION_REF_NAME, "v1")], &["import-1:v1"]);
        // A full name that is only a tag does not name an image.
        check(prefix("import-1"), &[(ANNOTATION_IMAGE_NAME, "v1")], &[]);
        check(prefix("import-1"), &[], &[]);
    }

    #[test]
    fn digests_are_added_where_wanted() {
        let digests = ImageReference {
            add_digest: true,
            ..prefix("p")
        };
        let skipping = ImageReference {
            skip_named_digest: true,
            ..digests.clone()
        };
        let tagged = [(ANNOTATION_REF_NAME, "v1")];
        check(digests.clone(), &tagged, &["p@DIGEST", "p:v1"]);
        check(skipping.clone(), &tagged, &["p:v1"]);
        check(skipping, &[], &["p@DIGEST"]);
        check(digests, &[], &["p@DIGEST"]);
    }

    #[test]
    fn plain_names_leave_prefixes_aside() {
        let store = ImageStore {
            name: "a:1".to_owned(),
            extra_references: vec![
                prefix("p"),
                ImageReference {
                    name: "b".to_owned(),
                    add_digest: true,
                    ..ImageReference::default()
                },
                ImageReference {
                    name: "c:2".to_owned(),
                    ..ImageReference::default()
                },
            ],
            ..ImageStore::default()
        };
        assert_eq!(
            names(&store, &target(&[])),
            ["a:1".to_owned(), format!("b@{}", digest_of(b"m")), "c:2".to_owned()]
        );
    }
}
