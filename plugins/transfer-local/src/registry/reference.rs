//! Where in a registry an image is: the full name of an image, taken apart (`reference.Parse` of containerd, which knows no short
//! names).

use orlop_plugin::contract::Digest;
use orlop_plugin::{Error, Result};

use crate::archive::reference::{is_host, is_path_component, is_tag};

/// `HOST/REPOSITORY[:TAG][@DIGEST]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The whole of it.
    pub full: String,
    /// The registry, with its port if it has one.
    pub host: String,
    /// The repository.
    pub repository: String,
    /// The tag.
    pub tag: Option<String>,
    /// The digest. With a tag, the digest is what counts.
    pub digest: Option<Digest>,
}

// === impl Reference ===

impl Reference {
    /// Takes `full` apart. `InvalidArgument` for what names no host, or neither tag nor digest.
    pub fn parse(full: &str) -> Result<Self> {
        let invalid = |why: &str| Error::invalid_argument(format!("image reference {full:?}: {why}"));
        let (rest, digest) = match full.split_once('@') {
            Some((rest, digest)) => {
                let digest = Digest::new(digest).map_err(|_| invalid("what follows the @ is no digest"))?;
                (rest, Some(digest))
            }
            None => (full, None),
        };
        let (host, path) = rest.split_once('/').ok_or_else(|| {
            invalid("it names no registry: write docker.io/library/NAME:TAG for images of Docker Hub")
        })?;
        let (repository, tag) = match path.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        if !is_host(host) {
            return Err(invalid("its registry is not a valid host"));
        }
        if !repository.split('/').all(is_path_component) {
            return Err(invalid(
                "a repository has lower-case letters and digits, joined by single dots, dashes or underscores",
            ));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(invalid(
                "a tag has up to 128 letters, digits, dots, dashes and underscores",
            ));
        }
        if tag.is_none() && digest.is_none() {
            return Err(invalid(
                "it names neither a tag nor a digest: append :latest, for example",
            ));
        }
        Ok(Self {
            full: full.to_owned(),
            host: host.to_owned(),
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// The last part of the path of its manifest: the digest, or else the tag.
    pub fn object(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, tag) => tag.as_deref().unwrap_or_default(),
        }
    }

    /// The label on a blob that says from which repositories of this registry it is known. Ports do not count.
    pub fn source_label(&self) -> String {
        let host = match self.host.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => host,
            _ => &self.host,
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        format!("{DISTRIBUTION_SOURCE}.{host}")
    }

    /// The token scope for this repository (`https://distribution.github.io/distribution/spec/auth/scope/`).
    pub fn scope(&self, push: bool) -> String {
        let actions = if push { "pull,push" } else { "pull" };
        format!("repository:{}:{actions}", self.repository)
    }
}

/// Before the host: the repositories that a blob is known from, separated by commas.
const DISTRIBUTION_SOURCE: &str = "containerd.io/distribution.source";

/// The longest label, key and value together, as containerd allows it.
const MAX_LABEL: usize = 4096;

/// The value of a source label with `repository` added; `None` when it is in it, or would make it too long.
pub fn add_source(key: &str, present: &str, repository: &str) -> Option<String> {
    let mut repositories: Vec<&str> = present.split(',').filter(|name| !name.is_empty()).collect();
    if repositories.contains(&repository) {
        return None;
    }
    repositories.push(repository);
    repositories.sort_unstable();
    let value = repositories.join(",");
    (key.len() + value.len() <= MAX_LABEL).then_some(value)
}

/// Of the repositories of a source label, the one from which a blob is best mounted into `target`: what shares most of its path,
/// because the same credentials are likeliest to reach it.
pub fn mount_candidate<'a>(sources: &'a str, target: &str) -> Option<&'a str> {
    let shared = |repository: &str| {
        let pairs = repository.split('/').zip(target.split('/'));
        pairs.take_while(|(a, b)| a == b).count()
    };
    sources
        .split(',')
        .filter(|repository| !repository.is_empty() && *repository != target)
        .max_by_key(|repository| shared(repository))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::digest_of;

    #[test]
    fn references_are_taken_apart() {
        let digest = digest_of(b"m");
        let full = format!("localhost:5000/a/b:1@{digest}");
        let reference = Reference::parse(&full).expect("valid");
        assert_eq!(
            (reference.host.as_str(), reference.repository.as_str()),
            ("localhost:5000", "a/b")
        );
        assert_eq!(reference.tag.as_deref(), Some("1"));
        assert_eq!(reference.object(), digest.as_str());
        assert_eq!(reference.source_label(), "containerd.io/distribution.source.localhost");
        let tagged = Reference::parse("docker.io/library/busybox:latest").expect("valid");
        assert_eq!(tagged.object(), "latest");
        assert_eq!(tagged.scope(true), "repository:library/busybox:pull,push");
        for bad in [
            "busybox",
            "a/b",
            "a/B:1",
            "a/b:",
            "../b:1",
            "a/../b:1",
            "a/b@sha256:1",
            "a b/c:1",
            "http://a/b:1",
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sources_are_a_sorted_set_and_the_nearest_is_mounted() {
        assert_eq!(add_source("k", "", "b").as_deref(), Some("b"));
        assert_eq!(add_source("k", "b,d", "c").as_deref(), Some("b,c,d"));
        assert_eq!(add_source("k", "b,c", "c"), None);
        assert_eq!(add_source("k", &"x".repeat(4090), "yyyyyy"), None);
        assert_eq!(mount_candidate("z/y,a/b", "a/c"), Some("a/b"));
        assert_eq!(mount_candidate("a/c", "a/c"), None);
        assert_eq!(mount_candidate("", "a/c"), None);
    }
}
