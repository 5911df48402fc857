//! Pulls from Debian's `docker-registry` and pushes to it.

use containerd_client::to_any;
use containerd_client::types::transfer::{
    AuthResponse, AuthType, ImageReference, ImageStore, OciRegistry, RegistryResolver,
};
use orlop_plugin::contract::Code;

use super::{here, plain};
use crate::fixture::{Daemon, RegistryServer, TestImage, TokenServer, ctx, oci_archive, oci_files, tar_of};
use crate::oci::media_type;
use crate::unpack::chain_ids;

/// A daemon that has `image` as `app:v1`.
pub(super) async fn having(image: &TestImage) -> Daemon {
    let daemon = Daemon::new();
    daemon.import(&oci_archive(image), &plain()).await.expect("imported");
    daemon
}

pub(super) fn resolver() -> RegistryResolver {
    RegistryResolver::default()
}

#[tokio::test]
async fn what_is_pushed_is_pulled() {
    let image = TestImage::new(&here(), &["one", "two", "three"]);
    let (registry, source) = (RegistryServer::start(), having(&image).await);
    // Nothing says that it is plain HTTP: on this machine that is found out.
    let name = format!("{}/a/app:v1", registry.address);
    let events = source.push("app:v1", &name, resolver()).await.expect("pushed");
    assert_eq!(events[0], format!("Pushing to OCI Registry ({name})"));
    assert_eq!(events.last(), Some(&format!("Completed push to OCI Registry ({name})")));
    for blob in image.layer_digests() {
        assert!(events.contains(&format!("complete layer-{blob}")), "{events:?}");
    }
    let again = source.push("app:v1", &name, resolver()).await.expect("pushed again");
    assert!(!again.iter().any(|event| event.starts_with("complete ")), "{again:?}");
    assert!(again.contains(&format!("already exists manifest-{}", image.manifest_digest())));

    let daemon = Daemon::new();
    let events = daemon.pull(&name).await.expect("pulled");
    assert_eq!(events[0], format!("Resolving from OCI Registry ({name})"));
    assert_eq!(events[events.len() - 2], format!("saved {name}"));
    assert!(
        events.contains(&format!("complete config-{}", image.config_digest())),
        "{events:?}"
    );
    let stored = daemon.images.image(&name).target;
    assert_eq!(
        (stored.digest, stored.media_type.as_str()),
        (image.manifest_digest(), media_type::MANIFEST)
    );
    let top = chain_ids(&image.diff_ids()).pop().expect("has layers").to_string();
    assert_eq!(daemon.snapshots.layers(&top), image.layer_digests());
    let manifest = daemon.content.labels(&image.manifest_digest());
    assert_eq!(
        manifest["containerd.io/gc.ref.content.l.2"],
        image.layer_digests()[2].to_string()
    );
    for (digest, bytes) in image.layer_digests().iter().zip(&image.layers) {
        assert_eq!(daemon.content.bytes(digest).as_ref(), Some(bytes));
        assert_eq!(
            daemon.content.labels(digest)["containerd.io/distribution.source.localhost"],
            "a/app"
        );
    }
    daemon.assert_tidy();

    let written = daemon.content.written();
    let by_digest = format!("{}/a/app@{}", registry.address, image.manifest_digest());
    let events = daemon.pull(&by_digest).await.expect("pulled by its digest");
    assert!(
        events.contains(&format!("already exists layer-{}", image.layer_digests()[0])),
        "{events:?}"
    );
    assert_eq!(
        (daemon.content.written(), daemon.snapshots.applied().len()),
        (written, 3)
    );

    let missing = daemon
        .pull(&format!("{}/a/app:v2", registry.address))
        .await
        .expect_err("there is none");
    assert_eq!(missing.code, Code::NotFound);
    assert!(
        missing.message.contains("a/app:v2") && missing.message.contains("404"),
        "{missing}"
    );
    daemon.assert_tidy();
}

#[tokio::test]
async fn blobs_are_mounted_from_where_they_came() {
    let image = TestImage::new(&here(), &["one", "two"]);
    let (registry, daemon) = (RegistryServer::start(), having(&image).await);
    let (first, second) = (
        format!("{}/a/app:v1", registry.address),
        format!("{}/a/other:v2", registry.address),
    );
    daemon.push("app:v1", &first, resolver()).await.expect("pushed");
    let daemon = Daemon::new();
    daemon.pull(&first).await.expect("pulled");
    let events = daemon
        .push(&first, &second, resolver())
        .await
        .expect("pushed from there");
    for blob in image.layer_digests() {
        assert!(events.contains(&format!("already exists layer-{blob}")), "{events:?}");
    }
    assert!(
        events.contains(&format!("complete manifest-{}", image.manifest_digest())),
        "{events:?}"
    );
    daemon.pull(&second).await.expect("pulled");
    let labels = daemon.content.labels(&image.layer_digests()[0]);
    assert_eq!(labels["containerd.io/distribution.source.localhost"], "a/app,a/other");
}

