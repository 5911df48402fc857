//! Labels, on the command line and in tables.

use std::collections::HashMap;

/// The labels of `KEY=VALUE` arguments, and the paths of a field mask that covers them.
pub fn update(labels: &[String]) -> (HashMap<String, String>, Vec<String>) {
    let labels = crate::spec::parse::labels(labels);
    let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
    (labels.into_iter().collect(), paths)
}

/// Labels as one text, sorted, or `-` for none.
pub fn column<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let text = list(labels);
    if text.is_empty() { "-".to_owned() } else { text }
}

/// Labels as one text, sorted.
pub fn list<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let mut pairs: Vec<String> = labels
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.sort();
    pairs.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_sorted_and_none_is_a_dash() {
        let labels = HashMap::from([("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())]);
        assert_eq!(column(&labels), "a=1,b=2");
        assert_eq!(column(&HashMap::new()), "-");
        let (labels, paths) = update(&["x=1".to_owned()]);
        assert_eq!((labels["x"].as_str(), paths), ("1", vec!["labels.x".to_owned()]));
    }
}
