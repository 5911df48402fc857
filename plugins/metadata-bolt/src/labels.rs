//! Labels: their limit, field masks over them, and what an empty value means.

use orlop_plugin::contract::Labels;
use orlop_plugin::{Error, Result};

/// Key and value together, in bytes (containerd `pkg/labels`).
const MAX_LABEL: usize = 4096;

/// How much of a key that is too long an error shows.
const SHOWN_KEY: usize = 64;

/// Checks every label of `what`.
pub(crate) fn validate(what: &str, labels: &Labels) -> Result<()> {
    for (key, value) in labels {
        let length = key.len() + value.len();
        if length > MAX_LABEL {
            let shown: String = key.chars().take(SHOWN_KEY).collect();
            return Err(Error::invalid_argument(format!(
                "{what}: label key and value length ({length} bytes) greater than maximum size ({MAX_LABEL} bytes), key: {shown}"
            )));
        }
    }
    Ok(())
}

/// Labels as they are kept: an empty value is how clients take a label away.
pub(crate) fn kept(mut labels: Labels) -> Labels {
    labels.retain(|_, value| !value.is_empty());
    labels
}

/// Applies the path `prefix.KEY` or `prefix` of a field mask to a map; false when the path is neither.
pub(crate) fn apply<V: Clone>(
    prefix: &str,
    path: &str,
    old: &mut std::collections::BTreeMap<String, V>,
    new: &std::collections::BTreeMap<String, V>,
) -> bool {
    let Some(rest) = path.strip_prefix(prefix) else {
        return false;
    };
    if rest.is_empty() {
        old.clone_from(new);
        return true;
    }
    let Some(key) = rest.strip_prefix('.') else {
        return false;
    };
    match new.get(key) {
        Some(value) => old.insert(key.to_owned(), value.clone()),
        None => old.remove(key),
    };
    true
}

/// The error for a path that a field mask may not name.
pub(crate) fn unknown_field(path: &str, what: &str, name: &str) -> Error {
    Error::invalid_argument(format!("cannot update {path:?} field on {what} {name:?}"))
}

/// Applies a field mask that may name labels only (none: all of them).
pub(crate) fn update(old: &mut Labels, new: &Labels, fields: &[String], what: &str, name: &str) -> Result<()> {
    if fields.is_empty() {
        old.clone_from(new);
    }
    for path in fields {
        if !apply("labels", path, old, new) {
            return Err(unknown_field(path, what, name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_label_has_a_limit() {
        assert!(validate("x", &labels(&[("k", &"v".repeat(4095))])).is_ok());
        let error = validate("x", &labels(&[(&"k".repeat(100), &"v".repeat(4095))])).expect_err("too long");
        assert_eq!(error.code, orlop_plugin::contract::Code::InvalidArgument);
        assert!(
            error.message.contains("4195 bytes") && !error.message.contains(&"k".repeat(65)),
            "{error}"
        );
    }

    #[test]
    fn masks_touch_what_they_name() {
        let new = labels(&[("a", "2"), ("dot.ted", "x"), ("gone", "")]);
        let mut old = labels(&[("a", "1"), ("b", "1"), ("gone", "1"), ("absent", "1")]);
        let fields = ["labels.dot.ted", "labels.gone", "labels.absent"].map(str::to_owned);
        update(&mut old, &new, &fields, "thing", "t").expect("a good mask");
        assert_eq!(kept(old.clone()), labels(&[("a", "1"), ("b", "1"), ("dot.ted", "x")]));
        update(&mut old, &new, &[], "thing", "t").expect("no mask");
        assert_eq!(old, new);
        for bad in ["label", "labelsx", "size", ""] {
            let error = update(&mut old, &new, &[bad.to_owned()], "thing", "t").expect_err(bad);
            assert_eq!(error.message, format!("cannot update {bad:?} field on thing \"t\""));
        }
    }
}
