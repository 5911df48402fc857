//! Everything that was told so far, and how it is laid out in a given width: the tree of containerd's client, what does
//! not fit cut or left out.

use crate::human::binary_size;
use containerd_client::types::Descriptor;
use containerd_client::types::transfer::Progress;
use std::fmt::Write as _;
use std::time::Duration;

/// Widest name.
const NAME: usize = 40;
/// Widest bar, with its ends.
const BAR: usize = 40;
/// Narrowest bar.
const SHORT_BAR: usize = 12;
/// Width of the states of what moves.
const EVENT: usize = 11;
/// Width of "1023.9 KiB/1023.9 KiB", with the first half aligned to the right as containerd does.
const AMOUNT: usize = 19;

/// One thing that is transferred.
#[derive(Debug, Clone, Default, PartialEq)]
struct Part {
    name: String,
    event: String,
    progress: i64,
    total: i64,
    parents: Vec<String>,
    descriptor: Option<Descriptor>,
}

/// Everything that was told so far, in the order in which it was first.
#[derive(Debug, Default)]
pub struct Board {
    status: String,
    parts: Vec<Part>,
}

impl Board {
    /// Takes a message in; answers a line to print when it says something new.
    pub fn take(&mut self, told: Progress) -> Option<String> {
        let new = Part {
            name: told.name,
            event: told.event,
            progress: told.progress,
            total: told.total,
            parents: told.parents,
            descriptor: told.desc,
        };
        if new.name.is_empty() {
            self.status.clone_from(&new.event);
            return Some(new.event);
        }
        let line = format!("{}\t{}", new.name, new.event);
        if let Some(part) = self.parts.iter_mut().find(|part| part.name == new.name) {
            let changed = part.event != new.event;
            *part = new;
            return changed.then_some(line);
        }
        self.parts.push(new);
        Some(line)
    }

    /// Whether nothing was told yet.
    pub fn is_empty(&self) -> bool {
        self.status.is_empty() && self.parts.is_empty()
    }

    /// The lines, each narrower than `columns`: a terminal that has written its last column is in two minds about the next.
    pub fn lines(&self, columns: usize, elapsed: Duration) -> Vec<String> {
        let width = columns.saturating_sub(1).max(1);
        let mut rows: Vec<(String, &Part)> = Vec::new();
        let is_root = |part: &&Part| !self.parts.iter().any(|other| part.is_below(other));
        for root in self.parts.iter().filter(is_root) {
            rows.push((short(&root.name), root));
            self.below(root, "", &mut rows, 0);
        }
        let widest = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let name = widest.min(NAME).min(width.saturating_sub(EVENT + 6));
        let mut lines: Vec<String> = rows.iter().map(|(text, part)| part.line(text, name, width)).collect();
        for root in self.parts.iter().filter(is_root) {
            if let Some(descriptor) = &root.descriptor {
                lines.push(cut(&format!("{} {}", descriptor.media_type, descriptor.digest), width));
            }
        }
        lines.push(self.summary(width, elapsed));
        lines
    }

    /// Adds what is below a part; what is below several, is shown once.
    fn below<'a>(&'a self, parent: &Part, prefix: &str, rows: &mut Vec<(String, &'a Part)>, depth: usize) {
        // No image is so deep; what is below itself would have no end.
        if depth > 16 {
            return;
        }
        let children: Vec<&Part> = self.parts.iter().filter(|part| part.is_below(parent)).collect();
        for (position, child) in children.iter().enumerate() {
            if rows.iter().any(|(_, shown)| std::ptr::eq(*shown, *child)) {
                continue;
            }
            let last = position + 1 == children.len();
            let (drop, beside) = if last {
                ("└──", "   ")
            } else {
                ("├──", "│  ")
            };
            rows.push((format!("{prefix}{drop}{}", short(&child.name)), child));
            self.below(child, &format!("{prefix}{beside}"), rows, depth + 1);
        }
    }

    /// The last line: of the numbers, as many as there is place for.
    fn summary(&self, width: usize, elapsed: Duration) -> String {
        let seconds = elapsed.as_secs_f64();
        let total: i64 = self.parts.iter().map(|part| part.progress).sum();
        let rate = binary_size((total as f64 / seconds.max(0.001)) as i64);
        let numbers = [
            format!("elapsed: {seconds:.1}s"),
            format!("total: {}", binary_size(total)),
            format!("({rate}/s)"),
        ];
        for count in (1..=numbers.len()).rev() {
            let numbers = numbers[..count].join("  ");
            if self.status.is_empty() && numbers.chars().count() <= width {
                return numbers;
            }
            let Some(room) = width.checked_sub(numbers.chars().count() + 2) else {
                continue;
            };
            let fits = self.status.chars().count() <= room;
            if fits || (count == 1 && room >= 10) {
                return format!("{}  {numbers}", cut(&self.status, room));
            }
        }
        cut(&self.status, width)
    }
}

impl Part {
    fn is_below(&self, other: &Part) -> bool {
        self.name != other.name && self.parents.contains(&other.name)
    }

