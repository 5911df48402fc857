//! What a registry asks for when it answers 401 (`WWW-Authenticate`, RFC 9110 section 11.6.1).

use std::collections::BTreeMap;

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// A challenge that can be met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// A token of a token server.
    Bearer(BTreeMap<String, String>),
    /// Name and password.
    Basic,
}

/// The best challenge of an answer: a token where there is a choice, as it opens less than a password.
pub fn best(headers: &HeaderMap) -> Option<Challenge> {
    let mut basic = None;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        for (scheme, parameters) in parse(value.to_str().unwrap_or_default()) {
            match scheme.as_str() {
                "bearer" if parameters.contains_key("realm") => return Some(Challenge::Bearer(parameters)),
                "basic" => basic = Some(Challenge::Basic),
                _ => {}
            }
        }
    }
    basic
}

/// The challenges of one header field. What is not well formed is left out.
fn parse(value: &str) -> Vec<(String, BTreeMap<String, String>)> {
    let mut challenges: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    let mut rest = value;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find(|c: char| !is_token(c)).unwrap_or(rest.len());
        if end == 0 {
            return challenges;
        }
        let word = rest[..end].to_lowercase();
        let after = rest[end..].trim_start_matches([' ', '\t']);
        let Some(value) = after.strip_prefix('=').filter(|_| !challenges.is_empty()) else {
            challenges.push((word, BTreeMap::new()));
            rest = &rest[end..];
            continue;
        };
        let (value, after) = parameter(value.trim_start_matches([' ', '\t']));
        if let Some((_, parameters)) = challenges.last_mut() {
            parameters.entry(word).or_insert(value);
        }
        rest = after;
    }
}

/// A parameter's value, quoted or not, and what comes after it.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        return match text.find([',', ' ', '\t']) {
            Some(end) => (text[..end].to_owned(), &text[end..]),
            None => (text.to_owned(), ""),
        };
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            _ => value.push(character),
        }
    }
    (value, "")
}

fn is_token(character: char) -> bool {
    character.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(character)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn of(values: &[&'static str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(value));
        }
        best(&headers)
    }

    #[test]
    fn a_token_is_better_than_a_password() {
        let bearer = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        let Some(Challenge::Bearer(parameters)) = of(&["Basic realm=\"x\"", bearer]) else {
            panic!("no token is asked for");
        };
        assert_eq!(parameters["realm"], "https://auth.docker.io/token");
        assert_eq!(parameters["scope"], "repository:a/b:pull,push");
        assert_eq!(of(&["Basic realm=\"Registry Realm\""]), Some(Challenge::Basic));
        assert!(matches!(
            of(&[r#"basic realm="a, b", BEARER service=plain , realm="x\"y""#]),
            Some(Challenge::Bearer(parameters)) if parameters["realm"] == "x\"y" && parameters["service"] == "plain"
        ));
        for nothing in [
            "",
            "Negotiate",
            "Bearer",
            "Bearer service=\"x\"",
            "=",
            "\"",
            "Digest realm=\"unended",
        ] {
            assert_eq!(of(&[nothing]), None, "{nothing}");
        }
    }
}
