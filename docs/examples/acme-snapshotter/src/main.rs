//! The same plugin on a socket, for `[proxy_plugins]` of Orlop or containerd: `acme-snapshotter SOCKET ROOT`.

use std::process::ExitCode;

use orlop_plugin::serve::{Options, serve_until_signal};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(socket), Some(root)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: acme-snapshotter SOCKET ROOT");
        return ExitCode::FAILURE;
    };
    let options = Options { address: socket.into(), root: root.into(), ..Options::default() };
    match serve_until_signal(acme_snapshotter::registrations(), options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("acme-snapshotter: {error}");
            ExitCode::FAILURE
        }
    }
}
