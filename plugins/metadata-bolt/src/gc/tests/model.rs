//! Marking against a naive model, over small random worlds.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{FUTURE, PAST};
use crate::fixture::Metadata;
use crate::gc::EXPIRE;
use crate::gc::labels::FLAT;
use crate::leases;
use crate::record::{BlobRecord, ContainerRecord, ImageRecord, IngestRecord, LeaseRecord, SnapshotRecord};
use crate::store::{Key, Reader};

/// A record of a small world: what it is, and the numbers of what it refers to.
#[derive(Clone, Debug)]
enum Object {
    Blob {
        root: bool,
        refers: Vec<u8>,
        back: Option<u8>,
    },
    Snapshot {
        parent: Option<u8>,
        refers: Option<u8>,
    },
    Image {
        target: u8,
        expired: bool,
        refers: Option<u8>,
    },
    Container {
        snapshot: Option<u8>,
    },
    Ingest {
        shares: Option<u8>,
        expired: bool,
    },
    Lease {
        holds: Vec<u8>,
        flat: bool,
        expired: bool,
    },
}

const OBJECTS: u8 = 16;

fn object() -> impl Strategy<Value = Object> {
    let number = || 0..OBJECTS;
    let maybe = move || prop::option::of(number());
    prop_oneof![
        4 => (prop::bool::weighted(0.1), prop::collection::vec(number(), 0..3), maybe())
            .prop_map(|(root, refers, back)| Object::Blob { root, refers, back }),
        3 => (maybe(), maybe()).prop_map(|(parent, refers)| Object::Snapshot { parent, refers }),
        1 => (number(), any::<bool>(), maybe())
            .prop_map(|(target, expired, refers)| Object::Image { target, expired, refers }),
        1 => maybe().prop_map(|snapshot| Object::Container { snapshot }),
        1 => (maybe(), any::<bool>()).prop_map(|(shares, expired)| Object::Ingest { shares, expired }),
        2 => (prop::collection::vec(number(), 0..3), any::<bool>(), any::<bool>())
            .prop_map(|(holds, flat, expired)| Object::Lease { holds, flat, expired }),
    ]
}

fn world_key(world: &[Object], number: u8) -> Key {
    let id = number.to_string();
    match &world[usize::from(number)] {
        Object::Blob { .. } => Key::blob("a", &id),
        Object::Snapshot { .. } => Key::snapshot("a", "native", &id),
        Object::Image { .. } => Key::image("a", &id),
        Object::Container { .. } => Key::container("a", &id),
        Object::Ingest { .. } => Key::ingest("a", &id),
        Object::Lease { .. } => Key::lease("a", &id),
    }
}

/// The label by which `number` is referred to, if it can be.
fn world_label(world: &[Object], number: u8, kind: &str, suffix: &str) -> Option<(String, String)> {
    let object = match &world[usize::from(number)] {
        Object::Blob { .. } => format!("content.{suffix}"),
        Object::Snapshot { .. } => format!("snapshot.native/{suffix}"),
        Object::Image { .. } => format!("image.{suffix}"),
        Object::Container { .. } if kind == "bref" => format!("container.{suffix}"),
        _ => return None,
    };
    Some((format!("containerd.io/gc.{kind}.{object}"), number.to_string()))
}

/// What must stay, the naive way: rounds over all objects until nothing is added. `true` is fully reached, `false` flat.
fn model(world: &[Object]) -> BTreeSet<u8> {
    let is_blob = |n: u8| matches!(world[usize::from(n)], Object::Blob { .. });
    let is_snapshot = |n: u8| matches!(world[usize::from(n)], Object::Snapshot { .. });
    let nameable = |n: u8| {
        matches!(
            world[usize::from(n)],
            Object::Blob { .. } | Object::Snapshot { .. } | Object::Image { .. }
        )
    };
    let is_container = |n: u8| matches!(world[usize::from(n)], Object::Container { .. });
    let bears = |object: &Object, number: u8| {
        let named = nameable(number) || is_container(number);
        named && matches!(object, Object::Blob { back: Some(back), .. } if *back == number)
    };
    let mut reached: BTreeSet<(u8, bool)> = BTreeSet::new();
    for (number, object) in (0..).zip(world) {
        match object {
            Object::Blob { root: true, .. }
            | Object::Image { expired: false, .. }
            | Object::Container { .. }
            | Object::Ingest { expired: false, .. } => drop(reached.insert((number, true))),
            Object::Lease {
                holds,
                flat,
                expired: false,
            } => {
                reached.insert((number, true));
                let holdable =
                    |n: &&u8| !matches!(world[usize::from(**n)], Object::Container { .. } | Object::Lease { .. });
                reached.extend(holds.iter().filter(holdable).map(|held| (*held, !flat)));
            }
            _ => {}
        }
    }
    loop {
        let before = reached.len();
        for (number, full) in reached.clone() {
            match &world[usize::from(number)] {
                Object::Blob { refers, .. } if full => {
                    reached.extend(refers.iter().filter(|n| nameable(**n)).map(|n| (*n, true)));
                }
                Object::Snapshot { parent, refers } => {
                    reached.extend(parent.filter(|n| is_snapshot(*n)).map(|n| (n, full)));
                    reached.extend(refers.filter(|n| full && nameable(*n)).map(|n| (n, true)));
                }
                Object::Image { target, refers, .. } => {
                    reached.extend(Some(*target).filter(|n| is_blob(*n)).map(|n| (n, full)));
                    reached.extend(refers.filter(|n| full && nameable(*n)).map(|n| (n, true)));
                }
                Object::Container { snapshot } => {
                    reached.extend(snapshot.filter(|n| is_snapshot(*n)).map(|n| (n, true)));
                }
                Object::Ingest { shares, .. } => reached.extend(shares.filter(|n| is_blob(*n)).map(|n| (n, true))),
                _ => {}
            }
            for (bearer, object) in (0..).zip(world) {
                if full && bears(object, number) {
                    reached.insert((bearer, true));
                }
            }
        }
        if reached.len() == before {
            return reached.into_iter().map(|(number, _)| number).collect();
        }
    }
}

