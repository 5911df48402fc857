//! What our client does with registries by itself, with our daemon and with Debian's, which has no transfer service; and what it
//! does with images that needs no registry.

use orlop_tests::image::{BUSYBOX, busybox};
use orlop_tests::registry::Registry;
use orlop_tests::{Daemon, command, program};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The digest that `daemon` has of an image.
#[track_caller]
fn digest(daemon: &Daemon, name: &str) -> String {
    let images = daemon.debian_ctr(&format!("images ls name=={name}")).ok();
    let digest = images.split_whitespace().find(|word| word.starts_with("sha256:"));
    digest.unwrap_or_else(|| panic!("no {name}:\n{images}")).to_owned()
}

/// The digest of a file.
fn sha256(file: &Path) -> String {
    let sum = command::run(Command::new(program("sha256sum")).arg(file)).ok();
    format!("sha256:{}", sum.split_whitespace().next().unwrap())
}

#[test]
fn our_client_fetches_and_pushes_by_itself() {
    for daemon in [Daemon::orlop().start(), Daemon::containerd().start()] {
        let registry = Registry::start();
        registry.fill(&busybox(&daemon.path(""), BUSYBOX, daemon.namespace()), "team/bb:1");
        let name = registry.name("team/bb:1");
        let told = daemon
            .ctr(&format!("content fetch --plain-http --label a=b {name}"))
            .ok();
        assert!(
            told.contains("layer-sha256:") && told.contains("\tdownloading") && told.contains("\tdone"),
            "{told}"
        );
        assert_eq!(digest(&daemon, &name), registry.digest("team/bb:1"));
        assert!(daemon.ctr("images ls").ok().contains("a=b"));
        assert_eq!(
            daemon.ctr("snapshots ls").ok().lines().count(),
            1,
            "nothing is unpacked"
        );
        assert_eq!(daemon.ctr("leases ls -q").ok().trim(), "");
        daemon.ctr("content check").ok();

        // One by one, and as what they are.
        let file = daemon.path("manifest.json");
        std::fs::write(&file, daemon.ctr(&format!("content fetch-object {name}")).ok()).unwrap();
        assert_eq!(sha256(&file), registry.digest("team/bb:1"));
        let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let config = manifest["config"]["digest"].as_str().unwrap();
        let blob = daemon.ctr(&format!("content fetch-blob {name} {config}")).ok();
        assert_eq!(blob, daemon.ctr(&format!("content get {config}")).ok());
        let missing = format!("sha256:{}", "0".repeat(64));
        let complaint = daemon
            .ctr(&format!("content fetch-blob {name} {missing}"))
            .exits(1)
            .stderr;
        assert!(
            complaint.starts_with("ctr: ") && complaint.contains("404"),
            "{complaint}"
        );

        // Without a transfer service, a pull takes this way by itself.
        daemon.ctr(&format!("images rm --sync {name}")).ok();
        let told = daemon
            .ctr(&format!("images pull --local --print-chainid --sync-fs {name}"))
            .ok();
        assert!(
            told.contains("unpacking linux/amd64 sha256:") && told.contains("image chain ID: sha256:"),
            "{told}"
        );
        daemon.ctr(&format!("images pull --plain-http {name}")).ok();
        let hello = daemon.ctr(&format!("run --rm {name} t1 /bin/echo hello")).ok();
        assert_eq!(hello, "hello\n");

        let copy = registry.name("other/copy:2");
        let told = daemon.ctr(&format!("images push --local {copy} {name}")).ok();
        assert!(told.contains("\tuploading") && told.contains("\tdone"), "{told}");
        assert_eq!(registry.digest("other/copy:2"), digest(&daemon, &name));
        let told = daemon.ctr(&format!("images push --local {copy} {name}")).ok();
        assert!(told.contains("\texists") && !told.contains("\tuploading"), "{told}");
        let by_digest = registry.name("other/third:1");
        let manifest = digest(&daemon, &name);
        daemon
            .ctr(&format!("images push --local --manifest {manifest} {by_digest}"))
            .ok();
        assert_eq!(registry.digest("other/third:1"), manifest);
    }
}

