//! Running one verifier: what it is told, what is taken of what it says, and its end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use orlop_plugin::contract::Descriptor;
use orlop_plugin::{Error, Result, blocking};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// The most that is taken of each of its outputs.
const OUTPUT_LIMIT: u64 = 32 << 10;

/// What its stdin is.
const STDIN_MEDIA_TYPE: &str = "application/vnd.oci.descriptor.v1+json";

/// A verifier.
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    /// How long it may take.
    pub(crate) limit: Duration,
}

/// What it answered.
pub(crate) struct Answer {
    /// 0: the image is accepted.
    pub(crate) code: i32,
    /// The beginning of its stdout.
    pub(crate) said: String,
}

/// The descriptor on its stdin, in the order in which containerd writes it.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Told<'a> {
    media_type: &'a str,
    digest: &'a str,
    size: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

// === impl Program ===

impl Program {
    /// Runs it for the image `name`. It and all of its process group are killed when it takes too long, and when this is dropped.
    ///
    /// `FailedPrecondition` when it cannot be run or did not exit by itself, `DeadlineExceeded` when it took too long.
    pub(crate) async fn ask(&self, name: &str, target: &Descriptor) -> Result<Answer> {
        let mut told = serde_json::to_vec(&Told {
            media_type: &target.media_type,
            digest: target.digest.as_str(),
            size: target.size,
            annotations: &target.annotations,
        })
        .map_err(|error| Error::internal(format!("write the descriptor: {error}")))?;
        told.push(b'\n');
        let mut child = self.spawn(name, target).await?;
        // Ends before the child does, whose id is its own until it was waited for.
        let group = Group::of(&child);
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A verifier is free not to read it.
                let _ = stdin.write_all(&told).await;
            }
        };
        let talk = async { tokio::join!(feed, beginning(stdout), self.log(stderr)) };
        let ended = tokio::time::timeout(self.limit, async {
            let ((), said, ()) = talk.await;
            // Only now: before, children that hold the pipes could not be killed by the id of their group.
            (said, child.wait().await)
        })
        .await;
        let Ok((said, status)) = ended else {
            group.kill();
            let _ = child.wait().await;
            return Err(Error::deadline_exceeded(format!(
                "it took longer than {:?} (per_verifier_timeout), so it was killed with all it had started",
                self.limit
            )));
        };
        group.ended();
        let status =
            status.map_err(|error| Error::failed_precondition(format!("wait for {}: {error}", self.path.display())))?;
        let code = status
            .code()
            .ok_or_else(|| Error::failed_precondition(format!("it did not exit by itself: {status}")))?;
        Ok(Answer { code, said })
    }

    async fn spawn(&self, name: &str, target: &Descriptor) -> Result<Child> {
        let mut command = Command::new(&self.path);
        command
            .args(["-name", name])
            .args(["-digest", target.digest.as_str()])
            .args(["-stdin-media-type", STDIN_MEDIA_TYPE])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let path = self.path.clone();
        blocking(move || {
            command
                .spawn()
                .map_err(|error| Error::failed_precondition(format!("start {}: {error}", path.display())))
        })
        .await
    }

    /// What it says on stderr goes into the daemon's log.
    async fn log(&self, stderr: Option<impl AsyncRead + Unpin>) {
        let (text, cut) = read(stderr).await;
        let image_verifier = self.path.file_name().unwrap_or_default().display();
        for line in text.lines() {
            tracing::debug!(%image_verifier, stream = "stderr", "{line}");
        }
        if cut {
            tracing::debug!(%image_verifier, stream = "stderr", "(the rest was left out)");
        }
    }
}

/// The beginning of what it says on stdout.
async fn beginning(stdout: Option<impl AsyncRead + Unpin>) -> String {
    let (text, cut) = read(stdout).await;
    format!("{}{}", text.trim(), if cut { "(stdout truncated)" } else { "" })
}

/// Reads all of a pipe, so that nobody breaks on it, and keeps the beginning. Also returns whether there was more.
async fn read(pipe: Option<impl AsyncRead + Unpin>) -> (String, bool) {
    let mut kept = Vec::new();
    let mut more = false;
    if let Some(mut pipe) = pipe {
        // A pipe of our own does not fail; should it, what was read is what was said.
        let _ = (&mut pipe).take(OUTPUT_LIMIT).read_to_end(&mut kept).await;
        let rest = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
        more = rest.is_ok_and(|length| length > 0);
    }
    (String::from_utf8_lossy(&kept).into_owned(), more)
}

/// The process group of a verifier, killed when dropped.
struct Group(Option<Pid>);

// === impl Group ===

impl Group {
    fn of(child: &Child) -> Self {
        // No process has an id that does not fit.
        Self(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw))
    }

    /// It ended by itself: its id may be another's by now.
    fn ended(mut self) {
        self.0 = None;
    }

    fn kill(self) {
        drop(self);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended just now.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}
