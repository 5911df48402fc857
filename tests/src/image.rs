//! Images for tests, made here: there is no public registry to take them from.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{command, program, repository};

/// The name of the image that [`busybox`] makes.
pub const BUSYBOX: &str = "docker.io/library/busybox:latest";

/// Writes an OCI archive of a busybox image called `name` into `directory`. Images with different `seed`s share no layer.
pub fn busybox(directory: &Path, name: &str, seed: &str) -> PathBuf {
    layered(directory, name, seed, 0)
}

/// The same with `layers` more layers on top. Layer I, from 1 on, writes `/top` anew, adds `/layers/I` without naming `/layers`, takes away
/// `/layers/I-1` when I is even, and makes `/only` a directory of nothing but the file I.
pub fn layered(directory: &Path, name: &str, seed: &str, layers: usize) -> PathBuf {
    program("busybox");
    let file = directory.join(format!("{}.tar", name.replace(['/', ':'], "_")));
    command::run(
        Command::new(program("python3"))
            .arg(repository().join("scripts/busybox-image.py"))
            .arg(&file)
            .arg(name)
            .args(["--seed", seed])
            .args(["--layers", &layers.to_string()]),
    )
    .ok();
    file
}