#[test]
fn of_an_index_what_is_wanted_is_fetched() {
    let (registry, daemon) = (Registry::start(), Daemon::orlop().start());
    registry.fill(&busybox(&daemon.path(""), BUSYBOX, daemon.namespace()), "bb:1");
    let name = registry.name("bb:1");
    daemon.ctr(&format!("images pull --plain-http {name}")).ok();
    let amd64 = digest(&daemon, &name);
    let manifest: serde_json::Value = serde_json::from_str(&daemon.ctr(&format!("content get {amd64}")).ok()).unwrap();
    // The same layer for another processor.
    let ingest = |key: &str, document: &serde_json::Value| -> (String, usize) {
        let file = daemon.path(key);
        std::fs::write(&file, document.to_string()).unwrap();
        let mut ctr = daemon.command(orlop_tests::built("ctr"));
        ctr.args(["content", "ingest", key])
            .stdin(std::fs::File::open(&file).unwrap());
        assert!(ctr.status().unwrap().success());
        (sha256(&file), document.to_string().len())
    };
    let config = manifest["config"]["digest"].as_str().unwrap();
    let mut document: serde_json::Value =
        serde_json::from_str(&daemon.ctr(&format!("content get {config}")).ok()).unwrap();
    document["architecture"] = "arm64".into();
    let (config, size) = ingest("config", &document);
    let mut other = manifest.clone();
    other["config"]["digest"] = config.clone().into();
    other["config"]["size"] = size.into();
    let (arm64, size) = ingest("manifest", &other);
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    let entry = |digest: &str, size: usize, architecture: &str| {
        serde_json::json!({"mediaType": MANIFEST, "digest": digest, "size": size,
            "platform": {"os": "linux", "architecture": architecture}})
    };
    let own = daemon.ctr(&format!("content get {amd64}")).ok().len();
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX,
        "manifests": [entry(&amd64, own, "amd64"), entry(&arm64, size, "arm64")]});
    let (index, _) = ingest("index", &index);
    for (digest, kind) in [
        (&config, "application/vnd.oci.image.config.v1+json"),
        (&arm64, MANIFEST),
        (&index, INDEX),
    ] {
        let pushed = daemon.ctr(&format!("content push-object {name} {digest} {kind}")).ok();
        assert!(pushed.ends_with(&format!("Pushed {digest} {kind}\n")), "{pushed}");
    }
    assert_eq!(registry.digest("bb:1"), index);

    let second = Daemon::orlop().start();
    let blobs = |flags: &str| {
        second.ctr(&format!("content fetch {flags} {name}")).ok();
        let blobs = second.ctr("content ls -q").ok();
        second.ctr(&format!("images rm --sync {name}")).ok();
        assert_eq!(second.ctr("content ls -q").ok(), "", "{flags}");
        blobs.lines().count()
    };
    // The index, two manifests, two configurations, and the layer that they share.
    assert_eq!(blobs("--all-platforms"), 6);
    assert_eq!(blobs("--platform linux/arm64"), 6);
    assert_eq!(blobs("--metadata-only"), 5);
    assert_eq!(blobs("--skip-metadata --platform linux/arm64"), 4);
    let all = second.ctr(&format!("content fetch --platform x --all-platforms {name}"));
    assert!(all.exits(1).stderr.starts_with("ctr: "));

    second.ctr(&format!("images pull --local --all-platforms {name}")).ok();
    let tree = second.ctr(&format!("images inspect {name}")).ok();
    for line in [
        format!("└── {INDEX} @{index} ("),
        format!("    ├── {MANIFEST} @{amd64} ("),
        "    │   │    Platform: linux/amd64".to_owned(),
        format!("    └── {MANIFEST} @{arm64} ("),
        format!("        ├── application/vnd.oci.image.config.v1+json @{config} ("),
    ] {
        assert!(tree.lines().any(|found| found.starts_with(&line)), "{line}:\n{tree}");
    }
    // One platform of it is an index with one manifest; both clients come to the same bytes.
    let ours = second
        .ctr(&format!("images convert --platform linux/arm64 {name} x.io/ours:1"))
        .ok();
    let theirs = second
        .debian_ctr(&format!("images convert --platform linux/arm64 {name} x.io/theirs:1"))
        .ok();
    assert_eq!(ours, theirs);
    second
        .ctr(&format!(
            "images push --local --platform linux/arm64 {} {name}",
            registry.name("arm:1")
        ))
        .ok();
    assert_eq!(registry.digest("arm:1"), arm64);
}

