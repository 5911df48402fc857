//! The rules of this tree: who may depend on whom, and where `unsafe` may stand.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use orlop_tests::{command, repository};

/// The workspace's own crates, with their own crates that they depend on (not for their tests) and their folder.
fn crates() -> BTreeMap<String, (BTreeSet<String>, String)> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let text = command::run(
        Command::new(cargo)
            .args([
                "metadata",
                "--format-version",
                "1",
                "--no-deps",
                "--offline",
                "--manifest-path",
            ])
            .arg(repository().join("Cargo.toml")),
    )
    .ok();
    let metadata: serde_json::Value = serde_json::from_str(&text).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let names: BTreeSet<&str> = packages
        .iter()
        .map(|package| package["name"].as_str().unwrap())
        .collect();
    packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap().iter();
            let ours = dependencies
                .filter(|dependency| dependency["kind"].is_null())
                .map(|dependency| dependency["name"].as_str().unwrap())
                .filter(|name| names.contains(name))
                .map(str::to_owned);
            let folder = Path::new(package["manifest_path"].as_str().unwrap())
                .parent()
                .unwrap()
                .strip_prefix(repository())
                .unwrap()
                .display()
                .to_string();
            (package["name"].as_str().unwrap().to_owned(), (ours.collect(), folder))
        })
        .collect()
}

#[test]
fn the_dependency_rule_holds() {
    let crates = crates();
    for (name, (dependencies, folder)) in &crates {
        let allowed: BTreeSet<String> = match folder.as_str() {
            "plugin-abi" | "config" | "registry" => BTreeSet::new(),
            "ctr" => BTreeSet::from(["orlop-registry".to_owned()]),
            "core" => dependencies
                .iter()
                .filter(|name| {
                    ["orlop-plugin", "orlop-config"].contains(&name.as_str()) || crates[*name].1.starts_with("plugins/")
                })
                .cloned()
                .collect(),
            "tests" => continue,
            plugin if plugin.starts_with("plugins/") => {
                BTreeSet::from(["orlop-plugin".to_owned(), "orlop-registry".to_owned()])
            }
            other => panic!("{name} stands in {other}, which the design does not know"),
        };
        assert!(
            dependencies.is_subset(&allowed),
            "{name} depends on {dependencies:?}, and may on {allowed:?}"
        );
    }
}

#[test]
fn the_core_names_plugins_in_one_place() {
    let plugins: Vec<String> = crates()
        .into_iter()
        .filter(|(_, (_, folder))| folder.starts_with("plugins/"))
        .map(|(name, _)| name.replace('-', "_"))
        .collect();
    each_file(&repository().join("core/src"), &mut |path, text| {
        if !path.ends_with("builtins.rs") {
            for plugin in &plugins {
                assert!(
                    !text.contains(&format!("{plugin}::")),
                    "{} names {plugin}",
                    path.display()
                );
            }
        }
    });
}

#[test]
fn unfinished_places_do_not_land() {
    let marks = ["todo!", "unimplemented!", "TO_DO", "FIX_ME"].map(|mark| mark.replace('_', ""));
    for folder in [
        "core",
        "config",
        "plugin-abi",
        "registry",
        "plugins",
        "ctr",
        "tests/src",
    ] {
        each_file(&repository().join(folder), &mut |path, text| {
            for mark in &marks {
                assert!(
                    !text.contains(&format!("{mark}(")) && !text.contains(&format!("// {mark}")),
                    "{} has {mark}",
                    path.display()
                );
            }
        });
    }
}

fn each_file(directory: &Path, visit: &mut dyn FnMut(&Path, &str)) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            each_file(&path, visit);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            visit(&path, &std::fs::read_to_string(&path).unwrap());
        }
    }
}
