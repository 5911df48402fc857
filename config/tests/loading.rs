//! Files on disk: imports, order, cycles, versions, and what is refused.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use orlop_config::{Config, ConfigError, DEFAULT_ADDRESS, Isolation, PluginSelector, load, load_or_default};
use tempfile::TempDir;

/// A directory of configuration files.
struct Files(TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn config(&self) -> Config {
        load(&self.path("config.toml")).unwrap_or_else(|e| panic!("{e}")).config
    }

    fn error(&self) -> ConfigError {
        load(&self.path("config.toml")).unwrap_err()
    }
}

fn one(text: &str) -> Config {
    Files::new(&[("config.toml", text)]).config()
}

#[test]
fn a_missing_default_file_means_the_defaults_and_a_missing_named_one_an_error() {
    let path = Path::new("/nonexistent/config.toml");
    assert_eq!(load_or_default(path).unwrap().config, Config::default());
    let error = load(path).unwrap_err();
    assert!(error.is_missing(path));
    assert!(
        error
            .to_string()
            .starts_with("cannot read configuration file /nonexistent/config.toml: "),
        "{error}"
    );
}

#[test]
fn an_empty_file_is_version_1_with_defaults() {
    let config = one("");
    assert_eq!(
        config,
        Config {
            version: 1,
            ..Config::default()
        }
    );
}

#[test]
fn later_files_win_and_plugin_lists_grow() {
    let files = Files::new(&[
        (
            "config.toml",
            "version = 2\nroot = '/a'\noom_score = -5\nimports = ['conf.d/*.toml']\ndisabled_plugins = ['cri']\n[plugins.'a.v1.x']\nk = 1\nt.u = 1",
        ),
        (
            "conf.d/1.toml",
            "version = 2\nroot = '/b'\ndisabled_plugins = ['zfs', 'cri']\n[plugins.'a.v1.x']\nk = 0\nt.w = 2",
        ),
        ("conf.d/2.toml", "version = 2\nroot = '/c'\noom_score = 0"),
    ]);
    let config = files.config();
    assert_eq!(config.root, Path::new("/c"));
    assert_eq!(config.oom_score, -5);
    assert_eq!(config.disabled_plugins, [PluginSelector::from("cri"), "zfs".into()]);
    assert_eq!(
        config.plugin("a.v1.x").unwrap(),
        &"k = 0\nt.u = 1\nt.w = 2".parse().unwrap()
    );
    assert_eq!(
        config.imports,
        ["1.toml", "2.toml"].map(|name| files.path("conf.d").join(name).display().to_string())
    );
}

#[test]
fn imports_are_relative_to_the_importing_file_and_read_once() {
    let files = Files::new(&[
        ("config.toml", "version = 2\nimports = ['sub/a.toml', 'sub/b.toml']"),
        (
            "sub/a.toml",
            "version = 2\nimports = ['c.toml']\nrequired_plugins = ['a']",
        ),
        (
            "sub/b.toml",
            "version = 2\nimports = ['../sub/c.toml']\nrequired_plugins = ['b']",
        ),
        ("sub/c.toml", "version = 2\nrequired_plugins = ['c']"),
    ]);
    let loaded = load(&files.path("config.toml")).unwrap();
    assert_eq!(loaded.files.len(), 4);
    assert_eq!(
        loaded.config.required_plugins,
        [PluginSelector::from("a"), "b".into(), "c".into()]
    );
}

#[test]
fn a_cycle_is_refused_and_named() {
    let files = Files::new(&[
        ("config.toml", "version = 2\nimports = ['a.toml']"),
        ("a.toml", "version = 2\nimports = ['b.toml']"),
        ("b.toml", "version = 2\nimports = ['./a.toml']"),
    ]);
    let ConfigError::ImportCycle { chain } = files.error() else {
        panic!("{}", files.error())
    };
    assert_eq!(chain, ["a.toml", "b.toml", "a.toml"].map(|name| files.path(name)));
    assert!(files.error().to_string().contains("a.toml -> "));
    let own = Files::new(&[("config.toml", "imports = ['*.toml']")]);
    assert!(matches!(own.error(), ConfigError::ImportCycle { .. }));
}

#[test]
fn a_missing_import_names_its_importer() {
    let files = Files::new(&[("config.toml", "version = 2\nimports = ['gone.toml']")]);
    let error = files.error();
    assert!(!error.is_missing(&files.path("config.toml")));
    assert!(
        error.to_string().contains("gone.toml") && error.to_string().contains("imported by"),
        "{error}"
    );
    assert!(load_or_default(&files.path("config.toml")).is_err());
}

#[test]
fn a_drop_in_may_be_older_but_not_newer() {
    let newer = Files::new(&[
        ("config.toml", "version = 2\nimports = ['a.toml']"),
        ("a.toml", "version = 3"),
    ]);
    assert!(matches!(
        newer.error(),
        ConfigError::DropInVersion { found: 3, root: 2, .. }
    ));
    let older = Files::new(&[
        (
            "config.toml",
            "version = 4\nimports = ['a.toml']\n[plugins.'io.containerd.server.v1.grpc']\naddress = '/x'",
        ),
        ("a.toml", "version = 2\n[grpc]\nuid = 7"),
    ]);
    let config = older.config();
    assert_eq!(
        (config.grpc.address.as_str(), config.grpc.uid, config.version),
        ("/x", 7, 4)
    );
}

