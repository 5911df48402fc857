//! Starting and ending plugins: everything that does not wait for something else starts at once.
//!
//! ```text
//!   Waiting ──init──▶ Ok ──────────────shutdown (reverse order)──▶ (ended)
//!      │                ▲
//!      ├──init──▶ Skip  │ neither stops the daemon, unless the plugin is in required_plugins
//!      └──init──▶ Error ┘ (a panic in init is one)
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use orlop_plugin::registration::{InitError, StreamProcessor};
use orlop_plugin::{Host, InitContext, Instance, PluginUri, Registration, panic_message};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::graph::Plan;
use crate::host::{Registry, Row, Source, State};

/// How long a plugin may take to end before the daemon ends without it.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// A registration and where it comes from.
pub struct Loaded {
    /// The registration.
    pub registration: Registration,
    /// Its source.
    pub source: Source,
    /// Whether the configuration names this very source.
    pub pinned: bool,
}

/// What is the same for every plugin that starts.
pub struct Setting {
    /// `root`.
    pub root: PathBuf,
    /// `state`.
    pub state: PathBuf,
    /// The gRPC address.
    pub address: String,
    /// The ttrpc address.
    pub ttrpc_address: String,
    /// `[timeouts]`.
    pub timeouts: BTreeMap<String, String>,
    /// `[stream_processors]`.
    pub stream_processors: Vec<StreamProcessor>,
    /// The user's `[plugins]`, by URI.
    pub config: BTreeMap<String, toml::Table>,
}

type Shutdown = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;

/// Plugins that run, in the order in which they started.
#[derive(Default)]
pub struct Running(Vec<(PluginUri, Shutdown)>);

enum Outcome {
    Started(Option<Shutdown>),
    Not(State),
}

/// Starts every plugin of `plan`. Returns the required ones that do not run, with the reason, as an error.
pub async fn start(
    registry: &Arc<Registry>,
    loaded: Vec<Loaded>,
    plan: &Plan,
    setting: &Setting,
) -> Result<Running, Vec<(PluginUri, String)>> {
    for index in &plan.order {
        registry.put(Row::new(&loaded[*index].registration, &loaded[*index].source));
    }
    let done: Vec<watch::Sender<bool>> = loaded.iter().map(|_| watch::Sender::new(false)).collect();
    let uris: Vec<_> = loaded.iter().map(|loaded| loaded.registration.uri.clone()).collect();
    let mut tasks = JoinSet::new();
    for index in &plan.order {
        let registration = loaded[*index].registration.clone();
        let waits: Vec<_> = plan.dependencies[*index]
            .iter()
            .map(|other| done[*other].subscribe())
            .collect();
        let depends_on: Vec<_> = plan.dependencies[*index]
            .iter()
            .map(|other| uris[*other].clone())
            .collect();
        let context = context(&registration, setting, registry);
        let (registry, done, index) = (registry.clone(), done[*index].clone(), *index);
        tasks.spawn(async move {
            for mut wait in waits {
                // The sender lives in `done` until every task has ended.
                let _ = wait.wait_for(|done| *done).await;
            }
            let outcome = initialise(&registry, &registration, context, &depends_on).await;
            done.send_replace(true);
            (index, outcome)
        });
    }
    let mut running = BTreeMap::new();
    let mut missing = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        // `initialise` catches panics of plugins; one of ours must not be swallowed.
        let (index, outcome) = match ended {
            Ok(ended) => ended,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        match outcome {
            Outcome::Started(shutdown) => {
                running.extend(shutdown.map(|shutdown| (index, shutdown)));
            }
            Outcome::Not(State::Skip(reason) | State::Error(reason)) if plan.required[index] => {
                missing.push((uris[index].clone(), reason));
            }
            Outcome::Not(_) => {}
        }
    }
    let ordered = plan
        .order
        .iter()
        .filter_map(|index| Some((uris[*index].clone(), running.remove(index)?)));
    let running = Running(ordered.collect());
    if missing.is_empty() {
        Ok(running)
    } else {
        running.shutdown().await;
        missing.sort();
        Err(missing)
    }
}