#[test]
fn both_clients_convert_to_the_same_bytes() {
    for daemon in [Daemon::orlop().start(), Daemon::containerd().start()] {
        let archive = busybox(&daemon.path(""), BUSYBOX, daemon.namespace());
        let docker = daemon.path("docker.tar");
        command::run(
            Command::new(program("skopeo"))
                .args(["copy", "--quiet", "--format", "v2s2"])
                .arg(format!("oci-archive:{}", archive.display()))
                .arg(format!("docker-archive:{}:docker.io/team/bb:1", docker.display())),
        )
        .ok();
        let import = format!("images import --compress-blobs {}", docker.display());
        daemon.ctr(&import).ok();
        for flags in ["--oci", "--uncompress", "--oci --uncompress"] {
            let ours = daemon
                .ctr(&format!("images convert {flags} docker.io/team/bb:1 x.io/ours:1"))
                .ok();
            let theirs = daemon
                .debian_ctr(&format!("images convert {flags} docker.io/team/bb:1 x.io/theirs:1"))
                .ok();
            assert_eq!(ours, theirs, "{flags}");
            let tree = daemon.ctr("images inspect --content x.io/ours:1").ok();
            assert_eq!(tree.contains("vnd.docker."), !flags.contains("--oci"), "{tree}");
            assert_eq!(tree.contains("gzip"), !flags.contains("--uncompress"), "{tree}");
            let hello = daemon.ctr("run --rm x.io/ours:1 t1 /bin/echo converted");
            let unpacked = daemon.ctr("images mount x.io/ours:1 /nonexistent-target");
            // What is not unpacked is unpacked by whoever needs it.
            assert!(unpacked.code == Some(1) && hello.code == Some(0), "{hello}\n{unpacked}");
        }
        let refused = daemon
            .ctr("images convert --erofs raw x.io/ours:1 x.io/a:1")
            .exits(1)
            .stderr;
        assert!(refused.contains("--erofs is not supported"), "{refused}");
    }
}

