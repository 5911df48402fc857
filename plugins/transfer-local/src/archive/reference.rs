//! Image references: Docker's short names and the full ones containerd stores (`distribution/reference`), and the prefixes under
//! which an import files what it finds.

use orlop_plugin::contract::Digest;
use orlop_plugin::{Error, Result};

/// The longest name (registry and repository), as registries allow it.
const MAX_NAME: usize = 255;

/// The full form of a reference as people write it: `alpine` is `docker.io/library/alpine:latest`. With tag and digest, the digest
/// wins.
pub fn normalize(reference: &str) -> Result<String> {
    let parts = parse(reference)?;
    let name = format!("{}/{}", parts.domain, parts.path);
    Ok(match (parts.digest, parts.tag) {
        (Some(digest), _) => format!("{name}@{digest}"),
        (None, Some(tag)) => format!("{name}:{tag}"),
        (None, None) => format!("{name}:latest"),
    })
}

/// The short form of a full reference, as Docker shows it.
pub fn familiarize(reference: &str) -> Result<String> {
    let parts = parse(reference)?;
    let name = match (parts.domain, parts.path.strip_prefix("library/")) {
        ("docker.io", Some(official)) if !official.contains('/') => official.to_owned(),
        // Without its registry, the first part would be taken for one.
        ("docker.io", _) if parts.path.split_once('/').is_none_or(|(first, _)| !is_domain(first)) => parts.path,
        (domain, _) => format!("{domain}/{}", parts.path),
    };
    let tag = match (parts.tag, parts.digest) {
        (None, None) => ":latest".to_owned(),
        (tag, _) => tag.map(|tag| format!(":{tag}")).unwrap_or_default(),
    };
    let digest = parts.digest.map(|digest| format!("@{digest}")).unwrap_or_default();
    Ok(format!("{name}{tag}{digest}"))
}

/// What OCI calls the reference name: the tag (or `@` and the digest) of a full reference; all of one that has no registry.
pub fn object_of(name: &str) -> &str {
    match name.split_once('/') {
        Some((host, path)) if !host.is_empty() && !name.contains("://") => match path.find([':', '@']) {
            Some(at) => path[at..].strip_prefix(':').unwrap_or(&path[at..]),
            None => "",
        },
        None if !name.contains([':', '@']) => "",
        _ => name,
    }
}

/// The name under which an import with `prefix` files `reference`: a bare tag is put behind the prefix, a full reference stays as
/// it is, but must begin with the prefix when `only_prefixed`. `None`: it is not filed.
pub fn under_prefix(prefix: &str, reference: &str, only_prefixed: bool) -> Option<String> {
    if prefix.is_empty() {
        None
    } else if !reference.contains(['/', ':', '@']) {
        Some(format!("{prefix}:{reference}"))
    } else if !only_prefixed || begins_with(reference, prefix) {
        Some(reference.to_owned())
    } else {
        None
    }
}

/// Whether `prefix` is a whole part of `reference`: `a/b` is none of `a/bc:1`.
fn begins_with(reference: &str, prefix: &str) -> bool {
    reference
        .strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']))
}

struct Parts<'a> {
    domain: &'a str,
    path: String,
    tag: Option<&'a str>,
    digest: Option<&'a str>,
}

fn parse(reference: &str) -> Result<Parts<'_>> {
    let invalid = |why: &str| Error::invalid_argument(format!("image reference {reference:?}: {why}"));
    let (rest, digest) = match reference.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (reference, None),
    };
    if digest.is_some_and(|digest| Digest::new(digest).is_err()) {
        return Err(invalid("what follows the @ is no digest"));
    }
    let (domain, remainder) = match rest.split_once('/') {
        Some((first, remainder)) if is_domain(first) => (first, remainder),
        _ => ("docker.io", rest),
    };
    let domain = if domain == "index.docker.io" {
        "docker.io"
    } else {
        domain
    };
    let (path, tag) = match remainder.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (remainder, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(invalid(
            "a tag has up to 128 letters, digits, dots, dashes and underscores",
        ));
    }
    if !path.split('/').all(is_path_component) {
        return Err(invalid(
            "a repository has lower-case letters and digits, joined by single dots, dashes or underscores",
        ));
    }
    if rest.len() == 64 && rest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(invalid("64 hexadecimal digits are an id, not a name"));
    }
    let path = match (domain, path.contains('/')) {
        ("docker.io", false) => format!("library/{path}"),
        _ => path.to_owned(),
    };
    if domain.len() + 1 + path.len() > MAX_NAME || !is_host(domain) {
        return Err(invalid("its registry is not valid, or its name is too long"));
    }
    Ok(Parts {
        domain,
        path,
        tag,
        digest,
    })
}

