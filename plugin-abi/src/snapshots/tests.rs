use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::contract::{Code, Ctx, Labels, Mount, SnapshotInfo, SnapshotKind, Snapshotter, Usage, collect};
use crate::{Error, Result};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn open() -> (tempfile::TempDir, Records) {
    let root = tempfile::tempdir().expect("a directory");
    let records = Records::open(root.path()).expect("records");
    (root, records)
}

fn make(records: &Records, kind: SnapshotKind, key: &str, parent: &str) -> Result<Snapshot> {
    let snapshot = records.plan(kind, key, parent, Labels::new())?;
    records.insert(&snapshot, Vec::new())?;
    Ok(snapshot)
}

/// An active snapshot `key` on `parent`, committed as `name`.
fn layer(records: &Records, name: &str, parent: &str) -> Stored {
    make(records, SnapshotKind::Active, "tmp", parent).expect("made");
    records
        .commit(name, "tmp", "", Labels::new(), Usage { inodes: 1, size: 2 })
        .expect("committed")
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>, code: Code) {
    let error = result.expect_err("refused");
    assert_eq!(error.code, code, "{error}");
}

#[test]
fn a_chain_knows_its_parents_nearest_first() {
    let (_root, records) = open();
    let a = layer(&records, "a", "");
    let b = layer(&records, "b", "a");
    let top = make(&records, SnapshotKind::Active, "top", "b").expect("made");
    assert_eq!(top.parents, [b.id, a.id]);
    assert_eq!(records.mountable("top").expect("there"), top);
    assert_eq!(records.get("b").expect("there").usage, Usage { inodes: 1, size: 2 });
    refused(records.mountable("b"), Code::FailedPrecondition);
    refused(records.mountable("nothing"), Code::NotFound);
}

#[test]
fn what_may_not_be_is_refused_with_containerds_codes() {
    let (_root, records) = open();
    layer(&records, "a", "");
    make(&records, SnapshotKind::View, "view", "a").expect("made");
    make(&records, SnapshotKind::Active, "active", "a").expect("made");
    refused(make(&records, SnapshotKind::Active, "view", "a"), Code::AlreadyExists);
    refused(make(&records, SnapshotKind::Active, "x", "nothing"), Code::NotFound);
    refused(
        make(&records, SnapshotKind::Active, "x", "active"),
        Code::InvalidArgument,
    );
    refused(make(&records, SnapshotKind::Active, "", "a"), Code::InvalidArgument);
    refused(make(&records, SnapshotKind::Committed, "x", "a"), Code::InvalidArgument);
    let none = Usage::default();
    refused(
        records.commit("x", "view", "", Labels::new(), none),
        Code::FailedPrecondition,
    );
    refused(
        records.commit("x", "a", "", Labels::new(), none),
        Code::FailedPrecondition,
    );
    refused(records.commit("x", "nothing", "", Labels::new(), none), Code::NotFound);
    refused(
        records.commit("a", "active", "", Labels::new(), none),
        Code::AlreadyExists,
    );
    refused(
        records.commit("", "active", "", Labels::new(), none),
        Code::InvalidArgument,
    );
    refused(records.remove("a"), Code::FailedPrecondition);
    refused(records.remove("nothing"), Code::NotFound);
    records.remove("view").expect("removed");
    records.remove("active").expect("removed");
    records.remove("a").expect("removed");
    assert_eq!(records.ids().expect("read"), BTreeSet::new());
}

#[test]
fn a_parent_that_was_replaced_meanwhile_is_noticed() {
    let (_root, records) = open();
    layer(&records, "a", "");
    let planned = records
        .plan(SnapshotKind::Active, "top", "a", Labels::new())
        .expect("planned");
    records.remove("a").expect("removed");
    refused(records.insert(&planned, Vec::new()), Code::NotFound);
    layer(&records, "a", "");
    refused(records.insert(&planned, Vec::new()), Code::Aborted);
}

#[test]
fn updates_touch_the_labels_they_name() {
    let (_root, records) = open();
    let snapshot = make(&records, SnapshotKind::Active, "x", "").expect("made");
    let with = |pairs: &[(&str, &str)]| SnapshotInfo {
        labels: labels(pairs),
        parent: "ignored".into(),
        ..snapshot.info.clone()
    };
    let all = records.update(with(&[("a", "1"), ("b", "2")]), &[]).expect("updated");
    assert_eq!(all.info.labels, labels(&[("a", "1"), ("b", "2")]));
    assert_eq!(
        (all.info.parent.as_str(), all.info.created),
        ("", snapshot.info.created)
    );
    assert!(all.info.updated >= snapshot.info.updated);
    let fields = ["labels.a".to_owned(), "labels.b".to_owned()];
    let some = records
        .update(with(&[("a", "3"), ("c", "4")]), &fields)
        .expect("updated");
    assert_eq!(
        some.info.labels,
        labels(&[("a", "3")]),
        "an absent value takes a label away"
    );
    refused(records.update(with(&[]), &["parent".to_owned()]), Code::InvalidArgument);
    let unknown = SnapshotInfo {
        name: "nothing".into(),
        ..with(&[])
    };
    refused(records.update(unknown, &[]), Code::NotFound);
}

