//! The store over a real redb database.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::TryStreamExt;
use futures_util::future::join_all;
use orlop_plugin::contract::Code;
use proptest::prelude::*;

use super::*;
use crate::record::{LeaseRecord, NamespaceRecord};

fn open() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().expect("a directory");
    let (store, _) = Store::open(&directory.path().join("meta.redb")).expect("a database");
    (directory, store)
}

fn lease(created: i64) -> LeaseRecord {
    LeaseRecord {
        created,
        ..LeaseRecord::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_that_come_together_share_commits_and_see_each_other() {
    let (directory, store) = open();
    let key = Key::lease("ns", "counter");
    let writes = (0..200).map(|_| {
        let (store, key) = (store.clone(), key.clone());
        tokio::spawn(async move {
            store
                .write(move |draft| {
                    let count = draft.load::<LeaseRecord>(&key)?.unwrap_or_default().created + 1;
                    draft.put(key, &lease(count));
                    Ok(count)
                })
                .await
                .expect("written")
        })
    });
    let counts: BTreeSet<i64> = join_all(writes)
        .await
        .into_iter()
        .map(|count| count.expect("no panic"))
        .collect();
    assert_eq!(counts, (1..=200).collect());
    assert_eq!(store.view().load::<LeaseRecord>(&key).expect("read"), Some(lease(200)));
    assert_eq!(
        *store.totals().borrow(),
        Totals {
            mutations: 200,
            deletions: 0
        }
    );
    store.close().await;
    drop(store);
    let (store, _) = Store::open(&directory.path().join("meta.redb")).expect("opened again");
    assert_eq!(store.view().load::<LeaseRecord>(&key).expect("read"), Some(lease(200)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_operation_that_fails_leaves_nothing_and_harms_nobody() {
    let (_directory, store) = open();
    let writes = (0..60).map(|number| {
        let store = store.clone();
        tokio::spawn(async move {
            store
                .write(move |draft| {
                    draft.put(Key::lease("ns", &format!("{number:02}")), &lease(number));
                    match number % 3 {
                        0 => Ok(()),
                        1 => Err(Error::failed_precondition("not today")),
                        _ => panic!("an operation's own fault"),
                    }
                })
                .await
        })
    });
    for (number, outcome) in join_all(writes).await.into_iter().enumerate() {
        match (number % 3, outcome.expect("the task lives")) {
            (0, Ok(())) => {}
            (1, Err(error)) => assert_eq!(error, Error::failed_precondition("not today")),
            (2, Err(error)) => {
                assert_eq!(error.code, Code::Internal);
                assert!(error.message.contains("an operation's own fault"), "{error}");
            }
            (_, other) => panic!("{number}: {other:?}"),
        }
    }
    let keys = store.view().keys(&Prefix::of(Kind::Lease, &["ns"])).expect("read");
    let wanted: Vec<_> = (0..60)
        .filter(|n| n % 3 == 0)
        .map(|n| Key::lease("ns", &format!("{n:02}")))
        .collect();
    assert_eq!(keys, wanted);
}

#[tokio::test]
async fn a_view_never_changes() {
    let (_directory, store) = open();
    let put = |value| {
        store.write(move |draft| {
            draft.put(Key::lease("ns", "x"), &lease(value));
            draft.leaves_garbage();
            Ok(())
        })
    };
    put(1).await.expect("written");
    let before = store.view();
    put(2).await.expect("written");
    assert_eq!(before.load(&Key::lease("ns", "x")).expect("read"), Some(lease(1)));
    assert_eq!(store.view().load(&Key::lease("ns", "x")).expect("read"), Some(lease(2)));
    let quiet = store.write_quietly(|draft| {
        draft.delete(Key::lease("ns", "x"));
        Ok(())
    });
    quiet.await.expect("written");
    assert!(!store.view().has(&Key::lease("ns", "x")).expect("read"));
    assert_eq!(
        *store.totals().borrow(),
        Totals {
            mutations: 2,
            deletions: 2
        }
    );
}

#[tokio::test]
async fn a_stream_is_of_one_moment_and_any_length() {
    let (_directory, store) = open();
    let count = 2 * STREAM_CHUNK + 7;
    let fill = store.write(move |draft| {
        for number in 0..count {
            draft.put(Key::lease("ns", &format!("{number:05}")), &lease(number as i64));
            draft.put(Key::lease("other", &format!("{number:05}")), &lease(0));
        }
        Ok(())
    });
    fill.await.expect("written");
    let stream = store.stream(Prefix::of(Kind::Lease, &["ns"]), |key, value| {
        let created = decode::<LeaseRecord>(key, value)?.created;
        Ok((created % 2 == 0).then_some(created))
    });
    let clear = store.write(|draft| draft.delete_all(&Prefix::of(Kind::Lease, &["ns"])));
    clear.await.expect("written");
    let streamed: Vec<i64> = stream.try_collect().await.expect("streamed");
    assert_eq!(streamed, (0..count as i64).filter(|n| n % 2 == 0).collect::<Vec<_>>());
    assert_eq!(
        store.view().first(&Prefix::of(Kind::Lease, &["ns"])).expect("read"),
        None
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ids_are_never_given_out_twice_not_even_after_a_crash() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        let (store, _) = Store::open(&directory.path().join("meta.redb")).expect("a database");
        let ids = join_all((0..50).map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.next_id().await.expect("an id") })
        }));
        for id in ids.await {
            assert!(seen.insert(id.expect("no panic")));
        }
        store.close().await;
    }
}

#[tokio::test]
async fn the_journal_notes_what_is_stored_until_it_is_stopped() {
    let (_directory, store) = open();
    let put = |name: &'static str| {
        store.write(move |draft| {
            draft.put(Key::lease("ns", name), &lease(0));
            Ok(())
        })
    };
    put("before").await.expect("written");
    let start = store.write_quietly(|draft| {
        draft.start_journal();
        Ok(())
    });
    start.await.expect("started");
    put("noted").await.expect("written");
    let fail = store.write(|draft| -> Result<()> {
        draft.put(Key::lease("ns", "failed"), &lease(0));
        Err(Error::aborted("no"))
    });
    fail.await.expect_err("it fails");
    let take = || store.write_quietly(|draft| Ok(draft.take_journal()));
    assert_eq!(take().await.expect("taken"), [Key::lease("ns", "noted")]);
    assert_eq!(take().await.expect("taken"), []);
    store.stop_journal();
    put("after").await.expect("written");
    assert_eq!(take().await.expect("taken"), []);
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_a_foreign_file_moved_aside() {
    let (directory, store) = open();
    let path = directory.path().join("meta.redb");
    let transaction = begin(store.inner.database().expect("open")).expect("begun");
    transaction
        .open_table(FACTS)
        .expect("opened")
        .insert(SCHEMA_VERSION_FACT, SCHEMA_VERSION + 1)
        .expect("written");
    transaction.commit().expect("committed");
    store.close().await;
    drop(store);
    let Err(error) = Store::open(&path) else {
        panic!("opened")
    };
    assert_eq!(error.code, Code::FailedPrecondition);
    assert!(error.message.contains("newer daemon"), "{error}");
    let foreign = directory.path().join("foreign");
    std::fs::write(&foreign, "x".repeat(8192)).expect("written");
    let (_, past) = Store::open(&foreign).expect("opened");
    let Past::Lost { aside: Some(aside), .. } = past else {
        panic!("{past:?}")
    };
    assert_eq!(std::fs::read_to_string(aside).expect("kept"), "x".repeat(8192));
}

/// The file that a writer to be killed writes to.
const VICTIM: &str = "ORLOP_TEST_METADATA_VICTIM";

/// Not a test of its own: what [`what_was_acknowledged_survives_a_kill`] kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "is run, and killed, by another test"]
async fn writes_until_it_is_killed() {
    let Ok(path) = std::env::var(VICTIM) else { return };
    let (store, _) = Store::open(Path::new(&path)).expect("a database");
    let writers = (0..8).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for number in 0.. {
                let put = store.write(move |draft| {
                    // Both or neither.
                    draft.put(Key::lease("a", &format!("{writer} {number}")), &lease(number));
                    draft.put(Key::lease("b", &format!("{writer} {number}")), &lease(number));
                    Ok(())
                });
                put.await.expect("written");
                println!("acknowledged {writer} {number}");
            }
        })
    });
    join_all(writers).await;
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    use std::io::BufRead;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("meta.redb");
    let mut acknowledged = BTreeSet::new();
    for round in 1..=3 {
        let mut victim = std::process::Command::new(std::env::current_exe().expect("a path"))
            .args([
                "--ignored",
                "--exact",
                "--nocapture",
                "store::tests::writes_until_it_is_killed",
            ])
            .env(VICTIM, &path)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("started");
        let output = std::io::BufReader::new(victim.stdout.take().expect("piped"));
        // The first lines are the test runner's own, and the first of them ends without a new line.
        let said = output.lines().map(|line| line.expect("text"));
        let ids = said.filter_map(|line| line.split_once("acknowledged ").map(|(_, id)| id.to_owned()));
        acknowledged.extend(ids.take(100 * round));
        victim.kill().expect("killed");
        victim.wait().expect("gone");
        let (store, _) = Store::open(&path).expect("opened after a kill");
        let view = store.view();
        for id in &acknowledged {
            assert!(
                view.has(&Key::lease("a", id)).expect("read"),
                "{id} was acknowledged in round {round}"
            );
        }
        let names = |ns| view.keys(&Prefix::of(Kind::Lease, &[ns])).expect("read");
        let ids = |ns| {
            names(ns)
                .iter()
                .map(|key| key.parts::<2>()[1].to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(ids("a"), ids("b"));
    }
}

#[derive(Clone, Debug)]
enum Change {
    Put(u8),
    Delete(u8),
    DeleteAll(u8),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (0u8..30).prop_map(Change::Put),
        (0u8..30).prop_map(Change::Delete),
        (0u8..3).prop_map(Change::DeleteAll),
    ]
}

