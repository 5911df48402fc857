//! The store under `kill -9`, and on a file system that fills up.
//!
//! A child process (this very program, asked for [`child`]) stores blobs and says which were acknowledged; the parent kills it at
//! changing moments and looks at what is there.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bytes::Bytes;
use nix::mount::{MntFlags, MsFlags};
use orlop_content_local::LocalStore;
use orlop_plugin::contract::{Code, CommitOptions, ContentStore, Ctx, Digest, IngestWriter, WriterOptions, collect};
use sha2::{Digest as _, Sha256};

/// Where the child works.
const ROOT: &str = "ORLOP_KILL_ROOT";
/// In front of what the child says: the harness writes to the same output.
const SAYS: &str = "acknowledged ";
const ROUNDS: usize = 12;

async fn writer(store: &LocalStore, reference: &str) -> Box<dyn IngestWriter> {
    let options = WriterOptions {
        reference: reference.into(),
        ..WriterOptions::default()
    };
    store.writer(&Ctx::daemon(), options).await.expect("a writer")
}

/// Content of changing size, now and then too large for memory.
fn content(round: usize, client: usize, turn: usize) -> Vec<u8> {
    let length = if turn % 7 == 3 { 300_000 } else { 100 + turn };
    format!("{round} {client} {turn} ")
        .into_bytes()
        .into_iter()
        .cycle()
        .take(length)
        .collect()
}

#[test]
#[ignore = "a part of the test below, in a process of its own"]
fn child() {
    let (root, round) = (
        std::env::var(ROOT).expect("a root"),
        std::env::var("ROUND").expect("a round"),
    );
    let round: usize = round.parse().expect("a number");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let store = LocalStore::open(PathBuf::from(root)).await.expect("opened");
        let clients = (0..4).map(|client| {
            let store = store.clone();
            tokio::spawn(async move {
                for turn in 0.. {
                    let mut writer = writer(&store, &format!("{client}")).await;
                    // Goes on with, or begins anew, what the child before was killed at.
                    writer.truncate(0).await.expect("begun anew");
                    for piece in content(round, client, turn).chunks(70_000) {
                        writer.write(Bytes::copy_from_slice(piece)).await.expect("written");
                    }
                    let digest = writer.commit(CommitOptions::default()).await.expect("committed");
                    println!("{SAYS}{digest}");
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.expect("no panic");
        }
    });
}

/// Runs a child until it has acknowledged `count` blobs, kills it, and returns what it acknowledged.
fn run_and_kill(root: &Path, round: usize, count: usize) -> Vec<Digest> {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["child", "--exact", "--ignored", "--nocapture"])
        .env(ROOT, root)
        .env("ROUND", round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut acknowledged = Vec::new();
    let mut take = |line: &str| {
        if let Some((_, digest)) = line.split_once(SAYS) {
            acknowledged.extend(Digest::new(digest.trim()));
        }
        acknowledged.len()
    };
    for line in lines.by_ref() {
        if take(&line.expect("text")) >= count {
            break;
        }
    }
    child.kill().expect("killed");
    child.wait().expect("ended");
    // What was said before the kill, and not yet heard.
    for line in lines.map_while(Result::ok) {
        take(&line);
    }
    acknowledged
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let root = tempfile::tempdir().expect("a directory");
    let mut acknowledged = Vec::new();
    for round in 0..ROUNDS {
        let before = acknowledged.len();
        acknowledged.extend(run_and_kill(root.path(), round, 1 + round * 5));
        assert!(acknowledged.len() > before, "the child worked");

        let store = LocalStore::open(root.path().to_path_buf()).await.expect("opened");
        let cleaned = store.clone();
        tokio::task::spawn_blocking(move || cleaned.clean())
            .await
            .expect("cleaned");
        for digest in &acknowledged {
            store.info(&Ctx::daemon(), digest).await.expect("stored");
        }
        // Whatever has a name is whole, acknowledged or not.
        let blobs = collect(store.list(&Ctx::daemon(), &[]).await.expect("listed"))
            .await
            .expect("whole");
        for blob in blobs {
            let chunks = store.read(&Ctx::daemon(), &blob.digest, 0, 0).await.expect("readable");
            let bytes = collect(chunks).await.expect("whole").concat();
            assert_eq!(Digest::from_sha256(Sha256::digest(&bytes)), blob.digest);
        }
        let directories = std::fs::read_dir(root.path().join("ingest")).expect("listed").count();
        let ingests = store.statuses(&Ctx::daemon(), &[]).await.expect("listed");
        assert_eq!(ingests.len(), directories, "what is left can be gone on with");
    }
}

/// A file system of its own, unmounted in the end.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn of(size: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let options = format!("size={size}");
        nix::mount::mount(
            Some("tmpfs"),
            directory.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .expect("mounted: the test needs root");
        Self(directory)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_is_said_and_the_ingest_goes_on_when_there_is_room() {
    let tmpfs = Tmpfs::of("1m");
    let store = LocalStore::open(tmpfs.0.path().join("root")).await.expect("opened");
    let ballast = tmpfs.0.path().join("ballast");
    let (first, second) = (vec![1; 300_000], vec![2; 400_000]);
    let mut open = writer(&store, "a").await;
    open.write(first.clone().into()).await.expect("written");
    assert_eq!(
        open.digest().await.expect("known"),
        Digest::from_sha256(Sha256::digest(&first))
    );
    std::fs::write(&ballast, vec![0; 500_000]).expect("written");
    open.write(second.clone().into()).await.expect("taken");
    let full = open.digest().await.expect_err("full");
    assert_eq!(full.code, Code::ResourceExhausted, "{full}");
    assert_eq!(open.status().await.expect("known").offset, first.len() as u64);

    std::fs::remove_file(&ballast).expect("removed");
    open.write(second.clone().into()).await.expect("written");
    let whole = [first, second].concat();
    let options = CommitOptions {
        size: whole.len() as u64,
        expected: Some(Digest::from_sha256(Sha256::digest(&whole))),
        ..CommitOptions::default()
    };
    open.commit(options).await.expect("committed");
    drop(open);
    // The small way, in a full file system.
    std::fs::write(&ballast, vec![0; 1 << 20]).expect_err("filled");
    let mut small = writer(&store, "b").await;
    small.write(Bytes::from(vec![3; 10_000])).await.expect("taken");
    let full = small.commit(CommitOptions::default()).await.expect_err("full");
    assert_eq!(full.code, Code::ResourceExhausted, "{full}");
}
