//! Logs in containerd's two forms: `time="…" level=info msg="…" key=value`, and one JSON object a line.

use std::fmt;
use std::fmt::Write as _;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging to standard error. `level` and `format` are those of `[debug]`; empty ones are `info` and `text`.
pub fn init(level: &str, format: &str) -> Result<(), String> {
    let level = parse_level(level)?;
    let json = match format {
        "" | "text" => false,
        "json" => true,
        other => return Err(format!("unknown log format {other:?}: use \"text\" or \"json\"")),
    };
    // The transport's own chatter is of use only to those who debug the transport.
    let targets = Targets::new().with_default(level).with_targets([
        ("h2", LevelFilter::WARN),
        ("hyper", LevelFilter::WARN),
        ("tower", LevelFilter::WARN),
    ]);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .event_format(Logrus { json });
    tracing_subscriber::registry()
        .with(targets)
        .with(layer)
        .try_init()
        .map_err(|error| format!("logging is set up already: {error}"))
}

fn parse_level(level: &str) -> Result<LevelFilter, String> {
    Ok(match level.to_ascii_lowercase().as_str() {
        "trace" => LevelFilter::TRACE,
        "debug" => LevelFilter::DEBUG,
        "" | "info" => LevelFilter::INFO,
        "warn" | "warning" => LevelFilter::WARN,
        // tracing has nothing above an error.
        "error" | "fatal" | "panic" => LevelFilter::ERROR,
        other => {
            return Err(format!(
                "unknown log level {other:?}: use trace, debug, info, warn, error, fatal or panic"
            ));
        }
    })
}

/// The forms that containerd's logger (logrus) writes, which people's log collectors parse.
struct Logrus {
    json: bool,
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(String, String)>,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record(field.name(), format!("{value:?}"));
    }
}

impl Fields {
    fn record(&mut self, name: &str, value: String) {
        if name == "message" {
            self.message = value;
        } else {
            self.others.push((name.to_owned(), value));
        }
    }
}

impl<S, N> FormatEvent<S, N> for Logrus
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        let time = prost_types::Timestamp::from(std::time::SystemTime::now()).to_string();
        if self.json {
            let mut object = serde_json::Map::new();
            for (key, value) in fields.others {
                object.insert(key, value.into());
            }
            object.insert("level".to_owned(), level.into());
            object.insert("msg".to_owned(), fields.message.into());
            object.insert("time".to_owned(), time.into());
            writeln!(writer, "{}", serde_json::Value::Object(object))
        } else {
            let mut line = format!("time={time:?} level={level} msg={:?}", fields.message);
            for (key, value) in fields.others {
                let plain = !value.is_empty()
                    && value
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b"-._/@^+".contains(&b));
                if plain {
                    write!(line, " {key}={value}")?;
                } else {
                    write!(line, " {key}={value:?}")?;
                }
            }
            writeln!(writer, "{line}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_containerds() {
        assert_eq!(parse_level(""), Ok(LevelFilter::INFO));
        assert_eq!(parse_level("WARN"), Ok(LevelFilter::WARN));
        assert_eq!(parse_level("panic"), Ok(LevelFilter::ERROR));
        assert!(parse_level("loud").expect_err("no level").contains("loud"));
    }
}
