//! Any value of any type that the contracts speak of.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use orlop_plugin::Error;
use orlop_plugin::contract::*;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

/// A size: protobuf's are signed.
pub fn size() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(i64::MAX as u64), 0..=i64::MAX as u64]
}

pub fn text() -> impl Strategy<Value = String> {
    ".{0,12}"
}

pub fn texts() -> impl Strategy<Value = Vec<String>> {
    vec(text(), 0..3)
}

pub fn labels() -> impl Strategy<Value = Labels> {
    btree_map(text(), text(), 0..3)
}

/// Any time that protobuf can say, except containerd's "never".
pub fn time() -> impl Strategy<Value = SystemTime> {
    (-62_135_596_799i64..=253_402_300_799, 0u32..1_000_000_000).prop_map(|(seconds, nanoseconds)| {
        let whole = match u64::try_from(seconds) {
            Ok(seconds) => SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
            Err(_) => SystemTime::UNIX_EPOCH - Duration::from_secs(seconds.unsigned_abs()),
        };
        whole + Duration::from_nanos(u64::from(nanoseconds))
    })
}

pub fn any_message() -> impl Strategy<Value = Any> {
    (text(), vec(any::<u8>(), 0..40)).prop_map(|(type_url, value)| Any { type_url, value })
}

pub fn anys() -> impl Strategy<Value = BTreeMap<String, Any>> {
    btree_map(text(), any_message(), 0..3)
}

pub fn digest() -> impl Strategy<Value = Digest> {
    prop_oneof!["sha256:[0-9a-f]{64}", "sha512:[0-9a-f]{128}"].prop_map(|digest| Digest::new(digest).expect("a digest"))
}

pub fn namespace() -> impl Strategy<Value = Namespace> {
    "[A-Za-z0-9]{1,8}([._-][A-Za-z0-9]{1,8}){0,3}".prop_map(|name| Namespace::new(name).expect("a namespace"))
}

pub fn ctx() -> impl Strategy<Value = Ctx> {
    // What HTTP/2 lets through in metadata.
    (option::of(namespace()), option::of("[!-~]([ -~]{0,10}[!-~])?")).prop_map(|(namespace, lease)| Ctx {
        namespace,
        lease,
        deadline: None,
    })
}

pub fn error() -> impl Strategy<Value = Error> {
    (1..=16, prop_oneof![9 => "\\PC{0,60}", 1 => "[ -~é\n]{2000}"])
        .prop_map(|(code, message)| Error::new(Code::from_i32(code), message))
}

/// A success, or any error.
pub fn outcome<T: std::fmt::Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Result<T>> {
    prop_oneof![3 => value.prop_map(Ok), 1 => error().prop_map(Err)]
}

pub fn descriptor() -> impl Strategy<Value = Descriptor> {
    (text(), digest(), size(), labels()).prop_map(|(media_type, digest, size, annotations)| Descriptor {
        media_type,
        digest,
        size,
        annotations,
    })
}

pub fn mounts() -> impl Strategy<Value = Vec<Mount>> {
    let mount = (text(), text(), text(), texts()).prop_map(|(kind, source, target, options)| Mount {
        kind,
        source,
        target,
        options,
    });
    vec(mount, 0..3)
}

pub fn snapshot() -> impl Strategy<Value = SnapshotInfo> {
    let kind = prop_oneof![
        Just(SnapshotKind::View),
        Just(SnapshotKind::Active),
        Just(SnapshotKind::Committed)
    ];
    (kind, text(), text(), labels(), time(), time()).prop_map(|(kind, name, parent, labels, created, updated)| {
        SnapshotInfo {
            kind,
            name,
            parent,
            labels,
            created,
            updated,
        }
    })
}

pub fn usage() -> impl Strategy<Value = Usage> {
    (size(), size()).prop_map(|(inodes, size)| Usage { inodes, size })
}

pub fn content_info() -> impl Strategy<Value = ContentInfo> {
    (digest(), size(), time(), time(), labels()).prop_map(|(digest, size, created, updated, labels)| ContentInfo {
        digest,
        size,
        created,
        updated,
        labels,
    })
}

pub fn ingest() -> impl Strategy<Value = IngestStatus> {
    (text(), time(), time(), size(), size(), option::of(digest())).prop_map(
        |(reference, started, updated, offset, total, expected)| IngestStatus {
            reference,
            started,
            updated,
            offset,
            total,
            expected,
        },
    )
}

pub fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..5000).prop_map(Bytes::from)
}

