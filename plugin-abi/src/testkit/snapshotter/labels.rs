//! Labels, times, and what filters choose.

use std::collections::BTreeSet;

use super::super::{Outcome, Suite, ensure, refused, same};
use super::{GC_ROOT, Kit, Names, kept, with};
use crate::contract::{Code, Labels, SnapshotInfo, collect};

pub(super) async fn run(kit: &Kit, suite: &mut Suite) {
    suite
        .check("updates change labels and nothing else", updates(kit, Names("updates")))
        .await;
    suite
        .check("a commit brings its own labels", commits(kit, Names("labels")))
        .await;
    suite
        .check(
            "a list has what its filters choose, as stat shows it",
            lists(kit, Names("lists")),
        )
        .await;
}

/// The labels a snapshotter was given; it may add some of its own kind.
fn ours(labels: &Labels) -> Labels {
    let own = |key: &String| key.starts_with("containerd.io/snapshot/");
    labels
        .iter()
        .filter(|(key, _)| !own(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

async fn updates(kit: &Kit, names: Names) -> Outcome {
    let (base, active, view) = (names.of("base"), names.of("active"), names.of("view"));
    kit.layer(&base, "", &[]).await?;
    kit.prepare(&active, &base).await?;
    kit.view(&view, &base).await?;
    for key in [&base, &active, &view] {
        update(kit, key).await?;
    }
    kit.remove_all(&[&view, &active, &base]).await
}

async fn update(kit: &Kit, key: &str) -> Outcome {
    let before = kit.stat(key).await?;
    same("the time of a change before the first", before.updated, before.created)?;
    let with_labels = |labels: Labels| SnapshotInfo {
        labels,
        parent: "ignored".to_owned(),
        ..before.clone()
    };
    let change = |labels: Labels, fields: &[&str]| {
        let fields: Vec<String> = fields.iter().map(ToString::to_string).collect();
        let info = with_labels(labels);
        async move { kit.snapshotter.update(&kit.ctx, info, &fields).await }
    };
    let all = with(&[("l1", "v1"), ("l2", "v2"), ("l3", "v3")]);
    let after = change(all.clone(), &[]).await?;
    same("the labels after an update of all", ours(&after.labels), all)?;
    same("the parent", &after.parent, &before.parent)?;
    same("the kind", after.kind, before.kind)?;
    same("the time it was made", after.created, before.created)?;
    ensure(after.updated >= before.updated, || {
        "its last change lies before the one before".to_owned()
    })?;
    let mask = ["labels.l1", "labels.l2"];
    let some = change(with(&[("l1", "changed"), ("l4", "v4")]), &mask).await?;
    let expected = with(&[("l1", "changed"), ("l3", "v3")]);
    same("the labels after an update of l1 and l2", ours(&some.labels), expected)?;
    let replaced = change(with(&[("l4", "v4")]), &["labels"]).await?;
    same(
        "the labels after an update of `labels`",
        ours(&replaced.labels),
        with(&[("l4", "v4")]),
    )?;
    same("what stat shows afterwards", kit.stat(key).await?, replaced)?;
    refused(
        "an update of `parent`",
        change(kept(), &["parent"]).await,
        Code::InvalidArgument,
    )
}

async fn commits(kit: &Kit, names: Names) -> Outcome {
    let (key, name) = (names.of("key"), names.of("name"));
    let (snapshotter, ctx) = (&kit.snapshotter, &kit.ctx);
    snapshotter.prepare(ctx, &key, "", with(&[("prepared", "yes")])).await?;
    same(
        "the labels it was prepared with",
        ours(&kit.stat(&key).await?.labels),
        with(&[("prepared", "yes")]),
    )?;
    snapshotter
        .commit(ctx, &name, &key, with(&[("committed", "yes")]))
        .await?;
    same(
        "the labels it was committed with",
        ours(&kit.stat(&name).await?.labels),
        with(&[("committed", "yes")]),
    )?;
    kit.remove_all(&[&name]).await
}

async fn lists(kit: &Kit, names: Names) -> Outcome {
    let (snapshotter, ctx) = (&kit.snapshotter, &kit.ctx);
    let [parent, active, view, alone] = ["parent", "active", "view", "alone"].map(|key| names.of(key));
    kit.layer(&parent, "", &[]).await?;
    snapshotter.prepare(ctx, &active, &parent, with(&[("l", "1")])).await?;
    snapshotter.view(ctx, &view, &parent, with(&[("l", "2")])).await?;
    snapshotter.prepare(ctx, &alone, "", with(&[("l", "2")])).await?;
    let mine = format!("name~=^{}/", names.of("").trim_end_matches('/'));
    for (filters, expected) in [
        (vec![mine.clone()], vec![&parent, &active, &view, &alone]),
        (vec![format!("kind==active,{mine}")], vec![&active, &alone]),
        (vec![format!("kind==view,{mine}")], vec![&view]),
        (vec![format!("kind==committed,{mine}")], vec![&parent]),
        (vec![format!("parent=={parent:?}")], vec![&active, &view]),
        (vec![format!("parent!=\"\",{mine}")], vec![&active, &view]),
        (
            vec![format!("name=={parent:?}"), format!("name=={alone:?}")],
            vec![&parent, &alone],
        ),
        (vec![format!("labels.l,{mine}")], vec![&active, &view, &alone]),
        (vec![format!("labels.l==2,{mine}")], vec![&view, &alone]),
        (
            vec![format!("labels.{GC_ROOT:?}==testkit,labels.l==1,{mine}")],
            vec![&active],
        ),
    ] {
        let list = collect(snapshotter.list(ctx, &filters).await?).await?;
        let found: BTreeSet<&str> = list.iter().map(|info| info.name.as_str()).collect();
        let expected: BTreeSet<&str> = expected.into_iter().map(String::as_str).collect();
        same(&format!("the list for {filters:?}"), found, expected)?;
        for info in list {
            same("an entry", &kit.stat(&info.name).await?, &info)?;
        }
    }
    match snapshotter.list(ctx, &["name=".to_owned()]).await {
        // containerd 1.6 loses the code of an error in a stream.
        Err(error) if error.code == Code::Unknown && error.message.contains("invalid argument") => {}
        other => refused("a filter that is none", other, Code::InvalidArgument)?,
    }
    kit.remove_all(&[&alone, &view, &active, &parent]).await
}
