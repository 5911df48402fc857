//! Containers on snapshotters other than the default one.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use orlop_plugin::channel::socket;
use orlop_plugin::contract::{CreateTask, Ctx, Mount, Namespace};
use orlop_plugin::mount::mount_one;
use orlop_plugin::rpc;
use orlop_plugin::snapshots::{GID_MAPPING, UID_MAPPING};
use orlop_plugin::testkit::image;
use orlop_tests::image::{BUSYBOX, layered};
use orlop_tests::{Daemon, Output, built, program};

/// One of two clients.
type Ctr = fn(&Daemon, &str) -> Output;

/// Runs containers of both clients on `snapshotter`; one writes, the next does not see it, and nothing stays.
fn containers_run(daemon: &Daemon, snapshotter: &str) {
    daemon.import_busybox();
    for (name, ctr) in [("ours", Daemon::ctr as Ctr), ("debians", Daemon::debian_ctr)] {
        let run = |id: &str, command: &str| {
            ctr(
                daemon,
                &format!("run --rm --snapshotter {snapshotter} {BUSYBOX} {name}-{id} {command}"),
            )
        };
        assert_eq!(run("t1", "/bin/echo hello").ok(), "hello\n");
        run("t2", "/bin/touch /etc/written").ok();
        run("t3", "/bin/ls /etc/written").fails();
        ctr(
            daemon,
            &format!("run -d --snapshotter {snapshotter} {BUSYBOX} {name}-d /bin/sleep 1000"),
        )
        .ok();
        ctr(daemon, &format!("tasks exec --exec-id x {name}-d /bin/touch /kept")).ok();
        assert_eq!(
            ctr(daemon, &format!("tasks exec --exec-id y {name}-d /bin/ls /kept")).ok(),
            "/kept\n"
        );
        let table = ctr(daemon, &format!("snapshots --snapshotter {snapshotter} ls")).ok();
        assert!(
            table.contains("Committed") && table.contains(&format!("{name}-d")),
            "{table}"
        );
        let usage = ctr(daemon, &format!("snapshots --snapshotter {snapshotter} usage {name}-d")).ok();
        assert!(usage.contains("iB") || usage.contains(" B"), "{usage}");
        ctr(daemon, &format!("tasks kill -s SIGKILL {name}-d")).ok();
        orlop_tests::command::eventually("the task stops", || ctr(daemon, "tasks ls").ok().contains("STOPPED"));
        ctr(daemon, &format!("tasks rm {name}-d"));
        ctr(daemon, &format!("containers rm {name}-d")).ok();
        let target = daemon.path(&format!("mounted-{name}"));
        std::fs::create_dir(&target).unwrap();
        let (at, of) = (target.display(), format!("--snapshotter {snapshotter}"));
        ctr(daemon, &format!("images mount {of} {BUSYBOX} {at}")).ok();
        assert!(target.join("bin/busybox").is_file());
        ctr(daemon, &format!("images unmount --rm {of} {at}")).ok();
        assert!(!target.join("bin").exists());
        let table = ctr(daemon, &format!("snapshots --snapshotter {snapshotter} ls")).ok();
        assert_eq!(table.lines().count(), 2, "the image's layer stays: {table}");
    }
}

#[test]
fn on_btrfs() {
    let builder = Daemon::orlop();
    let (disk, root) = (builder.directory().join("disk"), builder.directory().join("root"));
    image("btrfs", &disk, 1 << 30);
    std::fs::create_dir(&root).unwrap();
    let mount = Mount {
        kind: "btrfs".into(),
        source: disk.display().to_string(),
        target: String::new(),
        options: vec!["loop".into()],
    };
    // Unmounted with whatever else is below the daemon's directory.
    mount_one(&mount, &root).unwrap();
    let mut daemon = builder.start();
    let plugins = daemon.ctr("plugins ls id==btrfs").ok();
    assert!(plugins.trim_end().ends_with("ok"), "{plugins}");
    containers_run(&daemon, "btrfs");
    // And again, by a daemon that finds what another one made.
    daemon.stop();
    daemon.start();
    let again = daemon.ctr(&format!("run --rm --snapshotter btrfs {BUSYBOX} again /bin/echo again"));
    assert_eq!(again.ok(), "again\n");
}

#[test]
fn on_block_files() {
    let builder = Daemon::orlop();
    let scratch = builder.directory().join("scratch.ext4");
    image("ext4", &scratch, 64 << 20);
    let daemon = builder
        .config(&format!(
            "[plugins.\"io.containerd.snapshotter.v1.blockfile\"]\nscratch_file = {scratch:?}"
        ))
        .start();
    containers_run(&daemon, "blockfile");
}