#[test]
fn everything_survives_reopening_and_numbers_are_never_given_out_again() {
    let (root, records) = open();
    refused(Records::open(root.path()).map(drop), Code::Unavailable);
    let a = layer(&records, "a", "");
    let last = make(&records, SnapshotKind::Active, "gone", "a").expect("made");
    records.remove("gone").expect("removed");
    let before = records.get("a").expect("there");
    records.close();
    refused(records.get("a"), Code::Unavailable);
    let records = Records::open(root.path()).expect("reopened");
    assert_eq!(records.get("a").expect("there"), before);
    assert_eq!(before, a);
    assert!(records.fresh_id() > last.id);
}

#[test]
fn writers_share_commits_and_each_gets_its_own_answer() {
    let (_root, records) = open();
    layer(&records, "base", "");
    let records = Arc::new(records);
    let made: Vec<Result<Snapshot>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..64)
            .map(|i| {
                let records = Arc::clone(&records);
                // Half of them want a key that another one takes.
                scope.spawn(move || make(&records, SnapshotKind::Active, &format!("key-{}", i / 2), "base"))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 32);
    for error in made.iter().filter_map(|made| made.as_ref().err()) {
        assert_eq!(error.code, Code::AlreadyExists);
    }
    assert_eq!(records.ids().expect("read").len(), 33);
}

#[test]
fn lists_are_in_order_and_filtered_like_containerds() {
    let (_root, records) = open();
    layer(&records, "p", "");
    for (kind, key) in [(SnapshotKind::View, "v"), (SnapshotKind::Active, "a")] {
        let snapshot = records
            .plan(kind, key, "p", labels(&[("of", key), ("none", "")]))
            .expect("planned");
        records.insert(&snapshot, Vec::new()).expect("made");
    }
    let names = |filters: &[&str]| {
        let filters: Vec<String> = filters.iter().map(ToString::to_string).collect();
        let list = records.list(&filters).expect("listed");
        list.into_iter().map(|stored| stored.info.name).collect::<Vec<_>>()
    };
    assert_eq!(names(&[]), ["a", "p", "v"]);
    assert_eq!(names(&["kind==committed", "name==v"]), ["p", "v"]);
    assert_eq!(names(&["parent==p,kind==active"]), ["a"]);
    assert_eq!(names(&["parent!=\"\""]), ["a", "v"]);
    assert_eq!(names(&["labels.of"]), ["a", "v"]);
    assert_eq!(names(&["labels.none"]), [""; 0]);
    refused(records.list(&["name==".to_owned()]), Code::InvalidArgument);
}

/// Directories with one file in each, and a switch that makes them fail.
struct Plain;

impl Layers for Plain {
    fn make(&self, directories: &Directories, snapshot: &Snapshot) -> Result<()> {
        if snapshot.info.name == "fails" {
            return Err(Error::resource_exhausted("no space"));
        }
        std::fs::write(directories.of(snapshot.id).join("file"), "x").map_err(|error| Error::io("write", &error))
    }

    fn mounts(&self, directories: &Directories, snapshot: &Snapshot) -> Result<Vec<Mount>> {
        Ok(vec![Mount {
            kind: "bind".into(),
            source: directories.of(snapshot.id).display().to_string(),
            ..Mount::default()
        }])
    }
}

fn entries(root: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(root.join("snapshots")).expect("the directory");
    entries
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .collect()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime")
        .block_on(future)
}

#[test]
fn directories_follow_their_records() {
    let root = tempfile::tempdir().expect("a directory");
    run(async {
        let ctx = Ctx::daemon();
        let deferred = LayeredSnapshotter::open(root.path(), Plain, Removal::AtCleanup)
            .await
            .expect("opened");
        deferred.prepare(&ctx, "a", "", Labels::new()).await.expect("prepared");
        refused(
            deferred.prepare(&ctx, "fails", "", Labels::new()).await,
            Code::ResourceExhausted,
        );
        assert_eq!(entries(root.path()).len(), 1, "what failed leaves nothing");
        assert_eq!(deferred.usage(&ctx, "a").await.expect("measured").inodes, 2);
        deferred.commit(&ctx, "l", "a", Labels::new()).await.expect("committed");
        assert_eq!(deferred.usage(&ctx, "l").await.expect("recorded").inodes, 2);
        deferred.remove(&ctx, "l").await.expect("removed");
        assert_eq!(entries(root.path()).len(), 1, "removed later");
        deferred.cleanup(&ctx).await.expect("cleaned");
        assert_eq!(entries(root.path()).len(), 0);
        deferred.close().await;

        let at_once = LayeredSnapshotter::open(root.path(), Plain, Removal::AtOnce)
            .await
            .expect("opened");
        at_once.prepare(&ctx, "a", "", Labels::new()).await.expect("prepared");
        at_once.remove(&ctx, "a").await.expect("removed");
        assert_eq!(entries(root.path()).len(), 0);
    });
}

