//! A shim's log: the fifo `log` in its bundle, drained into the daemon's.

use std::io::ErrorKind;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use orlop_plugin::{Error, Result};
use tokio::net::unix::pipe::{OpenOptions, Receiver};

use crate::bundle::Bundle;

/// A longer line is cut into pieces.
const LONGEST_LINE: usize = 16 * 1024;

/// Opens the fifo of a bundle, and makes it if it is not there. Nobody needs to have opened it for writing. Blocks for an instant.
pub fn open(bundle: &Bundle) -> Result<Receiver> {
    let path = bundle.path.join("log");
    match mkfifo(&path, Mode::from_bits_truncate(0o700)) {
        Ok(()) | Err(nix::Error::EEXIST) => {}
        Err(errno) => return Err(Error::io(format!("make the fifo {}", path.display()), &errno.into())),
    }
    // Open for writing too: there is no end of file when a shim closes it, and a shim never waits for a reader.
    OpenOptions::new()
        .read_write(true)
        .open_receiver(&path)
        .map_err(|error| Error::io(format!("open the fifo {}", path.display()), &error))
}

/// Logs what comes, until dropped.
pub async fn drain(fifo: Receiver, namespace: String, id: String) {
    let mut line = Vec::new();
    loop {
        if fifo.readable().await.is_err() {
            return;
        }
        // The buffer is on the stack of this poll only: an idle shim costs no memory here.
        let mut buffer = [0; 4096];
        match fifo.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                for piece in buffer[..length].split_inclusive(|byte| *byte == b'\n') {
                    line.extend_from_slice(piece);
                    if piece.ends_with(b"\n") || line.len() >= LONGEST_LINE {
                        emit(&namespace, &id, &line);
                        line = Vec::new();
                    }
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::warn!(namespace, id, %error, "cannot read a shim's log any more");
                return;
            }
        }
    }
}

/// Logs one line of a shim.
pub fn emit(namespace: &str, id: &str, line: &[u8]) {
    let line = String::from_utf8_lossy(line);
    let line = line.trim_end();
    if line.is_empty() {
        return;
    }
    match level(line) {
        "error" | "fatal" | "panic" => tracing::error!(namespace, id, "shim: {line}"),
        "warning" | "warn" => tracing::warn!(namespace, id, "shim: {line}"),
        "debug" | "trace" => tracing::debug!(namespace, id, "shim: {line}"),
        _ => tracing::info!(namespace, id, "shim: {line}"),
    }
}

/// The level of a line as logrus writes it (`level=info`, `"level":"info"`); empty where there is none.
fn level(line: &str) -> &str {
    ["level=", "\"level\":\""]
        .iter()
        .find_map(|key| line.split_once(key))
        .map_or("", |(_, rest)| {
            rest.split(|c: char| !c.is_ascii_alphabetic())
                .next()
                .unwrap_or_default()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_logruss() {
        for (line, expected) in [
            (r#"time="2023-01-01T00:00:00Z" level=warning msg="hm""#, "warning"),
            (r#"{"level":"error","msg":"oh"}"#, "error"),
            ("level=info", "info"),
            ("plain words", ""),
            ("level=", ""),
        ] {
            assert_eq!(level(line), expected, "{line}");
        }
    }
}