    fn line(&self, text: &str, name: usize, width: usize) -> String {
        let mut line = format!("{:name$} ", cut(text, name));
        let moves = matches!(self.event.as_str(), "downloading" | "uploading" | "extracting");
        let full = matches!(
            self.event.as_str(),
            "complete" | "extracted" | "done" | "exists" | "resolved"
        );
        if !moves && !full && !matches!(self.event.as_str(), "resolving" | "waiting") {
            line.push_str(&self.event);
            return cut(line.trim_end(), width);
        }
        let _ = write!(line, "{:EVENT$}", self.event);
        let total = self.total.max(1);
        let progress = if full { total } else { self.progress.clamp(0, total) };
        let amount = moves.then(|| {
            let size = binary_size(self.progress);
            format!(" {size:>8}/{}", binary_size(self.total))
        });
        let room = width.saturating_sub(line.chars().count() + 1);
        // Bars of all parts end at the same column, so that the amounts do not move them.
        let bar = room.saturating_sub(AMOUNT + 1).min(BAR);
        if bar >= SHORT_BAR {
            let inner = bar - 2;
            let filled = (progress as u128 * inner as u128 / total as u128) as usize;
            let _ = write!(line, " |{}{}|", "+".repeat(filled), "-".repeat(inner - filled));
            line.push_str(&amount.unwrap_or_default());
        } else if let Some(amount) = amount.filter(|amount| amount.chars().count() <= room) {
            line.push_str(&amount);
        } else if moves && self.total > 0 {
            let _ = write!(line, " {:3}%", i128::from(progress) * 100 / i128::from(total));
        }
        cut(line.trim_end(), width)
    }
}

/// `text` in `width` characters, with the sign of an omission where it is longer.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// A name with the beginning of its digest: `layer (0123456789ab)` for `layer-sha256:0123…`.
fn short(name: &str) -> String {
    match name.split_once("-sha256:") {
        Some((kind, hex)) if hex.len() == 64 => format!("{kind} ({})", &hex[..12]),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(name: &str, parent: &str, event: &str, progress: i64, total: i64) -> Progress {
        Progress {
            name: name.to_owned(),
            event: event.to_owned(),
            parents: if parent.is_empty() {
                Vec::new()
            } else {
                vec![parent.to_owned()]
            },
            progress,
            total,
            ..Progress::default()
        }
    }

    /// A pull in full flight.
    fn pull() -> Board {
        const IMAGE: &str = "registry.example.com:5000/team/a-rather-long-name/of-an-image:v1.2.3";
        let digest = |digit: &str| digit.repeat(64);
        let manifest = format!("manifest-sha256:{}", digest("a"));
        let mut board = Board::default();
        let status = format!("Pulling from OCI Registry ({IMAGE})");
        board.take(told("", "", &status, 0, 0));
        board.take(told(IMAGE, "", "fetching image content", 0, 0));
        board.take(told(&manifest, IMAGE, "complete", 500, 500));
        let layer = |digit: &str| format!("layer-sha256:{}", digest(digit));
        board.take(told(&layer("b"), &manifest, "downloading", 512 << 10, 1 << 20));
        board.take(told(&layer("c"), &manifest, "waiting", 0, 1 << 20));
        board.take(told(&layer("d"), &manifest, "already exists", 1 << 20, 1 << 20));
        let config = format!("config-sha256:{}", digest("e"));
        board.take(told(&config, &manifest, "extracting", 1, 3));
        board
    }

    #[test]
    fn a_line_is_printed_for_a_new_state_only() {
        let mut board = Board::default();
        assert_eq!(board.take(told("", "", "Pulling", 0, 0)).as_deref(), Some("Pulling"));
        assert_eq!(
            board.take(told("layer", "", "downloading", 0, 10)).as_deref(),
            Some("layer\tdownloading")
        );
        assert_eq!(board.take(told("layer", "", "downloading", 5, 10)), None);
        assert_eq!(
            board.take(told("layer", "", "complete", 10, 10)).as_deref(),
            Some("layer\tcomplete")
        );
    }

    #[test]
    fn eighty_columns_have_a_tree_with_bars_and_amounts() {
        let lines = pull().lines(80, Duration::from_secs(2));
        let expected = [
            "registry.example.com:5000/team/a-rather… fetching image content",
            "└──manifest (aaaaaaaaaaaa)               complete    ",
        ];
        assert_eq!(lines[0], expected[0]);
        assert!(lines[1].starts_with(expected[1].trim_end()), "{lines:#?}");
        assert!(lines[2].starts_with("   ├──layer (bbbbbbbbbbbb)"), "{lines:#?}");
        assert!(lines[2].contains("512.0 KiB/1.0 MiB"), "{lines:#?}");
        assert!(lines[5].starts_with("   └──config (eeeeeeeeeeee)"), "{lines:#?}");
        assert!(lines[6].ends_with("elapsed: 2.0s"), "{lines:#?}");
        let wide = pull().lines(140, Duration::from_secs(2));
        assert!(
            wide[2].contains(&format!("|{}{}|", "+".repeat(19), "-".repeat(19))),
            "{wide:#?}"
        );
        assert!(wide[6].ends_with("elapsed: 2.0s  total: 1.5 MiB"), "{wide:#?}");
    }

    #[test]
    fn every_width_is_kept() {
        let mut quiet = pull();
        quiet.status.clear();
        for columns in 1..200 {
            for line in quiet.lines(columns, Duration::from_secs(12345)) {
                assert!(line.chars().count() < columns.max(2), "{columns}: {line:?}");
            }
        }
        let board = pull();
        for columns in 1..200 {
            for line in board.lines(columns, Duration::from_secs(12345)) {
                assert!(line.chars().count() < columns.max(2), "{columns}: {line:?}");
            }
        }
        let narrow = board.lines(40, Duration::ZERO);
        assert!(narrow[2].ends_with("downloading  50%"), "{narrow:#?}");
        assert!(
            narrow[6].starts_with("Pulling from") && narrow[6].ends_with("elapsed: 0.0s"),
            "{narrow:#?}"
        );
    }

    #[test]
    fn what_is_below_itself_ends() {
        let mut board = Board::default();
        board.take(told("a", "b", "waiting", 0, 0));
        board.take(told("b", "a", "waiting", 0, 0));
        board.take(told("c", "c", "waiting", 0, 0));
        assert_eq!(board.lines(80, Duration::ZERO).len(), 2);
    }
}
