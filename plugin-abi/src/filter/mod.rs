//! containerd's filter grammar: how clients say which images, plugins or events they mean.
//!
//! ```text
//!   filter    := selector ("," selector)*         all of them must hold
//!   selector  := path [operator value]            without an operator: the field is present
//!   path      := field ("." field)*
//!   field     := [A-Za-z0-9_]+ | quoted
//!   operator  := "==" | "!=" | "~="               "~=" takes a regular expression
//!   value     := quoted | any visible characters up to a comma or a space
//!   quoted    := "…" with Go's escapes; behind "~=" also /…/ and |…|
//! ```
//!
//! Several filters are alternatives; none at all matches everything. What a path means is the business of the type that is
//! filtered: it answers a field's value, or that it has none. Specified by containerd's `pkg/filters`.

mod parse;

use crate::contract::Labels;
use crate::{Error, Result};

/// Parsed filters: alternatives, each a conjunction of selectors.
#[derive(Clone, Debug, Default)]
pub struct Filters(Vec<Vec<Selector>>);

#[derive(Clone, Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(regex_lite::Regex),
}

// === impl Filters ===

impl Filters {
    /// Parses filters. `InvalidArgument` marks the place of the first mistake: `[name >|?|< foo]: …`.
    pub fn parse<S: AsRef<str>>(filters: &[S]) -> Result<Self> {
        filters
            .iter()
            .map(|filter| parse::selectors(filter.as_ref()))
            .collect::<Result<_>>()
            .map(Self)
    }

    /// Whether any filter holds for what `field` describes: it gives the value at a path, `None` where there is nothing.
    pub fn matches<V: AsRef<str>>(&self, field: impl Fn(&[&str]) -> Option<V>) -> bool {
        self.0.is_empty()
            || self.0.iter().any(|selectors| {
                selectors.iter().all(|selector| {
                    let path: Vec<&str> = selector.path.iter().map(String::as_str).collect();
                    selector.test.holds(field(&path).as_ref().map(AsRef::as_ref))
                })
            })
    }

    /// Whether there is none, so that everything matches.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

// === impl Test ===

impl Test {
    /// An absent field is unequal to everything but the empty string, and is matched as the empty string, as in containerd.
    fn holds(&self, value: Option<&str>) -> bool {
        match self {
            Self::Present => value.is_some(),
            Self::Equal(wanted) => value == Some(wanted),
            Self::NotEqual(unwanted) => value.unwrap_or_default() != unwanted,
            Self::Matches(regex) => regex.is_match(value.unwrap_or_default()),
        }
    }
}

/// The label that the rest of a path names: label keys have dots of their own, so the path is joined again.
pub fn label<'a>(labels: &'a Labels, path: &[&str]) -> Option<&'a str> {
    labels.get(&path.join(".")).map(String::as_str)
}

/// A field that counts as absent when it is empty.
pub fn non_empty(value: &str) -> Option<&str> {
    (!value.is_empty()).then_some(value)
}

fn regex(pattern: &str) -> std::result::Result<regex_lite::Regex, String> {
    regex_lite::Regex::new(pattern).map_err(|error| format!("{pattern:?} is no regular expression: {error}"))
}

fn mistake(input: &str, position: usize, what: &str) -> Error {
    let place = match input
        .get(position..)
        .and_then(|rest| rest.chars().next().map(|c| (c, rest)))
    {
        Some((c, rest)) => format!("[{} >|{c}|< {}]", &input[..position], &rest[c.len_utf8()..]),
        None => format!("[{input}]"),
    };
    Error::invalid_argument(format!("filters: parse error: {place}: {what}"))
}

#[cfg(test)]
mod tests;
