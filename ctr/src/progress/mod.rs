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

/// Tells what a transfer of this client does, to [`show`].
#[derive(Debug, Clone)]
pub struct Teller(mpsc::UnboundedSender<Progress>);

impl Teller {
    /// Runs what tells, and shows it.
    pub async fn watched<T>(work: impl AsyncFnOnce(&Self) -> T) -> T {
        let (sender, told) = mpsc::unbounded_channel();
        let shown = tokio::spawn(show(told));
        let done = {
            let teller = Self(sender);
            work(&teller).await
        };
        // All that was told is on the terminal before anything else is.
        let _ = shown.await;
        done
    }

    /// Tells of an event.
    pub fn tell(&self, name: &str, event: &str) {
        self.part(name, "", event, 0, 0);
    }

    /// Tells how far a part is.
    pub fn part(&self, name: &str, parent: &str, event: &str, progress: i64, total: i64) {
        let parents = if parent.is_empty() {
            Vec::new()
        } else {
            vec![parent.to_owned()]
        };
        // Whoever does not watch any more is not told.
        let _ = self.0.send(Progress {
            event: event.to_owned(),
            name: name.to_owned(),
            parents,
            progress,
            total,
            desc: None,
        });
    }
}

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
