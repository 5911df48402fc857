# Every habitual command, one line each: `just` lists them.
_default:
    @just --list

# Build everything (development profile)
build:
    cargo build --workspace
# Everything that CI checks
test *args:
    ./scripts/test {{args}}
# From a bare machine to a running container
demo:
    ./scripts/demo
# Format and lint
lint:
    cargo fmt --all && cargo clippy --workspace --all-targets -- -D warnings
# Licences and advisories of the dependencies
deny:
    cargo deny check
# The small, slow-to-build binaries that are shipped
dist:
    cargo build --profile dist
# Figures beside Debian's containerd, in one run
# (zstd and python3 make its image)
bench *args:
    cargo build --release && target/release/orlop-bench {{args}}
# The devmapper snapshotter on real thin pools, in an emulated machine
devmapper *filter:
    ./scripts/devmapper/run {{filter}}
# Fuzz one target (layer, config, document, filter, reference) for some time; needs `cargo install cargo-fuzz`
fuzz target seconds="600":
    mkdir -p fuzz/corpus/{{target}}
    cd fuzz && RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir . -s none {{target}} corpus/{{target}} seeds/{{target}} -- -max_total_time={{seconds}} -timeout=20 -max_len=16384