#[tokio::test]
async fn of_an_index_the_wanted_platform_comes_with_its_layers() {
    let other = if here() == "arm64" { "amd64" } else { "arm64" };
    let (ours, theirs) = (TestImage::new(&here(), &["ours"]), TestImage::new(other, &["theirs"]));
    let archive = tar_of(&oci_files(&[&ours, &theirs], &[ours.entry(None), theirs.entry(None)]));
    let named = ImageStore {
        name: "multi".to_owned(),
        ..ImageStore::default()
    };
    let source = Daemon::new();
    source.import(&archive, &named).await.expect("imported");
    let registry = RegistryServer::start();
    let name = format!("{}/multi:1", registry.address);
    source.push("multi", &name, resolver()).await.expect("pushed with both");

    let daemon = Daemon::new();
    daemon.pull(&name).await.expect("pulled");
    assert_eq!(
        daemon.images.image(&name).target.digest,
        source.images.image("multi").target.digest
    );
    assert!(daemon.content.bytes(&ours.layer_digests()[0]).is_some());
    assert!(
        daemon.content.bytes(&theirs.config_digest()).is_some(),
        "all metadata was asked for"
    );
    assert!(daemon.content.bytes(&theirs.layer_digests()[0]).is_none());
    daemon.assert_tidy();

    let incomplete = daemon
        .push(&name, &name, resolver())
        .await
        .expect_err("one platform's layers are missing");
    assert_eq!(incomplete.code, Code::NotFound);
    assert!(incomplete.message.contains("--platform"), "{incomplete}");

    let only = TestImage::new("riscv64", &["x"]);
    let source = Daemon::new();
    source
        .import(&tar_of(&oci_files(&[&only], &[only.entry(None)])), &named)
        .await
        .expect("imported");
    let foreign = format!("{}/foreign:1", registry.address);
    source.push("multi", &foreign, resolver()).await.expect("pushed");
    let error = daemon.pull(&foreign).await.expect_err("not for this machine");
    assert_eq!(error.code, Code::NotFound);
    assert!(error.message.contains("linux/riscv64"), "{error}");
    daemon.assert_tidy();
}

/// Transfers `image` to `registry` and back, with the client's answer to the question who it is.
async fn there_and_back(
    registry: &RegistryServer,
    image: &TestImage,
    answer: &AuthResponse,
) -> Result<(), orlop_plugin::Error> {
    let source = having(image).await;
    let name = format!("{}/app:v1", registry.address);
    let with_credentials = RegistryResolver {
        auth_stream: "credentials".to_owned(),
        ..resolver()
    };
    let asked = source.streaming.answer(&ctx(), "credentials", answer.clone()).await;
    source.push("app:v1", &name, with_credentials.clone()).await?;
    assert_eq!(
        asked.await.expect("asked"),
        std::slice::from_ref(&registry.address),
        "once for each transfer"
    );
    let daemon = Daemon::new();
    let asked = daemon.streaming.answer(&ctx(), "credentials", answer.clone()).await;
    daemon.pull_with(&daemon.plugin(), &name, with_credentials).await?;
    asked.await.expect("asked");
    assert_eq!(daemon.images.image(&name).target.digest, image.manifest_digest());
    daemon.assert_tidy();
    Ok(())
}

fn password(username: &str, secret: &str) -> AuthResponse {
    AuthResponse {
        auth_type: AuthType::Credentials.into(),
        username: username.to_owned(),
        secret: secret.to_owned(),
        ..AuthResponse::default()
    }
}

#[tokio::test]
async fn a_registry_with_passwords() {
    let registry = RegistryServer::with_password("me", "secret");
    let image = TestImage::new(&here(), &["one", "two"]);
    there_and_back(&registry, &image, &password("me", "secret"))
        .await
        .expect("with the password");
    let wrong = there_and_back(&registry, &image, &password("me", "wrong"))
        .await
        .expect_err("a wrong password");
    assert_eq!(wrong.code, Code::Unauthenticated);
    let nobody = Daemon::new()
        .pull(&format!("{}/app:v1", registry.address))
        .await
        .expect_err("no password");
    assert_eq!(nobody.code, Code::Unauthenticated);
    assert!(nobody.message.contains("--user"), "{nobody}");
    let header = AuthResponse {
        auth_type: AuthType::Header.into(),
        secret: "Basic bWU6c2VjcmV0".to_owned(),
        ..AuthResponse::default()
    };
    there_and_back(&registry, &image, &header)
        .await
        .expect("with the header field itself");
}

#[tokio::test]
async fn a_registry_with_tokens() {
    let image = TestImage::new(&here(), &["one", "two"]);
    for oauth in [true, false] {
        let tokens = TokenServer::start("me", "secret", oauth).await;
        let registry = RegistryServer::with_tokens(&tokens);
        there_and_back(&registry, &image, &password("me", "secret"))
            .await
            .expect("with the password");
        let name = format!("{}/app:v1", registry.address);
        let anybody = Daemon::new();
        anybody.pull(&name).await.expect("anybody may pull");
        let refused = anybody
            .push(&name, &name.replace("v1", "v2"), resolver())
            .await
            .expect_err("nobody may push");
        assert_eq!(refused.code, Code::Unauthenticated, "{refused}");
        let wrong = there_and_back(&registry, &image, &password("me", "wrong"))
            .await
            .expect_err("a wrong password");
        assert_eq!(wrong.code, Code::Unauthenticated, "{wrong}");
        if oauth {
            there_and_back(&registry, &image, &password("", "secret"))
                .await
                .expect("with a refresh token");
        }
    }
}