#[test]
fn a_password_and_a_private_authority_are_for_this_client() {
    let daemon = Daemon::orlop().start();
    let archive = busybox(&daemon.path(""), BUSYBOX, daemon.namespace());
    let registry = Registry::with_password("me", "secret");
    let name = registry.name("private/bb:1");
    daemon.ctr(&format!("images import {}", archive.display())).ok();
    let refused = daemon
        .ctr(&format!("images push --local {name} {BUSYBOX}"))
        .exits(1)
        .stderr;
    assert!(refused.contains("--user"), "{refused}");
    daemon
        .ctr(&format!("images push --local --user me:secret {name} {BUSYBOX}"))
        .ok();
    let wrong = daemon
        .ctr(&format!("content fetch --user me:wrong {name}"))
        .exits(1)
        .stderr;
    assert!(wrong.contains("401 Unauthorized"), "{wrong}");
    daemon.ctr(&format!("content fetch --user me:secret {name}")).ok();

    let (registry, authority) = Registry::with_tls();
    let (_other, foreign) = Registry::with_tls();
    let name = registry.name("bb:1");
    let push = format!("images push --local {name} {BUSYBOX} --tlscacert");
    let refused = daemon.ctr(&format!("{push} {}", foreign.display())).exits(1).stderr;
    assert!(
        refused.contains("certificate") && refused.lines().count() == 1,
        "{refused}"
    );
    let ca = authority.display();
    daemon
        .ctr(&format!("images push --local --tlscacert {ca} {name} {BUSYBOX}"))
        .ok();
    daemon.ctr(&format!("content fetch --tlscacert {ca} {name}")).ok();
    daemon.ctr(&format!("images pull --skip-verify {name}")).ok();
    let refused = daemon
        .ctr(&format!("images pull --local=false --skip-verify {name}"))
        .exits(1)
        .stderr;
    assert_eq!(refused, "ctr: \"--skip-verify\" requires \"--local\" flag\n");

    // The same by a directory of hosts, for both ways.
    let hosts = daemon.path("hosts");
    let directory: PathBuf = hosts.join(registry.name("").trim_end_matches('/'));
    std::fs::create_dir_all(&directory).unwrap();
    let text = format!(
        "server = \"https://{}\"\nca = {authority:?}\n",
        registry.name("").trim_end_matches('/')
    );
    std::fs::write(directory.join("hosts.toml"), text).unwrap();
    for way in ["images pull --local", "images pull --local=false", "content fetch"] {
        daemon
            .ctr(&format!("{way} --hosts-dir {} {name}", hosts.display()))
            .ok();
    }
}

#[test]
fn what_is_wrong_is_one_line() {
    let daemon = Daemon::orlop().start();
    let digest = format!("sha256:{}", "0".repeat(64));
    let cases = [
        ("images inspect x.io/none:1", "not found"),
        ("images usage x.io/none:1", "not found"),
        ("images mount x.io/none:1 /mnt", "not found"),
        ("images convert x.io/none:1 x.io/b:1", "not found"),
        ("images push x.io/none:1", "not found"),
        ("images export /dev/null x.io/none:1", "not found"),
        ("images tag x.io/none:1 x.io/b:1", "not found"),
        ("images label x.io/none:1 a=b", "not found"),
        ("images pull busybox", "docker.io/library/"),
        ("images pull --local busybox", "docker.io/library/busybox"),
        (&format!("content get {digest}"), "not found"),
        (&format!("content label {digest} a=b"), "not found"),
        (&format!("content push-object x.io/a:1 {digest} t"), "not found"),
        ("content get sha256:12", "invalid checksum digest"),
        ("images ls --no-such-flag", "--no-such-flag"),
        ("images pull", "REF"),
    ];
    for (arguments, why) in cases {
        let stderr = daemon.ctr(arguments).exits(1).stderr;
        assert!(
            stderr.starts_with("ctr: ") && stderr.contains(why) && stderr.lines().count() == 1,
            "{arguments}: {stderr}"
        );
    }
    // Nobody listens; and somebody who may not ask.
    let mut absent = Command::new(orlop_tests::built("ctr"));
    let absent = command::run(absent.args(["-a", "/nonexistent/sock", "images", "ls"]))
        .exits(1)
        .stderr;
    assert!(
        absent.starts_with("ctr: failed to dial") && absent.lines().count() == 1,
        "{absent}"
    );
    let copy = tempfile::Builder::new().prefix("orlop-test.").tempdir().unwrap();
    std::fs::set_permissions(copy.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let binary = copy.path().join("ctr");
    std::fs::copy(orlop_tests::built("ctr"), &binary).unwrap();
    let mut nobody = Command::new(program("setpriv"));
    nobody.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    let denied = command::run(
        nobody
            .arg(binary)
            .arg("-a")
            .arg(daemon.address())
            .args(["images", "ls"]),
    );
    let denied = denied.exits(1).stderr;
    assert!(
        denied.contains("Permission denied") && denied.lines().count() == 1,
        "{denied}"
    );
}
