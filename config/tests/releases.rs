//! The default configurations of two containerd releases: printed to the byte, checked, migrated, loaded.

#![allow(clippy::unwrap_used)]

use orlop_config::{LATEST_VERSION, PluginTables, check, dump, load, migrate, render_default};
use toml::{Table, Value};

const RELEASE_1_7: &str = include_str!("fixtures/default-1.7.toml");
const RELEASE_2_3: &str = include_str!("fixtures/default-2.3.toml");

fn plugins_of(text: &str) -> PluginTables {
    let mut file: Table = text.parse().unwrap();
    let Some(Value::Table(plugins)) = file.remove("plugins") else {
        panic!("no plugins")
    };
    plugins
        .into_iter()
        .map(|(uri, table)| (uri, table.try_into().unwrap()))
        .collect()
}

#[test]
fn the_defaults_of_1_7_are_printed_to_the_byte() {
    assert_eq!(render_default(2, &plugins_of(RELEASE_1_7)).unwrap(), RELEASE_1_7);
}

#[test]
fn the_defaults_of_2_3_are_printed_to_the_byte() {
    assert_eq!(render_default(4, &plugins_of(RELEASE_2_3)).unwrap(), RELEASE_2_3);
}

#[test]
fn both_defaults_pass_the_check_before_and_after_migration() {
    for text in [RELEASE_1_7, RELEASE_2_3] {
        assert_eq!(check(text, "f", &PluginTables::new()), []);
        let migrated = migrate(text, "f").unwrap();
        assert_eq!(check(&migrated, "f", &PluginTables::new()), []);
        assert_eq!(
            migrated.parse::<Table>().unwrap()["version"].as_integer(),
            Some(LATEST_VERSION)
        );
        assert_eq!(
            migrate(&migrated, "f").unwrap(),
            migrated,
            "migrating twice changes nothing"
        );
    }
}

#[test]
fn both_defaults_load_to_the_defaults_and_dump_as_version_2() {
    let dir = tempfile::tempdir().unwrap();
    for text in [RELEASE_1_7, RELEASE_2_3] {
        let path = dir.path().join("config.toml");
        // The pattern of imports names a place on the machine; what lies there is no part of this test.
        std::fs::write(&path, text.replace("/etc/containerd/conf.d/*.toml", "none.d/*.toml")).unwrap();
        let loaded = load(&path).unwrap();
        assert_eq!(loaded.warnings, []);
        let mut config = loaded.config.clone();
        let expected = orlop_config::Config::default();
        assert_eq!(config.ttrpc_listener(), expected.ttrpc_listener());
        assert_eq!(
            (&config.grpc.address, config.grpc.max_recv_message_size),
            (&expected.grpc.address, 16 << 20)
        );
        assert_eq!(config.stream_processors, expected.stream_processors);

        // The dump says the same as the file it came from, apart from the version's own form.
        let dumped = dump(&config, &PluginTables::new()).unwrap();
        assert_eq!(check(&dumped, "f", &PluginTables::new()), []);
        std::fs::write(&path, &dumped).unwrap();
        let mut again = load(&path).unwrap().config;
        again.version = config.version;
        // An empty `bin_dir` beside `bin_dirs` says nothing, and a TCP listener that is not there has no limits.
        for tables in [&mut config.plugins, &mut again.plugins] {
            let cni = tables
                .get_mut("io.containerd.cri.v1.runtime")
                .and_then(|t| t.get_mut("cni"))
                .and_then(Value::as_table_mut);
            cni.map(|cni| cni.remove("bin_dir"));
        }
        for config in [&mut config, &mut again] {
            (
                config.grpc.tcp_max_recv_message_size,
                config.grpc.tcp_max_send_message_size,
            ) = (None, None);
            config.ttrpc = config.ttrpc_listener();
        }
        assert_eq!(again, config);
    }
}
