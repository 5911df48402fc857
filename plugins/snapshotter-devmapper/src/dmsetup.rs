//! The program `dmsetup`, which drives the device-mapper as containerd does: it knows how to wait for udev, and how to do without it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use orlop_plugin::contract::Code;
use orlop_plugin::{Error, Result, program};

const PROGRAM: &str = "dmsetup";
/// Where a running udev listens.
const UDEV: &str = "/run/udev/control";
/// The device-mapper's unit of length, in bytes.
pub(crate) const SECTOR: u64 = 512;

/// What the kernel's errors are called in the C locale: dmsetup says them, and ends with 1 whatever it was.
const ERRORS: [(&str, Errno); 5] = [
    ("Device or resource busy", Errno::EBUSY),
    ("File exists", Errno::EEXIST),
    ("No data available", Errno::ENODATA),
    ("No space left on device", Errno::ENOSPC),
    ("No such device or address", Errno::ENXIO),
];
/// What dmsetup says itself of a device that is not there.
const ABSENT: [&str; 2] = ["not found", "Device does not exist."];

/// Why `dmsetup` did not do what it was to.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What the kernel said, where that is known.
    pub(crate) errno: Option<Errno>,
    /// Whether it is certain that nothing was done.
    pub(crate) certain: bool,
    /// What it is for a caller.
    error: Error,
}

/// One line of a device's table or status: `START LENGTH TARGET WORDS…`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) kind: String,
    pub(crate) words: Vec<String>,
}

/// A device that is loaded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Loaded {
    pub(crate) name: String,
    pub(crate) suspended: bool,
}

/// The program.
pub(crate) struct Dmsetup(PathBuf);

// === impl Failure ===

impl Failure {
    /// Before anything was done.
    pub(crate) fn certain(error: Error) -> Self {
        Self {
            errno: None,
            certain: true,
            error,
        }
    }

    /// The same, after something was done.
    pub(crate) fn uncertain(self) -> Self {
        Self { certain: false, ..self }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

/// Takes `ENXIO`, no such device, for an answer.
pub(crate) fn if_there<T>(result: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(failure) if failure.errno == Some(Errno::ENXIO) => Ok(None),
        Err(failure) => Err(failure),
    }
}

// === impl Dmsetup ===

impl Dmsetup {
    /// The one of this machine.
    pub(crate) fn find() -> Result<Self> {
        program::find(PROGRAM).map(Self).ok_or_else(|| {
            Error::failed_precondition(
                "dmsetup, which the devmapper snapshotter makes devices with, is not there: install it (Debian's package dmsetup)",
            )
        })
    }

    /// Sends `message` to the pool.
    pub(crate) fn message(&self, pool: &str, message: &str) -> Result<(), Failure> {
        self.run(&["message", pool, "0", message]).map(drop)
    }

    /// Makes the device `name`; `EBUSY` when there is one.
    pub(crate) fn create(&self, name: &str, table: &str) -> Result<(), Failure> {
        self.run(&["create", name, "--table", table]).map(drop)
    }

    /// Makes a node in /dev/mapper that is missing.
    pub(crate) fn make_node(&self, name: &str) -> Result<(), Failure> {
        self.run(&["mknodes", name]).map(drop)
    }

    /// Lets the device go, waiting a few seconds for whoever looked into it just now (udev's blkid, say). `EBUSY` while it is in use.
    pub(crate) fn remove(&self, name: &str) -> Result<(), Failure> {
        if_there(self.run(&["remove", "--retry", name])).map(drop)
    }

    /// Lets the device go when nobody uses it any more.
    pub(crate) fn remove_later(&self, name: &str) -> Result<(), Failure> {
        if_there(self.run(&["remove", "--deferred", name])).map(drop)
    }

    /// Writes out what is pending, of a mounted file system too, and holds everything that comes.
    pub(crate) fn suspend(&self, name: &str) -> Result<(), Failure> {
        self.run(&["suspend", name]).map(drop)
    }

    /// Undoes [`Dmsetup::suspend`].
    pub(crate) fn resume(&self, name: &str) -> Result<(), Failure> {
        self.run(&["resume", name]).map(drop)
    }

    /// What the device `name` is made of; `None` when there is no such device.
    pub(crate) fn table(&self, name: &str) -> Result<Option<Target>, Failure> {
        self.ask("table", name)
    }

    /// The state of the device `name`; `None` when there is no such device. What is pending in a pool is written first.
    pub(crate) fn status(&self, name: &str) -> Result<Option<Target>, Failure> {
        self.ask("status", name)
    }

