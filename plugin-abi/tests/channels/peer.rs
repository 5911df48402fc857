//! The calling half against containerd itself: what we take for its API is its API. Needs root, as containerd does.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::StreamExt;
use orlop_plugin::channel::{Channel, socket};
use orlop_plugin::contract::*;
use orlop_plugin::rpc;

use crate::store::digest_of;
use crate::ways::near;

/// A containerd with directories of its own.
struct Peer {
    daemon: Child,
    directory: tempfile::TempDir,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It keeps nothing that outlasts its directories.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

// === impl Peer ===

impl Peer {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {:?}\n",
            at("root"),
            at("state"),
            at("peer.sock")
        );
        std::fs::write(at("config.toml"), config).expect("written");
        let daemon = Command::new("containerd")
            .args(["-c", &at("config.toml")])
            .stderr(Stdio::null())
            .spawn()
            .expect("containerd starts: the package `containerd` has it");
        let mut peer = Self { daemon, directory };
        while std::os::unix::net::UnixStream::connect(peer.socket()).is_err() {
            assert!(
                peer.daemon.try_wait().expect("a child").is_none(),
                "containerd ended at once"
            );
            std::thread::yield_now();
        }
        peer
    }

    fn socket(&self) -> impl AsRef<Path> + use<> {
        self.directory.path().join("peer.sock")
    }

    fn channel(&self) -> Channel {
        socket::connect(self.socket())
    }
}

#[test]
fn containerd_answers_as_we_ask() {
    near(async {
        let peer = Peer::start();
        let ctx = Ctx::new(Namespace::new("test").expect("a namespace"));
        let labels = Labels::from([("key".to_owned(), "value".to_owned())]);

        let namespaces = rpc::namespaces::connect(peer.channel());
        let info = NamespaceInfo {
            name: Namespace::new("test").expect("a namespace"),
            labels: labels.clone(),
        };
        assert_eq!(namespaces.create(&ctx, info.clone()).await, Ok(info.clone()));
        let again = namespaces
            .create(&Ctx::daemon(), info.clone())
            .await
            .expect_err("taken");
        assert_eq!(again.code, Code::AlreadyExists);

        let leases = rpc::leases::connect(peer.channel());
        let lease = leases.create(&ctx, Some("lease"), labels.clone()).await.expect("made");
        assert_eq!((lease.id.as_str(), &lease.labels), ("lease", &labels));
        let ctx = ctx.with_lease("lease");

        let digest = content(&peer, &ctx).await;
        let held = leases.list_resources(&ctx, "lease").await.expect("listed");
        assert_eq!(
            (held[0].kind.as_str(), held[0].id.as_str()),
            ("content", digest.as_str())
        );
        images(&peer, &ctx, &digest).await;
        snapshots(&peer, &ctx).await;
        containers(&peer, &ctx).await;
    });
}

async fn content(peer: &Peer, ctx: &Ctx) -> Digest {
    let content = rpc::content::connect(peer.channel());
    let options = WriterOptions {
        reference: "one".to_owned(),
        ..WriterOptions::default()
    };
    let data = Bytes::from(vec![7; 3 << 20]);
    let mut writer = content.writer(ctx, options.clone()).await.expect("opened");
    writer.write(Bytes::from_static(b"wrong")).await.expect("written");
    writer.truncate(0).await.expect("cut");
    writer.write(data.clone()).await.expect("written");
    assert_eq!(writer.digest().await, Ok(digest_of(&data)));
    let status = writer.status().await.expect("a status");
    assert_eq!((status.reference.as_str(), status.offset), ("one", 3 << 20));
    assert_eq!(content.status(ctx, "one").await.expect("a status").offset, 3 << 20);
    let locked = content.writer(ctx, options).await.map(|_| ()).expect_err("locked");
    assert_eq!(locked.code, Code::Unavailable);
    let commit = CommitOptions {
        size: 3 << 20,
        expected: Some(digest_of(&data)),
        labels: Labels::from([("a".to_owned(), "b".to_owned())]),
    };
    let digest = writer.commit(commit).await.expect("committed");
    let info = content.info(ctx, &digest).await.expect("there");
    assert_eq!((info.size, info.labels.len()), (3 << 20, 1));
    let listed = collect(content.list(ctx, &[]).await.expect("listed"))
        .await
        .expect("listed");
    assert_eq!(listed.len(), 1);
    let pieces = collect(content.read(ctx, &digest, 1, 0).await.expect("read"))
        .await
        .expect("read");
    assert!(pieces.concat() == data[1..], "content changed on its way");
    let known = WriterOptions {
        reference: "two".to_owned(),
        total: 3 << 20,
        expected: Some(digest.clone()),
    };
    let known = content.writer(ctx, known).await.map(|_| ()).expect_err("known");
    assert_eq!(known.code, Code::AlreadyExists);
    let missing = content.info(ctx, &digest_of(b"none")).await.expect_err("missing");
    assert_eq!(missing.code, Code::NotFound);
    digest
}

