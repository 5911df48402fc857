//! Real programs in a real directory.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use orlop_plugin::contract::{Code, Ctx, Descriptor, Digest, ImageVerifier, Judgement};
use orlop_plugin::duration::GoDuration;
use orlop_plugin::{Error, Result};

use crate::{Config, Directory};

const NAME: &str = "registry.example/app:1";

fn target() -> Descriptor {
    Descriptor {
        media_type: "application/vnd.oci.image.index.v1+json".into(),
        digest: Digest::new(format!("sha256:{}", "ab".repeat(32))).expect("a digest"),
        size: 1234,
        annotations: [("a".to_owned(), "b".to_owned())].into(),
    }
}

/// A directory of verifiers.
struct Programs(tempfile::TempDir);

// === impl Programs ===

impl Programs {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("bin").join(name)
    }

    /// A place for what programs write.
    fn note(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn with(self, name: &str, script: &str) -> Self {
        self.with_mode(name, script, 0o755)
    }

    fn with_mode(self, name: &str, script: &str, mode: u32) -> Self {
        let (path, home) = (self.path(name), self.0.path().display());
        std::fs::create_dir_all(self.path("")).expect("bin");
        std::fs::write(&path, format!("#!/bin/sh\nHERE={home}\n{script}\n")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("a mode");
        self
    }

    fn config(&self) -> Config {
        Config {
            bin_dir: self.path(""),
            // Tests that wait for it set less.
            per_verifier_timeout: GoDuration::from_millis(60_000),
            ..Config::default()
        }
    }

    async fn judge(&self) -> Result<Judgement> {
        self.judge_with(self.config()).await
    }

    async fn judge_with(&self, config: Config) -> Result<Judgement> {
        Directory::new(config).verify(&Ctx::daemon(), NAME, target()).await
    }

    #[track_caller]
    fn said(&self, name: &str) -> String {
        std::fs::read_to_string(self.note(name)).expect("it wrote that")
    }
}

#[track_caller]
fn accepted(judged: Result<Judgement>) -> String {
    let judgement = judged.expect("judged");
    assert!(judgement.accepted, "{judgement:?}");
    judgement.reason
}

#[track_caller]
fn rejected(judged: Result<Judgement>) -> String {
    let judgement = judged.expect("judged");
    assert!(!judgement.accepted, "{judgement:?}");
    judgement.reason
}

#[track_caller]
fn failed(judged: Result<Judgement>, code: Code) -> Error {
    let error = judged.expect_err("no judgement");
    assert_eq!(error.code, code, "{error}");
    error
}

#[tokio::test]
async fn a_program_is_told_of_the_image_and_its_word_is_the_reason() {
    let programs = Programs::new().with(
        "verify",
        r#"printf '%s\n' "$@" > $HERE/args; cat > $HERE/stdin; echo to the log >&2; echo '  signed by acme '"#,
    );
    assert_eq!(accepted(programs.judge().await), "verify => signed by acme");
    let digest = target().digest;
    assert_eq!(
        programs.said("args"),
        format!("-name\n{NAME}\n-digest\n{digest}\n-stdin-media-type\napplication/vnd.oci.descriptor.v1+json\n")
    );
    assert_eq!(
        programs.said("stdin"),
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"{digest}","size":1234,"annotations":{{"a":"b"}}}}"#
        ) + "\n"
    );
}

#[tokio::test]
async fn every_program_must_accept_and_the_first_that_rejects_is_the_last_asked() {
    let programs = Programs::new()
        .with("b", "echo fine")
        .with("a", "echo good")
        .with("c", "");
    assert_eq!(accepted(programs.judge().await), "a => good, b => fine, c => ");

    let programs = programs
        .with("b", "echo no signature; exit 3")
        .with("c", "touch $HERE/asked");
    let reason = rejected(programs.judge().await);
    assert_eq!(reason, "verifier b rejected image (exit code 3): no signature");
    assert!(!programs.note("asked").exists(), "c was asked all the same");
}

#[tokio::test]
async fn without_a_directory_or_in_an_empty_one_nobody_objects() {
    let programs = Programs::new();
    let reason = accepted(programs.judge().await);
    assert!(reason.ends_with("does not exist"), "{reason}");
    std::fs::create_dir(programs.path("")).expect("bin");
    let reason = accepted(programs.judge().await);
    assert!(reason.starts_with("no image verifier binaries found in"), "{reason}");
}

