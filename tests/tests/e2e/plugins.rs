//! What a daemon is made of, and what it does with libraries that are none.

use std::os::unix::fs::PermissionsExt;

use orlop_tests::image::BUSYBOX;
use orlop_tests::{Daemon, build_directory, built, command};

/// The libraries that this tree builds, with what is in them, and how that fares on a machine with nothing configured and no file system
/// but the usual ones.
const LIBRARIES: [(&str, &str, &str, &str); 13] = [
    (
        "io.containerd.snapshotter.v1",
        "overlayfs",
        "liborlop_snapshotter_overlayfs.so",
        "ok",
    ),
    (
        "io.containerd.snapshotter.v1",
        "native",
        "liborlop_snapshotter_native.so",
        "ok",
    ),
    (
        "io.containerd.snapshotter.v1",
        "btrfs",
        "liborlop_snapshotter_btrfs.so",
        "skip",
    ),
    (
        "io.containerd.snapshotter.v1",
        "blockfile",
        "liborlop_snapshotter_blockfile.so",
        "skip",
    ),
    (
        "io.containerd.snapshotter.v1",
        "erofs",
        "liborlop_snapshotter_erofs.so",
        "ok",
    ),
    (
        "io.containerd.snapshotter.v1",
        "zfs",
        "liborlop_snapshotter_zfs.so",
        "skip",
    ),
    (
        "io.containerd.snapshotter.v1",
        "aufs",
        "liborlop_snapshotter_aufs.so",
        "skip",
    ),
    (
        "io.containerd.snapshotter.v1",
        "devmapper",
        "liborlop_snapshotter_devmapper.so",
        "error",
    ),
    ("io.containerd.differ.v1", "erofs", "liborlop_differ_erofs.so", "ok"),
    ("io.containerd.gc.v1", "scheduler", "liborlop_gc_scheduler.so", "ok"),
    ("io.containerd.transfer.v1", "local", "liborlop_transfer_local.so", "ok"),
    ("io.containerd.nri.v1", "nri", "liborlop_nri.so", "skip"),
    ("io.containerd.runtime.v2", "task", "liborlop_runtime_task.so", "ok"),
];

/// The cells of a row of `plugins ls`: type, id, platforms, status.
fn row(table: &str, kind: &str, id: &str) -> Option<[String; 4]> {
    let rows = table
        .lines()
        .map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    rows.filter_map(|cells| cells.try_into().ok())
        .find(|cells: &[String; 4]| cells[0] == kind && cells[1] == id)
}

#[test]
fn libraries_are_rows_like_any_other() {
    let daemon = Daemon::orlop().start();
    let table = daemon.ctr("plugins ls").ok();
    assert_eq!(table, daemon.debian_ctr("plugins ls").ok());
    let details = daemon.ctr("plugins ls -d").ok();
    for (kind, id, library, expected) in LIBRARIES {
        let cells = row(&table, kind, id).unwrap_or_else(|| panic!("no {kind}.{id} in\n{table}"));
        assert_eq!(cells[3], expected, "{kind}.{id}");
        let path = build_directory().join(library).canonicalize().unwrap();
        assert!(details.contains(&path.display().to_string()), "{path:?} in\n{details}");
    }
    assert!(
        details.contains(env!("CARGO_PKG_VERSION")) && details.contains("init_time"),
        "{details}"
    );
    for (kind, id) in [
        ("io.containerd.content.v1", "content"),
        ("io.containerd.metadata.v1", "bolt"),
        ("io.containerd.event.v1", "exchange"),
        ("io.containerd.differ.v1", "walking"),
        ("io.containerd.image-verifier.v1", "bindir"),
        ("io.containerd.grpc.v1", "introspection"),
    ] {
        let cells = row(&table, kind, id).unwrap_or_else(|| panic!("no {kind}.{id} in\n{table}"));
        assert_eq!(cells[3], "ok", "{kind}.{id}");
    }
    let filtered = daemon
        .ctr("plugins ls -q type==io.containerd.snapshotter.v1,id~=over.*")
        .ok();
    assert_eq!(filtered.trim(), "overlayfs");
}