#[tokio::test]
async fn mirrors_are_asked_in_their_order() {
    let image = TestImage::new(&here(), &["one", "two"]);
    let (registry, source) = (RegistryServer::start(), having(&image).await);
    source
        .push("app:v1", &format!("{}/team/app:v1", registry.address), resolver())
        .await
        .expect("pushed");
    let hosts = tempfile::tempdir().expect("a directory");
    let folder = hosts.path().join("registry.invalid");
    std::fs::create_dir(&folder).expect("made");
    let write = |text: &str| {
        let text = text.replace("MIRROR", &registry.address);
        std::fs::write(folder.join("hosts.toml"), text).expect("written");
    };
    let daemon = Daemon::new();
    let plugin = daemon.plugin_with(&hosts.path().display().to_string());
    let name = "registry.invalid/team/app:v1";
    // The first refuses connections, the second may not resolve.
    write(
        "[host.\"http://127.0.0.1:1\"]\n[host.\"http://127.0.0.1:2\"]\ncapabilities = [\"pull\"]\n\
         [host.\"http://MIRROR\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
    );
    daemon
        .pull_with(&plugin, name, resolver())
        .await
        .expect("pulled from the mirror");
    assert_eq!(daemon.images.image(name).target.digest, image.manifest_digest());
    let labels = daemon.content.labels(&image.layer_digests()[0]);
    assert_eq!(labels["containerd.io/distribution.source.registry.invalid"], "team/app");

    write("server = \"http://MIRROR/v2/team\"\noverride_path = true\n");
    let error = daemon
        .pull_with(&plugin, name, resolver())
        .await
        .expect_err("there is no team/team/app");
    assert!(error.is_not_found(), "{error}");
    write("server = \"http://127.0.0.1:1\"\ncapabilities = [\"push\"]");
    let error = daemon
        .pull_with(&plugin, name, resolver())
        .await
        .expect_err("nobody resolves");
    assert!(error.message.contains("capability"), "{error}");
    write("server = [");
    let error = daemon.pull_with(&plugin, name, resolver()).await.expect_err("no TOML");
    assert!(
        error.message.contains("hosts.toml") && error.code == Code::InvalidArgument,
        "{error}"
    );
}

#[tokio::test]
async fn an_image_gets_the_names_that_the_store_asks_for() {
    let image = TestImage::new(&here(), &["one"]);
    let (registry, daemon) = (RegistryServer::start(), having(&image).await);
    let reference = format!("{}/app:v1", registry.address);
    daemon.push("app:v1", &reference, resolver()).await.expect("pushed");
    let source = OciRegistry {
        reference,
        resolver: None,
    };
    let named = ImageStore {
        name: "one:1".to_owned(),
        labels: [("team".to_owned(), "blue".to_owned())].into(),
        extra_references: vec![ImageReference {
            name: "two".to_owned(),
            add_digest: true,
            ..ImageReference::default()
        }],
        ..ImageStore::default()
    };
    let daemon = Daemon::new();
    daemon
        .remote(&daemon.plugin(), to_any(&source), to_any(&named))
        .await
        .expect("pulled");
    assert_eq!(
        daemon.images.names(),
        ["one:1".to_owned(), format!("two@{}", image.manifest_digest())]
    );
    assert_eq!(daemon.images.image("one:1").labels["team"], "blue");
    assert!(
        daemon.snapshots.applied().is_empty(),
        "nobody asked for it to be unpacked"
    );
    let daemon = Daemon::new();
    let nameless = daemon
        .remote(&daemon.plugin(), to_any(&source), to_any(&ImageStore::default()))
        .await;
    assert_eq!(nameless.expect_err("no name").code, Code::InvalidArgument);
    assert_eq!(daemon.content.written(), 0);
    daemon.assert_tidy();
}

#[tokio::test]
async fn names_and_digests_are_checked_before_anything_is_sent() {
    let image = TestImage::new(&here(), &["one"]);
    let daemon = having(&image).await;
    for name in ["app:v1", "localhost:1/app", "localhost:1/App:v1"] {
        let error = daemon.push("app:v1", name, resolver()).await.expect_err(name);
        assert_eq!(error.code, Code::InvalidArgument, "{error}");
    }
    let other = format!("localhost:1/app@{}", image.config_digest());
    let error = daemon
        .push("app:v1", &other, resolver())
        .await
        .expect_err("another digest");
    assert_eq!(error.code, Code::InvalidArgument, "{error}");
    let error = daemon
        .push("none", "localhost:1/app:v1", resolver())
        .await
        .expect_err("no such image");
    assert_eq!(error.code, Code::NotFound, "{error}");
}