fn store_world(draft: &mut crate::store::Draft<'_>, world: &[Object]) {
    let expire = |expired: bool| (EXPIRE.to_owned(), if expired { PAST } else { FUTURE }.to_owned());
    for (number, object) in (0u8..).zip(world) {
        let key = world_key(world, number);
        match object {
            Object::Blob { root, refers, back } => {
                let refers = refers
                    .iter()
                    .enumerate()
                    .filter_map(|(i, n)| world_label(world, *n, "ref", &i.to_string()));
                let back = back.and_then(|n| world_label(world, n, "bref", "0"));
                let root = root.then(|| ("containerd.io/gc.root".to_owned(), "1".to_owned()));
                draft.put(
                    key,
                    &BlobRecord {
                        labels: refers.chain(back).chain(root).collect(),
                        ..BlobRecord::default()
                    },
                );
            }
            Object::Snapshot { parent, refers } => {
                let labels = refers
                    .and_then(|n| world_label(world, n, "ref", "0"))
                    .into_iter()
                    .collect();
                let parent = parent.map(|n| n.to_string()).unwrap_or_default();
                draft.put(
                    key,
                    &SnapshotRecord {
                        labels,
                        parent,
                        ..SnapshotRecord::default()
                    },
                );
            }
            Object::Image {
                target,
                expired,
                refers,
            } => {
                let labels = refers.and_then(|n| world_label(world, n, "ref", "0"));
                let labels = labels.into_iter().chain([expire(*expired)]).collect();
                draft.put(
                    key,
                    &ImageRecord {
                        labels,
                        digest: target.to_string(),
                        ..ImageRecord::default()
                    },
                );
            }
            Object::Container { snapshot } => {
                let snapshotter = if snapshot.is_some() {
                    "native".to_owned()
                } else {
                    String::new()
                };
                let snapshot_key = snapshot.map(|n| n.to_string()).unwrap_or_default();
                draft.put(
                    key,
                    &ContainerRecord {
                        snapshotter,
                        snapshot_key,
                        ..ContainerRecord::default()
                    },
                );
            }
            Object::Ingest { shares, expired } => {
                let expires = if *expired { 1 } else { i64::MAX };
                let shares = shares.map(|n| n.to_string()).unwrap_or_default();
                draft.put(
                    key,
                    &IngestRecord {
                        shares,
                        expires,
                        ..IngestRecord::default()
                    },
                );
            }
            Object::Lease { holds, flat, expired } => {
                let flat = flat.then(|| (FLAT.to_owned(), "1".to_owned()));
                let labels = flat.into_iter().chain([expire(*expired)]).collect();
                draft.put(key, &LeaseRecord { labels, created: 0 });
                for held in holds {
                    let kind = match &world[usize::from(*held)] {
                        Object::Blob { .. } => leases::CONTENT.to_owned(),
                        Object::Snapshot { .. } => leases::snapshots("native"),
                        Object::Image { .. } => leases::IMAGES.to_owned(),
                        Object::Ingest { .. } => leases::INGESTS.to_owned(),
                        Object::Container { .. } | Object::Lease { .. } => continue,
                    };
                    draft.put_empty(Key::lease_resource("a", &number.to_string(), &kind, &held.to_string()));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// Marking reaches what the naive model reaches, and sweeping leaves exactly that.
    #[test]
    fn marking_agrees_with_the_model(world in prop::collection::vec(object(), usize::from(OBJECTS))) {
        let metadata = Metadata::new();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
        let stored = world.clone();
        let left = runtime.block_on(async {
            metadata.shared.store.write(move |draft| {
                store_world(draft, &stored);
                Ok(())
            }).await.expect("written");
            metadata.collect().await;
            let view = metadata.shared.store.view();
            (0..OBJECTS).filter(|n| view.has(&world_key(&world, *n)).expect("read")).collect::<BTreeSet<_>>()
        });
        prop_assert_eq!(left, model(&world));
    }
}
