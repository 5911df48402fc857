//! How long shims may take: the entries of `[timeouts]` that concern them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use orlop_plugin::Result;
use orlop_plugin::duration::GoDuration;

/// Time limits; none where the configuration says 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a shim to answer when the daemon starts.
    pub load: Option<Duration>,
    /// For removing what a shim left.
    pub cleanup: Option<Duration>,
    /// For a shim to end.
    pub shutdown: Option<Duration>,
    /// For the state of a process.
    pub state: Option<Duration>,
    /// For the metrics of a task.
    pub stats: Option<Duration>,
}

// === impl Timeouts ===

impl Timeouts {
    /// Reads them from `[timeouts]`, with containerd's defaults for those that are not there.
    pub fn read(timeouts: &BTreeMap<String, String>) -> Result<Self> {
        let limit = |name: &str, default: u64| {
            let name = format!("io.containerd.timeout.{name}");
            let span = match timeouts.get(&name) {
                Some(text) => text
                    .parse::<GoDuration>()
                    .map_err(|error| error.context(name))?
                    .to_std(),
                None => Duration::from_secs(default),
            };
            Ok::<_, orlop_plugin::Error>((!span.is_zero()).then_some(span))
        };
        Ok(Self {
            load: limit("shim.load", 5)?,
            cleanup: limit("shim.cleanup", 5)?,
            shutdown: limit("shim.shutdown", 3)?,
            state: limit("task.state", 2)?,
            stats: limit("metrics.shimstats", 2)?,
        })
    }
}

/// The moment a limit that begins now ends.
pub fn ends(limit: Option<Duration>) -> Option<Instant> {
    limit.and_then(|limit| Instant::now().checked_add(limit))
}

/// The earlier of two moments, where none is never.
pub fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Waits for `work`, no longer than `limit`.
pub async fn within<T>(limit: Option<Duration>, doing: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    match limit {
        None => work.await,
        Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
            Err(orlop_plugin::Error::deadline_exceeded(format!(
                "{doing} has not finished within {limit:?}"
            )))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_containerds_and_zero_means_no_limit() {
        let mut configured = BTreeMap::new();
        let timeouts = Timeouts::read(&configured).expect("defaults");
        assert_eq!(timeouts.load, Some(Duration::from_secs(5)));
        configured.insert("io.containerd.timeout.shim.load".to_owned(), "0s".to_owned());
        configured.insert("io.containerd.timeout.task.state".to_owned(), "150ms".to_owned());
        let timeouts = Timeouts::read(&configured).expect("valid");
        assert_eq!(
            (timeouts.load, timeouts.state),
            (None, Some(Duration::from_millis(150)))
        );
        configured.insert("io.containerd.timeout.shim.cleanup".to_owned(), "soon".to_owned());
        let error = Timeouts::read(&configured).expect_err("no duration");
        assert!(error.message.contains("shim.cleanup"), "{error}");
    }
}