#[test]
fn every_version_says_the_same_in_its_own_way() {
    let versions = [
        "[plugins.scheduler]\npause_threshold = 0.5\n[plugins.cri]\nsandbox_image = 'p'\n[grpc]\naddress = '/x'\ngid = 3",
        "version = 2\n[plugins.'io.containerd.gc.v1.scheduler']\npause_threshold = 0.5\n\
         [plugins.'io.containerd.grpc.v1.cri']\nsandbox_image = 'p'\n[grpc]\naddress = '/x'\ngid = 3",
        "version = 3\n[plugins.'io.containerd.gc.v1.scheduler']\npause_threshold = 0.5\n\
         [plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = 'p'\n[grpc]\naddress = '/x'\ngid = 3",
        "version = 4\n[plugins.'io.containerd.gc.v1.scheduler']\npause_threshold = 0.5\n\
         [plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = 'p'\n\
         [plugins.'io.containerd.server.v1.grpc']\naddress = '/x'\ngid = 3\n\
         [plugins.'io.containerd.server.v1.ttrpc']\naddress = '/x.ttrpc'\ngid = 3",
    ];
    let mut configs = versions.map(one).map(|mut config| {
        config.version = 0;
        config.plugins.remove("io.containerd.grpc.v1.cri");
        config
    });
    let last = configs[3].clone();
    assert_eq!(last.ttrpc_listener().address, "/x.ttrpc");
    assert!(configs.iter_mut().all(|config| *config == last), "{configs:#?}");
}

#[test]
fn ttrpc_follows_grpc_up_to_version_3_only() {
    let address = |text: &str| one(text).ttrpc_listener().address;
    assert_eq!(address("version = 2\n[grpc]\naddress = '/x'"), "/x.ttrpc");
    assert_eq!(
        address("version = 2\n[grpc]\naddress = '/x'\n[ttrpc]\naddress = '/y'"),
        "/y"
    );
    assert_eq!(
        address("version = 4\n[plugins.'io.containerd.server.v1.grpc']\naddress = '/x'"),
        format!("{DEFAULT_ADDRESS}.ttrpc")
    );
    assert_eq!(address(""), format!("{DEFAULT_ADDRESS}.ttrpc"));
}

#[test]
fn typed_tables_are_read() {
    let config = one(&format!(
        "version = 2\n[proxy_plugins.acme]\ntype = 'snapshot'\naddress = '/s'\nexports.root = '/r'\ncapabilities = ['c']\n\
         [dynamic_plugins.acme]\npath = '/l.so'\nisolation = 'process'\nsha256 = '{}'\n[timeouts]\nx = '1m'\n\
         [grpc]\ntcp_address = ':1'\ntcp_tls_cert = '/c'\n[debug]\nlevel = 'debug'",
        "a".repeat(64)
    ));
    let proxy = &config.proxy_plugins["acme"];
    assert_eq!(
        (
            proxy.kind.as_str(),
            proxy.exports["root"].as_str(),
            proxy.capabilities.len()
        ),
        ("snapshot", "/r", 1)
    );
    assert_eq!(config.dynamic_plugins["acme"].isolation, Isolation::Process);
    assert_eq!(config.timeouts["x"].to_string(), "1m0s");
    assert_eq!(config.timeouts["io.containerd.timeout.shim.load"].to_string(), "5s");
    assert_eq!(
        (config.grpc.tcp_address.as_str(), config.grpc.tcp_tls_cert.as_str()),
        (":1", "/c")
    );
    assert_eq!(config.debug.level, "debug");
}

#[test]
fn unknown_keys_are_warnings_and_wrong_types_are_errors_with_their_place() {
    let files = Files::new(&[("config.toml", "version = 2\nrooot = '/x'")]);
    let loaded = load(&files.path("config.toml")).unwrap();
    assert_eq!(loaded.warnings.len(), 1);
    assert!(loaded.warnings[0].message.contains("did you mean \"root\""));
    for (text, place) in [
        ("root = 1", ":1:8: "),
        ("version = 2\nroot = [", ":2:"),
        ("[timeouts]\nx = '5'", ":2:5: "),
    ] {
        let error = Files::new(&[("config.toml", text)]).error().to_string();
        assert!(error.contains(&format!("config.toml{place}")), "{error}");
    }
    assert!(
        Files::new(&[("config.toml", "version = 5")])
            .error()
            .to_string()
            .contains("use 1 to 4")
    );
}

#[test]
fn root_and_state_must_be_usable() {
    assert!(Config::default().validate().is_ok());
    let with = |root: &str, state: &str| Config {
        root: root.into(),
        state: state.into(),
        ..Config::default()
    };
    assert!(
        with("/a", "/a")
            .validate()
            .unwrap_err()
            .to_string()
            .contains("different")
    );
    assert!(
        with("a", "/b")
            .validate()
            .unwrap_err()
            .to_string()
            .contains("root must be an absolute path")
    );
    assert!(with("/a", "").validate().is_err());
}
