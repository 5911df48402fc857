//! `containerd-shim-runc-v2`: the process between a daemon and the containers of one pod.
//!
//! `start` makes the socket and starts the server, which is this binary again without a command; `delete` removes what a server that died
//! has left; `-info` tells what the runtime below offers. The server is one thread: every await is a place where the kernel has nothing
//! for it, and what it keeps in memory is all that a container costs.
//!
//! The bytes of a container without a terminal never pass through here: its standard streams are the client's fifos (`stdio`).
//! Follows containerd's `pkg/shim` and `cmd/containerd-shim-runc-v2`, v1.7 and v2.3.

mod arguments;
mod cgroup;
mod console;
mod container;
mod error;
mod info;
mod launch;
mod mount;
mod options;
mod process;
mod publisher;
mod ready;
mod reaper;
mod remove;
mod runtime;
mod server;
mod service;
mod stats;
mod stdio;

use std::io::Write;
use std::process::ExitCode;

use arguments::{Action, Arguments};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "containerd-shim-runc-v2: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> error::Result<()> {
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    match arguments.action {
        Action::Version => {
            println!("containerd-shim-runc-v2:\n  Version:  {}\n", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Action::Info => info::print(),
        Action::Start => launch::start(&arguments),
        Action::Delete => remove::delete(&arguments),
        Action::Serve => server::serve(&arguments),
    }
}

/// A line for the daemon's log, in the form that daemons expect of shims.
fn log(level: &str, message: &str) {
    // A log that nobody reads is full after a while: what does not fit is lost.
    let _ = std::io::stderr().write_all(format!("level={level} msg={message:?}\n").as_bytes());
}
