//! After a restart: which tasks are there still?
//!
//! Their names are known at once, by their bundles; their shims are asked all at the same time, and only whoever asks for a task
//! waits for its shim.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use orlop_plugin::contract::{Ctx, Namespace, validate_identifier};
use orlop_plugin::{Error, Result, blocking};

use crate::binary;
use crate::bootstrap::Bootstrap;
use crate::bundle::Bundle;
use crate::connection::{Connection, Failure};
use crate::shims::Shims;
use crate::table::Reservation;
use crate::task::{Task, UNKNOWN_STATUS};
use crate::timeouts::{ends, within};
use crate::{events, shim_log};

const SIGKILL: u32 = nix::libc::SIGKILL.cast_unsigned();

// === impl Shims ===

impl Shims {
    /// Takes the names of all tasks that earlier daemons left, and asks for them in the background.
    pub async fn load(self: &Arc<Self>) -> Result<()> {
        let state = self.state.clone();
        let bundles = blocking(move || scan(&state)).await?;
        let known: BTreeSet<(String, String)> = bundles
            .iter()
            .map(|bundle| (bundle.namespace.clone(), bundle.id.clone()))
            .collect();
        for bundle in bundles {
            let reservation = self.table.reserve_loading(&bundle.namespace, &bundle.id);
            let shims = self.clone();
            tokio::spawn(async move { shims.load_one(bundle, reservation).await });
        }
        let (root, table) = (self.root.clone(), self.table.clone());
        tokio::task::spawn_blocking(move || remove_stale_work(&root, &known, &table));
        Ok(())
    }

    async fn load_one(self: Arc<Self>, bundle: Bundle, reservation: Reservation) {
        let (namespace, id) = (bundle.namespace.clone(), bundle.id.clone());
        if bundle.is_empty() {
            // The daemon died while making it: there never was a shim.
            self.delete_bundle(&bundle).await;
            return;
        }
        let (recorded, runtime) = self.record(&bundle).await;
        let binary = match bundle.shim_binary() {
            Some(binary) => Ok(binary),
            None => match runtime {
                Some(runtime) => blocking(move || binary::resolve(&runtime)).await,
                None => Err(Error::not_found("nothing tells which shim it has")),
            },
        };
        let binary = match binary {
            Ok(binary) => binary,
            Err(error) => {
                tracing::warn!(namespace, id, %error, "removing a task whose shim is not known");
                self.delete_bundle(&bundle).await;
                return;
            }
        };
        match within(self.timeouts.load, "asking the shim", self.reconnect(&bundle, &binary)).await {
            Ok((task, true)) if recorded => {
                let task = Arc::new(task);
                reservation.fill(task.clone());
                self.watch(&task);
            }
            Ok((task, living)) => {
                tracing::info!(namespace, id, living, recorded, "removing a shim that serves nobody");
                if living && let Err(failure) = self.end_unwanted(&task).await {
                    tracing::warn!(namespace, id, error = %Error::from(failure), "a task without a record does not end");
                    self.run_delete(&bundle, &binary).await;
                }
                if !task.sandboxed
                    && let Err(failure) = task.shutdown(ends(self.timeouts.shutdown)).await
                {
                    tracing::warn!(namespace, id, error = %Error::from(failure), "a shim does not shut down");
                }
                self.delete_bundle(&bundle).await;
            }
            Err(error) => {
                tracing::warn!(namespace, id, %error, "a shim is gone: cleaning up after it");
                let exit = self
                    .run_delete(&bundle, &binary)
                    .await
                    .unwrap_or_else(|| orlop_plugin::contract::Exit {
                        id,
                        pid: 0,
                        status: UNKNOWN_STATUS,
                        exited_at: Some(std::time::SystemTime::now()),
                    });
                self.delete_bundle(&bundle).await;
                events::publish_end(&self.host, &namespace, &exit).await;
            }
        }
    }

    /// Ends and removes a task that nobody can ask for.
    async fn end_unwanted(&self, task: &Task) -> Result<(), Failure> {
        let deadline = ends(self.timeouts.cleanup);
        match task.kill("", SIGKILL, true, deadline).await {
            Ok(()) => {}
            // It ended by itself.
            Err(Failure::Answered(error)) if error.is_not_found() => {}
            Err(failure) => return Err(failure),
        }
        task.wait("", deadline).await?;
        task.delete("", deadline).await?;
        Ok(())
    }

