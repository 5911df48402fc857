//! `imports`: from patterns to files.

use std::path::{Component, Path, PathBuf};

use crate::error::ConfigError;

/// The files that `imports` of `file` name, in order; the matches of one pattern are sorted.
///
/// A relative entry is relative to the directory of `file`. Only an entry with `*` is a pattern (containerd's rule),
/// and a pattern may match nothing; a plain path is returned whether it exists or not.
pub(crate) fn resolve(file: &Path, imports: &[String]) -> Result<Vec<PathBuf>, ConfigError> {
    let directory = file.parent().unwrap_or(Path::new(""));
    let mut files = Vec::new();
    for entry in imports {
        let path = clean(&directory.join(entry));
        let Some(pattern) = path.to_str().filter(|path| path.contains('*')) else {
            files.push(path);
            continue;
        };
        // Go's `*` stops at a slash and matches a leading dot.
        let options = glob::MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: false,
        };
        let matches = glob::glob_with(pattern, options).map_err(|error| ConfigError::ImportPattern {
            file: file.into(),
            pattern: entry.clone(),
            message: error.msg.into(),
        })?;
        for found in matches {
            files.push(found.map_err(|error| ConfigError::Read {
                path: error.path().into(),
                imported_by: Some(file.into()),
                source: error.into(),
            })?);
        }
    }
    Ok(files)
}

/// The path without `.`, `..` and doubled slashes, by its text alone, as Go's `filepath.Clean`.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if matches!(cleaned.components().next_back(), Some(Component::Normal(_))) => {
                cleaned.pop();
            }
            Component::ParentDir if cleaned.has_root() => {}
            other => cleaned.push(other),
        }
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_is_lexical() {
        for (path, expected) in [
            ("/a/./b/../c", "/a/c"),
            ("/..//x", "/x"),
            ("../x", "../x"),
            ("a/../../x", "../x"),
        ] {
            assert_eq!(clean(Path::new(path)), Path::new(expected));
        }
    }

    #[test]
    fn patterns_are_relative_and_sorted() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("conf.d")).unwrap();
        for name in ["b.toml", "a.toml", ".c.toml", "x.txt"] {
            std::fs::write(dir.path().join("conf.d").join(name), "").unwrap();
        }
        let main = dir.path().join("config.toml");
        let found = resolve(
            &main,
            &["conf.d/*.toml".into(), "../none.toml".into(), "/abs.toml".into()],
        )
        .unwrap();
        let parent = dir.path().parent().unwrap();
        let conf = dir.path().join("conf.d");
        assert_eq!(
            found,
            [
                conf.join(".c.toml"),
                conf.join("a.toml"),
                conf.join("b.toml"),
                parent.join("none.toml"),
                "/abs.toml".into()
            ]
        );
        assert!(resolve(&main, &["none.d/*.toml".into()]).unwrap().is_empty());
        assert!(matches!(
            resolve(&main, &["***".into()]),
            Err(ConfigError::ImportPattern { .. })
        ));
    }
}
