//! The suites that an implementation of a contract is to pass, whoever wrote it.
//!
//! ```ignore
//! #[test]
//! fn it_keeps_the_contract() {
//!     orlop_plugin::testkit::plugin(&registrations()[0]);
//! }
//! ```
//!
//! [`plugin`] starts a plugin and runs the suites of whatever it offers; [`snapshotter`] and [`content_store`] take the contract, not
//! the implementation, so they test one in this process, behind a library's boundary, or on the other end of a socket alike.
//!
//! A suite runs every check, also behind one that failed, and then panics with all that is wrong. What the checks hold against is what containerd's own suites ask for, and the codes its clients act upon.

mod content;
mod disk;
mod mounting;
mod snapshotter;
mod temporary;
mod tree;

use std::any::Any;
use std::fmt::Debug;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt;

use crate::Reach;
use crate::contract::{Code, Contracts, async_trait};
use crate::registration::{Host, HostApi, HostPlugin};
use crate::{Error, InitContext, InitError, Instance, Registration, Result, panic_message};

pub use content::content_store;
pub use disk::{Disk, image};
pub use mounting::mounted;
pub use snapshotter::snapshotter;

/// Starts a plugin with its defaults in a temporary directory, runs the suites of the contracts it offers, and shuts it down. Blocks.
///
/// # Panics
/// When it does not start, when it offers nothing that there is a suite for, and when a check fails.
pub fn plugin(registration: &Registration) {
    let root = temporary::Temporary::new().unwrap_or_else(|error| panic!("make a temporary directory: {error}"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap_or_else(|error| panic!("start a runtime: {error}"));
    runtime.block_on(async {
        let instance = start(registration, root.path(), toml::Table::new())
            .await
            .unwrap_or_else(|error| panic!("{} does not start: {error}", registration.uri));
        let Contracts {
            snapshotter, content, ..
        } = instance.contracts;
        assert!(
            snapshotter.is_some() || content.is_some(),
            "{} offers neither a snapshotter nor a content store: there is no suite for it",
            registration.uri
        );
        if let Some(it) = snapshotter {
            self::snapshotter(it).await;
        }
        if let Some(it) = content {
            content_store(it).await;
        }
        if let Some(shutdown) = instance.shutdown {
            shutdown().await;
        }
    });
}

/// Starts a plugin as a daemon does, with its state under `root` and `config` laid over its defaults.
///
/// There is no daemon behind it: what it asks of its host is `Unavailable`.
pub async fn start(registration: &Registration, root: &Path, config: toml::Table) -> Result<Instance, InitError> {
    let mut merged = registration.config.clone();
    merged.extend(config);
    let context = InitContext {
        uri: registration.uri.clone(),
        root_path: root.join(registration.uri.to_string()),
        state_path: root.join("state").join(registration.uri.to_string()),
        config: merged,
        address: String::new(),
        ttrpc_address: String::new(),
        timeouts: std::collections::BTreeMap::new(),
        stream_processors: Vec::new(),
        host: Host::new(Arc::new(Nobody)),
    };
    registration.init(context).await
}

struct Nobody;

#[async_trait]
impl HostApi for Nobody {
    fn daemon(&self) -> Reach {
        Contracts::default().into()
    }

    async fn plugins(&self, _: &str) -> Result<Vec<HostPlugin>> {
        Ok(Vec::new())
    }
}

/// What a check found wrong.
struct Failure(String);

type Outcome = Result<(), Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(format!("{:?}: {}", error.code, error.message))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<Box<dyn Any + Send>> for Failure {
    fn from(panic: Box<dyn Any + Send>) -> Self {
        Self(format!("it panicked: {}", panic_message(&*panic)))
    }
}

/// A run of checks.
struct Suite {
    contract: &'static str,
    checks: usize,
    failures: Vec<String>,
}

// === impl Suite ===

impl Suite {
    fn new(contract: &'static str) -> Self {
        Self {
            contract,
            checks: 0,
            failures: Vec::new(),
        }
    }

    /// Runs one check; its name is the rule it holds against.
    async fn check(&mut self, rule: &str, check: impl Future<Output = Outcome>) {
        self.checks += 1;
        let outcome = AssertUnwindSafe(check)
            .catch_unwind()
            .await
            .unwrap_or_else(|panic| Err(panic.into()));
        if let Err(Failure(what)) = outcome {
            self.failures.push(format!("- {rule}: {what}"));
        }
    }

    /// # Panics
    /// When a check failed.
    fn finish(self) {
        assert!(
            self.failures.is_empty(),
            "{} of {} checks of the {} contract failed:\n{}",
            self.failures.len(),
            self.checks,
            self.contract,
            self.failures.join("\n")
        );
    }
}

/// Holds `actual` against `expected`; `what` says which value it is.
fn same<T: PartialEq + Debug>(what: &str, actual: T, expected: T) -> Outcome {
    ensure(actual == expected, || {
        format!("{what} is {actual:?} and should be {expected:?}")
    })
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(Failure(otherwise())) }
}

/// Wants `result` to be an error with this code.
fn refused<T>(what: &str, result: Result<T>, code: Code) -> Outcome {
    match result {
        Ok(_) => Err(Failure(format!("{what} works and should be refused with {code:?}"))),
        Err(error) => ensure(error.code == code, || {
            format!(
                "{what} is refused with {:?} ({error}) and should be with {code:?}",
                error.code
            )
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_goes_on_and_names_all_that_failed() {
        let mut suite = Suite::new("tested");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            suite.check("one", async { same("it", 1, 2) }).await;
            suite
                .check("two", async { refused("that", Ok(()), Code::NotFound) })
                .await;
            suite.check("three", async { panic!("a panic") }).await;
            suite
                .check("four", async {
                    refused("this", Err::<(), _>(Error::not_found("")), Code::NotFound)
                })
                .await;
        });
        let panic = std::panic::catch_unwind(AssertUnwindSafe(|| suite.finish())).expect_err("it failed");
        assert_eq!(
            panic_message(&*panic),
            "3 of 4 checks of the tested contract failed:\n- one: it is 1 and should be 2\n- two: that works and should be \
             refused with NotFound\n- three: it panicked: a panic"
        );
    }
}
