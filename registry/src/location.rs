//! Where a `Location` leads to, seen from where it was said.

use http::{HeaderValue, Uri};

use crate::{Error, Result};

/// The URL that `location` names, in an answer of `base`. An error for any scheme but http and https.
pub fn follow(base: &Uri, location: &HeaderValue) -> Result<Uri> {
    let invalid = |why: &str| Error::Precondition(format!("{} sends us to a place that {why}", crate::redacted(base)));
    let location = location.to_str().map_err(|_| invalid("is no URL"))?;
    let location = location.split('#').next().unwrap_or_default();
    let scheme = base.scheme_str().unwrap_or("http");
    let authority = base.authority().map_or("", http::uri::Authority::as_str);
    let text = if has_scheme(location) {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.starts_with('?') {
        format!("{scheme}://{authority}{}{location}", base.path())
    } else {
        let directory = base.path().rfind('/').map_or("/", |at| &base.path()[..=at]);
        format!("{scheme}://{authority}{directory}{location}")
    };
    let web = ["http://", "https://"]
        .iter()
        .any(|web| text.get(..web.len()).is_some_and(|it| it.eq_ignore_ascii_case(web)));
    if !web {
        return Err(invalid("is neither http nor https, and is not followed"));
    }
    let uri: Uri = text.parse().map_err(|_| invalid("is no URL"))?;
    if uri.host().is_none_or(str::is_empty) {
        return Err(invalid("names no host"));
    }
    if uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        return Err(invalid("holds credentials of its own, and is not followed"));
    }
    Ok(uri)
}

/// Whether it begins with a scheme, so that it is whole.
fn has_scheme(location: &str) -> bool {
    location.split_once(':').is_some_and(|(scheme, _)| {
        !scheme.is_empty()
            && scheme
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_followed_to_http_only() {
        let base: Uri = "https://quay.io:5000/v2/a/blobs/x?y=z".parse().expect("valid");
        let go = |location: &'static str| follow(&base, &HeaderValue::from_static(location)).map(|uri| uri.to_string());
        for (location, to) in [
            ("http://b/c?d=e#f", "http://b/c?d=e"),
            ("//b/c", "https://b/c"),
            ("/c", "https://quay.io:5000/c"),
            ("?d", "https://quay.io:5000/v2/a/blobs/x?d"),
            ("c", "https://quay.io:5000/v2/a/blobs/c"),
        ] {
            assert_eq!(go(location).expect("followed"), to);
        }
        for bad in [
            "ftp://b/c",
            "file:///etc/passwd",
            "https://me:pw@b/c",
            "http://",
            "data:x",
            "http://a b/",
        ] {
            assert!(go(bad).is_err(), "{bad}");
        }
    }
}
