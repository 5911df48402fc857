//! Which image records an archive's index becomes.

use crate::image::model::{Descriptor, IMAGE_NAME, REF_NAME};

/// How images are named.
#[derive(Debug, Clone)]
pub struct Naming {
    /// Name before the tag of images that have only one, and before the digest.
    pub base: String,
    /// Whether images with whole names that do not start with the base are left out.
    pub filter: bool,
    /// Whether each manifest is named by its digest, too.
    pub digests: bool,
    /// Whether those with a name are not.
    pub skip_digest_for_named: bool,
}

impl Naming {
    /// The records of an index's manifests: name and target.
    pub fn records(&self, manifests: &[Descriptor]) -> Vec<(String, Descriptor)> {
        let mut records = Vec::new();
        for manifest in manifests {
            let name = self.name(manifest);
            let named = name.is_some();
            records.extend(name.map(|name| (name, manifest.clone())));
            if self.digests && !(named && self.skip_digest_for_named) {
                records.push((format!("{}@{}", self.base, manifest.digest), manifest.clone()));
            }
        }
        records
    }

    fn name(&self, manifest: &Descriptor) -> Option<String> {
        let annotation = |key: &str| manifest.annotations.get(key).filter(|value| !value.is_empty());
        if let Some(name) = annotation(IMAGE_NAME) {
            return Some(name.clone());
        }
        let reference = annotation(REF_NAME)?;
        if !reference.contains(['/', ':', '@']) {
            return Some(format!("{}:{reference}", self.base));
        }
        let under_base = reference
            .strip_prefix(&self.base)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']));
        (under_base || !self.filter).then(|| reference.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(annotations: &[(&str, &str)]) -> Descriptor {
        let annotations = annotations
            .iter()
            .map(|&(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Descriptor {
            digest: "sha256:d".to_owned(),
            annotations,
            ..Descriptor::default()
        }
    }

    fn names(naming: &Naming, annotations: &[(&str, &str)]) -> Vec<String> {
        naming
            .records(&[manifest(annotations)])
            .into_iter()
            .map(|(name, _)| name)
            .collect()
    }

    #[test]
    fn a_whole_name_stays_and_a_tag_gets_the_base() {
        let mut naming = Naming {
            base: "acme/app".to_owned(),
            filter: true,
            digests: false,
            skip_digest_for_named: false,
        };
        assert_eq!(
            names(&naming, &[(IMAGE_NAME, "docker.io/x:1"), (REF_NAME, "1")]),
            ["docker.io/x:1"]
        );
        assert_eq!(names(&naming, &[(REF_NAME, "v1")]), ["acme/app:v1"]);
        assert_eq!(names(&naming, &[(REF_NAME, "acme/app:v2")]), ["acme/app:v2"]);
        assert!(names(&naming, &[(REF_NAME, "acme/application:v2")]).is_empty());
        assert!(names(&naming, &[]).is_empty());
        naming.filter = false;
        assert_eq!(names(&naming, &[(REF_NAME, "other:v2")]), ["other:v2"]);
        naming.digests = true;
        assert_eq!(
            names(&naming, &[(REF_NAME, "v1")]),
            ["acme/app:v1", "acme/app@sha256:d"]
        );
        naming.skip_digest_for_named = true;
        assert_eq!(names(&naming, &[(REF_NAME, "v1")]), ["acme/app:v1"]);
        assert_eq!(names(&naming, &[]), ["acme/app@sha256:d"]);
    }
}
