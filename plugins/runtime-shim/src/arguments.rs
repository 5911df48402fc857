//! The command line, in the manner of Go's `flag`: `-name value`, `-name=value`, one or two dashes, flags before the command.

use crate::error::{Error, Result};

/// What to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// Serve on the socket that is standard input.
    #[default]
    Serve,
    Start,
    Delete,
    Info,
    Version,
}

/// What a daemon tells a shim on its command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    pub action: Action,
    pub namespace: String,
    pub id: String,
    /// The daemon's gRPC address.
    pub address: String,
    /// The program that publishes an event for shims that cannot reach the daemon by ttrpc.
    pub publish_binary: String,
    pub bundle: String,
    pub debug: bool,
}

// === impl Arguments ===

impl Arguments {
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut arguments = Self::default();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
                arguments.action = match word.as_str() {
                    "start" => Action::Start,
                    "delete" => Action::Delete,
                    other => return Err(Error::invalid(format!("unknown command {other:?}: start or delete"))),
                };
                break;
            };
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            match name {
                "debug" => arguments.debug = value.is_none_or(|value| value != "false"),
                "v" | "version" => arguments.action = Action::Version,
                "info" => arguments.action = Action::Info,
                "namespace" | "id" | "address" | "publish-binary" | "bundle" | "socket" | "debug-socket" => {
                    let value = value
                        .or_else(|| words.next())
                        .ok_or_else(|| Error::invalid(format!("flag needs an argument: -{name}")))?;
                    match name {
                        "namespace" => arguments.namespace = value,
                        "id" => arguments.id = value,
                        "address" => arguments.address = value,
                        "publish-binary" => arguments.publish_binary = value,
                        "bundle" => arguments.bundle = value,
                        // The socket is standard input, and there is no profiler.
                        _ => {}
                    }
                }
                other => return Err(Error::invalid(format!("flag provided but not defined: -{other}"))),
            }
            if matches!(arguments.action, Action::Version | Action::Info) {
                return Ok(arguments);
            }
        }
        if arguments.namespace.is_empty() {
            return Err(Error::invalid("shim namespace cannot be empty"));
        }
        Ok(arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments> {
        Arguments::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn what_daemons_write_is_read() {
        let parsed =
            parse("-namespace ns --address=/run/c.sock -publish-binary /bin/c -id box -debug start").expect("valid");
        assert_eq!(
            parsed,
            Arguments {
                action: Action::Start,
                namespace: "ns".into(),
                id: "box".into(),
                address: "/run/c.sock".into(),
                publish_binary: "/bin/c".into(),
                bundle: String::new(),
                debug: true,
            }
        );
        assert_eq!(
            parse("-namespace ns -id a -bundle /b delete").expect("valid").action,
            Action::Delete
        );
        assert_eq!(parse("-info").expect("valid").action, Action::Info);
        assert_eq!(parse("-v").expect("valid").action, Action::Version);
        assert_eq!(parse("-namespace ns -id a").expect("valid").action, Action::Serve);
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (line, word) in [
            ("-id a start", "namespace"),
            ("-namespace", "needs an argument"),
            ("-frob", "-frob"),
            ("-namespace a stop", "\"stop\""),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.message.contains(word), "{line}: {error}");
        }
    }
}
