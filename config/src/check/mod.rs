//! Checking a file's text: everything wrong with it, each with its place and, where there is one, the nearest name.
//!
//! `shape` says what may stand where, `walk` goes through the parsed text beside it.

mod shape;
mod walk;

use std::fmt;

use toml_edit::Document;

pub(crate) use shape::{key_order, take_newer_than_1_7};

use crate::PluginTables;
use crate::error::ConfigError;

/// One thing wrong with a configuration file. Prints as `file:line:column: problem`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as the caller named it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What sort of thing it is.
    pub kind: ProblemKind,
    /// What is wrong, with what to write instead.
    pub message: String,
}

/// What sort of thing is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemKind {
    /// Not TOML.
    Syntax,
    /// A key nobody reads.
    UnknownKey,
    /// A plugin table nobody reads.
    UnknownPlugin,
    /// A value of another type than the key's.
    WrongType,
    /// The right type, but it cannot be meant.
    BadValue,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self::Text {
            file: problem.file,
            line: problem.line,
            column: problem.column,
            message: problem.message,
        }
    }
}

/// Everything wrong with this text, in the order of the text.
///
/// `known` are the default tables of the caller's plugins by URI; the tables of containerd 1.7's and 2.3's plugins
/// are known besides, so that a file written for containerd passes. A default's type is the key's type: a string
/// that is a duration asks for a duration, an empty list takes anything, an empty table takes any key.
pub fn check(text: &str, filename: &str, known: &PluginTables) -> Vec<Problem> {
    examine(text, filename, Some(known))
}

/// [`check`] without what is inside plugin tables: the plugins are not known yet while the file is loaded.
pub(crate) fn structure(text: &str, filename: &str) -> Vec<Problem> {
    examine(text, filename, None)
}

fn examine(text: &str, filename: &str, known: Option<&PluginTables>) -> Vec<Problem> {
    let place = Places { text, filename };
    let document = match Document::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            let message = error.message().trim().replace('\n', "; ");
            return vec![place.problem(at, ProblemKind::Syntax, format!("syntax error: {message}"))];
        }
    };
    let mut walk = walk::Walk::default();
    walk.file(document.as_table(), known);
    let mut found = walk.found;
    found.sort_by_key(|(at, _, _)| *at);
    found
        .into_iter()
        .map(|(at, kind, message)| place.problem(at, kind, message))
        .collect()
}

struct Places<'a> {
    text: &'a str,
    filename: &'a str,
}

impl Places<'_> {
    /// A problem at a byte offset.
    fn problem(&self, at: usize, kind: ProblemKind, message: String) -> Problem {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Problem {
            file: self.filename.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            kind,
            message,
        }
    }
}

/// The candidate nearest to a misspelt name, when one is near enough to be meant.
fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (name.len().max(candidate.len()) / 2).max(1))
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests;
