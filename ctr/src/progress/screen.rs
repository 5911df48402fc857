//! Lines on a terminal that are drawn over themselves, of which only those are sent that changed.

use std::fmt::Write as _;

/// Width and height of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub columns: usize,
    /// Rows.
    pub rows: usize,
}

impl Size {
    /// A size as the terminal says it, which does not say it when it does not know.
    pub fn new(columns: u16, rows: u16) -> Self {
        let default = Self::default();
        let known = |size: u16, default: usize| if size == 0 { default } else { size.into() };
        Self {
            columns: known(columns, default.columns),
            rows: known(rows, default.rows),
        }
    }
}

impl Default for Size {
    fn default() -> Self {
        Self { columns: 80, rows: 24 }
    }
}

/// What is on the terminal: the lines that were drawn last, with the cursor below them.
#[derive(Debug, Default)]
pub struct Screen {
    drawn: Vec<String>,
    size: Option<Size>,
}

impl Screen {
    /// What to write so that `lines` are there. They must be shorter than the terminal is wide. Of more lines than there
    /// is place for, the last ones are.
    pub fn update(&mut self, lines: &[String], size: Size) -> String {
        // The cursor needs a row, too.
        let room = size.rows.saturating_sub(1).max(1);
        self.draw(&lines[lines.len().saturating_sub(room)..], size)
    }

    /// The same for the last time, and for all lines: what has no place is scrolled out.
    pub fn finish(&mut self, lines: &[String], size: Size) -> String {
        self.draw(lines, size)
    }

    fn draw(&mut self, lines: &[String], size: Size) -> String {
        let mut text = String::new();
        // The row that the cursor is on, counted from the first line.
        let mut at = self.drawn.len();
        if self.size.replace(size).is_some_and(|before| before != size) {
            // Where the lines are now, nobody knows: terminals cut, wrap or scroll them. Those still to be seen go. A
            // terminal that wraps may keep a part of them above; going up further would wipe out what is not ours.
            go(&mut text, at.min(size.rows.saturating_sub(1)), 0);
            text.push_str("\x1b[J");
            self.drawn.clear();
            at = 0;
        }
        for (row, line) in lines.iter().enumerate() {
            if self.drawn.get(row) != Some(line) {
                go(&mut text, at, row);
                let _ = write!(text, "{line}\x1b[K\r\n");
                at = row + 1;
            }
        }
        go(&mut text, at, lines.len());
        if lines.len() < self.drawn.len() {
            text.push_str("\x1b[J");
        }
        self.drawn = lines.to_vec();
        text
    }
}

/// To the beginning of another row.
fn go(text: &mut String, from: usize, to: usize) {
    let _ = match to.cmp(&from) {
        std::cmp::Ordering::Less => write!(text, "\x1b[{}A\r", from - to),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => write!(text, "\x1b[{}B\r", to - from),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZero;

    const SIZE: Size = Size { columns: 20, rows: 5 };

    fn lines(text: &[&str]) -> Vec<String> {
        text.iter().map(|&line| line.to_owned()).collect()
    }

    /// A terminal with a line of somebody else on it.
    fn terminal() -> vt100::Parser {
        let size = |size: usize| NonZero::new(size as u16).unwrap();
        let mut terminal = vt100::Parser::new(size(SIZE.rows), size(SIZE.columns), 100);
        terminal.process(b"$ ctr\r\n");
        terminal
    }

    fn resize(terminal: &mut vt100::Parser, columns: u16) {
        terminal
            .screen_mut()
            .set_size(NonZero::new(5).unwrap(), NonZero::new(columns).unwrap());
    }

    fn shown(terminal: &vt100::Parser) -> Vec<String> {
        let text = terminal.screen().contents();
        text.lines().map(|line| line.trim_end().to_owned()).collect()
    }

    #[test]
    fn only_what_changed_is_written() {
        let (mut terminal, mut screen) = (terminal(), Screen::default());
        terminal.process(screen.update(&lines(&["one", "two", "three"]), SIZE).as_bytes());
        let drawing = screen.update(&lines(&["one", "2", "three"]), SIZE);
        assert!(!drawing.contains("one") && !drawing.contains("three"), "{drawing:?}");
        terminal.process(drawing.as_bytes());
        assert_eq!(shown(&terminal), ["$ ctr", "one", "2", "three"]);
        assert_eq!(screen.update(&lines(&["one", "2", "three"]), SIZE), "");
        // Fewer, then more.
        terminal.process(screen.update(&lines(&["one"]), SIZE).as_bytes());
        assert_eq!(shown(&terminal), ["$ ctr", "one"]);
        terminal.process(screen.update(&lines(&["one", "4", "5"]), SIZE).as_bytes());
        terminal.process(b"$ ");
        assert_eq!(shown(&terminal), ["$ ctr", "one", "4", "5", "$"]);
    }

    #[test]
    fn more_lines_than_rows_show_the_last_and_at_the_end_all() {
        let (mut terminal, mut screen) = (terminal(), Screen::default());
        let many = lines(&["1", "2", "3", "4", "5", "6"]);
        terminal.process(screen.update(&many, SIZE).as_bytes());
        assert_eq!(shown(&terminal), ["3", "4", "5", "6"]);
        terminal.process(screen.finish(&many, SIZE).as_bytes());
        terminal.screen_mut().set_scrollback(100);
        assert_eq!(shown(&terminal)[..4], ["$ ctr", "1", "2", "3"]);
        terminal.screen_mut().set_scrollback(0);
        assert_eq!(shown(&terminal), ["3", "4", "5", "6"]);
    }

    #[test]
    fn another_size_draws_everything_anew_and_nothing_of_others() {
        let (mut terminal, mut screen) = (terminal(), Screen::default());
        terminal.process(screen.update(&lines(&["a wide line", "another"]), SIZE).as_bytes());
        resize(&mut terminal, 8);
        let narrow = Size { columns: 8, rows: 5 };
        terminal.process(screen.update(&lines(&["a wide", "another"]), narrow).as_bytes());
        assert_eq!(shown(&terminal), ["$ ctr", "a wide", "another"]);
        resize(&mut terminal, 20);
        terminal.process(screen.finish(&lines(&["a wide line", "another"]), SIZE).as_bytes());
        assert_eq!(shown(&terminal), ["$ ctr", "a wide line", "another"]);
    }
}