#[test]
fn without_libraries_the_daemon_runs_and_says_what_is_missing() {
    let builder = Daemon::orlop();
    let empty = builder.directory().join("no-plugins");
    std::fs::create_dir(&empty).unwrap();
    let daemon = builder.config(&format!("plugin_dir = {empty:?}")).start();
    let table = daemon.ctr("plugins ls").ok();
    for (kind, id, ..) in LIBRARIES {
        assert_eq!(row(&table, kind, id), None, "{table}");
    }
    let archive = orlop_tests::image::busybox(&daemon.path(""), BUSYBOX, "");
    daemon
        .ctr(&format!("images import --no-unpack {}", archive.display()))
        .ok();
    let error = daemon.ctr(&format!("run --rm {BUSYBOX} t1 /bin/true")).fails();
    assert!(error.contains("io.containerd.snapshotter.v1.overlayfs"), "{error}");
}

#[test]
fn what_is_no_good_library_is_an_error_row_and_no_more() {
    let builder = Daemon::orlop();
    let directory = builder.directory().join("plugins");
    std::fs::create_dir(&directory).unwrap();
    let put = |name: &str, bytes: &[u8], mode: u32| {
        let path = directory.join(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for (_, _, library, _) in LIBRARIES {
        put(library, &std::fs::read(built(library)).unwrap(), 0o644);
    }
    let whole = std::fs::read(built("liborlop_nri.so")).unwrap();
    let mut other_abi = whole.clone();
    let note = whole
        .windows(10)
        .position(|w| w == b"abi=1\nsdk=")
        .expect("the library has its note");
    other_abi[note + 4] = b'7';
    put(
        "text.so",
        b"this is no library, whatever its name says; it is long enough to be looked at",
        0o644,
    );
    put("empty.so", b"", 0o644);
    put("truncated.so", &whole[..whole.len() / 2], 0o644);
    put("otherabi.so", &other_abi, 0o644);
    put("writable.so", &whole, 0o666);
    let libc = std::fs::read_dir("/lib/x86_64-linux-gnu")
        .unwrap()
        .flatten()
        .find(|e| e.file_name() == "libz.so.1");
    if let Some(foreign) = libc {
        put("foreign.so", &std::fs::read(foreign.path()).unwrap(), 0o644);
    }
    put(
        "panics.so",
        &std::fs::read(vendor("libpanics_in_connect.so")).unwrap(),
        0o644,
    );

    let daemon = builder.config(&format!("plugin_dir = {directory:?}")).start();
    let details = daemon.ctr("plugins ls -d").ok();
    for reason in [
        "no ELF library",
        "truncated",
        "version [7] of the plugin ABI",
        "writable by others",
        "it panicked",
    ] {
        assert!(details.contains(reason), "{reason:?} in\n{details}");
    }
    let table = daemon.debian_ctr("plugins ls").ok();
    assert!(
        table.lines().filter(|line| line.ends_with("error     ")).count() >= 6,
        "{table}"
    );
    daemon.import_busybox();
    assert_eq!(daemon.ctr(&format!("run --rm {BUSYBOX} t1 /bin/echo on")).ok(), "on\n");
}

/// A library that `scripts/test` builds outside the workspace.
fn vendor(name: &str) -> std::path::PathBuf {
    let path = orlop_tests::repository().join("target/example/debug").join(name);
    assert!(path.exists(), "{} was not built: `scripts/test` does", path.display());
    path
}

#[test]
fn disabled_and_required_plugins() {
    let daemon = Daemon::orlop()
        .config("disabled_plugins = [\"io.containerd.snapshotter.v1.native\"]")
        .start();
    assert_eq!(
        row(&daemon.ctr("plugins ls").ok(), "io.containerd.snapshotter.v1", "native"),
        None
    );
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.toml");
    std::fs::write(
        &config,
        "version = 2\nrequired_plugins = [\"io.containerd.snapshotter.v1.nowhere\"]\n",
    )
    .unwrap();
    let output = command::run(
        std::process::Command::new(built("orlopd"))
            .arg("--config")
            .arg(&config)
            .arg("--root")
            .arg(directory.path().join("r"))
            .arg("--state")
            .arg(directory.path().join("s"))
            .arg("--address")
            .arg(directory.path().join("sock")),
    );
    assert!(output.fails().contains("io.containerd.snapshotter.v1.nowhere"));
}
