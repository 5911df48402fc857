//! Columns as Go's `text/tabwriter` lays them out, byte by byte: scripts cut containerd's tables by position.
//!
//! A line is a list of cells. Every cell but the last is followed by a tab and belongs to a column; a column is the
//! run of consecutive lines that have a cell there, and as wide as its widest cell and the padding. The last cell is
//! printed as it is. So tables whose lines end in a tab end in an empty cell here.

/// Lines that will be aligned.
#[derive(Debug)]
pub struct Table {
    lines: Vec<Vec<String>>,
    padding: usize,
    tabs: bool,
}

/// Width of a tab stop where columns are aligned with tabs.
const TAB: usize = 8;

impl Table {
    /// A table with four spaces between columns: plugins, containers, tasks.
    pub fn new(head: &[&str]) -> Self {
        Self::with(head, 4, false)
    }

    /// A table with one space between columns: most others.
    pub fn dense(head: &[&str]) -> Self {
        Self::with(head, 1, false)
    }

    /// A table aligned with tabs: content.
    pub fn tabbed(head: &[&str]) -> Self {
        Self::with(head, 1, true)
    }

    fn with(head: &[&str], padding: usize, tabs: bool) -> Self {
        let mut table = Self {
            lines: Vec::new(),
            padding,
            tabs,
        };
        if !head.is_empty() {
            table.lines.push(head.iter().map(|&cell| cell.to_owned()).collect());
        }
        table
    }

    /// Adds a line.
    pub fn row<const N: usize>(&mut self, cells: [&str; N]) {
        self.lines.push(cells.into_iter().map(str::to_owned).collect());
    }

    /// Prints it to standard output.
    pub fn print(&self) {
        print!("{}", self.text());
    }

    /// The aligned text.
    pub fn text(&self) -> String {
        let mut widths: Vec<Vec<usize>> = self
            .lines
            .iter()
            .map(|line| vec![0; line.len().saturating_sub(1)])
            .collect();
        self.measure(0, self.lines.len(), 0, &mut widths);
        let mut text = String::new();
        for (line, widths) in self.lines.iter().zip(&widths) {
            for (position, cell) in line.iter().enumerate() {
                text.push_str(cell);
                if let Some(&width) = widths.get(position) {
                    self.pad(&mut text, cell.chars().count(), width);
                }
            }
            text.push('\n');
        }
        text
    }

    /// Widths of the columns at `position` and right of it, in the lines from `start` to `end`.
    fn measure(&self, start: usize, end: usize, position: usize, widths: &mut [Vec<usize>]) {
        let mut line = start;
        while line < end {
            if position >= widths[line].len() {
                line += 1;
                continue;
            }
            let block = line;
            while line < end && position < widths[line].len() {
                line += 1;
            }
            let widest = self.lines[block..line]
                .iter()
                .map(|cells| cells[position].chars().count() + self.padding)
                .max();
            for widths in &mut widths[block..line] {
                widths[position] = widest.unwrap_or(0);
            }
            self.measure(block, line, position + 1, widths);
        }
    }

    fn pad(&self, text: &mut String, cell: usize, width: usize) {
        if self.tabs {
            let missing = width.div_ceil(TAB) * TAB - cell;
            text.extend(std::iter::repeat_n('\t', missing.div_ceil(TAB)));
        } else {
            text.extend(std::iter::repeat_n(' ', width - cell));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_lines_end_in_spaces() {
        let mut table = Table::new(&["TASK", "PID", "STATUS", ""]);
        table.row(["a-long-name", "1", "RUNNING", ""]);
        assert_eq!(
            table.text(),
            "TASK           PID    STATUS     \na-long-name    1      RUNNING    \n"
        );
    }

    #[test]
    fn the_last_cell_is_not_aligned() {
        let mut table = Table::dense(&["PID", "INFO"]);
        table.row(["12345", "-"]);
        assert_eq!(table.text(), "PID   INFO\n12345 -\n");
    }

    #[test]
    fn a_column_ends_where_a_line_has_no_cell_there() {
        let mut table = Table::new(&[]);
        table.row(["Type:", " a"]);
        table.row(["Exports:", ""]);
        table.row(["", " root ", " /x"]);
        assert_eq!(
            table.text(),
            "Type:        a\nExports:    \n             root      /x\n"
        );
    }

    #[test]
    fn tabs_reach_the_next_stop() {
        let mut table = Table::tabbed(&["DIGEST", "SIZE", "AGE"]);
        table.row(["sha256:0123", "1B", "x"]);
        assert_eq!(table.text(), "DIGEST\t\tSIZE\tAGE\nsha256:0123\t1B\tx\n");
    }
}
