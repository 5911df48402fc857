//! A vocabulary for tests with real daemons: `Daemon::orlop().start()`, `daemon.ctr("run …")`, `daemon.kill()`.
//!
//! Every daemon has directories, sockets and a namespace of its own, and takes all of it away when it is dropped: tasks, shims, mounts.
//! What a test needs and does not find makes it fail with the reason; nothing passes silently.

// A path in quotes is a string of TOML.
#![allow(clippy::unnecessary_debug_formatting)]

pub mod command;
pub mod crafted;
pub mod daemon;
pub mod image;
pub mod process;
pub mod registry;

pub use command::Output;
pub use daemon::{Builder, Daemon};

use std::path::{Path, PathBuf};

/// The directory with the binaries of this build: `target/debug` for a test of the development profile.
pub fn build_directory() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let directory = test.parent().expect("an executable stands in a directory");
    // Test binaries stand one deeper, in `deps`.
    if directory.ends_with("deps") {
        directory
            .parent()
            .expect("`deps` stands in the build directory")
            .to_path_buf()
    } else {
        directory.to_path_buf()
    }
}

/// A binary of this build.
///
/// # Panics
/// When it was not built: `cargo build --workspace` comes before the tests.
pub fn built(name: &str) -> PathBuf {
    let path = build_directory().join(name);
    assert!(
        path.exists(),
        "{} was not built: run `cargo build --workspace` first",
        path.display()
    );
    path
}

/// The root of this repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests stand in the repository")
        .to_path_buf()
}

/// A program of this machine.
///
/// # Panics
/// When it is not installed; `scripts/test` installs it.
pub fn program(name: &str) -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default();
    let directories = path.split(':').chain(["/usr/sbin", "/sbin"]);
    directories
        .map(|directory| Path::new(directory).join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("this test needs {name}, which is not installed: `scripts/test` installs it"))
}
