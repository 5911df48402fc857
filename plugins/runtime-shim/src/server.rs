//! The server: one thread that serves the task service on the socket that is its standard input.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use containerd_shim_protos::shim_async::{Task, create_task};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use ttrpc::asynchronous::Server;
use ttrpc::asynchronous::transport::Listener;

use crate::arguments::Arguments;
use crate::error::{Error, Result};
use crate::publisher::{Publisher, Target};
use crate::reaper::Reaper;
use crate::service::{Service, Shim};

/// How long the last events may take when the shim ends.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// Serves until a daemon says `Shutdown` and no container is left, or until a signal ends it.
pub fn serve(arguments: &Arguments) -> Result<()> {
    keep_memory_small();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| Error::io("become a subreaper", error))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        // Only opening a fifo that nobody reads yet needs a thread.
        .max_blocking_threads(64)
        .thread_stack_size(64 * 1024)
        .thread_keep_alive(Duration::from_millis(100))
        .build()
        .map_err(|error| Error::io("start the runtime", error))?;
    runtime.block_on(run(arguments))
}

async fn run(arguments: &Arguments) -> Result<()> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned();
    let socket = socket.map_err(|error| Error::io("use the socket", error))?;
    let socket = std::os::unix::net::UnixListener::from(socket);
    let address = socket
        .local_addr()
        .ok()
        .and_then(|address| address.as_pathname().map(ToOwned::to_owned));
    let listener = socket
        .set_nonblocking(true)
        .and_then(|()| UnixListener::from_std(socket));
    let listener = listener.map_err(|error| Error::io("use the socket", error))?;

    let signals = |kind| signal(kind).map_err(|error| Error::io("receive signals", error));
    let mut children = signals(SignalKind::child())?;
    let (mut terminate, mut interrupt) = (signals(SignalKind::terminate())?, signals(SignalKind::interrupt())?);
    let reaper = Arc::new(Reaper::default());
    let publisher = Publisher::new(Target {
        namespace: arguments.namespace.clone(),
        ttrpc: std::env::var("TTRPC_ADDRESS").unwrap_or_default(),
        program: arguments.publish_binary.clone(),
        grpc: arguments.address.clone(),
    });
    tokio::spawn({
        let reaper = reaper.clone();
        async move {
            while children.recv().await.is_some() {
                reaper.reap();
            }
        }
    });
    tokio::spawn(publisher.clone().run(reaper.clone()));

    let shim = Shim::new(&arguments.namespace, reaper, publisher.clone());
    let service: Arc<dyn Task + Send + Sync> = Arc::new(Service(shim.clone()));
    // The messages of both versions are the same; the generated name is that of version 3.
    let v3 = create_task(service.clone());
    let v2 = create_task(service)
        .into_iter()
        .map(|(name, methods)| (name.replace(".v3.", ".v2."), methods))
        .collect();
    let mut server = Server::new()
        .add_listener(Listener::from(listener))
        .register_service(v3)
        .register_service(v2);
    server
        .start()
        .await
        .map_err(|error| Error::io("serve the task service", error))?;

    tokio::select! {
        () = shim.shutdown.notified() => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    if let Some(address) = address {
        // Gone already when the state directory is.
        let _ = std::fs::remove_file(address);
    }
    publisher.flush(LAST_EVENTS).await;
    // The answer to `Shutdown` is on its way in another task.
    for _ in 0..32 {
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// glibc keeps freed memory and gives each thread an arena: here memory matters and speed does not.
#[expect(unsafe_code, reason = "mallopt has no safe wrapper")]
fn keep_memory_small() {
    // SAFETY: called before any thread is started, with parameters and values that mallopt(3) allows.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 16 * 1024);
        libc::mallopt(libc::M_TOP_PAD, 0);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 * 1024);
    }
}
