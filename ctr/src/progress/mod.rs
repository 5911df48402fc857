//! What a transfer tells of itself: on a terminal a board of bars ([`board`]) of which what changed is drawn anew
//! ([`screen`]), elsewhere a line a change.

mod board;
mod screen;

use board::Board;
use containerd_client::types::transfer::Progress;
use rustix::termios::tcgetwinsize;
use screen::{Screen, Size};
use std::io::{IsTerminal, Write, stdout};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

/// How often a terminal is drawn to.
const TICK: Duration = Duration::from_millis(100);

/// Prints what is told until nobody can tell any more.
pub async fn show(mut told: mpsc::UnboundedReceiver<Progress>) {
    if !stdout().is_terminal() {
        let mut board = Board::default();
        while let Some(progress) = told.recv().await {
            if let Some(line) = board.take(progress) {
                println!("{line}");
            }
        }
        return;
    }
    let (start, mut board, mut screen) = (Instant::now(), Board::default(), Screen::default());
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            progress = told.recv() => match progress {
                Some(progress) => drop(board.take(progress)),
                None => break,
            },
            _ = tick.tick() => draw(&mut screen, &board, start, false),
        }
    }
    draw(&mut screen, &board, start, true);
}

fn draw(screen: &mut Screen, board: &Board, start: Instant, last: bool) {
    if board.is_empty() {
        return;
    }
    let size = tcgetwinsize(stdout()).map_or(Size::default(), |size| Size::new(size.ws_col, size.ws_row));
    let lines = board.lines(size.columns, start.elapsed());
    let drawing = if last {
        screen.finish(&lines, size)
    } else {
        screen.update(&lines, size)
    };
    // A terminal that went away takes the command with it soon enough.
    let _ = stdout().write_all(drawing.as_bytes()).and_then(|()| stdout().flush());
}
