//! A library as the daemon meets it, but linked into this test: what `export_plugin!` exports, from its layout check to its shutdown.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use orlop_plugin::api::host::host_server::{Host, HostServer};
use orlop_plugin::api::host::{self, LogRequest, LogResponse, PluginsRequest, PluginsResponse};
use orlop_plugin::api::plugin::plugin_client::PluginClient;
use orlop_plugin::api::plugin::{DescribeRequest, HealthRequest, InitRequest, InitResponse, ShutdownRequest};
use orlop_plugin::channel::v1::PluginV1_Ref;
use orlop_plugin::channel::{Channel, PLUGIN_HEADER, Request as Call, Response as Answer, dylib};
use orlop_plugin::contract::*;
use orlop_plugin::export::{Header, RootModule, header, root_module};
use orlop_plugin::{Contracts, InitContext, InitError, Instance, PluginUri, Registration, Services, kind, rpc};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use crate::probe::Probe;
use crate::ways::near;

// === the library's side ===

extern "C" fn root() -> RootModule {
    root_module(registrations)
}

static LIBRARY: Header = header(root);

fn registrations() -> Vec<Registration> {
    let mut config = toml::Table::new();
    config.insert("key".to_owned(), "default".into());
    vec![
        Registration::new(kind::TRANSFER, "works", works)
            .requires([kind::CONTENT, kind::EVENT])
            .capabilities(["quick"])
            .config(&config),
        Registration::new(kind::TRANSFER, "skips", |_| async {
            Err(InitError::Skip("no such device".to_owned()))
        }),
        Registration::new(kind::TRANSFER, "fails", |_| async {
            Err(orlop_plugin::Error::failed_precondition("the disk is full").into())
        }),
        Registration::new(kind::TRANSFER, "panics", |_| async { panic!("its own words") }),
    ]
}

async fn works(context: InitContext) -> Result<Instance, InitError> {
    #[derive(serde::Deserialize)]
    struct Config {
        key: String,
    }
    let config: Config = context.config()?;
    tracing::info!(key = config.key, "starting");
    let peers = context.host.plugins(kind::CONTENT).await?;
    let instance = Instance::new()
        .with_contracts(Contracts::default().with_transfer(Arc::new(Mover(context.clone()))))
        .export("root", context.root_path.display())
        .export(
            "peers",
            peers
                .iter()
                .map(|peer| peer.uri.to_string())
                .collect::<Vec<_>>()
                .join(","),
        )
        .on_shutdown(|| async { tracing::info!("ending") });
    Ok(instance)
}

/// Moves nothing: tells the daemon, and the daemon's content store, that it was asked.
struct Mover(InitContext);

#[async_trait]
impl Transfer for Mover {
    async fn transfer(&self, ctx: &Ctx, source: Any, _: Any, progress: &str) -> Result<()> {
        self.0.host.events()?.publish(ctx, progress, source).await?;
        let peers = self.0.host.plugins(kind::CONTENT).await?;
        let content = peers[0].contracts.content().expect("offered");
        content.abort(ctx, progress).await
    }
}

// === the daemon's side ===

struct Daemon {
    log: mpsc::UnboundedSender<LogRequest>,
}

#[async_trait]
impl Host for Daemon {
    async fn log(&self, request: Request<LogRequest>) -> Result<Response<LogResponse>, Status> {
        let _ = self.log.send(request.into_inner());
        Ok(Response::new(LogResponse {}))
    }

    async fn plugins(&self, request: Request<PluginsRequest>) -> Result<Response<PluginsResponse>, Status> {
        let peer = host::Plugin {
            kind: request.into_inner().kind,
            id: "peer".to_owned(),
            contracts: vec!["content".to_owned(), "a contract of a later release".to_owned()],
            ..host::Plugin::default()
        };
        Ok(Response::new(PluginsResponse { plugins: vec![peer] }))
    }
}

/// The daemon's services, and a peer's behind its URI.
#[derive(Clone)]
struct Routes {
    daemon: Services,
    peer: Services,
    asked: Arc<Mutex<Vec<String>>>,
}

impl tower::Service<Call> for Routes {
    type Response = Answer;
    type Error = std::convert::Infallible;
    type Future = <Services as tower::Service<Call>>::Future;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let Some(plugin) = call.headers().get(PLUGIN_HEADER) else {
            return self.daemon.call(call);
        };
        let plugin = plugin.to_str().expect("a URI").to_owned();
        self.asked.lock().expect("unpoisoned").push(plugin);
        self.peer.call(call)
    }
}