/// Thirty keys in three namespaces.
fn key(number: u8) -> Key {
    Key::lease(["a", "b", "c"][usize::from(number) / 10], &number.to_string())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// A draft over committed records reads like a map with the same changes.
    #[test]
    fn a_draft_reads_like_a_map(committed in prop::collection::vec(change(), 0..30), drafted in prop::collection::vec(change(), 0..30)) {
        let (_directory, store) = open();
        let apply = |draft: &mut Draft<'_>, model: &mut BTreeMap<Key, NamespaceRecord>, changes: &[Change]| -> Result<()> {
            for change in changes {
                match change {
                    Change::Put(number) => {
                        let labels = [("n".to_owned(), number.to_string())].into();
                        draft.put(key(*number), &NamespaceRecord { labels });
                        let labels = [("n".to_owned(), number.to_string())].into();
                        model.insert(key(*number), NamespaceRecord { labels });
                    }
                    Change::Delete(number) => {
                        draft.delete(key(*number));
                        model.remove(&key(*number));
                    }
                    Change::DeleteAll(ns) => {
                        let ns = ["a", "b", "c"][usize::from(*ns)];
                        draft.delete_all(&Prefix::of(Kind::Lease, &[ns]))?;
                        model.retain(|key, _| key.namespace() != ns);
                    }
                }
            }
            Ok(())
        };
        let read = |reader: &dyn Reader, prefix: &Prefix| -> Result<Vec<(Key, NamespaceRecord)>> {
            let mut found = Vec::new();
            reader.scan(prefix, &mut |key, value| {
                found.push((key.clone(), decode(&key, value)?));
                Ok(())
            })?;
            Ok(found)
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let (seen, model) = runtime.block_on(async {
            let model = store.write(move |draft| {
                let mut model = BTreeMap::new();
                apply(draft, &mut model, &committed)?;
                Ok(model)
            }).await.expect("written");
            store.write(move |draft| {
                let mut model = model;
                apply(draft, &mut model, &drafted)?;
                let seen = [Prefix::all(), Prefix::of(Kind::Lease, &["b"])].map(|prefix| read(draft, &prefix));
                Ok((seen, model))
            }).await.expect("written")
        });
        let [all, b] = seen.map(|seen| seen.expect("read"));
        prop_assert_eq!(&all, &model.clone().into_iter().collect::<Vec<_>>());
        prop_assert_eq!(b, model.clone().into_iter().filter(|(key, _)| key.namespace() == "b").collect::<Vec<_>>());
        let view = store.view();
        prop_assert_eq!(read(&*view, &Prefix::all()).expect("read"), all);
        for number in 0..30 {
            prop_assert_eq!(view.load::<NamespaceRecord>(&key(number)).expect("read"), model.get(&key(number)).cloned());
        }
    }
}
