//! This process's terminal: raw mode while a task's terminal shines through it, its size, and the keys that detach.

use anyhow::{Context, Result};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::{IsTerminal, Stdin, stdin};

/// Width and height in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

/// The terminal on standard input in raw mode; it gets its old mode back when this is dropped.
#[derive(Debug)]
pub struct RawConsole {
    input: Stdin,
    before: Termios,
}

impl RawConsole {
    /// Takes the terminal. Fails when standard input is none.
    pub fn take() -> Result<Self> {
        let input = stdin();
        anyhow::ensure!(
            input.is_terminal(),
            "a terminal was asked for (-t), but standard input is not one"
        );
        let before = tcgetattr(&input).context("cannot read the terminal's mode")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&input, OptionalActions::Now, &raw).context("cannot put the terminal into raw mode")?;
        Ok(Self { input, before })
    }

    /// Its present size.
    pub fn size(&self) -> Result<Size> {
        let size = tcgetwinsize(&self.input).context("cannot read the terminal's size")?;
        Ok(Size {
            width: size.ws_col.into(),
            height: size.ws_row.into(),
        })
    }
}

impl Drop for RawConsole {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(&self.input, OptionalActions::Now, &self.before) {
            eprintln!("ctr: cannot restore the terminal: {error}; type `reset`");
        }
    }
}

/// Finds the detach sequence (Ctrl-P, then Ctrl-Q) in what is typed. A Ctrl-P is held back until the next key shows
/// whether it was the sequence's first half.
#[derive(Debug, Default)]
pub struct DetachKeys {
    held: bool,
}

/// What became of some typed bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Typed {
    /// What goes to the task.
    pub bytes: Vec<u8>,
    /// Whether the sequence was completed; bytes after it are dropped.
    pub detach: bool,
}

impl DetachKeys {
    const FIRST: u8 = 0x10;
    const SECOND: u8 = 0x11;

    /// Takes the next bytes.
    pub fn feed(&mut self, input: &[u8]) -> Typed {
        let mut bytes = Vec::with_capacity(input.len() + 1);
        for &byte in input {
            if self.held {
                if byte == Self::SECOND {
                    self.held = false;
                    return Typed { bytes, detach: true };
                }
                bytes.push(Self::FIRST);
            }
            self.held = byte == Self::FIRST;
            if !self.held {
                bytes.push(byte);
            }
        }
        Typed { bytes, detach: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_found_across_reads_and_everything_else_passes() {
        let mut keys = DetachKeys::default();
        assert_eq!(
            keys.feed(b"ab\x10"),
            Typed {
                bytes: b"ab".to_vec(),
                detach: false
            }
        );
        assert_eq!(
            keys.feed(b"c"),
            Typed {
                bytes: b"\x10c".to_vec(),
                detach: false
            }
        );
        assert_eq!(
            keys.feed(b"\x10\x10"),
            Typed {
                bytes: b"\x10".to_vec(),
                detach: false
            }
        );
        assert_eq!(
            keys.feed(b"\x11rest"),
            Typed {
                bytes: Vec::new(),
                detach: true
            }
        );
        assert_eq!(
            keys.feed(b"\x11"),
            Typed {
                bytes: b"\x11".to_vec(),
                detach: false
            }
        );
    }
}