#[test]
fn what_a_crash_left_is_cleaned_and_what_others_left_is_not() {
    let root = tempfile::tempdir().expect("a directory");
    // containerd's, from before: they are none of ours.
    for theirs in ["7", "new-123"] {
        std::fs::create_dir_all(root.path().join("snapshots").join(theirs)).expect("made");
    }
    run(async {
        let ctx = Ctx::daemon();
        let first = LayeredSnapshotter::open(root.path(), Plain, Removal::AtOnce)
            .await
            .expect("opened");
        first.prepare(&ctx, "kept", "", Labels::new()).await.expect("prepared");
        first.close().await;
        // A crash between the directory and its record, twice.
        for left in ["9", "10"] {
            std::fs::create_dir(root.path().join("snapshots").join(left)).expect("made");
        }
        let second = LayeredSnapshotter::open(root.path(), Plain, Removal::AtOnce)
            .await
            .expect("opened");
        let mounts = second.prepare(&ctx, "new", "", Labels::new()).await.expect("prepared");
        second.cleanup(&ctx).await.expect("cleaned");
        let new = Path::new(&mounts[0].source)
            .file_name()
            .expect("a number")
            .to_str()
            .expect("a number")
            .to_owned();
        let expected = BTreeSet::from(["7".to_owned(), "new-123".to_owned(), "8".to_owned(), new]);
        assert_eq!(entries(root.path()), expected);
        let list = collect(second.list(&ctx, &[]).await.expect("listed"))
            .await
            .expect("listed");
        assert_eq!(list.len(), 2);
    });
}

#[test]
fn usage_counts_an_inode_once() {
    let root = tempfile::tempdir().expect("a directory");
    std::fs::write(root.path().join("a"), vec![1; 10_000]).expect("written");
    let one = disk_usage(root.path()).expect("measured");
    std::fs::hard_link(root.path().join("a"), root.path().join("b")).expect("linked");
    assert_eq!(disk_usage(root.path()).expect("measured"), one);
    assert_eq!(one.inodes, 2);
    assert!(one.size >= 10_000);
}

/// What a commit makes and leaves: `made` by [`Layers::commit`], `active` until [`Layers::settle`].
struct Sealed;

impl Layers for Sealed {
    fn make(&self, directories: &Directories, snapshot: &Snapshot) -> Result<()> {
        Directories::make(&directories.of(snapshot.id).join("active"), 0o700)
    }

    fn mounts(&self, _: &Directories, _: &Snapshot) -> Result<Vec<Mount>> {
        Ok(Vec::new())
    }

    fn commit(&self, directories: &Directories, snapshot: &Snapshot) -> Result<Usage> {
        // Fails when it is there: two at a time would fall over each other.
        Directories::make(&directories.of(snapshot.id).join("made"), 0o700)?;
        std::thread::sleep(std::time::Duration::from_millis(20));
        if snapshot.info.labels.contains_key("fails") {
            return Err(Error::resource_exhausted("no space"));
        }
        let size = snapshot.parents.len() as u64;
        Ok(Usage { inodes: 1, size })
    }

    fn revert(&self, directories: &Directories, snapshot: &Snapshot) -> Result<()> {
        remove_tree(&directories.of(snapshot.id).join("made"))
    }

    fn settle(&self, directories: &Directories, snapshot: &Snapshot) -> Result<()> {
        remove_tree(&directories.of(snapshot.id).join("active"))
    }
}