async fn images(peer: &Peer, ctx: &Ctx, digest: &Digest) {
    let images = rpc::images::connect(peer.channel());
    let events = rpc::events::connect(peer.channel());
    let image = Image {
        name: "image".to_owned(),
        labels: Labels::new(),
        target: Descriptor {
            media_type: "application/octet-stream".to_owned(),
            digest: digest.clone(),
            size: 3 << 20,
            annotations: Labels::new(),
        },
        created: SystemTime::UNIX_EPOCH,
        updated: SystemTime::UNIX_EPOCH,
    };
    // containerd answers a subscription with its first event, so both are awaited at once, again until the subscription was first.
    let topics = [r#"topic=="/images/delete""#.to_owned()];
    let mut first = std::pin::pin!(async {
        let mut events = events.subscribe(ctx, &topics).await.expect("subscribed");
        events.next().await.expect("an event").expect("an event")
    });
    let event = loop {
        let made = images.create(ctx, image.clone()).await.expect("made");
        assert_eq!((&made.name, &made.target), (&image.name, &image.target));
        let listed = collect(images.list(ctx, &["name==image".to_owned()]).await.expect("listed")).await;
        assert_eq!(listed, Ok(vec![made]));
        images.delete(ctx, "image", false, None).await.expect("deleted");
        if let std::task::Poll::Ready(event) = futures_util::poll!(first.as_mut()) {
            break event;
        }
    };
    assert_eq!(
        (event.namespace.as_str(), event.topic.as_str()),
        ("test", "/images/delete")
    );
}

async fn snapshots(peer: &Peer, ctx: &Ctx) {
    let native = rpc::snapshotter::connect(peer.channel(), "native");
    let mounts = native.prepare(ctx, "key", "", Labels::new()).await.expect("prepared");
    assert_eq!(mounts[0].kind, "bind");
    native
        .commit(ctx, "name", "key", Labels::new())
        .await
        .expect("committed");
    let info = native.stat(ctx, "name").await.expect("there");
    assert_eq!((info.kind, info.name.as_str()), (SnapshotKind::Committed, "name"));
    let view = native.view(ctx, "view", "name", Labels::new()).await.expect("viewed");
    assert!(view[0].options.contains(&"ro".to_owned()));
    let used = native.remove(ctx, "name").await.expect_err("used");
    assert_eq!(used.code, Code::FailedPrecondition);
    let mut names: Vec<_> = collect(native.list(ctx, &[]).await.expect("listed"))
        .await
        .expect("listed")
        .into_iter()
        .map(|info| info.name)
        .collect();
    names.sort();
    assert_eq!(names, ["name", "view"]);
    native.usage(ctx, "name").await.expect("a usage");
    for nobody in ["", "none"] {
        let nobody = rpc::snapshotter::connect(peer.channel(), nobody);
        assert_eq!(
            nobody.stat(ctx, "key").await.expect_err("nobody").code,
            Code::InvalidArgument
        );
    }
}

async fn containers(peer: &Peer, ctx: &Ctx) {
    let containers = rpc::containers::connect(peer.channel());
    let container = Container {
        id: "container".to_owned(),
        labels: Labels::new(),
        image: String::new(),
        runtime: Runtime {
            name: "io.containerd.runc.v2".to_owned(),
            options: None,
        },
        spec: Some(Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".to_owned(),
            value: b"{}".to_vec(),
        }),
        snapshotter: String::new(),
        snapshot_key: String::new(),
        created: SystemTime::UNIX_EPOCH,
        updated: SystemTime::UNIX_EPOCH,
        extensions: BTreeMap::default(),
        sandbox: String::new(),
    };
    let made = containers.create(ctx, container.clone()).await.expect("made");
    assert_eq!((&made.spec, &made.runtime), (&container.spec, &container.runtime));
    assert!(made.created > SystemTime::UNIX_EPOCH);
    let listed = collect(containers.list(ctx, &[]).await.expect("listed")).await;
    assert_eq!(listed, Ok(vec![made]));

    let tasks = rpc::tasks::connect(peer.channel());
    assert_eq!(tasks.list(ctx).await, Ok(Vec::new()));
    assert_eq!(
        tasks.get(ctx, "container", "").await.expect_err("no task").code,
        Code::NotFound
    );
    containers.delete(ctx, "container").await.expect("deleted");
}
