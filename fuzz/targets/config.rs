//! The daemon's `config.toml`: problems or a configuration; and what `config migrate` writes can be read again and says the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use orlop_config::{PluginTables, check, migrate};

fuzz_target!(|text: &str| {
    let _ = check(text, "config.toml", &PluginTables::default());
    if let Ok(migrated) = migrate(text, "config.toml") {
        let again = migrate(&migrated, "config.toml");
        let again = again.unwrap_or_else(|error| panic!("what was migrated is not read: {error}\n{migrated}"));
        let tables = |text: &str| toml_of(text);
        assert_eq!(tables(&migrated), tables(&again));
    }
});

fn toml_of(text: &str) -> orlop_plugin::toml::Table {
    text.parse().expect("it was read before")
}
