//! Kinds, parents and codes: what may be done with which snapshot.

use super::super::{Outcome, Suite, ensure, refused, same};
use super::{Kit, Names, kept};
use crate::contract::{Code, SnapshotInfo, SnapshotKind};

pub(super) async fn run(kit: &Kit, suite: &mut Suite) {
    suite
        .check(
            "a snapshot is active, then committed under another name",
            life(kit, Names("life")),
        )
        .await;
    suite
        .check("a snapshot knows its parent", parents(kit, Names("parents")))
        .await;
    suite
        .check("keys and names share one space", taken(kit, Names("taken")))
        .await;
    suite
        .check("what is not there is NotFound", missing(kit, Names("missing")))
        .await;
    suite
        .check(
            "only a committed snapshot is a parent",
            foundations(kit, Names("foundations")),
        )
        .await;
    suite
        .check("only an active snapshot is committed", commits(kit, Names("commits")))
        .await;
    suite
        .check("a parent stays while it has children", removal(kit, Names("removal")))
        .await;
    suite
        .check("a removed key can be used again", reuse(kit, Names("reuse")))
        .await;
}

async fn life(kit: &Kit, names: Names) -> Outcome {
    let (key, name) = (names.of("active"), names.of("committed"));
    let mounts = kit.prepare(&key, "").await?;
    ensure(!mounts.is_empty(), || "prepare gives no mounts".to_owned())?;
    same(
        "what mounts gives",
        kit.snapshotter.mounts(&kit.ctx, &key).await?,
        mounts,
    )?;
    let active = kit.stat(&key).await?;
    same("the kind", active.kind, SnapshotKind::Active)?;
    same("the name", active.name.as_str(), key.as_str())?;
    same("the parent", active.parent.as_str(), "")?;
    kit.commit(&name, &key).await?;
    let committed = kit.stat(&name).await?;
    same("the kind", committed.kind, SnapshotKind::Committed)?;
    same("the name", committed.name.as_str(), name.as_str())?;
    same("the time of a commit", committed.created, committed.updated)?;
    ensure(committed.created >= active.created, || {
        "it is older than what it was made of".to_owned()
    })?;
    refused(
        "stat of the key that was committed",
        kit.stat(&key).await,
        Code::NotFound,
    )?;
    let view = names.of("view");
    kit.view(&view, &name).await?;
    same("the kind", kit.stat(&view).await?.kind, SnapshotKind::View)?;
    kit.remove_all(&[&view, &name]).await
}

async fn parents(kit: &Kit, names: Names) -> Outcome {
    let (a, b, top) = (names.of("a"), names.of("b"), names.of("top"));
    kit.layer(&a, "", &[]).await?;
    kit.layer(&b, &a, &[]).await?;
    kit.prepare(&top, &b).await?;
    same(
        "the parent of the top",
        kit.stat(&top).await?.parent.as_str(),
        b.as_str(),
    )?;
    same("the parent of b", kit.stat(&b).await?.parent.as_str(), a.as_str())?;
    same("the parent of a", kit.stat(&a).await?.parent.as_str(), "")?;
    kit.remove_all(&[&top, &b, &a]).await
}

async fn taken(kit: &Kit, names: Names) -> Outcome {
    let (base, active, view, other) = (
        names.of("base"),
        names.of("active"),
        names.of("view"),
        names.of("other"),
    );
    kit.layer(&base, "", &[]).await?;
    kit.prepare(&active, &base).await?;
    kit.view(&view, &base).await?;
    for key in [&active, &view, &base] {
        refused(
            &format!("prepare of {key}"),
            kit.prepare(key, &base).await,
            Code::AlreadyExists,
        )?;
        refused(
            &format!("view of {key}"),
            kit.view(key, &base).await,
            Code::AlreadyExists,
        )?;
    }
    kit.prepare(&other, "").await?;
    refused(
        "a commit to a name that is taken",
        kit.commit(&base, &other).await,
        Code::AlreadyExists,
    )?;
    same(
        "the kind after a refused commit",
        kit.stat(&other).await?.kind,
        SnapshotKind::Active,
    )?;
    kit.remove_all(&[&other, &view, &active, &base]).await
}

async fn missing(kit: &Kit, names: Names) -> Outcome {
    let (nothing, key) = (names.of("nothing"), names.of("key"));
    let (snapshotter, ctx) = (&kit.snapshotter, &kit.ctx);
    refused("stat", kit.stat(&nothing).await, Code::NotFound)?;
    refused("mounts", snapshotter.mounts(ctx, &nothing).await, Code::NotFound)?;
    refused("usage", snapshotter.usage(ctx, &nothing).await, Code::NotFound)?;
    refused("remove", kit.remove(&nothing).await, Code::NotFound)?;
    refused("commit", kit.commit(&key, &nothing).await, Code::NotFound)?;
    refused(
        "prepare on a parent that is not there",
        kit.prepare(&key, &nothing).await,
        Code::NotFound,
    )?;
    refused(
        "view of a parent that is not there",
        kit.view(&key, &nothing).await,
        Code::NotFound,
    )?;
    refused("stat of what was refused", kit.stat(&key).await, Code::NotFound)?;
    kit.prepare(&key, "").await?;
    let info = SnapshotInfo {
        name: nothing,
        labels: kept(),
        ..kit.stat(&key).await?
    };
    refused("update", snapshotter.update(ctx, info, &[]).await, Code::NotFound)?;
    kit.remove_all(&[&key]).await
}

async fn foundations(kit: &Kit, names: Names) -> Outcome {
    let (active, view, key) = (names.of("active"), names.of("view"), names.of("key"));
    kit.prepare(&active, "").await?;
    kit.view(&view, "").await?;
    for parent in [&active, &view] {
        refused(
            &format!("prepare on {parent}"),
            kit.prepare(&key, parent).await,
            Code::InvalidArgument,
        )?;
    }
    kit.remove_all(&[&view, &active]).await
}

async fn commits(kit: &Kit, names: Names) -> Outcome {
    let (base, view, name) = (names.of("base"), names.of("view"), names.of("name"));
    kit.layer(&base, "", &[]).await?;
    kit.view(&view, &base).await?;
    refused(
        "commit of a view",
        kit.commit(&name, &view).await,
        Code::FailedPrecondition,
    )?;
    refused(
        "a second commit",
        kit.commit(&name, &base).await,
        Code::FailedPrecondition,
    )?;
    let mounts = kit.snapshotter.mounts(&kit.ctx, &base).await;
    refused("mounts of a committed snapshot", mounts, Code::FailedPrecondition)?;
    kit.remove_all(&[&view, &base]).await
}

async fn removal(kit: &Kit, names: Names) -> Outcome {
    let (base, middle, top) = (names.of("base"), names.of("middle"), names.of("top"));
    kit.layer(&base, "", &[]).await?;
    kit.layer(&middle, &base, &[]).await?;
    kit.prepare(&top, &middle).await?;
    for parent in [&middle, &base] {
        refused(
            &format!("remove of {parent}"),
            kit.remove(parent).await,
            Code::FailedPrecondition,
        )?;
    }
    kit.remove_all(&[&top, &middle, &base]).await
}

async fn reuse(kit: &Kit, names: Names) -> Outcome {
    let (base, key) = (names.of("base"), names.of("key"));
    kit.layer(&base, "", &[]).await?;
    kit.prepare(&key, &base).await?;
    kit.remove(&key).await?;
    kit.view(&key, &base).await?;
    kit.remove(&key).await?;
    kit.prepare(&key, "").await?;
    kit.remove(&base).await?;
    kit.commit(&base, &key).await?;
    kit.remove_all(&[&base]).await
}