#[test]
fn on_erofs() {
    let mut daemon = Daemon::orlop()
        .config("[plugins.\"io.containerd.snapshotter.v1.erofs\"]\nset_immutable = true")
        .start();
    containers_run(&daemon, "erofs");
    daemon.stop();
    daemon.start();
    let again = daemon.ctr(&format!("run --rm --snapshotter erofs {BUSYBOX} again /bin/echo again"));
    assert_eq!(again.ok(), "again\n");
    // Nobody else can take away what is immutable: with the image goes its layer.
    daemon.ctr(&format!("images rm --sync {BUSYBOX}")).ok();
    orlop_tests::command::eventually("the layer is collected", || {
        daemon.ctr("snapshots --snapshotter erofs ls").ok().lines().count() == 1
    });
    daemon.stop();
}

/// Runs a container of an image with `layers` layers over busybox, by `client`, and looks at what came of them.
fn layers_are_one_root(daemon: &Daemon, client: PathBuf, snapshotter: &str, id: &str, layers: usize) {
    let script = "/bin/cat /top; /bin/ls /only; /bin/ls /layers | /bin/wc -l";
    let mut command = daemon.command(client);
    command.args(["run", "--rm", "--snapshotter", snapshotter, BUSYBOX, id]);
    let output = orlop_tests::command::run(command.args(["/bin/sh", "-c", script]));
    assert_eq!(output.ok(), format!("{layers}\n{layers}\n{}\n", layers.div_ceil(2)));
}

/// The options of such an overlay take six pages; every client and shim shortens them, or gives the kernel one layer at a time.
#[test]
fn three_hundred_layers_run() {
    const LAYERS: usize = 300;
    let daemon = Daemon::orlop().start();
    let archive = layered(&daemon.path(""), BUSYBOX, daemon.namespace(), LAYERS);
    daemon.ctr(&format!("images import {}", archive.display())).ok();
    layers_are_one_root(&daemon, built("ctr"), "overlayfs", "ours", LAYERS);
    layers_are_one_root(&daemon, program("ctr"), "overlayfs", "debians", LAYERS);
    // And as the client mounts it.
    let target = daemon.path("mounted");
    std::fs::create_dir(&target).unwrap();
    daemon.ctr(&format!("images mount {BUSYBOX} {}", target.display())).ok();
    assert_eq!(
        std::fs::read_to_string(target.join("top")).unwrap(),
        format!("{LAYERS}\n")
    );
    daemon.ctr(&format!("images unmount --rm {}", target.display())).ok();
}

/// Debian's shim knows no mapped mounts, and runs the container all the same: its root owns the image's files, which stay whose they were.
#[tokio::test]
async fn a_container_with_ids_of_its_own_needs_no_copy_of_its_image() {
    let daemon = Daemon::orlop().start();
    daemon.import_busybox();
    let ctx = Ctx {
        namespace: Some(Namespace::new(daemon.namespace()).unwrap()),
        ..Ctx::default()
    };
    let channel = || socket::connect(daemon.address());
    let tasks = rpc::tasks::connect(channel());
    for snapshotter in ["overlayfs", "erofs"] {
        daemon
            .ctr(&format!(
                "containers create --snapshotter {snapshotter} {BUSYBOX} {snapshotter} /bin/true"
            ))
            .ok();
        let snapshots = rpc::snapshotter::connect(channel(), snapshotter);
        let parent = snapshots.stat(&ctx, snapshotter).await.unwrap().parent;
        let labels = [
            (UID_MAPPING, "0:70000:1000"),
            (GID_MAPPING, "0:80000:1000"),
            // No record refers to it.
            ("containerd.io/gc.root", "test"),
        ];
        let ids = labels.map(|(label, value)| (label.to_owned(), value.to_owned())).into();
        let rootfs = snapshots.prepare(&ctx, "mapped", &parent, ids).await.unwrap();
        let request = CreateTask {
            container_id: snapshotter.to_owned(),
            rootfs,
            ..CreateTask::default()
        };
        tasks.create(&ctx, request).await.unwrap();
        let bundle = daemon
            .path("state/io.containerd.runtime.v2.task")
            .join(daemon.namespace())
            .join(snapshotter);
        let owner = std::fs::metadata(bundle.join("rootfs/bin/busybox")).unwrap();
        assert_eq!((owner.uid(), owner.gid()), (70000, 80000), "{snapshotter}");
        tasks.start(&ctx, snapshotter, "").await.unwrap();
        assert_eq!(tasks.wait(&ctx, snapshotter, "").await.unwrap().status, 0);
        tasks.delete(&ctx, snapshotter, "").await.unwrap();
        assert!(!bundle.exists(), "nothing stays mounted");
        snapshots.remove(&ctx, "mapped").await.unwrap();
    }
    let plugins = daemon.ctr("plugins ls -d id==overlayfs").ok();
    assert!(plugins.contains("remap-ids"), "{plugins}");
}

