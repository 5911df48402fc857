//! The connection to the daemon: one HTTP/2 channel over a unix socket, the namespace and the lease that go with each
//! request, and how an answered error reads.

use anyhow::{Context, Result};
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::introspection_client::IntrospectionClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::namespaces_client::NamespacesClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::streaming_client::StreamingClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::transfer_client::TransferClient;
use containerd_client::services::v1::version_client::VersionClient;
use containerd_client::services::v1::{CreateRequest, DeleteRequest, GetNamespaceRequest};
use containerd_client::tonic::metadata::{Ascii, MetadataValue};
use containerd_client::tonic::transport::{Channel, Endpoint};
use containerd_client::tonic::{Code, Request, Status};
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::io::Read;
use std::time::{Duration, SystemTime};
use tokio::net::UnixStream;

/// Largest message either way, as containerd's client has it.
const MAX_MESSAGE: usize = 16 << 20;

/// Time to connect in, unless said otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a lease lives when this process does not end it.
const LEASE_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Namespace label that names the namespace's snapshotter.
const SNAPSHOTTER_LABEL: &str = "containerd.io/defaults/snapshotter";

/// The snapshotter of a namespace without that label.
pub const DEFAULT_SNAPSHOTTER: &str = "overlayfs";

/// What the global flags say.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Path of the daemon's socket, or a `unix://` URL.
    pub address: String,
    /// Namespace that requests are made in.
    pub namespace: String,
    /// Time to connect in.
    pub connect_timeout: Option<Duration>,
    /// Whether errors tell their details.
    pub debug: bool,
}

/// A connection, in a namespace, and perhaps under a lease. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    address: String,
    namespace: String,
    namespace_header: MetadataValue<Ascii>,
    lease: Option<MetadataValue<Ascii>>,
    debug: bool,
}

macro_rules! services {
    ($($(#[$doc:meta])* $name:ident: $client:ident,)*) => {
        impl Client {
            $($(#[$doc])* pub fn $name(&self) -> $client<Channel> {
                $client::new(self.channel.clone())
                    .max_decoding_message_size(MAX_MESSAGE)
                    .max_encoding_message_size(MAX_MESSAGE)
            })*
        }
    };
}

services! {
    /// Container records.
    containers: ContainersClient,
    /// Blobs and ingests.
    content: ContentClient,
    /// Applying and computing layers.
    diff: DiffClient,
    /// Events.
    events: EventsClient,
    /// Image records.
    images: ImagesClient,
    /// Plugins and the server itself.
    introspection: IntrospectionClient,
    /// Leases.
    leases: LeasesClient,
    /// Namespaces.
    namespaces: NamespacesClient,
    /// Snapshots, of any snapshotter.
    snapshots: SnapshotsClient,
    /// Streams that other services refer to by name.
    streaming: StreamingClient,
    /// Tasks.
    tasks: TasksClient,
    /// Image transfer.
    transfer: TransferClient,
    /// The daemon's version.
    version: VersionClient,
}

impl Client {
    /// Connects. Fails at once when nobody listens.
    pub async fn connect(settings: &Settings) -> Result<Self> {
        let path = socket_path(&settings.address);
        let failed = || format!("failed to dial {:?}", settings.address);
        let connector = tower::service_fn({
            let path = path.clone();
            move |_| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            }
        });
        let timeout = settings.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
        let channel = tokio::time::timeout(timeout, endpoint()?.connect_with_connector(connector)).await;
        let channel = channel.with_context(failed)?.map_err(|error| {
            // The layers above the socket only say that there was an error.
            let cause = deepest(&error).to_string();
            anyhow::anyhow!(
                "{}: connection error: {cause}. Is the daemon running, and are you root?",
                failed()
            )
        })?;
        Self::new(channel, settings)
    }

    /// A client that has not connected: for what needs the address and the namespace only.
    pub fn unconnected(settings: &Settings) -> Result<Self> {
        let path = socket_path(&settings.address);
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        Self::new(endpoint()?.connect_with_connector_lazy(connector), settings)
    }

    fn new(channel: Channel, settings: &Settings) -> Result<Self> {
        let namespace_header = settings.namespace.parse();
        Ok(Self {
            channel,
            address: socket_path(&settings.address),
            namespace: settings.namespace.clone(),
            namespace_header: namespace_header
                .with_context(|| format!("invalid namespace {:?}", settings.namespace))?,
            lease: None,
            debug: settings.debug,
        })
    }

    /// The daemon's socket.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Prints a line to stderr when `--debug` was given.
    pub fn debug(&self, message: impl FnOnce() -> String) {
        if self.debug {
            eprintln!("ctr: debug: {}", message());
        }
    }

    /// A request in this client's namespace and under its lease.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let headers = request.metadata_mut();
        headers.insert("containerd-namespace", self.namespace_header.clone());
        if let Some(lease) = &self.lease {
            headers.insert("containerd-lease", lease.clone());
        }
        request
    }

    /// A lease that keeps what is made under it until it is released. Under a lease already, that one goes on.
    pub async fn lease(&self) -> Result<Lease> {
        if self.lease.is_some() {
            return Ok(Lease {
                client: self.clone(),
                id: None,
            });
        }
        self.new_lease(String::new(), LEASE_LIFE, HashMap::new())
            .await
            .map_err(Into::into)
    }

    /// A new lease: `id` empty lets the name be made up.
    pub async fn new_lease(
        &self,
        id: String,
        life: Duration,
        mut labels: HashMap<String, String>,
    ) -> Result<Lease, Status> {
        let id = if id.is_empty() { unique_part() } else { id };
        let expiry = prost_types::Timestamp::from(SystemTime::now() + life);
        labels.insert(
            "containerd.io/gc.expire".to_owned(),
            crate::clock::rfc3339_seconds(&expiry),
        );
        let request = CreateRequest { id, labels };
        let made = self.leases().create(self.request(request)).await?.into_inner();
        let id = made.lease.unwrap_or_default().id;
        let header = id
            .parse()
            .map_err(|_| Status::internal(format!("the daemon answered lease {id:?}")))?;
        Ok(Lease {
            client: Self {
                lease: Some(header),
                ..self.clone()
            },
            id: Some(id),
        })
    }

    /// The snapshotter that `name` means: itself, or when empty the namespace's default.
    pub async fn snapshotter_name(&self, name: &str) -> Result<String> {
        if !name.is_empty() {
            return Ok(name.to_owned());
        }
        let request = GetNamespaceRequest {
            name: self.namespace.clone(),
        };
        let labels = match self.namespaces().get(self.request(request)).await {
            Ok(answer) => answer.into_inner().namespace.unwrap_or_default().labels,
            // A namespace comes to be with the first thing in it.
            Err(status) if status.code() == Code::NotFound => HashMap::new(),
            Err(status) => return Err(status.into()),
        };
        let named = labels.get(SNAPSHOTTER_LABEL).filter(|name| !name.is_empty());
        Ok(named.map_or(DEFAULT_SNAPSHOTTER, String::as_str).to_owned())
    }
}