fn context(registration: &Registration, setting: &Setting, registry: &Arc<Registry>) -> InitContext {
    let uri = registration.uri.to_string();
    let config = match setting.config.get(orlop_config::canonical_uri(&uri)) {
        Some(user) => orlop_config::overlay(&registration.config, user),
        None => registration.config.clone(),
    };
    InitContext {
        uri: registration.uri.clone(),
        root_path: setting.root.join(&uri),
        state_path: setting.state.join(&uri),
        config,
        address: setting.address.clone(),
        ttrpc_address: setting.ttrpc_address.clone(),
        timeouts: setting.timeouts.clone(),
        stream_processors: setting.stream_processors.clone(),
        host: Host::new(registry.clone()),
    }
}

async fn initialise(
    registry: &Registry,
    registration: &Registration,
    context: InitContext,
    depends_on: &[PluginUri],
) -> Outcome {
    let uri = &registration.uri;
    let start = Instant::now();
    // A task of its own, so that a panic is an error row and no more.
    let init = tokio::spawn({
        let registration = registration.clone();
        async move { registration.init(context).await }
    });
    let result: Result<Instance, InitError> = match init.await {
        Ok(result) => result,
        Err(error) => Err(InitError::Failed(orlop_plugin::Error::internal(format!(
            "it panicked while starting: {}",
            if error.is_panic() {
                panic_message(&*error.into_panic())
            } else {
                "cancelled".to_owned()
            }
        )))),
    };
    let took = start.elapsed();
    match result {
        Ok(mut instance) => {
            let shutdown = instance.shutdown.take();
            registry.started(uri, &instance, took);
            tracing::info!(r#type = uri.kind, id = uri.id, ?took, "loaded plugin");
            Outcome::Started(shutdown)
        }
        Err(error @ InitError::Skip(_)) => {
            let reason = error.to_string();
            tracing::info!(r#type = uri.kind, id = uri.id, %reason, "skipped plugin");
            let state = State::Skip(reason);
            registry.failed(uri, state.clone(), took);
            Outcome::Not(state)
        }
        Err(error @ InitError::Failed(_)) => {
            let mut reason = error.to_string();
            let failed = depends_on.iter().filter(|uri| {
                registry
                    .row(uri)
                    .is_some_and(|row| matches!(row.status, State::Error(_)))
            });
            let failed: Vec<_> = failed.map(ToString::to_string).collect();
            if !failed.is_empty() {
                reason = format!("{reason} (it requires {}, which failed)", failed.join(", "));
            }
            tracing::warn!(r#type = uri.kind, id = uri.id, error = reason, "failed to load plugin");
            let state = State::Error(reason);
            registry.failed(uri, state.clone(), took);
            Outcome::Not(state)
        }
    }
}

// === impl Running ===

impl Running {
    /// Ends every plugin, the last started first.
    pub async fn shutdown(self) {
        for (uri, shutdown) in self.0.into_iter().rev() {
            if tokio::time::timeout(SHUTDOWN, shutdown()).await.is_err() {
                tracing::warn!(plugin = %uri, "a plugin did not end in time");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Node, Wishes, resolve};
    use orlop_plugin::Error;
    use std::sync::Mutex;

    const KIND: &str = "io.containerd.test.v1";
    const OTHER: &str = "io.containerd.other.v1";

    fn registration(
        kind: &str,
        id: &str,
        init: fn() -> Result<Instance, InitError>,
        requires: &[&'static str],
    ) -> Registration {
        Registration::new(kind, id, move |_| async move { init() }).requires(requires.iter().copied())
    }

    async fn run(
        registrations: Vec<Registration>,
        required: &[String],
    ) -> (Arc<Registry>, Result<Running, Vec<(PluginUri, String)>>) {
        let node = |registration: &Registration| Node {
            uri: registration.uri.clone(),
            requires: registration.requires.clone(),
            source: "built in".to_owned(),
            pinned: false,
        };
        let nodes: Vec<Node> = registrations.iter().map(node).collect();
        let wishes = Wishes {
            disabled: &|_| false,
            required,
            names: &|entry, uri| entry == uri.to_string(),
        };
        let plan = resolve(&nodes, &wishes).expect("a plan");
        let loaded = registrations
            .into_iter()
            .map(|registration| Loaded {
                registration,
                source: Source::BuiltIn,
                pinned: false,
            })
            .collect();
        let setting = Setting {
            root: "/nowhere/root".into(),
            state: "/nowhere/state".into(),
            address: String::new(),
            ttrpc_address: String::new(),
            timeouts: BTreeMap::new(),
            stream_processors: Vec::new(),
            config: BTreeMap::new(),
        };
        let registry = Registry::new();
        let running = start(&registry, loaded, &plan, &setting).await;
        (registry, running)
    }

    fn state(registry: &Registry, kind: &str, id: &str) -> State {
        registry.row(&PluginUri::new(kind, id)).expect("a row").status
    }

    #[tokio::test]
    async fn a_skip_an_error_and_a_panic_are_rows_and_stop_nothing() {
        let (registry, running) = run(
            vec![
                registration(KIND, "fine", || Ok(Instance::new()), &[]),
                registration(KIND, "skips", || Err(InitError::Skip("no such device".into())), &[]),
                registration(
                    KIND,
                    "fails",
                    || Err(Error::internal("its disk is on fire").into()),
                    &[],
                ),
                registration(KIND, "panics", || panic!("on purpose"), &[]),
                registration(
                    OTHER,
                    "dependant",
                    || Err(Error::unavailable("it finds nothing").into()),
                    &[KIND],
                ),
            ],
            &[],
        )
        .await;
        assert!(running.is_ok());
        assert_eq!(state(&registry, KIND, "fine"), State::Ok);
        assert_eq!(
            state(&registry, KIND, "skips"),
            State::Skip("no such device: skip plugin".into())
        );
        assert_eq!(
            state(&registry, KIND, "fails"),
            State::Error("its disk is on fire".into())
        );
        let State::Error(panic) = state(&registry, KIND, "panics") else {
            panic!("no error")
        };
        assert!(
            panic.contains("panicked while starting") && panic.contains("on purpose"),
            "{panic}"
        );
        let State::Error(dependant) = state(&registry, OTHER, "dependant") else {
            panic!("no error")
        };
        assert!(
            dependant.contains("io.containerd.test.v1.fails") && dependant.contains("panics"),
            "{dependant}"
        );
    }

    #[tokio::test]
    async fn a_required_plugin_that_does_not_run_is_named_and_the_others_are_ended() {
        static ENDED: Mutex<Vec<&str>> = Mutex::new(Vec::new());
        let ends = || Ok(Instance::new().on_shutdown(|| async { ENDED.lock().expect("whole").push("fine") }));
        let (_, running) = run(
            vec![
                registration(KIND, "fine", ends, &[]),
                registration(KIND, "fails", || Err(Error::internal("why").into()), &[]),
            ],
            &[format!("{KIND}.fails")],
        )
        .await;
        let missing = running.err().expect("it must not start");
        assert_eq!(missing, [(PluginUri::new(KIND, "fails"), "why".to_owned())]);
        assert_eq!(*ENDED.lock().expect("whole"), ["fine"]);
    }

    #[tokio::test]
    async fn what_is_required_is_up_before_its_dependants_and_ends_after_them() {
        static ORDER: Mutex<Vec<&str>> = Mutex::new(Vec::new());
        fn note(what: &'static str, end: &'static str) -> Instance {
            ORDER.lock().expect("whole").push(what);
            Instance::new().on_shutdown(move || async move { ORDER.lock().expect("whole").push(end) })
        }
        let (_, running) = run(
            vec![
                registration(OTHER, "second", || Ok(note("second", "second ended")), &[KIND]),
                registration(KIND, "first", || Ok(note("first", "first ended")), &[]),
            ],
            &[],
        )
        .await;
        running.expect("it starts").shutdown().await;
        assert_eq!(
            *ORDER.lock().expect("whole"),
            ["first", "second", "second ended", "first ended"]
        );
    }
}