/// Whether what stands before the first slash is a registry and not the first part of a repository.
fn is_domain(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

pub(crate) fn is_host(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (domain, "0"),
    };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let bracketed = bracketed.is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    (bracketed || host.split('.').all(label)) && !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
}

pub(crate) fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=128).contains(&tag.len())
        && word(tag.as_bytes()[0])
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

pub(crate) fn is_path_component(component: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut separator = String::new();
    for byte in component.bytes() {
        if alphanumeric(byte) {
            let fine = matches!(separator.as_str(), "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-');
            if !fine {
                return false;
            }
            separator.clear();
        } else {
            separator.push(char::from(byte));
        }
    }
    separator.is_empty() && component.bytes().next().is_some_and(alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_become_full_and_short_again() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for (short, full) in [
            ("alpine:latest", "docker.io/library/alpine:latest"),
            ("user/app:1.2", "docker.io/user/app:1.2"),
            ("localhost/app:x", "localhost/app:x"),
            ("localhost:5000/a/b:x", "localhost:5000/a/b:x"),
            ("quay.io/a__b/c-d.e:v", "quay.io/a__b/c-d.e:v"),
            (
                &format!("alpine@{digest}"),
                &format!("docker.io/library/alpine@{digest}"),
            ),
        ] {
            assert_eq!(normalize(short).expect("valid"), full);
            assert_eq!(familiarize(full).expect("valid"), short);
        }
        assert_eq!(normalize("alpine").expect("valid"), "docker.io/library/alpine:latest");
        assert_eq!(
            normalize("index.docker.io/alpine").expect("valid"),
            "docker.io/library/alpine:latest"
        );
        let both = format!("alpine:3@{digest}");
        assert_eq!(
            normalize(&both).expect("valid"),
            format!("docker.io/library/alpine@{digest}")
        );
    }

    #[test]
    fn nonsense_is_no_reference() {
        for bad in [
            "",
            "Alpine",
            "a//b",
            "a:",
            "a:b:c",
            "a@sha256:1",
            "-a",
            "a-",
            "a..b",
            "x y",
            "a_.b",
            &"a".repeat(300),
            &"ab".repeat(32),
        ] {
            assert!(normalize(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_object_of_a_name_is_its_tag_or_digest() {
        assert_eq!(object_of("docker.io/library/alpine:3.19"), "3.19");
        assert_eq!(object_of("localhost:5000/a@sha256:00"), "@sha256:00");
        assert_eq!(object_of("docker.io/library/alpine"), "");
        assert_eq!(object_of("plain:tag"), "plain:tag");
    }

    #[test]
    fn prefixes_file_tags_and_guard_full_names() {
        assert_eq!(
            under_prefix("example.com/app", "v1", true).as_deref(),
            Some("example.com/app:v1")
        );
        assert_eq!(under_prefix("a/b", "a/b:1", true).as_deref(), Some("a/b:1"));
        assert_eq!(under_prefix("a/b", "a/bc:1", true), None);
        assert_eq!(under_prefix("a/b", "c/d:1", false).as_deref(), Some("c/d:1"));
        assert_eq!(under_prefix("", "c/d:1", false), None);
    }

    #[test]
    fn a_short_name_leads_back_to_the_full_one() {
        for full in [
            "docker.io/library/alpine:3",
            "docker.io/a.b/c:1",
            "docker.io/localhost/c:1",
            "quay.io/a/b:1",
        ] {
            let short = familiarize(full).expect("valid");
            assert_eq!(normalize(&short).expect("valid"), full, "{short}");
        }
        assert_eq!(familiarize("docker.io/a.b/c:1").expect("valid"), "docker.io/a.b/c:1");
    }

    #[test]
    fn what_stands_in_brackets_is_an_address() {
        assert!(is_host("[::1]:5000") && is_host("[2001:db8::1]"));
        for bad in ["[a?b]:5000", "[]", "[..]", "[::1", "[::1]x"] {
            assert!(!is_host(bad), "{bad}");
        }
    }
}