#[test]
fn a_commit_is_made_once_and_taken_back_when_it_fails() {
    let root = tempfile::tempdir().expect("a directory");
    let inside = |id: u64| {
        let snapshot = root.path().join("snapshots").join(id.to_string());
        ["active", "made"].map(|name| snapshot.join(name).exists())
    };
    run(async {
        let ctx = Ctx::daemon();
        let sealed = LayeredSnapshotter::open(root.path(), Sealed, Removal::AtOnce)
            .await
            .expect("opened");
        sealed.prepare(&ctx, "a", "", Labels::new()).await.expect("prepared");
        let [first, second] = ["A", "A2"].map(|name| {
            let (sealed, ctx) = (sealed.clone(), ctx.clone());
            async move { sealed.commit(&ctx, name, "a", Labels::new()).await }
        });
        let (first, second) = futures_util::future::join(first, second).await;
        assert_eq!(
            [first.is_ok(), second.is_ok()].iter().filter(|ok| **ok).count(),
            1,
            "{first:?} {second:?}"
        );
        refused(first.and(second), Code::NotFound);
        assert_eq!(inside(1), [false, true], "what was active is gone");

        let name = collect(sealed.list(&ctx, &[]).await.expect("listed"))
            .await
            .expect("listed")[0]
            .name
            .clone();
        let fails = labels(&[("fails", "yes")]);
        sealed.prepare(&ctx, "b", &name, fails).await.expect("prepared");
        refused(
            sealed.commit(&ctx, "B", "b", Labels::new()).await,
            Code::ResourceExhausted,
        );
        assert_eq!(inside(2), [true, false], "it is active as before");
        let info = sealed.stat(&ctx, "b").await.expect("there");
        sealed
            .update(
                &ctx,
                SnapshotInfo {
                    labels: Labels::new(),
                    ..info
                },
                &[],
            )
            .await
            .expect("updated");
        refused(
            sealed.commit(&ctx, &name, "b", Labels::new()).await,
            Code::AlreadyExists,
        );
        sealed.commit(&ctx, "B", "b", Labels::new()).await.expect("committed");
        assert_eq!(
            sealed.usage(&ctx, "B").await.expect("known"),
            Usage { inodes: 1, size: 1 }
        );
    });
}

/// Directories that can be put under a parent afterwards.
struct Loose;

impl Layers for Loose {
    fn make(&self, _: &Directories, _: &Snapshot) -> Result<()> {
        Ok(())
    }

    fn mounts(&self, _: &Directories, snapshot: &Snapshot) -> Result<Vec<Mount>> {
        let options = snapshot.parents.iter().map(ToString::to_string).collect();
        Ok(vec![Mount {
            options,
            ..Mount::default()
        }])
    }

    fn rebase(&self, directories: &Directories, snapshot: &Snapshot) -> Result<()> {
        let parents = format!("{:?}", snapshot.parents);
        std::fs::write(directories.of(snapshot.id).join("rebased"), parents).map_err(|error| Error::io("write", &error))
    }
}

#[test]
fn what_stands_on_nothing_can_be_committed_onto_a_parent() {
    let root = tempfile::tempdir().expect("a directory");
    run(async {
        let ctx = Ctx::daemon();
        let loose = LayeredSnapshotter::open(root.path(), Loose, Removal::AtOnce)
            .await
            .expect("opened");
        for key in ["a", "b", "c"] {
            loose.prepare(&ctx, key, "", Labels::new()).await.expect("prepared");
        }
        refused(
            loose.commit_onto(&ctx, "B", "b", "A", Labels::new()).await,
            Code::NotFound,
        );
        refused(
            loose.commit_onto(&ctx, "B", "b", "a", Labels::new()).await,
            Code::InvalidArgument,
        );
        loose.commit(&ctx, "A", "a", Labels::new()).await.expect("committed");
        for (name, key, parent) in [("B", "b", "A"), ("C", "c", "B")] {
            loose
                .commit_onto(&ctx, name, key, parent, Labels::new())
                .await
                .expect("committed");
            assert_eq!(loose.stat(&ctx, name).await.expect("there").parent, parent);
            refused(loose.remove(&ctx, parent).await, Code::FailedPrecondition);
        }
        let noted = std::fs::read_to_string(root.path().join("snapshots/3/rebased"));
        assert_eq!(noted.expect("rebased"), "[2, 1]");
        let mounts = loose.prepare(&ctx, "d", "C", Labels::new()).await.expect("prepared");
        assert_eq!(mounts[0].options, ["3", "2", "1"]);
        // On the parent it has, a commit is what it always was; on another it is refused.
        refused(
            loose.commit_onto(&ctx, "D", "d", "B", Labels::new()).await,
            Code::InvalidArgument,
        );
        loose
            .commit_onto(&ctx, "D", "d", "C", Labels::new())
            .await
            .expect("committed");
        for name in ["D", "C", "B", "A"] {
            loose.remove(&ctx, name).await.expect("nothing stands on it");
        }
        let plain = tempfile::tempdir().expect("a directory");
        let sealed = LayeredSnapshotter::open(plain.path(), Sealed, Removal::AtOnce)
            .await
            .expect("opened");
        for key in ["a", "b"] {
            sealed.prepare(&ctx, key, "", Labels::new()).await.expect("prepared");
        }
        sealed.commit(&ctx, "A", "a", Labels::new()).await.expect("committed");
        refused(
            sealed.commit_onto(&ctx, "B", "b", "A", Labels::new()).await,
            Code::Unimplemented,
        );
    });
}
