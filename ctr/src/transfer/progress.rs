//! What a transfer tells of itself: on a terminal a board of bars that is drawn anew, elsewhere a line a change.

use super::stream::Stream;
use crate::client::describe_status;
use crate::human::binary_size;
use containerd_client::types::transfer::Progress;
use prost::Message;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write, stdout};
use tokio::sync::oneshot;

/// Width of a bar in characters.
const BAR: usize = 32;

/// Width of names; longer ones are cut.
const NAME: usize = 40;

/// One thing that is transferred.
#[derive(Debug, Clone, PartialEq)]
struct Part {
    name: String,
    event: String,
    progress: i64,
    total: i64,
}

/// Everything that was told so far, in the order in which it was first.
#[derive(Debug, Default)]
pub struct Board {
    status: String,
    parts: Vec<Part>,
    /// Lines on the terminal that the next drawing goes over.
    drawn: usize,
}

/// Prints a transfer's progress until the daemon closes the stream, or what was told before `end` is printed.
pub async fn print(mut stream: Stream, mut end: oneshot::Receiver<()>) {
    let mut board = Board::default();
    let terminal = stdout().is_terminal();
    loop {
        let message = tokio::select! {
            biased;
            message = stream.next() => message,
            _ = &mut end => return,
        };
        match message {
            Ok(Some(message)) => {
                let Ok(progress) = Progress::decode(message.value.as_slice()) else {
                    continue;
                };
                let line = board.take(progress);
                if terminal {
                    let drawing = board.draw();
                    // A terminal that went away takes the command with it soon enough.
                    let _ = stdout().write_all(drawing.as_bytes()).and_then(|()| stdout().flush());
                } else if let Some(line) = line {
                    println!("{line}");
                }
            }
            Ok(None) => return,
            Err(status) => {
                eprintln!("ctr: progress: {}", describe_status(&status));
                return;
            }
        }
    }
}

impl Board {
    /// Takes a message in; answers a line to print when it says something new.
    fn take(&mut self, told: Progress) -> Option<String> {
        let Progress {
            event,
            name,
            progress,
            total,
            ..
        } = told;
        if name.is_empty() {
            self.status.clone_from(&event);
            return Some(event);
        }
        let line = format!("{name}\t{event}");
        let new = Part {
            name,
            event,
            progress,
            total,
        };
        if let Some(part) = self.parts.iter_mut().find(|part| part.name == new.name) {
            let changed = part.event != new.event;
            *part = new;
            return changed.then_some(line);
        }
        self.parts.push(new);
        Some(line)
    }

    /// The board's lines, over those that were drawn before.
    fn draw(&mut self) -> String {
        let mut text = String::new();
        if self.drawn > 0 {
            // Up to the first line, and clear to the end of the screen.
            let _ = write!(text, "\x1b[{}A\r\x1b[J", self.drawn);
        }
        for part in &self.parts {
            let _ = writeln!(text, "{}", part.line());
        }
        if !self.status.is_empty() {
            let _ = writeln!(text, "{}", self.status);
        }
        self.drawn = self.parts.len() + usize::from(!self.status.is_empty());
        text
    }
}

impl Part {
    fn line(&self) -> String {
        let name: String = self.name.chars().take(NAME).collect();
        let mut line = format!("{name:NAME$}  {:12}", self.event);
        let done = matches!(
            self.event.as_str(),
            "complete" | "already exists" | "extracted" | "saved"
        );
        if self.total > 0 || done {
            let total = self.total.max(1);
            let filled = if done {
                BAR
            } else {
                (self.progress.clamp(0, total) as usize * BAR) / total as usize
            };
            let _ = write!(line, "|{}{}|", "+".repeat(filled), "-".repeat(BAR - filled));
        }
        if self.total > 0 && !done {
            let _ = write!(line, " {}/{}", binary_size(self.progress), binary_size(self.total));
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(name: &str, event: &str, progress: i64, total: i64) -> Progress {
        Progress {
            name: name.to_owned(),
            event: event.to_owned(),
            progress,
            total,
            ..Progress::default()
        }
    }

    #[test]
    fn a_line_is_printed_for_a_new_state_only() {
        let mut board = Board::default();
        assert_eq!(board.take(told("", "Pulling", 0, 0)).as_deref(), Some("Pulling"));
        assert_eq!(
            board.take(told("layer", "downloading", 0, 10)).as_deref(),
            Some("layer\tdownloading")
        );
        assert_eq!(board.take(told("layer", "downloading", 5, 10)), None);
        assert_eq!(
            board.take(told("layer", "complete", 10, 10)).as_deref(),
            Some("layer\tcomplete")
        );
    }

    #[test]
    fn a_board_is_drawn_over_itself() {
        let mut board = Board::default();
        board.take(told("layer", "downloading", 5, 10));
        let first = board.draw();
        assert!(
            first.contains(&format!("|{}{}| 5.0 B/10.0 B", "+".repeat(16), "-".repeat(16))),
            "{first}"
        );
        board.take(told("", "done", 0, 0));
        assert!(board.draw().starts_with("\x1b[1A\r\x1b[J"));
        assert!(board.draw().starts_with("\x1b[2A\r\x1b[J"));
    }
}