/// Nobody but the EROFS differ is there to apply anything: by the transfer service for our client, by the diff service for Debian's.
#[test]
fn on_erofs_by_its_differ() {
    const LAYERS: usize = 5;
    let daemon = Daemon::orlop()
        .config(
            "[plugins.\"io.containerd.service.v1.diff-service\"]\ndefault = [\"erofs\"]\n\
             [plugins.\"io.containerd.differ.v1.erofs\"]\nmkfs_options = [\"-T1234567890\"]\n\
             [[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\n\
             platform = \"linux\"\nsnapshotter = \"erofs\"\ndiffer = \"erofs\"",
        )
        .start();
    for (id, client) in [("ours", built("ctr")), ("debians", program("ctr"))] {
        let archive = layered(
            &daemon.path(""),
            BUSYBOX,
            &format!("{}-{id}", daemon.namespace()),
            LAYERS,
        );
        let mut import = daemon.command(client.clone());
        import
            .args(["images", "import", "--snapshotter", "erofs"])
            .arg(&archive);
        orlop_tests::command::run(&mut import).ok();
        layers_are_one_root(&daemon, client, "erofs", id, LAYERS);
    }
    let time = daemon.ctr(&format!(
        "run --rm --snapshotter erofs {BUSYBOX} time /bin/stat -c %Y /bin/busybox"
    ));
    assert_eq!(time.ok(), "1234567890\n", "mkfs_options are mkfs.erofs'");
    let snapshots = daemon.path("root/io.containerd.snapshotter.v1.erofs/snapshots");
    let mut images = 0;
    for snapshot in std::fs::read_dir(snapshots).unwrap().flatten() {
        images += usize::from(snapshot.path().join("layer.erofs").exists());
        assert!(!snapshot.path().join("layer.unpacked").exists());
    }
    // Those of the first import may have been collected: the second has taken its name.
    assert!(images > LAYERS, "{images}");
    // What a container adds is made a layer of by the same differ.
    let run = format!("run -d --snapshotter erofs {BUSYBOX} changed /bin/sh -c");
    let mut run: Vec<&str> = run.split(' ').collect();
    run.push("/bin/touch /added-by-it; exec /bin/sleep 1000");
    orlop_tests::command::run(daemon.command(built("ctr")).args(run)).ok();
    let diff = "snapshots --snapshotter erofs diff --media-type application/vnd.oci.image.layer.v1.tar changed";
    orlop_tests::command::eventually("the layer has the file", || {
        daemon.ctr(diff).ok().contains("added-by-it")
    });
    // Another snapshotter's mounts are not its business.
    let archive = layered(&daemon.path(""), BUSYBOX, daemon.namespace(), 0);
    let refused = daemon.ctr(&format!("images import --snapshotter native {}", archive.display()));
    assert!(refused.fails().contains("EROFS"));
}

#[test]
fn those_that_are_not_there_say_why() {
    let daemon = Daemon::orlop()
        .config("[plugins.\"io.containerd.snapshotter.v1.devmapper\"]\npool_name = \"orlop-no-such-pool\"\nbase_image_size = \"1GB\"")
        .start();
    for (id, reason) in [
        (
            "btrfs",
            "must be a btrfs filesystem to be used with the btrfs snapshotter: skip plugin",
        ),
        ("blockfile", "no scratch file generator: skip plugin"),
        ("zfs", "must be a zfs filesystem to be used with the zfs snapshotter"),
        ("aufs", "aufs is not supported"),
        ("devmapper", "no thin pool \"orlop-no-such-pool\""),
    ] {
        let details = daemon.ctr(&format!("plugins ls -d id=={id}")).ok();
        // Escaped, as containerd's own client shows it.
        assert!(details.replace('\\', "").contains(reason), "{id}: {details}");
    }
    // Those that nobody has here are told in the same words by containerd.
    let containerd = Daemon::containerd().start();
    for (id, reason) in [
        ("zfs", "must be a zfs filesystem to be used with the zfs snapshotter"),
        ("aufs", "aufs is not supported"),
    ] {
        let details = containerd.debian_ctr(&format!("plugins ls -d id=={id}")).ok();
        assert!(details.contains(reason), "{id}: {details}");
    }
}
