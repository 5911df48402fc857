//! The order in which what is dead is removed: what refers to something goes with it or before it.

use std::collections::HashMap;

use orlop_plugin::Result;

use crate::store::Key;

/// How far the search is at a node.
struct Visit {
    node: usize,
    next: usize,
}

/// Groups `dead`, so that no group refers to an earlier one; what refers to each other in a ring is one group. `references`
/// gives what a key refers to; what is not dead itself does not matter.
///
/// Tarjan's strongly connected components: they come out referred-to first, and are turned around.
pub(super) fn referrers_first(
    dead: Vec<Key>,
    references: impl Fn(&Key, &mut dyn FnMut(&Key)) -> Result<()>,
) -> Result<Vec<Vec<Key>>> {
    const NOT_SEEN: usize = usize::MAX;
    let places: HashMap<&Key, usize> = dead.iter().enumerate().map(|(place, key)| (key, place)).collect();
    let mut edges = vec![Vec::new(); dead.len()];
    for (edges, key) in edges.iter_mut().zip(&dead) {
        references(key, &mut |target| edges.extend(places.get(target).copied()))?;
    }
    let mut seen = vec![NOT_SEEN; dead.len()];
    let mut low = vec![NOT_SEEN; dead.len()];
    let mut open = vec![false; dead.len()];
    let (mut count, mut stack, mut components) = (0, Vec::new(), Vec::new());
    for start in 0..dead.len() {
        if seen[start] != NOT_SEEN {
            continue;
        }
        let mut path = vec![Visit { node: start, next: 0 }];
        while let Some(Visit { node, next }) = path.last_mut() {
            let node = *node;
            if *next == 0 {
                (seen[node], low[node], open[node]) = (count, count, true);
                count += 1;
                stack.push(node);
            }
            if let Some(&target) = edges[node].get(*next) {
                *next += 1;
                if seen[target] == NOT_SEEN {
                    path.push(Visit { node: target, next: 0 });
                } else if open[target] {
                    low[node] = low[node].min(seen[target]);
                }
                continue;
            }
            if low[node] == seen[node] {
                let mut component = Vec::new();
                while let Some(member) = stack.pop() {
                    open[member] = false;
                    component.push(member);
                    if member == node {
                        break;
                    }
                }
                components.push(component);
            }
            path.pop();
            if let Some(Visit { node: parent, .. }) = path.last() {
                low[*parent] = low[*parent].min(low[node]);
            }
        }
    }
    drop(places);
    let mut dead: Vec<Option<Key>> = dead.into_iter().map(Some).collect();
    // Each node is in one component, so each key is taken once.
    Ok(components
        .into_iter()
        .rev()
        .map(|c| c.into_iter().filter_map(|place| dead[place].take()).collect())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(number: usize) -> Key {
        Key::blob("ns", &number.to_string())
    }

    fn order(nodes: usize, edges: &[(usize, usize)]) -> Vec<Vec<Key>> {
        referrers_first((0..nodes).map(key).collect(), |from, push| {
            for (_, to) in edges.iter().filter(|(f, _)| key(*f) == *from) {
                push(&key(*to));
            }
            Ok(())
        })
        .expect("pure")
    }

    #[test]
    fn a_chain_goes_from_its_head_and_a_ring_together() {
        assert_eq!(order(3, &[(2, 1), (1, 0)]), [[key(2)], [key(1)], [key(0)]]);
        let ring = order(4, &[(0, 1), (1, 2), (2, 0), (3, 0), (2, 9)]);
        assert_eq!((ring.len(), &ring[0], ring[1].len()), (2, &vec![key(3)], 3));
    }

    proptest! {
        #[test]
        fn nobody_refers_to_an_earlier_group(edges in prop::collection::vec((0usize..12, 0usize..14), 0..40)) {
            let groups = order(12, &edges);
            let place = |k: &Key| groups.iter().position(|group| group.contains(k));
            prop_assert_eq!(groups.iter().map(Vec::len).sum::<usize>(), 12);
            for (from, to) in edges {
                if let Some(to) = place(&key(to)) {
                    prop_assert!(place(&key(from)).expect("a node") <= to);
                }
            }
        }
    }
}
