//! Images for tests, made here: there is no public registry to take them from.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{command, program, repository};

/// The name of the image that [`busybox`] makes.
pub const BUSYBOX: &str = "docker.io/library/busybox:latest";

/// Writes an OCI archive of a busybox image called `name` into `directory`. Images with different `seed`s share no layer.
pub fn busybox(directory: &Path, name: &str, seed: &str) -> PathBuf {
    program("busybox");
    let file = directory.join(format!("{}.tar", name.replace(['/', ':'], "_")));
    command::run(
        Command::new(program("python3"))
            .arg(repository().join("scripts/busybox-image.py"))
            .arg(&file)
            .arg(name)
            .args(["--seed", seed]),
    )
    .ok();
    file
}
