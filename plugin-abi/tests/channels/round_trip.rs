//! Any request of any contract, and any answer to it, cross every way unchanged.

use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use orlop_plugin::contract::*;
use orlop_plugin::{Contracts, Error, rpc};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use crate::probe::Probe;
use crate::values as v;
use crate::ways::{near, ways};

/// How many requests of each method are tried on each way.
const CASES: u32 = 24;

/// Runs `check` on each way with values of `strategy`.
fn check<S: Strategy>(strategy: S, check: impl AsyncFn(&Probe, &Contracts, S::Value))
where
    S::Value: Clone,
{
    near(async {
        let probe = Arc::new(Probe::default());
        for way in ways(&probe.contracts()) {
            let connected = rpc::connect_all(way.channel.clone(), rpc::CONTRACT_NAMES, "test");
            let mut runner = TestRunner::new(Config {
                cases: CASES,
                failure_persistence: None,
                ..Config::default()
            });
            for case in 0..CASES {
                let value = strategy.new_tree(&mut runner).expect("a value").current();
                // A failure is found again from here: values are not shrunk across a channel.
                println!("{} case {case}", way.name);
                check(&probe, &connected, value).await;
            }
        }
    });
}

/// A call that was asked `input` and told to answer `answer` has to have answered `answer`.
#[track_caller]
fn same<I: PartialEq + Debug + 'static, O: PartialEq + Debug>(
    probe: &Probe,
    input: &I,
    answer: &Result<O>,
    got: Result<O>,
) {
    probe.asked(input);
    assert_eq!(got, *answer);
}

/// Everything that a stream yields: an error ends it.
async fn drain<T>(stream: Result<BoxStream<T>>) -> Result<Vec<Result<T>>> {
    use futures_util::StreamExt;
    Ok(stream?.collect().await)
}

