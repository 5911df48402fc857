//! Generates the services that contracts are carried by: Orlop's own from `proto/`, and server stubs for containerd's over the message
//! types of `containerd-client`, whose own stubs are client-only.

use tonic_build::manual::{Builder, Method, Service};

/// A method: its name in Rust, its name on the wire, the messages, and which sides stream.
type Row = (&'static str, &'static str, &'static str, &'static str, Streams);

#[derive(Clone, Copy)]
enum Streams {
    None,
    Answer,
    Both,
}
use Streams::{Answer, Both, None};

const EMPTY: &str = "()";
const ANY: &str = "prost_types::Any";

/// containerd's services: package and service names, and the methods, with messages relative to `containerd_client::services::v1`.
const SERVICES: &[(&str, &str, &[Row])] = &[
    (
        "containers",
        "Containers",
        &[
            ("get", "Get", "GetContainerRequest", "GetContainerResponse", None),
            ("list", "List", "ListContainersRequest", "ListContainersResponse", None),
            (
                "list_stream",
                "ListStream",
                "ListContainersRequest",
                "ListContainerMessage",
                Answer,
            ),
            (
                "create",
                "Create",
                "CreateContainerRequest",
                "CreateContainerResponse",
                None,
            ),
            (
                "update",
                "Update",
                "UpdateContainerRequest",
                "UpdateContainerResponse",
                None,
            ),
            ("delete", "Delete", "DeleteContainerRequest", EMPTY, None),
        ],
    ),
    (
        "content",
        "Content",
        &[
            ("info", "Info", "InfoRequest", "InfoResponse", None),
            ("update", "Update", "UpdateRequest", "UpdateResponse", None),
            ("list", "List", "ListContentRequest", "ListContentResponse", Answer),
            ("delete", "Delete", "DeleteContentRequest", EMPTY, None),
            ("read", "Read", "ReadContentRequest", "ReadContentResponse", Answer),
            ("status", "Status", "StatusRequest", "StatusResponse", None),
            (
                "list_statuses",
                "ListStatuses",
                "ListStatusesRequest",
                "ListStatusesResponse",
                None,
            ),
            ("write", "Write", "WriteContentRequest", "WriteContentResponse", Both),
            ("abort", "Abort", "AbortRequest", EMPTY, None),
        ],
    ),
    (
        "diff",
        "Diff",
        &[
            ("apply", "Apply", "ApplyRequest", "ApplyResponse", None),
            ("diff", "Diff", "DiffRequest", "DiffResponse", None),
        ],
    ),
    (
        "events",
        "Events",
        &[
            ("publish", "Publish", "PublishRequest", EMPTY, None),
            ("forward", "Forward", "ForwardRequest", EMPTY, None),
            (
                "subscribe",
                "Subscribe",
                "SubscribeRequest",
                "containerd_client::types::Envelope",
                Answer,
            ),
        ],
    ),
    (
        "images",
        "Images",
        &[
            ("get", "Get", "GetImageRequest", "GetImageResponse", None),
            ("list", "List", "ListImagesRequest", "ListImagesResponse", None),
            ("create", "Create", "CreateImageRequest", "CreateImageResponse", None),
            ("update", "Update", "UpdateImageRequest", "UpdateImageResponse", None),
            ("delete", "Delete", "DeleteImageRequest", EMPTY, None),
        ],
    ),
    (
        "introspection",
        "Introspection",
        &[
            ("plugins", "Plugins", "PluginsRequest", "PluginsResponse", None),
            ("server", "Server", EMPTY, "ServerResponse", None),
            (
                "plugin_info",
                "PluginInfo",
                "PluginInfoRequest",
                "PluginInfoResponse",
                None,
            ),
        ],
    ),
    (
        "leases",
        "Leases",
        &[
            ("create", "Create", "CreateRequest", "CreateResponse", None),
            ("delete", "Delete", "DeleteRequest", EMPTY, None),
            ("list", "List", "ListRequest", "ListResponse", None),
            ("add_resource", "AddResource", "AddResourceRequest", EMPTY, None),
            (
                "delete_resource",
                "DeleteResource",
                "DeleteResourceRequest",
                EMPTY,
                None,
            ),
            (
                "list_resources",
                "ListResources",
                "ListResourcesRequest",
                "ListResourcesResponse",
                None,
            ),
        ],
    ),
    (
        "namespaces",
        "Namespaces",
        &[
            ("get", "Get", "GetNamespaceRequest", "GetNamespaceResponse", None),
            ("list", "List", "ListNamespacesRequest", "ListNamespacesResponse", None),
            (
                "create",
                "Create",
                "CreateNamespaceRequest",
                "CreateNamespaceResponse",
                None,
            ),
            (
                "update",
                "Update",
                "UpdateNamespaceRequest",
                "UpdateNamespaceResponse",
                None,
            ),
            ("delete", "Delete", "DeleteNamespaceRequest", EMPTY, None),
        ],
    ),
    (
        "snapshots",
        "Snapshots",
        &[
            (
                "prepare",
                "Prepare",
                "snapshots::PrepareSnapshotRequest",
                "snapshots::PrepareSnapshotResponse",
                None,
            ),
            (
                "view",
                "View",
                "snapshots::ViewSnapshotRequest",
                "snapshots::ViewSnapshotResponse",
                None,
            ),
            (
                "mounts",
                "Mounts",
                "snapshots::MountsRequest",
                "snapshots::MountsResponse",
                None,
            ),
            ("commit", "Commit", "snapshots::CommitSnapshotRequest", EMPTY, None),
            ("remove", "Remove", "snapshots::RemoveSnapshotRequest", EMPTY, None),
            (
                "stat",
                "Stat",
                "snapshots::StatSnapshotRequest",
                "snapshots::StatSnapshotResponse",
                None,
            ),
            (
                "update",
                "Update",
                "snapshots::UpdateSnapshotRequest",
                "snapshots::UpdateSnapshotResponse",
                None,
            ),
            (
                "list",
                "List",
                "snapshots::ListSnapshotsRequest",
                "snapshots::ListSnapshotsResponse",
                Answer,
            ),
            (
                "usage",
                "Usage",
                "snapshots::UsageRequest",
                "snapshots::UsageResponse",
                None,
            ),
            ("cleanup", "Cleanup", "snapshots::CleanupRequest", EMPTY, None),
        ],
    ),
    ("streaming", "Streaming", &[("stream", "Stream", ANY, ANY, Both)]),
    (
        "tasks",
        "Tasks",
        &[
            ("create", "Create", "CreateTaskRequest", "CreateTaskResponse", None),
            ("start", "Start", "StartRequest", "StartResponse", None),
            ("delete", "Delete", "DeleteTaskRequest", "DeleteResponse", None),
            (
                "delete_process",
                "DeleteProcess",
                "DeleteProcessRequest",
                "DeleteResponse",
                None,
            ),
            ("get", "Get", "GetRequest", "GetResponse", None),
            ("list", "List", "ListTasksRequest", "ListTasksResponse", None),
            ("kill", "Kill", "KillRequest", EMPTY, None),
            ("exec", "Exec", "ExecProcessRequest", EMPTY, None),
            ("resize_pty", "ResizePty", "ResizePtyRequest", EMPTY, None),
            ("close_io", "CloseIO", "CloseIoRequest", EMPTY, None),
            ("pause", "Pause", "PauseTaskRequest", EMPTY, None),
            ("resume", "Resume", "ResumeTaskRequest", EMPTY, None),
            ("list_pids", "ListPids", "ListPidsRequest", "ListPidsResponse", None),
            (
                "checkpoint",
                "Checkpoint",
                "CheckpointTaskRequest",
                "CheckpointTaskResponse",
                None,
            ),
            ("update", "Update", "UpdateTaskRequest", EMPTY, None),
            ("metrics", "Metrics", "MetricsRequest", "MetricsResponse", None),
            ("wait", "Wait", "WaitRequest", "WaitResponse", None),
        ],
    ),
    (
        "transfer",
        "Transfer",
        &[("transfer", "Transfer", "TransferRequest", EMPTY, None)],
    ),
    (
        "version",
        "Version",
        &[("version", "Version", EMPTY, "VersionResponse", None)],
    ),
];

