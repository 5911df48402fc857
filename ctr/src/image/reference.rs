//! Names of images: Docker's short ones and their long forms.

use anyhow::{Result, ensure};

const HUB: &str = "docker.io";

/// The long form of a name as Docker writes it: `busybox` is `docker.io/library/busybox:latest`. Of a name with a tag
/// and a digest, the tag is dropped.
pub fn normalize(name: &str) -> Result<String> {
    let (repository, tag, digest) = split(name)?;
    let repository = with_domain(repository);
    Ok(match (tag, digest) {
        (_, Some(digest)) => format!("{repository}@{digest}"),
        (Some(tag), None) => format!("{repository}:{tag}"),
        (None, None) => format!("{repository}:latest"),
    })
}

/// The short form that Docker shows: without the hub's host and `library/`, with a tag.
pub fn familiar(name: &str) -> Result<String> {
    let (repository, tag, digest) = split(name)?;
    let repository = with_domain(repository);
    let short = repository.strip_prefix("docker.io/").unwrap_or(&repository);
    let short = short
        .strip_prefix("library/")
        .filter(|rest| !rest.contains('/') && short != repository)
        .unwrap_or(short);
    let mut familiar = short.to_owned();
    if let Some(tag) = tag {
        familiar = format!("{familiar}:{tag}");
    }
    match digest {
        Some(digest) => Ok(format!("{familiar}@{digest}")),
        None if tag.is_none() => Ok(format!("{familiar}:latest")),
        None => Ok(familiar),
    }
}

/// What OCI calls the reference name: the tag, or `@` and the digest. A name without a host is returned whole.
pub fn object(name: &str) -> &str {
    let Some((host, path)) = name.split_once('/') else {
        return name;
    };
    let port = host.split_once(':').map_or("", |(_, port)| port);
    if host.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return name;
    }
    match path.find([':', '@']) {
        None => "",
        Some(position) if path[position..].starts_with('@') => &path[position..],
        Some(position) => &path[position + 1..],
    }
}

/// The host of a whole name; empty for a short one.
pub fn host(name: &str) -> &str {
    with_explicit_domain(name).map_or("", |(host, _)| host)
}

/// Where an image is: the parts of a whole name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Host, perhaps with a port.
    pub host: String,
    /// Path of the repository.
    pub repository: String,
    /// Tag.
    pub tag: Option<String>,
    /// Digest.
    pub digest: Option<String>,
}

/// Takes a whole name apart. A name without a host is refused: which one is meant, only Docker's client guesses.
pub fn place(name: &str) -> Result<Place> {
    let (repository, tag, digest) = split(name)?;
    let Some((host, path)) = with_explicit_domain(repository) else {
        anyhow::bail!(
            "{name:?} names no registry: an image's whole name is needed, like {:?}",
            normalize(name)?
        );
    };
    Ok(Place {
        host: host.to_owned(),
        repository: path.to_owned(),
        tag: tag.map(str::to_owned),
        digest: digest.map(str::to_owned),
    })
}

/// Repository, tag and digest.
fn split(name: &str) -> Result<(&str, Option<&str>, Option<&str>)> {
    let (rest, digest) = match name.split_once('@') {
        Some((rest, digest)) => (rest, Some(crate::digest::parse(digest)?)),
        None => (name, None),
    };
    let last = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (repository, tag) = match rest[last..].find(':') {
        Some(colon) => (&rest[..last + colon], Some(&rest[last + colon + 1..])),
        None => (rest, None),
    };
    let word = |text: &str, upper: bool| {
        !text.is_empty()
            && text.bytes().all(|byte| {
                byte.is_ascii_lowercase()
                    || byte.is_ascii_digit()
                    || b"._-".contains(&byte)
                    || (upper && byte.is_ascii_uppercase())
            })
    };
    let host_has_upper = with_explicit_domain(repository);
    let path = host_has_upper.map_or(repository, |(_, path)| path);
    ensure!(
        path.split('/').all(|part| word(part, false)),
        "invalid reference format: {name:?}"
    );
    ensure!(
        tag.is_none_or(|tag| word(tag, true) && tag.len() <= 128),
        "invalid reference format: {name:?}: tag"
    );
    Ok((repository, tag, digest))
}

/// A first part with a dot, a colon or a capital, or `localhost`, is a host.
fn with_explicit_domain(repository: &str) -> Option<(&str, &str)> {
    let (first, rest) = repository.split_once('/')?;
    let host = first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase());
    host.then_some((first, rest))
}

fn with_domain(repository: &str) -> String {
    let (domain, path) = with_explicit_domain(repository).unwrap_or((HUB, repository));
    let domain = if domain == "index.docker.io" { HUB } else { domain };
    if domain == HUB && !path.contains('/') {
        format!("{domain}/library/{path}")
    } else {
        format!("{domain}/{path}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_long_and_a_short_form() {
        let cases = [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
            ("acme/app", "docker.io/acme/app:latest", "acme/app:latest"),
            (
                "localhost:5000/app:v1",
                "localhost:5000/app:v1",
                "localhost:5000/app:v1",
            ),
            ("quay.io/acme/app:v1", "quay.io/acme/app:v1", "quay.io/acme/app:v1"),
            ("index.docker.io/library/x:V1", "docker.io/library/x:V1", "x:V1"),
        ];
        for (name, long, short) in cases {
            assert_eq!(normalize(name).unwrap(), long, "{name}");
            assert_eq!(familiar(name).unwrap(), short, "{name}");
            assert_eq!(familiar(long).unwrap(), short, "{name}");
        }
        let digest = format!("sha256:{}", "0".repeat(64));
        assert_eq!(
            normalize(&format!("x:1@{digest}")).unwrap(),
            format!("docker.io/library/x@{digest}")
        );
        for bad in ["", "Upper", "a b", "x:", "x@sha256:0", "a//b"] {
            assert!(normalize(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_whole_name_has_a_place() {
        let found = place("localhost:5000/a/b:v1").unwrap();
        assert_eq!(
            (found.host.as_str(), found.repository.as_str()),
            ("localhost:5000", "a/b")
        );
        assert_eq!((found.tag.as_deref(), found.digest), (Some("v1"), None));
        let short = place("busybox:1").unwrap_err().to_string();
        assert!(short.contains("docker.io/library/busybox:1"), "{short}");
    }

    #[test]
    fn the_object_is_what_follows_the_repository() {
        assert_eq!(object("docker.io/library/busybox:latest"), "latest");
        assert_eq!(object("localhost:5000/app:v1"), "v1");
        assert_eq!(object("docker.io/library/busybox"), "");
        assert_eq!(object("docker.io/library/busybox@sha256:00"), "@sha256:00");
        assert_eq!(object("busybox:latest"), "busybox:latest");
    }
}
