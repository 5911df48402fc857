//! What a transfer draws, on a real terminal: a pty, whose screen a terminal emulator keeps.

use nix::pty::{Winsize, openpty};
use orlop_tests::image::{BUSYBOX, busybox};
use orlop_tests::registry::Registry;
use orlop_tests::{Daemon, built};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::num::NonZero;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A way to a registry on which larger answers stay half sent until it is told to go on.
struct Gate {
    address: String,
    open: Arc<AtomicBool>,
}

/// What passes at once: documents do, a layer does not.
const PASSES: usize = 200_000;

impl Gate {
    fn to(registry: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let open = Arc::new(AtomicBool::new(false));
        let (target, flag) = (registry.to_owned(), open.clone());
        // Both kinds of threads end with the process of the test.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&target) else {
                    return;
                };
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || copy(from, to, None));
                let flag = flag.clone();
                std::thread::spawn(move || copy(server, client, Some(flag)));
            }
        });
        Self { address, open }
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, gate: Option<Arc<AtomicBool>>) {
    let (mut buffer, mut passed) = (vec![0; 16 << 10], 0);
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        passed += count;
        while passed > PASSES && gate.as_ref().is_some_and(|gate| !gate.load(Ordering::Relaxed)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// A command on a terminal.
struct Terminal {
    child: Child,
    master: File,
    screen: vt100::Parser,
}

const ROWS: u16 = 24;

impl Terminal {
    fn start(daemon: &Daemon, columns: u16, arguments: &str) -> Self {
        let size = Winsize {
            ws_row: ROWS,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(Some(&size), None).unwrap();
        let slave = || Stdio::from(pty.slave.try_clone().unwrap());
        let child = daemon
            .command(built("ctr"))
            .args(arguments.split(' '))
            .stdin(slave())
            .stdout(slave())
            .stderr(slave())
            .spawn()
            .unwrap();
        let size = |size: u16| NonZero::new(size).unwrap();
        Self {
            child,
            master: File::from(pty.master),
            screen: vt100::Parser::new(size(ROWS), size(columns), 0),
        }
    }

    fn text(&self) -> String {
        self.screen.screen().contents()
    }

    /// Reads on; `false` at the end.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        // The other side's end is an error on Linux.
        let count = self.master.read(&mut buffer).unwrap_or(0);
        self.screen.process(&buffer[..count]);
        let screen = self.screen.screen();
        for (row, text) in (0..ROWS).zip(screen.rows(0, screen.size().1.get())) {
            // Said after the drawing, and longer than a narrow terminal is wide.
            let unpacking = text.starts_with("unpacking ");
            assert!(unpacking || !screen.row_wrapped(row), "a line wraps:\n{}", self.text());
        }
        count > 0
    }

    fn until(&mut self, shown: &str) {
        let begin = Instant::now();
        while !self.text().contains(shown) {
            assert!(
                begin.elapsed() < Duration::from_secs(60),
                "no {shown}:\n{}",
                self.text()
            );
            assert!(self.read(), "no {shown}:\n{}", self.text());
        }
    }

    fn resize(&mut self, columns: u16) {
        rustix::termios::tcsetwinsize(
            &self.master,
            rustix::termios::Winsize {
                ws_row: ROWS,
                ws_col: columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            },
        )
        .unwrap();
        let size = |size: u16| NonZero::new(size).unwrap();
        self.screen.screen_mut().set_size(size(ROWS), size(columns));
    }

    /// The last screen of a command that succeeded.
    fn finish(mut self) -> String {
        while self.read() {}
        assert!(self.child.wait().unwrap().success(), "{}", self.text());
        self.text()
    }
}

#[test]
fn a_pull_is_drawn_in_its_terminal() {
    let registry = Registry::start();
    let daemon = Daemon::orlop().start();
    for (nth, (way, columns, then)) in [
        ("images pull --plain-http", 80, 80),
        ("images pull --plain-http", 40, 40),
        ("images pull --plain-http", 80, 40),
        ("images pull --local", 80, 80),
        ("images pull --local", 40, 80),
        ("content fetch", 40, 40),
    ]
    .into_iter()
    .enumerate()
    {
        let repository = format!("a-team/an-image:{nth}");
        let seed = format!("{}-{nth}", daemon.namespace());
        registry.fill(&busybox(&daemon.path(""), BUSYBOX, &seed), &repository);
        let gate = Gate::to(registry.name("").trim_end_matches('/'));
        let name = format!("{}/{repository}", gate.address);
        let mut terminal = Terminal::start(&daemon, columns, &format!("{way} {name}"));
        terminal.until("downloading");
        let half = terminal.text();
        let layer = half
            .lines()
            .find(|line| line.contains("layer ("))
            .unwrap_or_default()
            .to_owned();
        assert!(layer.contains("downloading"), "{half}");
        if columns == 80 {
            assert!(layer.contains(" KiB/") || layer.contains(" B/"), "{half}");
        } else {
            assert!(layer.trim_end().ends_with('%'), "{half}");
        }
        if then != columns {
            terminal.resize(then);
        }
        gate.open.store(true, Ordering::Relaxed);
        let last = terminal.finish();
        let lines: Vec<&str> = last.lines().collect();
        let of = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
        let done = if way.contains("--plain-http") {
            "complete"
        } else {
            "done"
        };
        assert_eq!((of("layer ("), of("config ("), of("manifest (")), (1, 1, 1), "{last}");
        assert!(
            lines.iter().any(|line| line.contains("layer (") && line.contains(done)),
            "{way} {columns}:\n{last}"
        );
        assert!(!last.contains("downloading") && last.contains("elapsed: "), "{last}");
        if done == "complete" {
            assert!(last.contains("Completed pull from"), "{last}");
        }
        let mut drawn = lines.iter().filter(|line| !line.starts_with("unpacking "));
        assert!(drawn.all(|line| line.chars().count() < then.into()), "{last}");
    }
}

#[test]
fn a_push_is_drawn_in_its_terminal() {
    let (registry, daemon) = (Registry::start(), Daemon::orlop().start());
    daemon.import_busybox();
    for (way, columns) in [("images push --plain-http", 80), ("images push --local", 40)] {
        let name = registry.name(&format!("pushed-{columns}:1"));
        let terminal = Terminal::start(&daemon, columns, &format!("{way} {name} {BUSYBOX}"));
        let last = terminal.finish();
        let done = if columns == 80 { "complete" } else { "done" };
        assert!(
            last.lines().any(|line| line.contains("layer (") && line.contains(done)),
            "{last}"
        );
    }
}
