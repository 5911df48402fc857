//! `orlopd`, the daemon.

fn main() -> std::process::ExitCode {
    orlop_core::cli::main()
}
