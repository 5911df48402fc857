//! runc or crun: one command line a call, and what its log says when it fails.

use std::ffi::OsStr;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::options::Options;
use crate::reaper::Reaper;

/// Where runc keeps its state unless told otherwise, a directory a namespace.
const ROOT: &str = "/run/containerd/runc";

/// A runtime, for the containers of one bundle.
#[derive(Clone, Debug)]
pub struct Runtime {
    program: String,
    root: PathBuf,
    systemd_cgroup: bool,
    bundle: PathBuf,
}

// === impl Runtime ===

impl Runtime {
    pub fn new(options: &Options, namespace: &str, bundle: &Path) -> Self {
        let or = |given: &str, default: &str| if given.is_empty() { default } else { given }.to_owned();
        Self {
            program: or(&options.binary_name, "runc"),
            root: PathBuf::from(or(&options.root, ROOT)).join(namespace),
            systemd_cgroup: options.systemd_cgroup,
            bundle: bundle.to_owned(),
        }
    }

    /// `runc create`, `exec`, …: the global flags, and no standard streams.
    pub fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.root);
        command.arg("--log").arg(self.log()).args(["--log-format", "json"]);
        if self.systemd_cgroup {
            command.arg("--systemd-cgroup");
        }
        command
            .arg(verb)
            .current_dir(&self.bundle)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Runs one to its end. The error is what the runtime logged, without its verb.
    pub async fn run(&self, reaper: &Reaper, mut command: Command) -> Result<()> {
        let logged = self.log_length();
        let pid = command.spawn().map_err(|error| self.cannot_run(&error))?.id();
        // No await in between: the reaper has not run yet.
        let ended = reaper.expect(pid as i32);
        // The command holds the container's streams.
        drop(command);
        let exit = ended.await.map_err(|_| Error::unknown("the shim is ending"))?;
        self.outcome(exit.status, logged)
    }

    /// The same in a process that has nothing else to do.
    pub fn run_blocking(&self, mut command: Command) -> Result<()> {
        let logged = self.log_length();
        let status = command.status().map_err(|error| self.cannot_run(&error))?;
        self.outcome(status.code().unwrap_or(255) as u32, logged)
    }

    fn outcome(&self, status: u32, logged: u64) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        let said = self.last_error(logged);
        Err(Error::unknown(said.unwrap_or_else(|| {
            format!("{} ended with status {status} and logged no reason", self.program)
        })))
    }

    fn cannot_run(&self, error: &std::io::Error) -> Error {
        if error.kind() == std::io::ErrorKind::NotFound && !self.program.contains('/') {
            return Error::unknown(format!("exec: {:?}: executable file not found in $PATH", self.program));
        }
        Error::io(format!("run the OCI runtime {:?}", self.program), error)
    }

    fn log(&self) -> PathBuf {
        self.bundle.join("log.json")
    }

    fn log_length(&self) -> u64 {
        std::fs::metadata(self.log()).map_or(0, |metadata| metadata.len())
    }

    /// The last error that was logged after the first `skip` bytes.
    fn last_error(&self, skip: u64) -> Option<String> {
        let mut file = std::fs::File::open(self.log()).ok()?;
        file.seek(SeekFrom::Start(skip)).ok()?;
        let mut text = String::new();
        file.take(1 << 20).read_to_string(&mut text).ok()?;
        last_error(&text)
    }
}

fn last_error(log: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        #[serde(default)]
        level: String,
        #[serde(default)]
        msg: String,
    }
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    let mut errors = lines.filter(|line| line.level == "error" || line.level == "fatal");
    errors
        .next_back()
        .map(|line| line.msg.trim().to_owned())
        .filter(|text| !text.is_empty())
}

/// What became of a signal, as clients know it: moby and the CRI look for these words.
pub fn kill_error(error: Error) -> Error {
    let text = error.message.to_lowercase();
    if [
        "process already finished",
        "container not running",
        "not running",
        "no such process",
    ]
    .iter()
    .any(|known| text.contains(known))
    {
        return Error::not_found("process already finished");
    }
    if text.contains("does not exist") {
        return Error::not_found("no such container");
    }
    Error::unknown(format!("unknown error after kill: {}", error.message))
}

/// The pid that a runtime left in `file`.
pub fn read_pid(file: &Path) -> Result<i32> {
    let text = std::fs::read_to_string(file).map_err(|error| Error::io(format!("read {}", file.display()), error))?;
    let pid = text.trim().parse::<i32>().ok().filter(|pid| *pid > 0);
    pid.ok_or_else(|| Error::unknown(format!("{} has no pid: {text:?}", file.display())))
}

/// Adds `flag` when `wanted`.
pub fn flag(command: &mut Command, wanted: bool, flag: impl AsRef<OsStr>) {
    if wanted {
        command.arg(flag);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ttrpc::Code;

    #[test]
    fn the_last_error_counts() {
        let log = concat!(
            r#"{"level":"warning","msg":"hm","time":"t"}"#,
            "\n",
            r#"{"level":"error","msg":"first"}"#,
            "\n",
            "not json\n",
            r#"{"level":"error","msg":" exec: \"x\": not found\n"}"#,
            "\n",
        );
        assert_eq!(last_error(log).as_deref(), Some("exec: \"x\": not found"));
        assert_eq!(last_error("{}\n"), None);
    }

    #[test]
    fn a_runtime_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options {
            binary_name: "nonesuch".into(),
            ..Options::default()
        };
        let runtime = Runtime::new(&options, "ns", dir.path());
        let error = runtime.run_blocking(runtime.command("create")).expect_err("not there");
        assert!(error.message.contains("\"nonesuch\""), "{error}");
    }

    #[test]
    fn signals_that_come_too_late_are_not_found() {
        for text in [
            "container not running",
            "os: process already finished",
            "container `x` does not exist",
        ] {
            assert_eq!(kill_error(Error::unknown(text)).code, Code::NOT_FOUND);
        }
        assert_eq!(kill_error(Error::unknown("permission denied")).code, Code::UNKNOWN);
    }
}