/// What a stream yields: items, and perhaps an error at the end.
fn items<T: Debug + Clone>(item: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<Result<T>>> {
    (vec(item, 0..5), option::of(v::error())).prop_map(|(items, error)| {
        items
            .into_iter()
            .map(Ok)
            .chain(error.map(Err::<T, Error>))
            .collect::<Vec<_>>()
    })
}

/// `call!(probe, ctx, OBJECT.METHOD(ARGUMENT as OWNED, …), ANSWER)`: calls, and compares what arrived on both sides.
macro_rules! call {
    ($probe:ident, $ctx:ident, $object:ident.$method:ident($($argument:expr => $owned:expr),*), $answer:expr) => {{
        $probe.answer($answer.clone());
        let got = $object.$method(&$ctx, $($argument),*).await;
        same($probe, &($ctx.clone(), $($owned),*), &$answer, got);
    }};
}

/// The same for a method that answers with a stream.
macro_rules! list {
    ($probe:ident, $ctx:ident, $object:ident.$method:ident($($argument:expr => $owned:expr),*), $answer:expr) => {{
        $probe.answer($answer.clone());
        let got = drain($object.$method(&$ctx, $($argument),*).await).await;
        same($probe, &($ctx.clone(), $($owned),*), &$answer, got);
    }};
}

#[test]
fn snapshots() {
    let inputs = (v::ctx(), v::text(), v::text(), v::labels(), v::snapshot(), v::texts());
    let answers = (
        v::outcome(v::snapshot()),
        v::outcome(v::usage()),
        v::outcome(v::mounts()),
        v::outcome(Just(())),
        v::outcome(items(v::snapshot())),
    );
    check((inputs, answers), async |probe, contracts, (inputs, answers)| {
        let (ctx, key, name, labels, info, fields) = inputs;
        let (one, usage, mounts, done, many) = answers;
        let object = contracts.snapshotter.clone().expect("offered");
        call!(probe, ctx, object.stat(&key => key.clone()), one);
        call!(probe, ctx, object.update(info.clone() => info.clone(), &fields => fields.clone()), one);
        call!(probe, ctx, object.usage(&key => key.clone()), usage);
        call!(probe, ctx, object.mounts(&key => key.clone()), mounts);
        call!(probe, ctx, object.prepare(&key => key.clone(), &name => name.clone(), labels.clone() => labels.clone()), mounts);
        call!(probe, ctx, object.view(&key => key.clone(), &name => name.clone(), labels.clone() => labels.clone()), mounts);
        call!(probe, ctx, object.commit(&name => name.clone(), &key => key.clone(), labels.clone() => labels.clone()), done);
        // Without a parent it is a plain commit on the wire.
        let onto = format!("on {key}");
        call!(
            probe,
            ctx,
            object.commit_onto(&name => name.clone(), &key => key.clone(), &onto => onto.clone(), labels.clone() => labels.clone()),
            done
        );
        call!(probe, ctx, object.remove(&key => key.clone()), done);
        call!(probe, ctx, object.cleanup(), done);
        list!(probe, ctx, object.list(&fields => fields.clone()), many);
    });
}

#[test]
fn content() {
    let inputs = (
        v::ctx(),
        v::digest(),
        v::content_info(),
        v::texts(),
        v::size(),
        v::text(),
    );
    let answers = (
        v::outcome(v::content_info()),
        v::outcome(v::ingest()),
        v::outcome(vec(v::ingest(), 0..4)),
        v::outcome(Just(())),
        v::outcome(items(v::content_info())),
        v::outcome(items(v::bytes())),
    );
    check((inputs, answers), async |probe, contracts, (inputs, answers)| {
        let (ctx, digest, info, fields, number, reference) = inputs;
        let (one, status, statuses, done, many, read) = answers;
        let object = contracts.content.clone().expect("offered");
        call!(probe, ctx, object.info(&digest => digest.clone()), one);
        call!(probe, ctx, object.update(info.clone() => info.clone(), &fields => fields.clone()), one);
        list!(probe, ctx, object.list(&fields => fields.clone()), many);
        call!(probe, ctx, object.delete(&digest => digest.clone()), done);
        call!(probe, ctx, object.statuses(&fields => fields.clone()), statuses);
        call!(probe, ctx, object.abort(&reference => reference.clone()), done);
        // containerd's service says what it was that failed.
        probe.answer(status.clone());
        let got = object.status(&ctx, &reference).await;
        let status = status.map_err(|error| error.context(format_args!("could not get status for ref {reference:?}")));
        same(probe, &(ctx.clone(), reference.clone()), &status, got);
        // Content is the same, however it was cut.
        probe.answer(read.clone());
        let got = drain(object.read(&ctx, &digest, number, number).await).await;
        same(
            probe,
            &(ctx.clone(), digest.clone(), number, number),
            &read.map(joined),
            got.map(joined),
        );
    });
}

fn joined(pieces: Vec<Result<Bytes>>) -> (Vec<u8>, Option<Error>) {
    let mut whole = Vec::new();
    for piece in pieces {
        match piece {
            Ok(piece) => whole.extend(piece),
            Err(error) => return (whole, Some(error)),
        }
    }
    (whole, None)
}

#[test]
fn diffs() {
    let apply = (any::<bool>(), v::anys()).prop_map(|(sync_fs, payloads)| ApplyOptions { payloads, sync_fs });
    let diff = (v::text(), v::text(), v::labels(), option::of(v::time())).prop_map(
        |(media_type, reference, labels, source_date_epoch)| DiffOptions {
            media_type,
            reference,
            labels,
            source_date_epoch,
        },
    );
    let inputs = (v::ctx(), v::descriptor(), v::mounts(), v::mounts(), apply, diff);
    check(
        (inputs, v::outcome(v::descriptor())),
        async |probe, contracts, (inputs, answer)| {
            let (ctx, layer, lower, upper, apply, diff) = inputs;
            let object = contracts.differ.clone().expect("offered");
            call!(probe, ctx, object.apply(layer.clone() => layer.clone(), upper.clone() => upper.clone(), apply.clone() => apply.clone()), answer);
            call!(probe, ctx, object.diff(lower.clone() => lower.clone(), upper.clone() => upper.clone(), diff.clone() => diff.clone()), answer);
        },
    );
}

#[test]
fn images() {
    let inputs = (
        v::ctx(),
        v::image(),
        v::texts(),
        any::<bool>(),
        option::of(v::descriptor()),
    );
    let answers = (
        v::outcome(v::image()),
        v::outcome(Just(())),
        v::outcome(vec(v::image(), 0..4)),
    );
    check((inputs, answers), async |probe, contracts, (inputs, answers)| {
        let (ctx, image, fields, sync, target) = inputs;
        let (one, done, many) = answers;
        let name = image.name.clone();
        let object = contracts.images.clone().expect("offered");
        call!(probe, ctx, object.get(&name => name.clone()), one);
        call!(probe, ctx, object.create(image.clone() => image.clone()), one);
        call!(probe, ctx, object.update(image.clone() => image.clone(), &fields => fields.clone()), one);
        call!(probe, ctx, object.delete(&name => name.clone(), sync => sync, target.clone() => target.clone()), done);
        // One message has them all: an error in their middle is an error of all.
        let many: Result<Vec<Result<Image>>> = many.map(|images| images.into_iter().map(Ok).collect());
        list!(probe, ctx, object.list(&fields => fields.clone()), many);
    });
}

#[test]
fn containers() {
    let inputs = (v::ctx(), v::container(), v::texts());
    let answers = (
        v::outcome(v::container()),
        v::outcome(Just(())),
        v::outcome(items(v::container())),
    );
    check((inputs, answers), async |probe, contracts, (inputs, answers)| {
        let (ctx, container, fields) = inputs;
        let (one, done, many) = answers;
        let id = container.id.clone();
        let object = contracts.containers.clone().expect("offered");
        call!(probe, ctx, object.get(&id => id.clone()), one);
        list!(probe, ctx, object.list(&fields => fields.clone()), many);
        call!(probe, ctx, object.create(container.clone() => container.clone()), one);
        call!(probe, ctx, object.update(container.clone() => container.clone(), &fields => fields.clone()), one);
        call!(probe, ctx, object.delete(&id => id.clone()), done);
    });
}

#[test]
fn leases() {
    let inputs = (
        v::ctx(),
        option::of(".{1,12}"),
        v::labels(),
        v::resource(),
        any::<bool>(),
        v::texts(),
    );
    let answers = (
        v::outcome(v::lease()),
        v::outcome(Just(())),
        v::outcome(vec(v::lease(), 0..4)),
        v::outcome(vec(v::resource(), 0..4)),
    );
    check((inputs, answers), async |probe, contracts, (inputs, answers)| {
        let (ctx, id, labels, resource, sync, filters) = inputs;
        let (one, done, many, resources) = answers;
        let name = id.clone().unwrap_or_default();
        let object = contracts.leases.clone().expect("offered");
        call!(probe, ctx, object.create(id.as_deref() => id.clone(), labels.clone() => labels.clone()), one);
        call!(probe, ctx, object.delete(&name => name.clone(), sync => sync), done);
        call!(probe, ctx, object.list(&filters => filters.clone()), many);
        call!(probe, ctx, object.add_resource(&name => name.clone(), resource.clone() => resource.clone()), done);
        call!(probe, ctx, object.delete_resource(&name => name.clone(), resource.clone() => resource.clone()), done);
        call!(probe, ctx, object.list_resources(&name => name.clone()), resources);
    });
}

#[test]
fn namespaces() {
    let inputs = (v::ctx(), v::namespace_info(), v::texts());
    let answers = (
        v::outcome(v::namespace_info()),
        v::outcome(Just(())),
        v::outcome(vec(v::namespace_info(), 0..4)),
    );
    check((inputs, answers), async |probe, contracts, (inputs, answers)| {
        let (ctx, info, fields) = inputs;
        let (one, done, many) = answers;
        let name = info.name.clone();
        let object = contracts.namespaces.clone().expect("offered");
        call!(probe, ctx, object.get(&name => name.clone()), one);
        call!(probe, ctx, object.list(), many);
        call!(probe, ctx, object.create(info.clone() => info.clone()), one);
        call!(probe, ctx, object.update(info.clone() => info.clone(), &fields => fields.clone()), one);
        call!(probe, ctx, object.delete(&name => name.clone()), done);
    });
}

#[test]
fn events() {
    let inputs = (v::ctx(), v::text(), v::any_message(), v::envelope(), v::texts());
    let answers = (v::outcome(Just(())), v::outcome(items(v::envelope())));
    check((inputs, answers), async |probe, contracts, (inputs, answers)| {
        let (ctx, topic, event, envelope, filters) = inputs;
        let (done, many) = answers;
        let object = contracts.events.clone().expect("offered");
        call!(probe, ctx, object.publish(&topic => topic.clone(), event.clone() => event.clone()), done);
        call!(probe, ctx, object.forward(envelope.clone() => envelope.clone()), done);
        list!(probe, ctx, object.subscribe(&filters => filters.clone()), many);
    });
}

#[test]
fn tasks() {
    let ids = (v::ctx(), v::text(), v::text(), v::texts());
    let inputs = (
        v::create_task(),
        v::exec_process(),
        any::<u32>(),
        any::<bool>(),
        option::of(v::any_message()),
        v::labels(),
    );
    let processes = (
        v::outcome(any::<u32>()),
        v::outcome(v::process()),
        v::outcome(vec(v::process(), 0..4)),
        v::outcome(v::exit()),
        v::outcome(vec(v::process_info(), 0..4)),
    );
    let others = (
        v::outcome(Just(())),
        v::outcome(vec(v::descriptor(), 0..4)),
        v::outcome(vec(v::metric(), 0..4)),
    );
    check(
        (ids, inputs, processes, others),
        async |probe, contracts, (ids, inputs, processes, others)| {
            let (ctx, id, exec, filters) = ids;
            let (create, process, number, flag, options, annotations) = inputs;
            let (pid, one, many, exit, pids) = processes;
            let (done, descriptors, metrics) = others;
            let object = contracts.tasks.clone().expect("offered");
            call!(probe, ctx, object.create(create.clone() => create.clone()), pid);
            call!(probe, ctx, object.start(&id => id.clone(), &exec => exec.clone()), pid);
            call!(probe, ctx, object.delete(&id => id.clone(), &exec => exec.clone()), exit);
            call!(probe, ctx, object.get(&id => id.clone(), &exec => exec.clone()), one);
            call!(probe, ctx, object.list(), many);
            call!(probe, ctx, object.kill(&id => id.clone(), &exec => exec.clone(), number => number, flag => flag), done);
            call!(probe, ctx, object.exec(process.clone() => process.clone()), done);
            call!(probe, ctx, object.resize_pty(&id => id.clone(), &exec => exec.clone(), number => number, number => number), done);
            call!(probe, ctx, object.close_io(&id => id.clone(), &exec => exec.clone(), flag => flag), done);
            call!(probe, ctx, object.pause(&id => id.clone()), done);
            call!(probe, ctx, object.resume(&id => id.clone()), done);
            call!(probe, ctx, object.pids(&id => id.clone()), pids);
            call!(probe, ctx, object.checkpoint(&id => id.clone(), &exec => exec.clone(), options.clone() => options.clone()), descriptors);
            call!(probe, ctx, object.update(&id => id.clone(), options.clone() => options.clone(), annotations.clone() => annotations.clone()), done);
            call!(probe, ctx, object.metrics(&filters => filters.clone()), metrics);
            // containerd's answer to `Wait` has neither id nor pid: the id is what was asked for.
            probe.answer(exit.clone());
            let got = object.wait(&ctx, &id, &exec).await;
            let waited = exit.map(|exit| Exit {
                id: if exec.is_empty() { id.clone() } else { exec.clone() },
                pid: 0,
                ..exit
            });
            same(probe, &(ctx.clone(), id.clone(), exec.clone()), &waited, got);
        },
    );
}

#[test]
fn transfers() {
    let inputs = (v::ctx(), v::any_message(), v::any_message(), v::text());
    check(
        (inputs, v::outcome(Just(()))),
        async |probe, contracts, (inputs, done)| {
            let (ctx, source, destination, progress) = inputs;
            let object = contracts.transfer.clone().expect("offered");
            call!(probe, ctx, object.transfer(source.clone() => source.clone(), destination.clone() => destination.clone(), &progress => progress.clone()), done);
        },
    );
}

#[test]
fn garbage_collection() {
    let answers = (v::outcome(v::gc_stats()), v::outcome(items(v::mutation())));
    check((v::ctx(), answers), async |probe, contracts, (ctx, answers)| {
        let (stats, mutations) = answers;
        let object = contracts.gc.clone().expect("offered");
        call!(probe, ctx, object.schedule_and_wait(), stats);
        let object = contracts.collector.clone().expect("offered");
        call!(probe, ctx, object.collect(), stats);
        list!(probe, ctx, object.mutations(), mutations);
    });
}

#[test]
fn image_verification() {
    let inputs = (v::ctx(), v::text(), v::descriptor());
    check(
        (inputs, v::outcome(v::judgement())),
        async |probe, contracts, ((ctx, name, target), judgement)| {
            let object = contracts.image_verifier.clone().expect("offered");
            call!(probe, ctx, object.verify(&name => name.clone(), target.clone() => target.clone()), judgement);
        },
    );
}
