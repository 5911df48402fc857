//! Any configuration, printed as version 2: the text passes the check and reads back as the same configuration.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use orlop_config::{
    Config, DynamicPlugin, GoDuration, Isolation, PluginSelector, PluginTables, ProxyPlugin, check, dump, load, migrate,
};
use proptest::prelude::*;
use toml::{Table, Value};

/// Text with everything a TOML string must escape.
fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z/._-]{1,12}", "[ -~äµ\n\t\"'\\\\\u{1}]{1,12}"]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        text().prop_map(Value::String),
        any::<i64>().prop_map(Value::Integer),
        any::<bool>().prop_map(Value::Boolean),
        (-1e6..1e6).prop_map(Value::Float),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            proptest::collection::btree_map(text(), inner, 0..4)
                .prop_map(|map| Value::Table(map.into_iter().collect())),
        ]
    })
}

prop_compose! {
    fn config()(
        names in proptest::collection::vec("[a-z]{1,8}", 0..4),
        proxy in proptest::collection::btree_map(text(), (text(), text()), 0..3),
        library in proptest::option::of((text(), any::<bool>(), "[0-9a-f]{64}")),
        spans in proptest::collection::btree_map(text(), any::<i64>(), 0..3),
        plugin in proptest::collection::btree_map(text(), value(), 0..5),
        oom_score in -999..1000_i64,
        owner in 0..70000_i64,
        address in "/[a-z]{1,8}",
        tcp in proptest::option::of("[a-z]{1,8}:[0-9]{2}"),
        histogram: bool,
    ) -> Config {
        let mut config = Config { version: 2, oom_score, ..Config::default() };
        config.disabled_plugins = names.iter().collect::<std::collections::BTreeSet<_>>().into_iter().map(|n| PluginSelector::from(n.as_str())).collect();
        config.proxy_plugins = proxy
            .into_iter()
            .map(|(name, (kind, address))| (name, ProxyPlugin { kind, address, ..ProxyPlugin::default() }))
            .collect();
        if let Some((name, apart, sha256)) = library {
            let isolation = if apart { Isolation::Process } else { Isolation::None };
            config.dynamic_plugins = BTreeMap::from([(name, DynamicPlugin { path: "/l.so".into(), isolation, sha256 })]);
        }
        config.timeouts.extend(spans.into_iter().map(|(name, nanos)| (name, GoDuration::from_nanos(nanos))));
        config.plugins = PluginTables::from([("acme.thing.v1.x".into(), plugin.into_iter().collect())]);
        config.grpc.address = address;
        config.grpc.uid = owner;
        config.grpc.tcp_address = tcp.unwrap_or_default();
        config.metrics.grpc_histogram = histogram;
        config.ttrpc = config.ttrpc_listener();
        config
    }
}

proptest! {
    #[test]
    fn a_dump_passes_the_check_and_reads_back(config in config()) {
        let known = PluginTables::from([("acme.thing.v1.x".to_owned(), Table::new())]);
        let dumped = dump(&config, &known).unwrap();
        prop_assert_eq!(check(&dumped, "f", &known), [], "{}", dumped);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        for text in [dumped.clone(), migrate(&dumped, "f").unwrap()] {
            std::fs::write(&path, &text).unwrap();
            let mut read = load(&path).unwrap().config;
            read.version = 2;
            (read.grpc.tcp_max_recv_message_size, read.grpc.tcp_max_send_message_size) = (None, None);
            prop_assert_eq!(&read, &config, "{}", text);
        }
    }

    #[test]
    fn no_text_panics(text in "(\\[[a-z.]{0,12}\\]\n|[a-z_]{1,8} = ['\\[\\]a-z0-9{}]{0,6}\n|ä){0,6}") {
        let _ = check(&text, "f", &PluginTables::new());
        let _ = migrate(&text, "f");
    }
}
