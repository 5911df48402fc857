//! Snapshots: names, parents, leases, remote layers, and commits that a crash or a snapshotter interrupts.

use std::sync::atomic::Ordering;

use orlop_plugin::contract::Code;

use super::*;
use crate::fixture::{Lose, Metadata, ctx, labels, lock};

/// A stack of committed snapshots, from the bottom up.
async fn stack(metadata: &Metadata, ctx: &Ctx, names: &[&str]) {
    let (snapshotter, mut parent) = (metadata.snapshotter(), "");
    for name in names {
        let key = format!("extract {name}");
        snapshotter
            .prepare(ctx, &key, parent, Labels::new())
            .await
            .expect("prepared");
        snapshotter
            .commit(ctx, name, &key, Labels::new())
            .await
            .expect("committed");
        parent = name;
    }
}

async fn list(metadata: &Metadata, ctx: &Ctx, filters: &[&str]) -> String {
    let filters: Vec<_> = filters.iter().map(|filter| (*filter).to_owned()).collect();
    let infos = collect(metadata.snapshotter().list(ctx, &filters).await.expect("a list"))
        .await
        .expect("a list");
    infos.into_iter().map(|info| info.name).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn keys_are_renamed_and_come_back() {
    let metadata = Metadata::new();
    let (a, b, snapshotter) = (ctx("a"), ctx("b"), metadata.snapshotter());
    stack(&metadata, &a, &["base", "top"]).await;
    let mounts = snapshotter
        .prepare(&a, "key", "top", labels(&[("mine", "1")]))
        .await
        .expect("prepared");
    assert!(
        mounts[0].source.starts_with("/snapshots/a/") && mounts[0].source.ends_with("/key"),
        "{mounts:?}"
    );
    snapshotter
        .view(&a, "view", "top", Labels::new())
        .await
        .expect("viewed");
    snapshotter
        .prepare(&b, "key", "", Labels::new())
        .await
        .expect("another namespace's");
    let info = snapshotter.stat(&a, "key").await.expect("there");
    assert_eq!(
        (info.name.as_str(), info.parent.as_str(), info.kind),
        ("key", "top", SnapshotKind::Active)
    );
    assert_eq!(info.labels, labels(&[("mine", "1")]));
    assert_eq!(
        snapshotter.stat(&b, "top").await.expect_err("not b's").code,
        Code::NotFound
    );
    assert_eq!(list(&metadata, &a, &[]).await, "base key top view");
    assert_eq!(list(&metadata, &b, &[]).await, "key");
    for (filter, wanted) in [
        ("kind==active", "key"),
        ("kind==view", "view"),
        ("parent==base", "top"),
        ("name==base", "base"),
        ("labels.mine==1", "key"),
    ] {
        assert_eq!(list(&metadata, &a, &[filter]).await, wanted, "{filter}");
    }
    assert!(
        snapshotter.mounts(&a, "view").await.expect("mounts")[0]
            .source
            .ends_with("/view")
    );
    assert_eq!(snapshotter.usage(&a, "top").await.expect("usage").inodes, 1);
    let topics = metadata.topics();
    assert_eq!(topics.iter().filter(|t| *t == "a /snapshot/commit").count(), 2);
    assert_eq!(
        topics.iter().filter(|t| t.ends_with("/snapshot/prepare")).count(),
        4,
        "a view is not told"
    );
}

#[tokio::test]
async fn what_exists_is_said_to_and_held_by_the_lease() {
    let metadata = Metadata::new();
    let (leased, snapshotter) = (ctx("a").with_lease("l"), metadata.snapshotter());
    let error = snapshotter
        .prepare(&leased, "k", "", Labels::new())
        .await
        .expect_err("no lease");
    assert_eq!(error.code, Code::NotFound);
    assert!(
        metadata.backends.snapshotter.names().is_empty(),
        "what has no record is removed again"
    );
    metadata
        .leases()
        .create(&leased, Some("l"), Labels::new())
        .await
        .expect("created");
    stack(&metadata, &ctx("a"), &["base"]).await;
    snapshotter
        .prepare(&ctx("a"), "k", "base", Labels::new())
        .await
        .expect("prepared");
    for error in [
        snapshotter
            .prepare(&leased, "k", "base", Labels::new())
            .await
            .expect_err("there"),
        snapshotter
            .prepare(&leased, "new", "", labels(&[(SNAPSHOT_REF, "base")]))
            .await
            .expect_err("there"),
        snapshotter
            .commit(&leased, "base", "k", Labels::new())
            .await
            .expect_err("there"),
    ] {
        assert_eq!(error.code, Code::AlreadyExists);
    }
    let held = metadata.leases().list_resources(&leased, "l").await.expect("a list");
    assert_eq!(
        held.iter()
            .map(|r| (r.kind.as_str(), r.id.as_str()))
            .collect::<Vec<_>>(),
        [("snapshots/native", "base"), ("snapshots/native", "k")]
    );
    snapshotter
        .commit(&leased, "done", "k", Labels::new())
        .await
        .expect("committed");
    let held = metadata.leases().list_resources(&leased, "l").await.expect("a list");
    assert_eq!(held.iter().map(|r| r.id.as_str()).collect::<Vec<_>>(), ["base", "done"]);
}

#[tokio::test]
async fn parents_must_be_there_and_stay() {
    let metadata = Metadata::new();
    let (a, snapshotter) = (ctx("a"), metadata.snapshotter());
    assert_eq!(
        snapshotter
            .prepare(&a, "k", "none", Labels::new())
            .await
            .expect_err("none")
            .code,
        Code::NotFound
    );
    assert_eq!(
        snapshotter
            .commit(&a, "n", "none", Labels::new())
            .await
            .expect_err("none")
            .code,
        Code::NotFound
    );
    assert_eq!(
        snapshotter.remove(&a, "none").await.expect_err("none").code,
        Code::NotFound
    );
    assert_eq!(
        snapshotter
            .prepare(&a, "", "", Labels::new())
            .await
            .expect_err("no key")
            .code,
        Code::InvalidArgument
    );
    assert_eq!(
        snapshotter
            .prepare(&a, "a\0b", "", Labels::new())
            .await
            .expect_err("NUL")
            .code,
        Code::InvalidArgument
    );
    stack(&metadata, &a, &["base", "top"]).await;
    let error = snapshotter.remove(&a, "base").await.expect_err("top stands on it");
    assert!(
        error.code == Code::FailedPrecondition && error.message.contains("top"),
        "{error}"
    );
    snapshotter.remove(&a, "top").await.expect("removed");
    snapshotter.remove(&a, "base").await.expect("removed");
    assert_eq!(
        metadata.backends.snapshotter.names().len(),
        2,
        "the files go with the next collection"
    );
    metadata.collect().await;
    assert!(metadata.backends.snapshotter.names().is_empty());
    assert!(metadata.backends.snapshotter.0.cleaned.load(Ordering::SeqCst));
}

#[tokio::test]
async fn labels_go_down_only_where_they_are_meant_to() {
    let metadata = Metadata::new();
    let (a, snapshotter) = (ctx("a"), metadata.snapshotter());
    let given = labels(&[
        ("mine", "1"),
        ("containerd.io/snapshot/uid", "7"),
        ("containerd.io/snapshotter", "no"),
    ]);
    snapshotter.prepare(&a, "k", "", given.clone()).await.expect("prepared");
    let below = || {
        lock(&metadata.backends.snapshotter.0.infos)
            .values()
            .next()
            .expect("one")
            .labels
            .clone()
    };
    assert_eq!(below(), labels(&[("containerd.io/snapshot/uid", "7")]));
    let mut info = snapshotter.stat(&a, "k").await.expect("there");
    assert_eq!(info.labels, given);
    info.labels = labels(&[("mine", ""), ("containerd.io/snapshot/gid", "8"), ("unnamed", "x")]);
    let fields = ["labels.mine", "labels.containerd.io/snapshot/gid"].map(str::to_owned);
    let updated = snapshotter.update(&a, info.clone(), &fields).await.expect("updated");
    let wanted = labels(&[
        ("containerd.io/snapshot/uid", "7"),
        ("containerd.io/snapshot/gid", "8"),
        ("containerd.io/snapshotter", "no"),
    ]);
    assert_eq!(updated.labels, wanted);
    assert_eq!(
        below(),
        labels(&[("containerd.io/snapshot/gid", "8"), ("containerd.io/snapshot/uid", "7")])
    );
    let error = snapshotter
        .update(&a, info.clone(), &["parent".to_owned()])
        .await
        .expect_err("immutable");
    assert_eq!(error.code, Code::InvalidArgument);
    info.name = "none".to_owned();
    assert_eq!(
        snapshotter.update(&a, info, &[]).await.expect_err("none").code,
        Code::NotFound
    );
}

#[tokio::test]
async fn a_remote_layer_is_adopted() {
    let metadata = Metadata::new();
    let (leased, snapshotter) = (ctx("a").with_lease("l"), metadata.snapshotter());
    metadata
        .leases()
        .create(&leased, Some("l"), Labels::new())
        .await
        .expect("created");
    lock(&metadata.backends.snapshotter.0.remote).insert("sha256:chain".to_owned(), "remote-1".to_owned());
    let wanted = labels(&[(SNAPSHOT_REF, "sha256:chain"), ("mine", "1")]);
    let error = snapshotter
        .prepare(&leased, "extract", "", wanted.clone())
        .await
        .expect_err("it is there");
    assert_eq!(error.code, Code::AlreadyExists);
    let info = snapshotter.stat(&leased, "sha256:chain").await.expect("adopted");
    assert_eq!((info.kind, info.labels), (SnapshotKind::Committed, wanted));
    assert!(snapshotter.stat(&leased, "extract").await.is_err());
    metadata.collect().await;
    assert_eq!(
        metadata.backends.snapshotter.names(),
        ["remote-1"],
        "the lease holds it"
    );
    // Without the label there is nothing that could be there already.
    let error = snapshotter
        .prepare(&leased, "k", "", labels(&[(SNAPSHOT_REF, "sha256:else")]))
        .await;
    assert!(error.is_ok());
}

#[tokio::test]
async fn a_commit_onto_a_parent_is_refused_where_it_cannot_be() {
    let metadata = Metadata::new();
    let a = ctx("a");
    stack(&metadata, &a, &["base", "other"]).await;
    let snapshotter = metadata.snapshotter();
    for (key, parent) in [("k", ""), ("on-base", "base")] {
        snapshotter
            .prepare(&a, key, parent, Labels::new())
            .await
            .expect("prepared");
    }
    for (key, parent, code) in [
        ("k", "nothing", Code::NotFound),
        ("on-base", "other", Code::InvalidArgument),
        ("nothing", "base", Code::NotFound),
    ] {
        let refused = snapshotter.commit_onto(&a, "n", key, parent, Labels::new()).await;
        assert_eq!(refused.expect_err("refused").code, code, "{key} onto {parent}");
    }
    // Another namespace's snapshots are no parents.
    let b = ctx("b");
    snapshotter.prepare(&b, "k", "", Labels::new()).await.expect("prepared");
    let refused = snapshotter.commit_onto(&b, "n", "k", "base", Labels::new()).await;
    assert_eq!(refused.expect_err("not there").code, Code::NotFound);
    snapshotter
        .commit_onto(&a, "n", "k", "base", Labels::new())
        .await
        .expect("committed");
    assert_eq!(snapshotter.stat(&a, "n").await.expect("there").parent, "base");
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_settled_by_what_happened() {
    for (lose, crash, prepared_on) in [
        (Lose::Before, false, "base"),
        (Lose::After, false, "base"),
        (Lose::Before, true, "base"),
        (Lose::After, true, "base"),
        (Lose::Before, false, ""),
        (Lose::After, false, ""),
        (Lose::Before, true, ""),
        (Lose::After, true, ""),
    ] {
        let mut metadata = Metadata::new();
        let a = ctx("a");
        stack(&metadata, &a, &["base"]).await;
        metadata
            .snapshotter()
            .prepare(&a, "k", prepared_on, Labels::new())
            .await
            .expect("prepared");
        *lock(&metadata.backends.snapshotter.0.lose_commit) = Some(lose);
        let given = labels(&[("done", "1")]);
        let error = metadata
            .snapshotter()
            .commit_onto(&a, "n", "k", "base", given.clone())
            .await
            .expect_err("out of reach");
        assert_eq!(error.code, Code::Unavailable, "{error}");
        // While nobody knows, neither is touched.
        assert_eq!(
            metadata
                .snapshotter()
                .stat(&a, "k")
                .await
                .expect_err("out of reach")
                .code,
            Code::Unavailable
        );
        metadata.collect().await;
        metadata
            .backends
            .snapshotter
            .0
            .out_of_reach
            .store(false, Ordering::SeqCst);
        if crash {
            metadata = metadata.crash().await;
        }
        metadata
            .leases()
            .create(&a, Some("l"), Labels::new())
            .await
            .expect("created");
        for id in ["k", "n"] {
            let resource = orlop_plugin::contract::LeaseResource {
                id: id.to_owned(),
                kind: "snapshots/native".to_owned(),
            };
            metadata.leases().add_resource(&a, "l", resource).await.expect("held");
        }
        metadata.collect().await;
        let snapshotter = metadata.snapshotter();
        if lose == Lose::After {
            let info = snapshotter.stat(&a, "n").await.expect("committed");
            assert_eq!(
                (info.kind, info.parent.as_str(), info.labels),
                (SnapshotKind::Committed, "base", given)
            );
            assert_eq!(snapshotter.stat(&a, "k").await.expect_err("gone").code, Code::NotFound);
        } else {
            let info = snapshotter.stat(&a, "k").await.expect("active");
            assert_eq!((info.kind, info.parent.as_str()), (SnapshotKind::Active, prepared_on));
            assert_eq!(snapshotter.stat(&a, "n").await.expect_err("never").code, Code::NotFound);
            snapshotter
                .commit_onto(&a, "n", "k", "base", Labels::new())
                .await
                .expect("this time");
        }
        assert_eq!(
            snapshotter.remove(&a, "base").await.expect_err("n stands on it").code,
            Code::FailedPrecondition
        );
        snapshotter.remove(&a, "n").await.expect("removed");
        snapshotter.remove(&a, "base").await.expect("removed");
    }
}

#[tokio::test]
async fn a_commit_that_is_refused_changes_nothing() {
    let metadata = Metadata::new();
    let (a, snapshotter) = (ctx("a"), metadata.snapshotter());
    snapshotter.view(&a, "v", "", Labels::new()).await.expect("viewed");
    let error = snapshotter
        .commit(&a, "n", "v", Labels::new())
        .await
        .expect_err("a view");
    assert_eq!(error.code, Code::FailedPrecondition);
    snapshotter.remove(&a, "v").await.expect("no commit is under way");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_commits_to_one_name_one_wins() {
    let metadata = Metadata::new();
    let (a, snapshotter) = (ctx("a"), metadata.snapshotter());
    for number in 0..8 {
        snapshotter
            .prepare(&a, &format!("k{number}"), "", Labels::new())
            .await
            .expect("prepared");
    }
    let commits = (0..8).map(|number| {
        let (a, snapshotter) = (a.clone(), Arc::clone(&snapshotter));
        tokio::spawn(async move { snapshotter.commit(&a, "n", &format!("k{number}"), Labels::new()).await })
    });
    let outcomes = futures_util::future::join_all(commits).await;
    let codes: Vec<_> = outcomes
        .into_iter()
        .map(|o| o.expect("no panic").err().map(|error| error.code))
        .collect();
    assert_eq!(codes.iter().filter(|code| code.is_none()).count(), 1, "{codes:?}");
    assert_eq!(
        codes.iter().filter(|code| **code == Some(Code::AlreadyExists)).count(),
        7,
        "{codes:?}"
    );
    let mut left = list(&metadata, &a, &[]).await;
    left.retain(|c| c != ' ');
    assert_eq!(left.len(), 7 * 2 + 1, "{left}");
}

#[tokio::test]
async fn a_snapshotter_that_does_not_run_is_named() {
    let metadata = Metadata::new();
    let Err(error) = metadata.contracts.snapshotters.expect("offered").snapshotter("zfs") else {
        panic!("found")
    };
    assert_eq!(error.code, Code::NotFound);
    for part in ["io.containerd.snapshotter.v1.zfs", "ctr plugins ls", "native"] {
        assert!(error.message.contains(part), "{error}");
    }
}