/// A lease of this process, and a client that works under it.
#[derive(Debug)]
pub struct Lease {
    client: Client,
    /// Present when the lease is this value's to end.
    id: Option<String>,
}

impl Lease {
    /// The client to work with.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Its name; empty when it is an outer one's.
    pub fn id(&self) -> &str {
        self.id.as_deref().unwrap_or_default()
    }

    /// Ends the lease. When that fails, it expires by itself a day later.
    pub async fn release(self) {
        if let Some(id) = self.id {
            let request = DeleteRequest {
                id: id.clone(),
                sync: false,
            };
            if let Err(status) = self.client.leases().delete(self.client.request(request)).await
                && status.code() != Code::NotFound
            {
                eprintln!(
                    "ctr: cannot end lease {id}, it expires in a day: {}",
                    describe_status(&status)
                );
            }
        }
    }
}

fn endpoint() -> Result<Endpoint> {
    // The name is never looked up; servers want one.
    let endpoint = Endpoint::try_from("http://localhost").context("endpoint")?;
    Ok(endpoint
        .initial_stream_window_size(2 << 20)
        .initial_connection_window_size(4 << 20))
}

fn socket_path(address: &str) -> String {
    address.strip_prefix("unix://").unwrap_or(address).to_owned()
}

fn deepest<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

/// A name that no other command of this machine uses at the moment.
pub fn unique_part() -> String {
    let mut random = [0; 4];
    // Unlikely to fail, and then the time alone still tells most names apart.
    let _ = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random));
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    format!("{}-{}", now.subsec_nanos(), hex::encode(random))
}

/// An error as containerd's client prints it: what was done, the message, the class of the error.
pub fn describe(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        if let Some(status) = cause.downcast_ref::<Status>() {
            parts.push(describe_status(status));
            break;
        }
        parts.push(cause.to_string());
    }
    parts.join(": ")
}

/// A status with its class in words behind, once.
pub fn describe_status(status: &Status) -> String {
    let class = match status.code() {
        Code::InvalidArgument => "invalid argument",
        Code::NotFound => "not found",
        Code::AlreadyExists => "already exists",
        Code::FailedPrecondition => "failed precondition",
        Code::Unavailable => "unavailable",
        Code::Unimplemented => "not implemented",
        Code::Cancelled => "context canceled",
        Code::DeadlineExceeded => "context deadline exceeded",
        Code::OutOfRange => "out of range",
        Code::ResourceExhausted => "resource exhausted",
        Code::PermissionDenied => "permission denied",
        Code::Unauthenticated => "unauthenticated",
        Code::Aborted => "aborted",
        Code::DataLoss => "data loss",
        Code::Ok | Code::Unknown | Code::Internal => "unknown",
    };
    let message = status.message();
    if message.is_empty() || message == class {
        class.to_owned()
    } else {
        let message = message
            .strip_suffix(class)
            .and_then(|head| head.strip_suffix(": "))
            .unwrap_or(message);
        format!("{message}: {class}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_ends_in_its_class_once() {
        let cases = [
            (Status::not_found("image \"x\": not found"), "image \"x\": not found"),
            (Status::not_found("image \"x\""), "image \"x\": not found"),
            (Status::not_found("not found"), "not found"),
            (Status::unknown("runc said no"), "runc said no: unknown"),
        ];
        for (status, text) in cases {
            assert_eq!(describe(&status.into()), text);
        }
        let deep: Result<()> = Err(Status::already_exists("t1")).context("cannot create");
        assert_eq!(describe(&deep.unwrap_err()), "cannot create: t1: already exists");
    }
}