fn init(id: &str) -> InitRequest {
    InitRequest {
        kind: kind::TRANSFER.to_owned(),
        id: id.to_owned(),
        root: format!("/nowhere/{id}"),
        config: "key = \"mine\"".to_owned(),
        ..InitRequest::default()
    }
}

/// The next event of the library. Here it shares its log with the daemon's side, which is linked into the same test.
async fn ours(logged: &mut mpsc::UnboundedReceiver<LogRequest>) -> LogRequest {
    loop {
        let event = logged.recv().await.expect("an event");
        if event.target.starts_with(module_path!()) {
            return event;
        }
    }
}

#[test]
fn a_library_lives_from_its_layout_check_to_its_shutdown() {
    near(async {
        let probe = Arc::new(Probe::default());
        let (log, mut logged) = mpsc::unbounded_channel();
        let events = Contracts::default().with_events(probe.clone());
        let content = Contracts::default().with_content(probe.clone());
        let routes = Routes {
            daemon: rpc::serve_all(&events).with(HostServer::new(Daemon { log })),
            peer: rpc::serve_all(&content),
            asked: Arc::default(),
        };
        let asked = routes.asked.clone();

        let module = LIBRARY
            .init_root_module::<PluginV1_Ref>()
            .expect("the layouts are the same");
        let far = module.connect()(dylib::serve(routes, Handle::current()))
            .into_result()
            .expect("connected");
        let channel = Channel::new(dylib::Dylib::new(far, Handle::current(), "the library"));
        let mut client = PluginClient::new(channel.clone());

        let described = client
            .describe(DescribeRequest {})
            .await
            .expect("described")
            .into_inner();
        let ids: Vec<_> = described.registrations.iter().map(|one| one.id.as_str()).collect();
        assert_eq!(ids, ["works", "skips", "fails", "panics"]);
        let works = &described.registrations[0];
        assert_eq!(works.requires, [kind::CONTENT, kind::EVENT]);
        assert_eq!(
            (works.capabilities[0].as_str(), works.config.trim()),
            ("quick", "key = \"default\"")
        );

        let skipped = client.init(init("skips")).await.expect("an answer").into_inner();
        assert_eq!(skipped.skip.as_deref(), Some("no such device"));
        let failed = client.init(init("fails")).await.expect_err("failed");
        assert_eq!(
            (failed.code(), failed.message()),
            (Code::FailedPrecondition, "the disk is full")
        );
        let panicked = client.init(init("panics")).await.expect_err("panicked");
        assert_eq!(panicked.code(), Code::Internal);
        assert!(panicked.message().contains("its own words"), "{panicked}");
        let missing = client.init(init("missing")).await.expect_err("missing");
        assert_eq!(missing.code(), Code::NotFound);

        let started: InitResponse = client.init(init("works")).await.expect("started").into_inner();
        assert_eq!(started.contracts, ["transfer"]);
        assert_eq!(started.exports["root"], "/nowhere/works");
        assert_eq!(started.exports["peers"], "io.containerd.content.v1.peer");
        let event = ours(&mut logged).await;
        assert_eq!(
            (event.message.as_str(), event.fields["key"].as_str()),
            ("starting", "mine")
        );

        // A call into the library, which calls the daemon and, through it, a peer.
        let uri = PluginUri::new(kind::TRANSFER, "works");
        let transfer = rpc::transfer::connect(channel.to_plugin(&uri));
        let ctx = Ctx::new(Namespace::new("ns").expect("a namespace")).with_lease("lease");
        probe.then::<()>([Ok(()), Err(orlop_plugin::Error::not_found("ingest topic"))]);
        let answer = transfer.transfer(&ctx, Any::default(), Any::default(), "topic").await;
        assert_eq!(answer, Err(orlop_plugin::Error::not_found("ingest topic")));
        probe.asked(&(ctx.clone(), "topic".to_owned()));
        assert_eq!(*asked.lock().expect("unpoisoned"), ["io.containerd.content.v1.peer"]);

        let running = client
            .health(HealthRequest {})
            .await
            .expect("healthy")
            .into_inner()
            .running;
        assert_eq!(running, [uri.to_string()]);
        let shutdown = ShutdownRequest {
            kind: uri.kind.clone(),
            id: uri.id.clone(),
        };
        client.shutdown(shutdown.clone()).await.expect("ended");
        assert_eq!(ours(&mut logged).await.message, "ending");
        let again = client.shutdown(shutdown).await.expect_err("ended before");
        assert_eq!(again.code(), Code::NotFound);
        let gone = transfer
            .transfer(&ctx, Any::default(), Any::default(), "")
            .await
            .expect_err("ended");
        assert_eq!(gone.code, Code::Unavailable);
    });
}
