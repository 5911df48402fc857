//! `orlopd config`: the files of two releases of containerd, and ours.

use std::path::Path;
use std::process::{Command, Stdio};

use orlop_tests::{Output, built, command, repository};

fn orlopd(arguments: &str) -> Output {
    command::run(Command::new(built("orlopd")).args(arguments.split(' ')))
}

fn fixture(release: &str) -> String {
    repository()
        .join(format!("config/tests/fixtures/default-{release}.toml"))
        .display()
        .to_string()
}

fn table(text: &str) -> toml::Table {
    text.parse()
        .unwrap_or_else(|error| panic!("it is no TOML: {error}\n{text}"))
}

#[test]
fn the_default_configuration_passes_its_own_check() {
    let mut default = Command::new(built("orlopd"))
        .args(["config", "default"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let check = Command::new(built("orlopd"))
        .args(["config", "check", "/dev/stdin"])
        .stdin(default.stdout.take().unwrap())
        .output()
        .unwrap();
    assert!(default.wait().unwrap().success());
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
}

#[test]
fn the_default_configuration_is_containerd_1_7s() {
    let (ours, theirs) = (
        table(&orlopd("config default").ok()),
        table(&std::fs::read_to_string(fixture("1.7")).unwrap()),
    );
    let without_plugins = |mut table: toml::Table| {
        let plugins = table.remove("plugins");
        (
            table,
            plugins
                .and_then(|plugins| plugins.as_table().cloned())
                .unwrap_or_default(),
        )
    };
    let ((our_top, mut our_plugins), (their_top, their_plugins)) = (without_plugins(ours), without_plugins(theirs));
    assert_eq!(our_top, their_top);
    assert!(our_plugins.len() >= 8, "{our_plugins:?}");
    // The release that wrote the fixture was built without it.
    let btrfs = our_plugins.remove("io.containerd.snapshotter.v1.btrfs");
    assert_eq!(btrfs, Some(toml::Value::Table(table("root_path = \"\""))));
    // From 2.0 on.
    let verifier = our_plugins.remove("io.containerd.image-verifier.v1.bindir");
    let verifier = verifier.expect("the image verifier's table");
    assert_eq!(verifier["per_verifier_timeout"].as_str(), Some("10s"));
    for (uri, table) in our_plugins {
        assert_eq!(
            Some(&table),
            their_plugins
                .get(&uri)
                .and_then(toml::Value::as_table)
                .map(|t| toml::Value::Table(t.clone()))
                .as_ref(),
            "{uri}"
        );
    }
}

#[test]
fn both_releases_files_pass_and_migrate() {
    let directory = tempfile::tempdir().unwrap();
    for release in ["1.7", "2.3"] {
        assert_eq!(orlopd(&format!("config check {}", fixture(release))).ok(), "");
        let migrated = orlopd(&format!("--config {} config migrate", fixture(release))).ok();
        assert_eq!(table(&migrated)["version"].as_integer(), Some(4), "{release}");
        let file = directory.path().join(release);
        std::fs::write(&file, migrated).unwrap();
        assert_eq!(orlopd(&format!("config check {}", file.display())).ok(), "");
    }
    for version in ["3", "4"] {
        let text = orlopd(&format!("config default --config-version {version}")).ok();
        assert_eq!(table(&text)["version"].as_integer(), version.parse().ok());
    }
}

#[track_caller]
fn finds(text: &str, problem: &str) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    std::fs::write(&file, text).unwrap();
    let output = orlopd(&format!("config check {}", file.display())).exits(1);
    let expected = format!("{}:{problem}", file.display());
    assert!(output.stdout.contains(&expected), "{output}\nexpected {expected}");
}

#[test]
fn a_misspelt_key_is_found_with_its_place_and_the_nearest_name() {
    finds("version = 2\n[grpc]\n  adress = \"/run/x.sock\"\n", "3:3: ");
    finds("version = 2\n[grpc]\n  adress = \"/run/x.sock\"\n", "3:3: unknown key");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    std::fs::write(
        &file,
        "version = 2\n[plugins.\"io.containerd.gc.v1.scheduler\"]\npause_treshold = 0.1\n",
    )
    .unwrap();
    let output = orlopd(&format!("config check {}", file.display())).exits(1);
    assert!(
        output.stdout.contains(":3:1:") && output.stdout.contains("pause_threshold"),
        "{output}"
    );
}

#[test]
fn dump_shows_what_would_run() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    std::fs::write(
        &file,
        "version = 2\n[plugins.\"io.containerd.gc.v1.scheduler\"]\nmutation_threshold = 7\n",
    )
    .unwrap();
    let dump = table(&orlopd(&format!("--config {} --root /r --state /s config dump", file.display())).ok());
    assert_eq!(dump["root"].as_str(), Some("/r"));
    let scheduler = &dump["plugins"]["io.containerd.gc.v1.scheduler"];
    assert_eq!(scheduler["mutation_threshold"].as_integer(), Some(7));
    assert_eq!(scheduler["startup_delay"].as_str(), Some("100ms"));
}

#[test]
fn a_missing_file_is_named() {
    let error = orlopd("--config /nowhere/config.toml config dump").fails();
    assert!(error.contains("/nowhere/config.toml"), "{error}");
    assert!(!Path::new("/nowhere").exists());
}