    /// Whether the task's container is recorded, and its runtime. What cannot be asked is taken for recorded: a metadata store that
    /// is down is no reason to end containers.
    async fn record(&self, bundle: &Bundle) -> (bool, Option<String>) {
        let asked = async {
            let ctx = Ctx::new(Namespace::new(bundle.namespace.as_str())?);
            self.host.containers()?.get(&ctx, &bundle.id).await
        };
        match asked.await {
            Ok(container) => (true, Some(container.runtime.name)),
            Err(error) if error.is_not_found() => (false, None),
            Err(error) => {
                tracing::warn!(namespace = bundle.namespace, id = bundle.id, %error, "cannot look up a task's container");
                (true, None)
            }
        }
    }

    /// Connects to the shim of a bundle, and asks whether it has a process for the task.
    async fn reconnect(&self, bundle: &Bundle, binary: &Path) -> Result<(Task, bool)> {
        let bootstrap = Bootstrap::load(&bundle.path)?;
        let log = shim_log::open(bundle)?;
        let connection = Connection::open(&bootstrap, &bundle.namespace).await?;
        let binary = PathBuf::from(binary);
        let task = Task::new(
            bundle.clone(),
            binary,
            bootstrap,
            bundle.is_sandboxed(),
            connection,
            log,
        );
        if task.connect(None).await? > 0 {
            return Ok((task, true));
        }
        // No pid: it was never created there, or it is being restored.
        match task.state("", None).await {
            Ok(_) => Ok((task, true)),
            Err(Failure::Answered(error)) if error.is_not_found() => Ok((task, false)),
            Err(failure) => Err(failure.into()),
        }
    }
}

/// The bundles there are; removals that were cut short are finished.
fn scan(state: &Path) -> Result<Vec<Bundle>> {
    let mut bundles = Vec::new();
    for namespace in names(state)? {
        for id in names(&state.join(&namespace))? {
            if id.starts_with('.') {
                let leftover = state.join(&namespace).join(&id);
                if let Err(error) = std::fs::remove_dir_all(&leftover) {
                    tracing::warn!(path = %leftover.display(), %error, "cannot finish the removal of a bundle");
                }
            } else if validate_identifier(&id).is_ok() {
                bundles.push(Bundle::of(state, &namespace, &id));
            }
        }
    }
    Ok(bundles)
}

/// The directories of a directory, by name.
fn names(dir: &Path) -> Result<Vec<String>> {
    let io = |error: &std::io::Error| Error::io(format!("list {}", dir.display()), error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|error| io(&error))? {
        let entry = entry.map_err(|error| io(&error))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    Ok(names)
}

/// Removes work directories without a task: a reboot takes the bundles and leaves these.
fn remove_stale_work(root: &Path, known: &BTreeSet<(String, String)>, table: &crate::table::Table) {
    let namespaces = names(root).unwrap_or_default();
    for namespace in namespaces {
        for id in names(&root.join(&namespace)).unwrap_or_default() {
            let key = (namespace.clone(), id);
            if known.contains(&key) {
                continue;
            }
            let stale = root.join(&key.0).join(&key.1);
            // Under the table's lock, so that no task of this name is created meanwhile.
            let removed = table.unless_taken(&key.0, &key.1, || std::fs::remove_dir_all(&stale));
            if let Some(Err(error)) = removed {
                tracing::warn!(path = %stale.display(), %error, "cannot remove an old work directory");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundles_are_found_and_half_removed_ones_finished() {
        let dir = tempfile::tempdir().expect("a directory");
        for path in ["ns/box", "ns/.gone/rootfs", "other/a-b", "other/not ok"] {
            std::fs::create_dir_all(dir.path().join(path)).expect("made");
        }
        std::fs::write(dir.path().join("ns/file"), "").expect("written");
        let mut found: Vec<_> = scan(dir.path())
            .expect("scanned")
            .into_iter()
            .map(|b| (b.namespace, b.id))
            .collect();
        found.sort();
        assert_eq!(found, [("ns".into(), "box".into()), ("other".into(), "a-b".into())]);
        assert!(!dir.path().join("ns/.gone").exists());
    }

    #[test]
    fn work_directories_without_a_task_go() {
        let dir = tempfile::tempdir().expect("a directory");
        for path in ["ns/box/keep", "ns/old/file"] {
            std::fs::create_dir_all(dir.path().join(path)).expect("made");
        }
        let known = BTreeSet::from([("ns".to_owned(), "box".to_owned())]);
        remove_stale_work(dir.path(), &known, &crate::table::Table::default());
        assert!(dir.path().join("ns/box/keep").exists());
        assert!(!dir.path().join("ns/old").exists());
    }
}