fn message(name: &str) -> String {
    match name {
        EMPTY => "crate::api::Empty".to_owned(),
        absolute if absolute.starts_with("prost_types::") || absolute.starts_with("containerd_client::") => {
            absolute.to_owned()
        }
        relative => format!("containerd_client::services::v1::{relative}"),
    }
}

fn main() -> std::io::Result<()> {
    let services: Vec<Service> = SERVICES
        .iter()
        .map(|(package, name, methods)| {
            let service = Service::builder()
                .name(name)
                .package(format!("containerd.services.{package}.v1"));
            let methods = methods.iter().map(|(name, route, request, response, streams)| {
                let method = Method::builder()
                    .name(name)
                    .route_name(route)
                    .input_type(message(request))
                    .output_type(message(response))
                    .codec_path("tonic_prost::ProstCodec");
                match streams {
                    Streams::None => method,
                    Streams::Answer => method.server_streaming(),
                    Streams::Both => method.client_streaming().server_streaming(),
                }
                .build()
            });
            methods
                .fold(service, tonic_build::manual::ServiceBuilder::method)
                .build()
        })
        .collect();
    Builder::new().build_client(false).compile(&services);

    let own = ["plugin", "host", "gc", "streaming", "verifier"].map(|name| format!("proto/{name}.proto"));
    tonic_prost_build::configure()
        .extern_path(".orlop.host.v1.Time", "::prost_types::Timestamp")
        .extern_path(".orlop.streaming.v1.Any", "::prost_types::Any")
        .extern_path(
            ".orlop.verifier.v1.Descriptor",
            "::containerd_client::types::Descriptor",
        )
        .compile_protos(&own, &["proto".to_owned()])
}