pub fn image() -> impl Strategy<Value = Image> {
    (".{1,12}", labels(), descriptor(), time(), time()).prop_map(|(name, labels, target, created, updated)| Image {
        name,
        labels,
        target,
        created,
        updated,
    })
}

pub fn container() -> impl Strategy<Value = Container> {
    let names = (".{1,12}", text(), text(), text(), text());
    let runtime = (text(), option::of(any_message())).prop_map(|(name, options)| Runtime { name, options });
    (
        names,
        labels(),
        runtime,
        option::of(any_message()),
        time(),
        time(),
        anys(),
    )
        .prop_map(
            |((id, image, snapshotter, snapshot_key, sandbox), labels, runtime, spec, created, updated, extensions)| {
                Container {
                    id,
                    labels,
                    image,
                    runtime,
                    spec,
                    snapshotter,
                    snapshot_key,
                    created,
                    updated,
                    extensions,
                    sandbox,
                }
            },
        )
}

pub fn lease() -> impl Strategy<Value = Lease> {
    (text(), time(), labels()).prop_map(|(id, created, labels)| Lease { id, created, labels })
}

pub fn resource() -> impl Strategy<Value = LeaseResource> {
    (text(), text()).prop_map(|(id, kind)| LeaseResource { id, kind })
}

pub fn namespace_info() -> impl Strategy<Value = NamespaceInfo> {
    (namespace(), labels()).prop_map(|(name, labels)| NamespaceInfo { name, labels })
}

pub fn envelope() -> impl Strategy<Value = Envelope> {
    (time(), text(), text(), option::of(any_message())).prop_map(|(timestamp, namespace, topic, event)| Envelope {
        timestamp,
        namespace,
        topic,
        event,
    })
}

pub fn stdio() -> impl Strategy<Value = Stdio> {
    (text(), text(), text(), any::<bool>()).prop_map(|(stdin, stdout, stderr, terminal)| Stdio {
        stdin,
        stdout,
        stderr,
        terminal,
    })
}

pub fn create_task() -> impl Strategy<Value = CreateTask> {
    (
        text(),
        mounts(),
        stdio(),
        option::of(descriptor()),
        option::of(any_message()),
        text(),
    )
        .prop_map(
            |(container_id, rootfs, stdio, checkpoint, options, runtime_path)| CreateTask {
                container_id,
                rootfs,
                stdio,
                checkpoint,
                options,
                runtime_path,
            },
        )
}

pub fn exec_process() -> impl Strategy<Value = ExecProcess> {
    (text(), text(), stdio(), option::of(any_message())).prop_map(|(container_id, exec_id, stdio, spec)| ExecProcess {
        container_id,
        exec_id,
        stdio,
        spec,
    })
}

pub fn process() -> impl Strategy<Value = Process> {
    let state = prop_oneof![
        Just(ProcessState::Unknown),
        Just(ProcessState::Created),
        Just(ProcessState::Running),
        Just(ProcessState::Stopped),
        Just(ProcessState::Paused),
        Just(ProcessState::Pausing),
    ];
    (
        text(),
        text(),
        any::<u32>(),
        state,
        stdio(),
        any::<u32>(),
        option::of(time()),
    )
        .prop_map(
            |(container_id, id, pid, state, stdio, exit_status, exited_at)| Process {
                container_id,
                id,
                pid,
                state,
                stdio,
                exit_status,
                exited_at,
            },
        )
}

pub fn process_info() -> impl Strategy<Value = ProcessInfo> {
    (any::<u32>(), option::of(any_message())).prop_map(|(pid, info)| ProcessInfo { pid, info })
}

pub fn exit() -> impl Strategy<Value = Exit> {
    (text(), any::<u32>(), any::<u32>(), option::of(time())).prop_map(|(id, pid, status, exited_at)| Exit {
        id,
        pid,
        status,
        exited_at,
    })
}

pub fn metric() -> impl Strategy<Value = TaskMetric> {
    (option::of(time()), text(), option::of(any_message())).prop_map(|(timestamp, id, data)| TaskMetric {
        timestamp,
        id,
        data,
    })
}

pub fn gc_stats() -> impl Strategy<Value = GcStats> {
    (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(elapsed, blocked, removed)| GcStats {
        elapsed: Duration::from_nanos(elapsed),
        blocked: Duration::from_nanos(blocked),
        removed,
    })
}

pub fn mutation() -> impl Strategy<Value = Mutation> {
    (any::<u64>(), any::<u64>()).prop_map(|(mutations, deletions)| Mutation { mutations, deletions })
}

pub fn judgement() -> impl Strategy<Value = Judgement> {
    (any::<bool>(), text()).prop_map(|(accepted, reason)| Judgement { accepted, reason })
}