    /// Every device whose name begins so.
    pub(crate) fn loaded(&self, prefix: &str) -> Result<Vec<Loaded>, Failure> {
        let columns = [
            "info",
            "--columns",
            "--noheadings",
            "--separator",
            " ",
            "-o",
            "name,attr",
        ];
        Ok(loaded(&self.run(&columns)?, prefix))
    }

    fn ask(&self, what: &str, name: &str) -> Result<Option<Target>, Failure> {
        let Some(said) = if_there(self.run(&[what, name]))? else {
            return Ok(None);
        };
        target(&said).map(Some).ok_or_else(|| {
            Failure::certain(Error::internal(format!(
                "dmsetup {what} {name} says {said:?}, which is not understood"
            )))
        })
    }

    fn run(&self, args: &[&str]) -> Result<String, Failure> {
        let doing = || format!("{PROGRAM} {}", args.join(" "));
        let output = command(&self.0)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| Failure::certain(Error::io(format!("start {}", self.0.display()), &error)))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = said
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && *line != "Command failed.")
            .collect();
        let said = lines.join("; ");
        let errno = errno(&said);
        let code = match errno {
            Some(Errno::ENOSPC) => Code::ResourceExhausted,
            Some(Errno::EBUSY) => Code::Unavailable,
            Some(_) => Code::FailedPrecondition,
            None => Code::Internal,
        };
        let said = if said.is_empty() {
            format!("{} ended with {}", doing(), output.status)
        } else {
            format!("{}: {said}", doing())
        };
        Err(Failure {
            errno,
            // One that was killed may have been heard by the kernel.
            certain: output.status.code().is_some(),
            error: Error::new(code, said),
        })
    }
}

/// dmsetup, with messages that are known. Where no udev runs, as in a container, it is to make the nodes in /dev/mapper itself.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C");
    if !Path::new(UDEV).exists() {
        command.env("DM_DISABLE_UDEV", "1");
    }
    command
}

/// The kernel's error in what dmsetup said.
fn errno(said: &str) -> Option<Errno> {
    if ABSENT.iter().any(|end| said.ends_with(end)) {
        return Some(Errno::ENXIO);
    }
    let (_, reason) = said.rsplit_once("failed: ")?;
    ERRORS.iter().find(|(text, _)| *text == reason).map(|(_, errno)| *errno)
}

/// The only line of a table or a status. A suspended device that has no table yet has no line, and no words.
fn target(line: &str) -> Option<Target> {
    let mut words = line.split_whitespace().map(str::to_owned);
    let (start, length) = (words.next()?, words.next()?);
    start.parse::<u64>().ok()?;
    length.parse::<u64>().ok()?;
    Some(Target {
        kind: words.next()?,
        words: words.collect(),
    })
}

fn loaded(lines: &str, prefix: &str) -> Vec<Loaded> {
    lines
        .lines()
        .filter_map(|line| {
            let (name, attributes) = line.trim().split_once(' ')?;
            // dmsetup(8): the third letter is s while it is suspended.
            name.starts_with(prefix).then(|| Loaded {
                name: name.to_owned(),
                suspended: attributes.contains('s'),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_known_by_their_text() {
        let said = "device-mapper: message ioctl on thin  failed: File exists";
        assert_eq!(errno(said), Some(Errno::EEXIST));
        assert_eq!(errno("Device thin-snap-1 not found"), Some(Errno::ENXIO));
        assert_eq!(errno("Device does not exist."), Some(Errno::ENXIO));
        assert_eq!(errno("something else"), None);
    }

    #[test]
    fn a_line_is_a_target_and_its_words() {
        let status = target("0 204800 thin 17280 204799").expect("a line");
        assert_eq!(status.kind, "thin");
        assert_eq!(status.words, ["17280", "204799"]);
        assert_eq!(target(""), None);
        assert_eq!(target("thin-pool: 0 1"), None);
    }

    #[test]
    fn of_all_devices_those_with_the_prefix() {
        let lines = "thin L--w\nthin-snap-1 L--w\nthin-snap-2 L-sw\nother-snap-3 L--w";
        let names: Vec<(String, bool)> = loaded(lines, "thin-snap-")
            .into_iter()
            .map(|device| (device.name, device.suspended))
            .collect();
        assert_eq!(
            names,
            [("thin-snap-1".to_owned(), false), ("thin-snap-2".to_owned(), true)]
        );
        assert_eq!(loaded("No devices found", "thin-snap-"), []);
    }
}
