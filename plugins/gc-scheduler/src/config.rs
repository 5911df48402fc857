//! The five settings of containerd's scheduler, and what they come to.

use orlop_plugin::duration::GoDuration;
use orlop_plugin::{Error, Result};
use serde::{Deserialize, Serialize};

/// `[plugins."io.containerd.gc.v1.scheduler"]` as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The share of time that collections may take, 0 to 0.5; 0 keeps one second between them.
    pub pause_threshold: f64,
    /// So many deletions schedule a collection; 0 leaves it to the next one.
    pub deletion_threshold: i64,
    /// So many mutations make the next collection run even if nothing was deleted; 0 never.
    pub mutation_threshold: i64,
    /// How long a triggered collection waits for more to come, in Go's notation.
    pub schedule_delay: String,
    /// When the first collection runs, in Go's notation; none with `0s`.
    pub startup_delay: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pause_threshold: 0.02,
            deletion_threshold: 0,
            mutation_threshold: 100,
            schedule_delay: "0s".into(),
            startup_delay: "100ms".into(),
        }
    }
}

/// The settings within their bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// 0.0 to 0.5.
    pub pause_threshold: f64,
    /// Negative: deletions never schedule anything.
    pub deletion_threshold: i64,
    /// 0 or more.
    pub mutation_threshold: u64,
    /// Not negative.
    pub schedule_delay: GoDuration,
    /// Not negative.
    pub startup_delay: GoDuration,
}

// === impl Config ===

impl Config {
    /// Reads the durations, and pulls values out of bounds to the nearest bound, as containerd does.
    pub fn policy(&self) -> Result<Policy> {
        if self.pause_threshold.is_nan() {
            return Err(Error::invalid_argument(
                "pause_threshold must be a number from 0 to 0.5",
            ));
        }
        let span = |key: &str, text: &str| {
            let span: GoDuration = text.parse().map_err(|error: Error| error.context(key))?;
            Ok::<_, Error>(span.max(GoDuration::default()))
        };
        Ok(Policy {
            pause_threshold: self.pause_threshold.clamp(0.0, 0.5),
            deletion_threshold: self.deletion_threshold,
            mutation_threshold: u64::try_from(self.mutation_threshold).unwrap_or(0),
            schedule_delay: span("schedule_delay", &self.schedule_delay)?,
            startup_delay: span("startup_delay", &self.startup_delay)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_bounds_go_to_the_nearest_bound() {
        let policy = Config {
            pause_threshold: 2.0,
            deletion_threshold: -1,
            mutation_threshold: -5,
            schedule_delay: "-1s".into(),
            startup_delay: "1m".into(),
        }
        .policy()
        .expect("clamped");
        assert!((policy.pause_threshold - 0.5).abs() < f64::EPSILON);
        assert_eq!((policy.deletion_threshold, policy.mutation_threshold), (-1, 0));
        assert_eq!(policy.schedule_delay, GoDuration::default());
        assert_eq!(policy.startup_delay.to_string(), "1m0s");
    }

    #[test]
    fn a_bad_duration_names_its_key() {
        let error = Config {
            startup_delay: "100".into(),
            ..Config::default()
        }
        .policy()
        .expect_err("no unit");
        assert!(error.message.starts_with("startup_delay: \"100\""), "{error}");
        assert!(
            Config {
                pause_threshold: f64::NAN,
                ..Config::default()
            }
            .policy()
            .is_err()
        );
    }
}
