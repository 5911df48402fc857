//! Every shape a graph can have, and that the order respects every edge of a random one.

use proptest::prelude::*;

use super::*;

fn node(uri: &str, requires: &[&str]) -> Node {
    let (kind, id) = uri.split_once('.').expect("kind.id");
    Node {
        uri: PluginUri::new(kind, id),
        requires: requires.iter().map(ToString::to_string).collect(),
        source: format!("/plugins/{uri}.so"),
        pinned: false,
    }
}

#[track_caller]
fn plan(nodes: &[Node], disabled: &[&str], required: &[&str]) -> Result<Vec<String>, Vec<String>> {
    let required: Vec<_> = required.iter().map(ToString::to_string).collect();
    let wishes = Wishes {
        disabled: &|uri| disabled.contains(&uri.to_string().as_str()),
        required: &required,
        names: &|entry, uri| entry == uri.to_string(),
    };
    match resolve(nodes, &wishes) {
        Ok(plan) => Ok(plan.order.iter().map(|index| nodes[*index].uri.to_string()).collect()),
        Err(problems) => Err(problems.0.iter().map(ToString::to_string).collect()),
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn dependencies_come_first_and_order_is_stable() {
    let nodes = [
        node("grpc.a", &["service"]),
        node("service.b", &["metadata"]),
        node("metadata.c", &[]),
    ];
    assert_eq!(
        plan(&nodes, &[], &[]),
        Ok(names(&["metadata.c", "service.b", "grpc.a"]))
    );
}

#[test]
fn a_required_type_means_all_its_plugins_and_may_have_none() {
    let nodes = [
        node("meta.m", &["snap", "nothing"]),
        node("snap.a", &[]),
        node("snap.b", &[]),
    ];
    assert_eq!(plan(&nodes, &[], &[]), Ok(names(&["snap.a", "snap.b", "meta.m"])));
}

#[test]
fn the_wildcard_waits_for_all_but_other_wildcards() {
    let nodes = [
        node("x.all", &["*"]),
        node("y.all", &["*"]),
        node("a.a", &[]),
        node("z.after", &["x"]),
    ];
    assert_eq!(plan(&nodes, &[], &[]), Ok(names(&["a.a", "x.all", "z.after", "y.all"])));
}

#[test]
fn a_cycle_is_printed_whole() {
    let nodes = [
        node("a.1", &["b"]),
        node("b.2", &["c"]),
        node("c.3", &["a"]),
        node("d.4", &[]),
    ];
    assert_eq!(
        plan(&nodes, &[], &[]),
        Err(names(&["plugins wait for each other: a.1 -> b.2 -> c.3 -> a.1"]))
    );
}

#[test]
fn a_plugin_does_not_wait_for_itself() {
    let nodes = [node("a.1", &["a"])];
    assert_eq!(plan(&nodes, &[], &[]), Ok(names(&["a.1"])));
    let nodes = [node("a.1", &["a"]), node("a.2", &[])];
    assert_eq!(plan(&nodes, &[], &[]), Ok(names(&["a.2", "a.1"])));
}

#[test]
fn disabled_plugins_are_left_out_and_break_cycles() {
    let nodes = [node("a.1", &["b"]), node("b.2", &["a"])];
    assert_eq!(plan(&nodes, &["b.2"], &[]), Ok(names(&["a.1"])));
}

#[test]
fn every_problem_is_named_at_once() {
    let mut twin = node("s.twin", &[]);
    twin.source = "/opt/other.so".into();
    let nodes = [
        node("s.twin", &[]),
        twin,
        node("a.1", &["b"]),
        node("b.2", &["a"]),
        node("c.off", &[]),
        node("d.needs", &["c"]),
    ];
    let problems = plan(&nodes, &["c.off"], &["nobody.home", "c.off", "d.needs"]).expect_err("problems");
    assert_eq!(problems.len(), 5, "{problems:#?}");
    let text = problems.join("\n");
    for part in [
        "/plugins/s.twin.so and by /opt/other.so",
        "a.1 -> b.2 -> a.1",
        "nobody.home",
        "c.off is in disabled_plugins",
        "d.needs is in required_plugins and needs c.off",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn a_pinned_source_wins() {
    let mut pinned = node("s.twin", &[]);
    pinned.pinned = true;
    let nodes = [node("s.twin", &[]), pinned];
    let wishes = Wishes {
        disabled: &|_| false,
        required: &[],
        names: &|_, _| false,
    };
    let plan = resolve(&nodes, &wishes).expect("no problem");
    assert_eq!((plan.order, plan.left_out), (vec![1], vec![0]));
}

#[test]
fn required_plugins_are_marked() {
    let nodes = [node("a.1", &[]), node("b.2", &[])];
    let required = ["b.2".to_owned()];
    let wishes = Wishes {
        disabled: &|_| false,
        required: &required,
        names: &|entry, uri| entry == uri.to_string(),
    };
    assert_eq!(resolve(&nodes, &wishes).expect("no problem").required, [false, true]);
}

proptest! {
    #[test]
    fn any_order_respects_every_edge(edges in proptest::collection::vec((0usize..12, 0usize..12), 0..40)) {
        let nodes: Vec<_> = (0..12)
            .map(|index| {
                let requires: Vec<_> =
                    edges.iter().filter(|(from, _)| *from == index).map(|(_, to)| format!("k{to}")).collect();
                let requires: Vec<_> = requires.iter().map(String::as_str).collect();
                node(&format!("k{index}.x"), &requires)
            })
            .collect();
        let wishes = Wishes { disabled: &|_| false, required: &[], names: &|_, _| false };
        match resolve(&nodes, &wishes) {
            Ok(plan) => {
                let place = |node: usize| plan.order.iter().position(|other| *other == node);
                prop_assert_eq!(plan.order.len(), nodes.len());
                for (from, to) in edges.into_iter().filter(|(from, to)| from != to) {
                    prop_assert!(place(to) < place(from));
                }
            }
            Err(problems) => {
                for problem in problems.0 {
                    let Problem::Cycle(cycle) = problem else { panic!("only cycles: {problem}") };
                    prop_assert_eq!(cycle.first(), cycle.last());
                    for pair in cycle.windows(2) {
                        let edge = |uri: &PluginUri| uri.kind[1..].parse::<usize>().expect("index");
                        prop_assert!(edges.contains(&(edge(&pair[0]), edge(&pair[1]))));
                    }
                }
            }
        }
    }
}
