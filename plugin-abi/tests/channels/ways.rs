//! The ways to a set of contracts.

use std::sync::OnceLock;

use orlop_plugin::channel::{Channel, dylib, socket};
use orlop_plugin::serve::{Options, serve};
use orlop_plugin::{Contracts, Instance, Registration, Services, kind, rpc};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::oneshot;

/// A way, by name.
pub struct Way {
    pub name: &'static str,
    pub channel: Channel,
    _server: Option<Server>,
}

struct Server {
    _end: oneshot::Sender<()>,
    _directory: tempfile::TempDir,
}

/// The runtime of the far side, as if it were a library's own.
pub fn far() -> Handle {
    static FAR: OnceLock<Runtime> = OnceLock::new();
    FAR.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime")
    })
    .handle()
    .clone()
}

/// Runs a test on a runtime of its own, as if it were the daemon's.
pub fn near<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(test)
}

/// Every way to `contracts`.
pub fn ways(contracts: &Contracts) -> Vec<Way> {
    let services = rpc::serve_all(contracts);
    vec![
        Way {
            name: "memory",
            channel: Channel::memory(services.clone()),
            _server: None,
        },
        library(services),
        over_socket(contracts),
    ]
}

/// Through the ABI, without a library.
pub fn library(services: Services) -> Way {
    let far = dylib::serve(services, far());
    Way {
        name: "library",
        channel: Channel::new(dylib::Dylib::new(far, Handle::current(), "a test")),
        _server: None,
    }
}

fn over_socket(contracts: &Contracts) -> Way {
    let directory = tempfile::tempdir().expect("a directory");
    let address = directory.path().join("plugin.sock");
    let options = Options {
        address: address.clone(),
        root: directory.path().join("root"),
        ..Options::default()
    };
    let contracts = contracts.clone();
    let registration = Registration::new(kind::INTERNAL, "test", move |_| {
        let instance = Instance::new().with_contracts(contracts.clone());
        async move { Ok(instance) }
    });
    let (end, ended) = oneshot::channel();
    far().spawn(async move {
        let ended = async {
            let _ = ended.await;
        };
        serve(vec![registration], options, ended).await.expect("served");
    });
    while std::os::unix::net::UnixStream::connect(&address).is_err() {
        std::thread::yield_now();
    }
    Way {
        name: "socket",
        channel: socket::connect(address),
        _server: Some(Server {
            _end: end,
            _directory: directory,
        }),
    }
}
