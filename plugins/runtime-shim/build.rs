//! Links without position independence: relocated data is private to every process, and there is one process a container.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bins=-no-pie");
}