#[tokio::test]
async fn what_is_no_directory_is_no_consent() {
    let programs = Programs::new();
    std::fs::write(programs.note("bin"), "a file").expect("written");
    failed(programs.judge().await, Code::FailedPrecondition);
}

#[tokio::test]
async fn no_more_than_max_verifiers_are_asked() {
    let programs = Programs::new()
        .with("1", "echo one")
        .with("2", "echo two")
        .with("3", "exit 1");
    let limited = |max_verifiers| Config {
        max_verifiers,
        ..programs.config()
    };
    assert_eq!(accepted(programs.judge_with(limited(2)).await), "1 => one, 2 => two");
    assert_eq!(accepted(programs.judge_with(limited(0)).await), "");
    rejected(programs.judge_with(limited(3)).await);
    rejected(programs.judge_with(limited(-1)).await);
}

#[tokio::test]
async fn what_cannot_be_run_or_crashes_is_no_consent() {
    let programs = Programs::new().with_mode("data", "exit 0", 0o644);
    let error = failed(programs.judge().await, Code::FailedPrecondition);
    assert!(
        error.message.contains("call verifier data") && error.message.contains("Permission denied"),
        "{error}"
    );

    let programs = Programs::new();
    std::fs::create_dir_all(programs.path("directory")).expect("a directory");
    failed(programs.judge().await, Code::FailedPrecondition);

    let programs = Programs::new().with("crash", "echo about to accept; kill -SEGV $$");
    let error = failed(programs.judge().await, Code::FailedPrecondition);
    assert!(error.message.contains("signal: 11"), "{error}");
}

#[tokio::test]
async fn output_without_end_is_cut_and_breaks_no_pipe() {
    let programs = Programs::new().with(
        "loud",
        "set -e; head -c 3000000 /dev/zero | tr '\\0' x; head -c 3000000 /dev/zero | tr '\\0' y >&2",
    );
    let reason = accepted(programs.judge().await);
    let expected = format!("loud => {}(stdout truncated)", "x".repeat(32 << 10));
    assert!(
        reason == expected,
        "{} bytes: {}",
        reason.len(),
        &reason[reason.len() - 40..]
    );
}

/// Whether the process whose id stands in the file is there, and no zombie.
fn alive(note: &Path) -> bool {
    let pid = std::fs::read_to_string(note).expect("its id");
    std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with('Z'))
    })
}

/// Writes its id and that of a child, which holds the pipes, and would not end for long.
const SLEEPER: &str = "sleep 1000 & echo $! > $HERE/child.new; mv $HERE/child.new $HERE/child";

#[tokio::test]
async fn one_that_takes_too_long_is_killed_with_all_it_started() {
    for script in [format!("{SLEEPER}; wait"), format!("{SLEEPER}; exit 0")] {
        let programs = Programs::new().with("slow", &script);
        // Long enough for the child to be there on a busy machine.
        let judged = programs.judge_with(Config {
            per_verifier_timeout: GoDuration::from_millis(2000),
            ..programs.config()
        });
        let error = failed(judged.await, Code::DeadlineExceeded);
        assert!(
            error.message.contains("call verifier slow: it took longer than 2s"),
            "{error}"
        );
        gone(&programs.note("child")).await;
    }
}

#[tokio::test]
async fn a_caller_that_gives_up_leaves_no_process() {
    let programs = Programs::new().with("slow", &format!("{SLEEPER}; wait"));
    let child = programs.note("child");
    tokio::select! {
        judged = programs.judge() => panic!("{judged:?}"),
        () = there(&child) => {}
    }
    gone(&child).await;
}

async fn there(path: &Path) {
    while !path.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn gone(note: &Path) {
    while alive(note) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_table_that_makes_no_sense_lets_no_image_pass() {
    let registration = &crate::registrations()[0];
    assert_eq!(registration.config["per_verifier_timeout"].as_str(), Some("10s"));
    let mut config = registration.config.clone();
    config.insert("per_verifier_timeout".into(), 10.into());
    let error = config
        .try_into::<Config>()
        .map_err(|error| Error::invalid_argument(error.to_string()));
    let verifier = crate::Misconfigured(error.expect_err("an integer is no duration"));
    failed(
        verifier.verify(&Ctx::daemon(), NAME, target()).await,
        Code::FailedPrecondition,
    );
}
